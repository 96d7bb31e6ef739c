"""What ``wam convert`` can be told, and which files it means."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from policy.guard_types import GuardConfig
from sim.encoding import get_codec
from sim.errors import SimError
from sim.ticks import RUNNING, TickSettings
from wam.errors import ConfigError, unknown_name

__all__ = ["ConvertConfig", "recording_files"]


@dataclass(frozen=True, kw_only=True)
class ConvertConfig:
    """Turn recorded episodes into a LeRobot v3 dataset, aligned as the policy aligns what it sees."""

    recordings: Annotated[tuple[Path, ...], tyro.conf.Positional]  # recorded files, or folders of them
    out: Path  # dataset folder to make
    task: str = ""  # instruction of all episodes; default: what was published or set while recording
    source: str = "both"  # whose motion to keep: teleop, policy or both
    min_seconds: float = 1.0  # pieces of an episode shorter than this are left out [s]
    reach_steps: float = GuardConfig.reach_steps  # when in its step an action is reached [0, 1], as the guard has it
    video: str = "exact"  # exact: full colour resolution; portable: 4:2:0, which also plays in browsers

    def __post_init__(self) -> None:
        if not self.recordings:
            raise ConfigError("no recording was given: name files the recorder wrote, or the folder they are in.")
        if self.source not in RUNNING:
            raise ConfigError(unknown_name("source", self.source, RUNNING))
        if not (math.isfinite(self.min_seconds) and self.min_seconds >= 0):
            raise ConfigError(f"min_seconds is {self.min_seconds} but must be a number of seconds from 0.")
        if not 0.0 <= self.reach_steps <= 1.0:
            raise ConfigError(f"reach_steps is {self.reach_steps} but an action is reached within its step, 0 to 1.")
        get_codec(self.video)

    @property
    def partial_folder(self) -> Path:
        """Where the dataset lies until it is complete."""
        return self.out.with_name(f"{self.out.name}.partial")

    def tick_settings(self) -> TickSettings:
        """What makes a tick usable."""
        return TickSettings(states=RUNNING[self.source], reach_steps=self.reach_steps, task=self.task)


def recording_files(recordings: tuple[Path, ...]) -> tuple[Path, ...]:
    """Finds the files, in the order given and, within a folder, by name.

    Raises:
        SimError: A path does not exist, or a folder holds no recording.
    """
    found: list[Path] = []
    for path in recordings:
        if path.is_file():
            found.append(path)
            continue
        inside = sorted(path.glob("*.mcap")) if path.is_dir() else []
        if not inside:
            what = "holds no recording (*.mcap)" if path.is_dir() else "does not exist"
            raise SimError(f"{path} {what}: give files the recorder wrote, or the folder they are in.")
        found += inside
    return tuple(dict.fromkeys(found))
