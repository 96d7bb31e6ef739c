"""``wam evaluate world``: how far a learned simulator agrees with MuJoCo.

From the same starts the same chunks (``sim.world_plans``) are executed in MuJoCo and imagined. Pictures are compared by
horizon beside the forecast that nothing moves and beside imagination under another plan's chunks: a model that does not
listen to actions would do as well there. Outcomes are read off the last picture by a probe (``sim.world_probe``), and
their ranks compared with the real ones; what the probe makes of the real pictures is the ceiling.

Shape legend: S starts, Q plans of one start, N chunks (horizons), K cameras, D latent values of a picture.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from sim.arm_sim import ArmSim
from sim.commands import command_line
from sim.provenance import provenance
from sim.results import write_json
from sim.splits import SPLITS, episode_seeds
from sim.tasks import get_task
from sim.world_plans import KINDS, Plan, make_plans
from sim.world_probe import ProgressProbe, latents, replay_frames
from sim.world_report import markdown, write_plot, write_strip
from sim.world_scores import ordered_pairs, picture_scores, rank_correlation, told_apart
from wam.checkpoint import Checkpoint, load_checkpoint
from wam.dataset_meta import read_meta
from wam.errors import ConfigError, DatasetError, unknown_name
from wam.forward_dynamics import ForwardDynamics
from wam.video_sampling import VideoSampling

__all__ = ["WorldConfig", "evaluate_world", "main"]

FORMAT = "wam-world/1"
REAL, IMAGINED, SHUFFLED, STILL = "real pictures", "imagined", "other plan's actions", "nothing moves"


@dataclass(frozen=True, kw_only=True)
class WorldConfig:
    """Compare what a model imagines under given action chunks with what MuJoCo makes of them."""

    checkpoint: Path  # run folder of `wam train` with --loss.questions.forward, or one of its checkpoints
    dataset: tuple[Path, ...]  # what it was trained on (`wam collect`): frames for the probe of progress
    task: str = "reach"  # task of the suite
    out: Path = Path("runs/world")  # folder of results.json, table.md, plot.png and strip.png
    split: str = "test"  # seeds of the scenes: validation while choosing, test for what is reported
    starts: int = 25  # scenes; each gives one plan of every kind
    chunks: int = 3  # chunks of a plan, one horizon each
    noise: float = 0.15  # standard deviation of the noisy plans' joint targets [rad]
    probe_episodes: int = 200  # episodes of the dataset that the probe of progress is fitted to
    servo_lag_s: float = 0.0  # how far measured joints trail their commands [s]; 0 takes the command for the proprio
    sampling: VideoSampling = field(default_factory=VideoSampling)  # steps, solver, guidance, step cache
    seed: int = 0  # of imagination, probe and bootstrap

    def __post_init__(self) -> None:
        get_task(self.task)
        if self.split not in SPLITS:
            raise ConfigError(unknown_name("split", self.split, SPLITS))
        if self.starts < 2:
            raise ConfigError(f"starts is {self.starts} but must be at least 2: plans of another scene are tried too.")
        if self.chunks < 1 or self.probe_episodes < 2:
            raise ConfigError(
                f"chunks is {self.chunks} and probe_episodes {self.probe_episodes}: at least 1 and 2 are needed."
            )


def evaluate_world(config: WorldConfig) -> dict[str, Any]:
    """Measures, and writes results, table and pictures into ``config.out``.

    Returns:
        What ``results.json`` holds.

    Raises:
        WamError: Checkpoint, dataset or a setting cannot be used.
    """
    checkpoint = load_checkpoint(config.checkpoint)
    dynamics = ForwardDynamics(checkpoint, config.sampling, servo_lag_s=config.servo_lag_s)
    sim = ArmSim(config.task, checkpoint.robot, distractors=_distractors(config.dataset))
    try:
        frames = replay_frames(config.dataset, checkpoint, sim, config.probe_episodes)
        seeds = episode_seeds(config.split, config.starts)
        plans = make_plans(checkpoint, sim, seeds, chunks=config.chunks, noise=config.noise)
    finally:
        sim.close()
    probe = ProgressProbe(latents(checkpoint, frames.images), frames.progress, frames.episode, seed=config.seed)
    forecasts = _forecasts(dynamics, plans, config.seed)
    scores = _scores(checkpoint, plans, forecasts, probe)
    results = {
        "format": FORMAT,
        "command": _command(config),
        "task": config.task,
        "split": config.split,
        "plans": len(plans),
        "solved": {kind: sum(plan.solved for plan in plans if plan.kind == kind) for kind in KINDS},
        "horizon_s": [round((n + 1) * dynamics.steps * checkpoint.robot.control_dt, 6) for n in range(config.chunks)],
        **scores,
        "probe": {"frames": len(frames.progress), "held_out_rms": round(probe.held_out_rms, 4), **probe.chosen},
        "settings": json.loads(json.dumps(asdict(config), default=str)),
        "checkpoint": {"sha256": checkpoint.sha256(), "step": checkpoint.meta.get("step")},
        **provenance("torch"),
    }
    write_json(config.out / "results.json", results)
    (config.out / "table.md").write_text(markdown(results))
    write_plot(results, config.out / "plot.png")
    write_strip(plans[: len(KINDS)], _split(forecasts[IMAGINED])[0], config.out / "strip.png")
    return results


def main(argv: list[str] | None = None) -> int:
    """Command line of ``wam evaluate world``."""
    config = tyro.cli(WorldConfig, args=argv, prog="wam evaluate world")
    print(markdown(evaluate_world(config)))
    for name in ("results.json", "table.md", "plot.png", "strip.png"):
        print(f"wrote {config.out / name}")
    return 0


def _forecasts(dynamics: ForwardDynamics, plans: Sequence[Plan], seed: int) -> dict[str, np.ndarray]:
    """Name → (S·Q, N, K, height, width, 3) pictures, and "proprio" → (S·Q, N, P)."""
    start = np.stack([plan.images for plan in plans])
    proprio, tasks = np.stack([plan.proprio for plan in plans]), [plan.task for plan in plans]
    chunks = np.stack([plan.chunks for plan in plans])
    # The next plan of the same start, so that only the actions differ.
    swapped = np.roll(_split(chunks), -1, axis=1).reshape(chunks.shape)
    own = dynamics.roll(start, proprio, tasks, chunks, seed=seed)
    return {
        IMAGINED: own.images,
        SHUFFLED: dynamics.roll(start, proprio, tasks, swapped, seed=seed).images,
        STILL: np.repeat(start[:, None], chunks.shape[1], axis=1),
        REAL: np.stack([plan.happened for plan in plans]),
        "proprio": own.proprio,
    }


def _scores(
    checkpoint: Checkpoint, plans: Sequence[Plan], forecasts: dict[str, np.ndarray], probe: ProgressProbe
) -> dict[str, Any]:
    names = (IMAGINED, SHUFFLED, STILL, REAL)
    points = {}
    for name in names:
        images = forecasts[name]  # (S·Q, N, K, height, width, 3)
        points[name] = latents(checkpoint, images.reshape(-1, *images.shape[2:])).reshape(*images.shape[:2], -1)
    errors = {name: np.sqrt(np.square(points[name] - points[REAL]).mean(-1)) for name in names if name != REAL}
    pictures = {name: _split(forecasts[name]) for name in errors}
    happened = _split(forecasts[REAL])
    progress = _split(np.stack([plan.progress for plan in plans]))  # (S, Q, N)
    judged = {name: _split(_judged(probe, points[name])) for name in names}
    after = np.stack([plan.proprio_after for plan in plans])
    return {
        "pictures": picture_scores(pictures, happened, {name: _split(error) for name, error in errors.items()}),
        "by_kind": {
            kind: picture_scores(
                {name: images[:, place : place + 1] for name, images in pictures.items()},
                happened[:, place : place + 1],
                {name: _split(error)[:, place : place + 1] for name, error in errors.items()},
            )
            for place, kind in enumerate(KINDS)
        },
        "told_apart": told_apart(_split(points[IMAGINED])[:, :, -1], _split(points[REAL])[:, :, -1]),
        "ranks": {
            name: [rank_correlation(values[..., n], progress[..., n]) for n in range(progress.shape[2])]
            for name, values in judged.items()
        },
        "pairs": {name: ordered_pairs(values[..., -1], progress[..., -1]) for name, values in judged.items()},
        "solved_ranks": {
            name: rank_correlation(values[..., -1], _split(np.array([float(plan.solved) for plan in plans])))
            for name, values in judged.items()
        },
        "proprio_error_rad": np.abs(forecasts["proprio"] - after)[..., :-1].mean(axis=(0, 2)).round(5).tolist(),
        "outcomes": {
            "real": progress[..., -1].ravel().round(4).tolist(),
            **{name: values[..., -1].ravel().round(4).tolist() for name, values in judged.items()},
        },
    }


def _judged(probe: ProgressProbe, points: np.ndarray) -> np.ndarray:
    return probe(points.reshape(-1, points.shape[-1])).reshape(points.shape[:2])


def _split(values: np.ndarray) -> np.ndarray:
    """(S·Q, ...) → (S, Q, ...)."""
    return values.reshape(-1, len(KINDS), *values.shape[1:])


def _distractors(datasets: Sequence[Path]) -> int:
    found = {root: read_meta(root) for root in datasets}
    counts = {0 if meta is None else int(meta.settings.get("distractors", 0)) for meta in found.values()}
    if len(counts) != 1:
        raise DatasetError(
            f"datasets {', '.join(map(str, found))} have different numbers of distractors ({sorted(counts)}): one "
            "simulation cannot play both again; name those of one kind."
        )
    return counts.pop()


def _command(config: WorldConfig) -> str:
    chosen = ("task", "split", "starts", "chunks", "probe_episodes")
    line = command_line("evaluate world", config, always=chosen, never=("checkpoint", "dataset", "out", "sampling"))
    for name, value in asdict(config.sampling).items():
        if value != getattr(VideoSampling(), name):
            flag = f"--sampling.{name.replace('_', '-')}"
            line += f" {flag}" if value is True else f" {flag} {value}"
    return f"{line} --checkpoint {config.checkpoint} --dataset {' '.join(map(str, config.dataset))}"


if __name__ == "__main__":
    sys.exit(main())
