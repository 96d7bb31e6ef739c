"""The spool: finished episodes on disk, one folder each, until the dataset is complete.

An episode appears in one rename, so whatever interrupts a recording (Ctrl-C, a full disk, a killed machine) costs at
most the episodes in flight, and the same command goes on from what is there. Episodes are functions of their seed, so
it does not matter which run or which process recorded them. A failed episode leaves only its record.
"""

import dataclasses
import json
import os
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sim.errors import SimError

__all__ = ["EpisodeArrays", "EpisodeRecord", "Spool"]

RECORD_FILE = "episode.json"
ARRAYS_FILE = "arrays.npz"


@dataclass(frozen=True, kw_only=True)
class EpisodeRecord:
    """What the coordinator must know about a spooled episode."""

    seed: int  # of the episode
    task: str  # the instruction in words
    success: bool  # whether the expert solved the task
    steps: int  # control steps, equal to frames
    noise: float  # std of the perturbation [rad]
    simulation_cpu_s: float  # CPU time of physics, expert and rendering [s]
    encoding_cpu_s: float  # CPU time of video encoding and image statistics [s]
    image_statistics: Mapping[str, Mapping[str, list[float]]]  # camera -> statistics in [0, 255]; empty when failed


@dataclass(frozen=True, kw_only=True)
class EpisodeArrays:
    """The numbers of a spooled episode."""

    proprio: np.ndarray  # (T, P) float32 [rad, opening]
    action: np.ndarray  # (T, A) float32 [rad, opening]
    stamp: np.ndarray  # (T,) float64 [s]


class Spool:
    """A folder of finished episodes."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, seed: int) -> Path:
        """Where the episode of a seed lies, once it is finished."""
        return self.root / f"{seed:06d}"

    def video(self, seed: int, camera: str) -> Path:
        """Where the video of one camera lies."""
        return self.folder(seed) / f"{camera}.mp4"

    def clean(self) -> None:
        """Removes what interrupted writers left behind; only while no one writes."""
        self.root.mkdir(parents=True, exist_ok=True)
        for leftover in self.root.glob(".*"):
            shutil.rmtree(leftover)

    def write(self, record: EpisodeRecord, arrays: EpisodeArrays | None, videos: Mapping[str, bytes]) -> None:
        """Writes one episode in one step; one without arrays leaves only its record.

        Raises:
            OSError: The disk is full or not writable; nothing is left behind then.
        """
        temporary = self.root / f".{record.seed:06d}-{os.getpid()}"
        try:
            temporary.mkdir(parents=True)
            if arrays is not None:
                for camera, video in videos.items():
                    (temporary / f"{camera}.mp4").write_bytes(video)
                np.savez(temporary / ARRAYS_FILE, proprio=arrays.proprio, action=arrays.action, stamp=arrays.stamp)
            (temporary / RECORD_FILE).write_text(json.dumps(dataclasses.asdict(record)))
            os.rename(temporary, self.folder(record.seed))
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise

    def record(self, seed: int) -> EpisodeRecord | None:
        """Returns what is known about an episode, or None when it is not there.

        Raises:
            SimError: The record is damaged.
        """
        path = self.folder(seed) / RECORD_FILE
        if not path.is_file():
            return None
        try:
            return EpisodeRecord(**json.loads(path.read_text()))
        except (json.JSONDecodeError, UnicodeDecodeError, TypeError) as error:
            raise self._damaged(seed, error) from error

    def arrays(self, seed: int) -> EpisodeArrays:
        """Returns the numbers of a successful episode.

        Raises:
            SimError: They are damaged.
        """
        try:
            with np.load(self.folder(seed) / ARRAYS_FILE) as stored:
                return EpisodeArrays(proprio=stored["proprio"], action=stored["action"], stamp=stored["stamp"])
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise self._damaged(seed, error) from error

    def _damaged(self, seed: int, error: Exception) -> SimError:
        return SimError(
            f"recorded episode {self.folder(seed)} is damaged ({type(error).__name__}: {error}), as after a power cut: "
            "remove that folder and run the same command again."
        )
