"""``wam view``: the imagined future beside what happened, from a checkpoint and a recorded dataset.

From every start frame the model imagines its future; for longer horizons the last imagined frame and the proprio it
implies become the next observation (chaining), so nothing of what really happened leaks in after the start. Without
actions the model imagines what it expects (its policy's future); with ``--question forward`` it is told the recorded
actions. Beside the model stands the simplest forecast: that nothing moves.

Shape legend: S start frames, K cameras, H chunk, A action width, P horizons.
"""

import dataclasses
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from sim.video import write_mp4
from wam.batches import instants_of
from wam.checkpoint import Checkpoint, load_checkpoint
from wam.dataset import Episodes, load_episodes
from wam.errors import ConfigError, unknown_name
from wam.image_metrics import psnr, ssim
from wam.model import PromptCache
from wam.pretrained import embed_tasks
from wam.text import token_ids
from wam.video_sampling import VideoSampling, imagine_future

__all__ = ["ViewConfig", "main", "run_view"]

QUESTIONS = ("policy", "forward")
PANEL_PX = 192  # smallest height of an image in the film
METRICS = {"psnr": psnr, "ssim": ssim}


@dataclass(frozen=True, kw_only=True)
class ViewConfig:
    """Show what a model imagines beside what happened: an mp4 and a plot of PSNR and SSIM by horizon."""

    checkpoint: Path  # run folder of `wam train`, or one of its checkpoints
    dataset: Path  # LeRobot v3 dataset; held-out episodes say more than those it was trained on
    out: Path = Path("runs/view")  # folder of film.mp4, horizons.png and results.json
    question: str = "policy"  # policy: what the model expects; forward: what it expects under the recorded actions
    horizons: int = 3  # how often the imagined frame becomes the next observation
    starts: int = 24  # start frames, spread over the episodes
    episode: int = 0  # episode of the film
    sampling: VideoSampling = field(default_factory=VideoSampling)  # steps, solver, guidance, step cache
    wan: Path | None = None  # wan presets: folder with the text encoder
    seed: int = 0  # of the noise

    def __post_init__(self) -> None:
        if self.question not in QUESTIONS:
            raise ConfigError(unknown_name("question", self.question, QUESTIONS))
        for name in ("horizons", "starts"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)} but must be at least 1.")


def run_view(config: ViewConfig) -> dict[str, Any]:
    """Imagines, measures, and writes film, plot and results.

    Raises:
        WamError: Checkpoint or dataset cannot be used.
    """
    checkpoint = load_checkpoint(config.checkpoint)
    if checkpoint.config.n_instants > 1 and config.horizons > 1:
        raise ConfigError(
            f"this model looks back on {checkpoint.config.n_instants} instants, which are closer than the frames it "
            "imagines: further horizons would have to invent those between. Give --horizons 1."
        )
    size, told = checkpoint.config.image_size_px, checkpoint.read_as
    cache = config.out / "cache" / f"frames_{size[0]}x{size[1]}.u8"
    episodes = load_episodes(config.dataset, checkpoint.robot, size, cache=cache, read_as=told)
    viewer = _Viewer(config, checkpoint, episodes)
    starts = viewer.starts()
    imagined = viewer.imagine(starts)  # (S, P, K, height, width, 3)
    happened = viewer.happened(starts)
    still = np.broadcast_to(np.asarray(episodes.frames[starts])[:, None], happened.shape)
    results = {
        "config": {
            **asdict(config),
            **{name: str(getattr(config, name)) for name in ("checkpoint", "dataset", "out", "wan")},
        },
        "horizon_s": [float(step * checkpoint.robot.control_dt) for step in viewer.horizon_steps()],
        "starts": len(starts),
        "metrics": {
            name: {
                "imagined": _summary(measure(imagined, happened)),
                "nothing moves": _summary(measure(still, happened)),
            }
            for name, measure in METRICS.items()
        },
    }
    config.out.mkdir(parents=True, exist_ok=True)
    write_mp4(config.out / "film.mp4", viewer.film(), rate_hz=1.0 / checkpoint.robot.control_dt)
    _plot(results, config.out / "horizons.png")
    (config.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    return results


class _Viewer:
    def __init__(self, config: ViewConfig, checkpoint: Checkpoint, episodes: Episodes) -> None:
        if not 0 <= config.episode < len(episodes.length):
            raise ConfigError(
                f"episode {config.episode} is not in {config.dataset}: it has episodes 0 to {len(episodes.length) - 1}."
            )
        self._config, self._checkpoint, self._episodes = config, checkpoint, episodes
        self._model, self._transforms = checkpoint.model, checkpoint.transforms
        prompts = embed_tasks(checkpoint.config, config.wan, config.out / "cache" / "text", episodes.tasks)
        if prompts is None:
            length = checkpoint.config.prompt_length
            prompts = np.stack([token_ids(task, length) for task in episodes.tasks])  # (tasks, T)
        self._prompts = prompts

    def horizon_steps(self) -> list[int]:
        """Control steps from the start to each horizon."""
        return [self._checkpoint.config.future_offset * (i + 1) for i in range(self._config.horizons)]

    def starts(self) -> np.ndarray:
        """(S,) frames from which every horizon lies inside the episode."""
        episodes, last = self._episodes, self.horizon_steps()[-1]
        spans = [np.arange(a, a + n - last) for a, n in zip(episodes.start, episodes.length, strict=True) if n > last]
        if not spans:
            raise ConfigError(
                f"no episode of {self._config.dataset} is longer than {last} steps: choose fewer --horizons."
            )
        frames = np.concatenate(spans)
        return frames[np.linspace(0, len(frames) - 1, min(self._config.starts, len(frames))).round().astype(int)]

    def happened(self, starts: np.ndarray) -> np.ndarray:
        """(S, P, K, height, width, 3) recorded frames."""
        return np.stack([np.asarray(self._episodes.frames[starts + step]) for step in self.horizon_steps()], axis=1)

    def imagine(self, starts: np.ndarray) -> np.ndarray:
        """(S, P, K, height, width, 3) imagined frames, each horizon from the one before."""
        seen = starts
        if self._checkpoint.config.n_instants > 1:
            seen = instants_of(self._episodes, starts, self._checkpoint.config)  # (S, I): an axis of instants in front
        images, proprio = np.asarray(self._episodes.frames[seen.ravel()]), self._episodes.proprio[seen]
        images = images.reshape(*seen.shape, *images.shape[1:])
        found = []
        for index in range(self._config.horizons):
            step = index * self._checkpoint.config.future_offset
            chunk = self._episodes.chunks(starts + step, self._checkpoint.config.chunk_length)[0]  # (S, H, A)
            images = self._next(images, proprio, chunk, starts, seed=self._config.seed + index)
            found.append(images)
            # Joint targets are reached within a step or two, so the action in force is the proprio to come
            proprio = chunk[:, self._checkpoint.config.future_offset - 1] if self._told else proprio
        return np.stack(found, axis=1)

    def film(self) -> Iterator[np.ndarray]:
        """Frames of one episode: above what happened at the horizon, below what was imagined for it."""
        first, count = int(self._episodes.start[self._config.episode]), int(self._episodes.length[self._config.episode])
        offset = self._checkpoint.config.future_offset
        frames = np.arange(first, first + max(1, count - offset))
        for start in range(0, len(frames), 16):
            some = frames[start : start + 16]
            viewer = _Viewer(dataclasses.replace(self._config, horizons=1), self._checkpoint, self._episodes)
            imagined = viewer.imagine(some)[:, 0]
            happened = np.asarray(self._episodes.frames[np.minimum(some + offset, first + count - 1)])
            yield from (_stacked(pair) for pair in zip(happened, imagined, strict=True))

    @property
    def _told(self) -> bool:
        return self._config.question == "forward"

    def _next(
        self, images: np.ndarray, proprio: np.ndarray, chunk: np.ndarray, starts: np.ndarray, *, seed: int
    ) -> np.ndarray:
        words = self._prompts[self._episodes.task_index[starts]]
        anchor = proprio[:, -1] if proprio.ndim == 3 else proprio  # (S, P) of the present
        with torch.no_grad():
            future = imagine_future(
                self._model,
                torch.from_numpy(np.ascontiguousarray(images)),
                torch.from_numpy(self._transforms.normalise_proprio(proprio)),
                self._prompt(words),
                self._config.sampling,
                actions=torch.from_numpy(self._transforms.encode_actions(chunk, anchor)) if self._told else None,
                empty_prompt=self._prompt(np.zeros_like(words)),
                seed=seed,
            )
        return future[:, -1].numpy()

    def _prompt(self, words: np.ndarray) -> PromptCache:
        return self._model.encode_prompt(torch.from_numpy(words))


def _stacked(pair: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Two rows of cameras side by side, enlarged by repeating pixels, of even size."""
    rows = [np.concatenate(list(images), axis=1) for images in pair]  # (height, K·width, 3)
    picture = np.concatenate(rows, axis=0)
    scale = max(1, -(-PANEL_PX // rows[0].shape[0]))
    large = picture.repeat(scale, axis=0).repeat(scale, axis=1)
    return large[: large.shape[0] // 2 * 2, : large.shape[1] // 2 * 2]


def _summary(values: np.ndarray) -> list[dict[str, float]]:
    """Mean and standard error over starts and cameras, per horizon."""
    per_horizon = values.mean(axis=2).T  # (P, S)
    return [
        {
            "mean": float(row.mean()),
            "standard_error": float(row.std(ddof=1) / np.sqrt(len(row)) if len(row) > 1 else 0.0),
        }
        for row in per_horizon
    ]


def _plot(results: dict[str, Any], path: Path) -> None:
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    for axis, (name, curves) in zip(figure.subplots(1, 2), results["metrics"].items(), strict=True):
        for label, rows in curves.items():
            means, errors = [row["mean"] for row in rows], [row["standard_error"] for row in rows]
            axis.errorbar(results["horizon_s"], means, yerr=errors, marker="o", capsize=3, label=label)
        axis.set_xlabel("horizon [s]")
        axis.set_ylabel("PSNR [dB]" if name == "psnr" else "SSIM")
        axis.legend(frameon=False)
    figure.savefig(path, dpi=120)


def main(argv: list[str] | None = None) -> int:
    """Command line of ``wam view``."""
    config = tyro.cli(ViewConfig, args=argv, prog="wam view")
    results = run_view(config)
    table = Table(title=f"{results['starts']} starts, mean ± standard error", title_justify="left")
    for column in ("horizon", "PSNR imagined", "nothing moves", "SSIM imagined", "nothing moves"):
        table.add_column(column, justify="right")
    for index, seconds in enumerate(results["horizon_s"]):
        rows = [curves[label][index] for curves in results["metrics"].values() for label in curves]
        cells = [f"{row['mean']:.3g} ± {row['standard_error']:.2g}" for row in rows]
        table.add_row(f"{seconds:.1f} s", *cells)
    Console().print(table)
    for name, file in (("film", "film.mp4"), ("plot", "horizons.png"), ("results", "results.json")):
        print(f"{name + ':':<9}{config.out / file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
