"""Real observations to start an imagined episode from: frames of a dataset, or scenes of the simulator.

Shape legend: K cameras, P proprio width.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from wam.checkpoint import CheckpointInfo
from wam.dataset import load_episodes
from wam.errors import ConfigError

__all__ = ["DatasetStarts", "SimulatedStarts", "Start", "Starts"]


@dataclass(frozen=True, kw_only=True)
class Start:
    """One real observation, at the model's size."""

    images: np.ndarray  # (K, height, width, 3) uint8
    proprio: np.ndarray  # (P,) float32 [rad, opening]
    task: str  # the instruction
    origin: int  # frame of the dataset, or seed of the scene


class Starts(Protocol):
    """Where starts come from."""

    def draw(self, seed: int) -> Start:
        """Returns the start of a seed."""

    def at(self, origin: int) -> Start:
        """Returns one particular start, by its ``origin``."""

    def close(self) -> None:
        """Frees what is held."""


class DatasetStarts:
    """Any frame of a recorded dataset; its videos are decoded once, into a temporary file."""

    def __init__(self, root: Path, checkpoint: CheckpointInfo) -> None:
        self._root = root
        self._folder = tempfile.TemporaryDirectory(prefix="wam-starts-")
        self._episodes = load_episodes(
            root,
            checkpoint.robot,
            checkpoint.config.image_size_px,
            cache=Path(self._folder.name) / "frames.u8",
            read_as=checkpoint.read_as,
        )

    def draw(self, seed: int) -> Start:
        """See ``Starts.draw``."""
        return self.at(int(np.random.default_rng(seed).integers(len(self._episodes.proprio))))

    def at(self, origin: int) -> Start:
        """See ``Starts.at``.

        Raises:
            ConfigError: The dataset has no such frame.
        """
        episodes = self._episodes
        if not 0 <= origin < len(episodes.proprio):
            raise ConfigError(f"start {origin} is not in {self._root}: it has frames 0 to {len(episodes.proprio) - 1}.")
        return Start(
            images=np.array(episodes.frames[np.array([origin])][0]),
            proprio=episodes.proprio[origin],
            task=episodes.tasks[int(episodes.task_index[origin])],
            origin=origin,
        )

    def close(self) -> None:
        """See ``Starts.close``."""
        self._folder.cleanup()


class SimulatedStarts:
    """The first observation of a MuJoCo scene; the simulator is imported here and nowhere else."""

    def __init__(self, task: str, checkpoint: CheckpointInfo) -> None:
        from sim.arm_sim import ArmSim

        self._sim = ArmSim(task, checkpoint.robot)
        self._transforms = checkpoint.transforms

    def draw(self, seed: int) -> Start:
        """See ``Starts.draw``."""
        return self.at(seed)

    def at(self, origin: int) -> Start:
        """See ``Starts.at``."""
        self._sim.reset(origin)
        seen = self._sim.observation()
        images = self._transforms.images(seen.images, self._sim.robot.camera_names)
        return Start(images=images, proprio=seen.proprio, task=seen.task, origin=origin)

    def close(self) -> None:
        """See ``Starts.close``."""
        self._sim.close()
