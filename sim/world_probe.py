"""A probe that reads task progress off one picture: kernel ridge regression on the tokenizer's latents, in closed form.

It is fitted on frames of the training dataset, whose episodes are functions of their seeds: they are played again to
know how far the task had come in every frame. What the probe says of real frames is the ceiling of what it can say of
imagined ones.

Shape legend: M frames, K cameras, D latent values of a frame.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from sim.arm_sim import ArmSim
from sim.demonstrations import DemoSettings, record_demonstration
from wam.checkpoint import Checkpoint
from wam.dataset_meta import DatasetMeta, read_meta
from wam.errors import DatasetError

__all__ = ["LabelledFrames", "ProgressProbe", "latents", "replay_frames"]

HELD_OUT = 0.2  # share of the episodes that choose width and ridge
WIDTHS = (0.1, 0.3, 1.0)  # squared length scale of the kernel, in median squared distances
RIDGES = (1e-4, 1e-3, 1e-2, 1e-1)
MOST_FRAMES = 2000  # frames the probe is fitted to: its cost grows with their third power
BATCH = 256


@dataclass(frozen=True, kw_only=True)
class LabelledFrames:
    """Real frames and how far the task had come in them."""

    images: np.ndarray  # (M, K, height, width, 3) uint8 at the model's size
    progress: np.ndarray  # (M,) in [0, 1]
    episode: np.ndarray  # (M,) int64


def replay_frames(datasets: Sequence[Path], checkpoint: Checkpoint, sim: ArmSim, episodes: int) -> LabelledFrames:
    """Plays episodes of datasets again.

    Args:
        datasets: LeRobot folders that ``wam collect`` recorded on the simulation's task.
        checkpoint: Whose image size and robot count.
        sim: The simulation.
        episodes: How many, spread evenly over the datasets.

    Raises:
        DatasetError: A dataset was not recorded by ``wam collect`` on this task, or its episodes do not come out alike.
    """
    images, progress, owner = [], [], []
    for number, root in enumerate(datasets):
        meta, settings = _recorded(root, checkpoint, sim)
        count = len(range(number, episodes, len(datasets)))
        chosen = np.unique(np.linspace(0, len(meta.episodes) - 1, count).round().astype(int))
        for episode in (meta.episodes[index] for index in chosen):
            demo = record_demonstration(sim, settings, episode.seed)
            if len(demo.action) != episode.steps:
                raise DatasetError(
                    f"episode {episode.seed} of {root} had {episode.steps} steps but takes {len(demo.action)} now: it "
                    "was recorded with another version of the simulation; collect it again."
                )
            stacked = zip(*(demo.images[name] for name in checkpoint.robot.camera_names), strict=True)
            names = checkpoint.robot.camera_names
            images += [checkpoint.transforms.images(dict(zip(names, views, strict=True)), names) for views in stacked]
            progress.append(demo.progress)
            owner += [len(progress) - 1] * len(demo.action)
    return LabelledFrames(
        images=np.stack(images), progress=np.concatenate(progress), episode=np.array(owner, dtype=np.int64)
    )


def latents(checkpoint: Checkpoint, images: np.ndarray) -> np.ndarray:
    """(M, D) float64 latent values of (M, K, height, width, 3) images."""
    with torch.no_grad():
        found = [
            checkpoint.model.tokenizer.encode(torch.from_numpy(np.ascontiguousarray(images[start : start + BATCH])))
            for start in range(0, len(images), BATCH)
        ]
    return torch.cat(found).flatten(1).double().numpy()


class ProgressProbe:
    """Kernel ridge regression.

    Args:
        points: (M, D) latents.
        values: (M,) progress.
        groups: (M,) episode of each point; whole episodes are held out to choose width and ridge.
        seed: Of the split, and of the choice of points where there are too many.
    """

    def __init__(self, points: np.ndarray, values: np.ndarray, groups: np.ndarray, *, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        names = rng.permutation(np.unique(groups))
        held = np.isin(groups, names[: max(1, round(HELD_OUT * len(names)))])
        fitted = np.flatnonzero(~held)
        fitted = np.sort(rng.permutation(fitted)[:MOST_FRAMES])
        self._points, self._mean = points[fitted], float(values[fitted].mean())
        distances = _squared_distances(self._points, self._points)
        between = _squared_distances(points[held], self._points)
        unit = float(np.median(distances))
        best = np.inf
        for width in WIDTHS:
            eigenvalues, vectors = np.linalg.eigh(np.exp(-distances / (width * unit)))
            turned = vectors.T @ (values[fitted] - self._mean)
            kernel = np.exp(-between / (width * unit))
            for ridge in RIDGES:
                weights = vectors @ (turned / (eigenvalues.clip(min=0.0) + ridge))
                error = float(np.square(kernel @ weights + self._mean - values[held]).mean())
                if error < best:
                    best, self._weights, self._unit = error, weights, width * unit
                    self.chosen = {"width": width, "ridge": ridge}
        self.held_out_rms = best**0.5  # error on the held-out episodes

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """(B,) progress of (B, D) latents."""
        return np.exp(-_squared_distances(points, self._points) / self._unit) @ self._weights + self._mean


def _recorded(root: Path, checkpoint: Checkpoint, sim: ArmSim) -> tuple[DatasetMeta, DemoSettings]:
    meta = read_meta(root)
    settings = {} if meta is None else meta.settings
    if meta is None or settings.get("task") != sim.task.name or "noise_fraction" not in settings:
        raise DatasetError(
            f"{root} was not recorded by wam collect on task '{sim.task.name}': its episodes cannot be played again, "
            "so nobody knows how far they had come. Name the dataset the model was trained on."
        )
    return meta, DemoSettings(
        task=sim.task.name,
        robot=checkpoint.robot,
        noise_fraction=float(settings["noise_fraction"]),
        noise=float(settings["noise"]),
        distractors=int(settings["distractors"]),
        executed=bool(settings.get("executed", False)),
    )


def _squared_distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    squares = (first**2).sum(1)[:, None] + (second**2).sum(1)
    return np.maximum(squares - 2.0 * first @ second.T, 0.0)
