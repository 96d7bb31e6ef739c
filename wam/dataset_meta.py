"""``meta/wam.json``: what LeRobot's own metadata does not say about a recorded dataset; torch-free.

LeRobotDataset v3 knows features, frames and tasks. Beside it we keep the robot it was recorded on, the seed and outcome
of every episode, the settings that produced it and the versions of the software. A dataset without this file (recorded
by another tool) is still a LeRobot dataset; one with it can be reproduced and compared.
"""

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wam.errors import DatasetError, RobotSpecError
from wam.robot import RobotSpec

__all__ = [
    "DatasetMeta",
    "EpisodeMeta",
    "limit_changes",
    "meta_path",
    "read_meta",
    "robot_differences",
    "write_json",
    "write_meta",
]

# wam.json says whose numbers these are; without it a person does
FIX = "restore it from a copy, or remove the file and name the robot yourself, --robot my_arm.yaml."
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class EpisodeMeta:
    """One episode of the dataset, in the dataset's order."""

    seed: int  # everything random of a simulated episode was drawn from it; the place in line of a recorded one
    success: bool | None  # whether the task was solved at the end; None when nobody said
    steps: int  # control steps, equal to the episode's frames
    noise: float  # std of the joint noise on executed actions [rad]; 0 is a clean episode


@dataclass(frozen=True, kw_only=True)
class DatasetMeta:
    """Contents of ``meta/wam.json``."""

    robot: RobotSpec  # the robot it was recorded on
    task: str  # name of the task ("lift"); the instruction of each frame is LeRobot's task string
    episodes: tuple[EpisodeMeta, ...]  # in the order of LeRobot's episode_index
    failed_seeds: tuple[int, ...] = ()  # seeds that were tried and left out because the expert failed
    settings: Mapping[str, Any] = field(default_factory=dict)  # what the recording command was asked for
    versions: Mapping[str, str] = field(default_factory=dict)  # of the packages that shaped the data
    cpu_seconds: Mapping[str, float] = field(default_factory=dict)  # what recording cost, by stage [s]; a report only

    def to_dict(self) -> dict[str, Any]:
        """Returns plain lists, strings and numbers, the exact inverse of ``from_dict``."""
        return {
            "format": FORMAT,
            "robot": self.robot.to_dict(),
            "robot_fingerprint": self.robot.fingerprint(),
            "task": self.task,
            "episodes": [dataclasses.asdict(episode) for episode in self.episodes],
            "failed_seeds": list(self.failed_seeds),
            "settings": dict(self.settings),
            "versions": dict(self.versions),
            "cpu_seconds": dict(self.cpu_seconds),
        }

    @classmethod
    def from_dict(cls, data: Any, *, source: str = "wam.json") -> "DatasetMeta":
        """Builds and validates the metadata from plain data.

        Args:
            data: Contents of the JSON file.
            source: Where the data came from, for error messages.

        Raises:
            DatasetError: Another format, a missing field or a value of the wrong type.
        """
        if not isinstance(data, Mapping):
            raise DatasetError(f"{source} must be a JSON object but is a {type(data).__name__}; {FIX}")
        if data.get("format") != FORMAT:
            raise DatasetError(
                f"{source} has format {data.get('format')!r} but this version reads format {FORMAT}: "
                "use the version that wrote it, or remove the file and name the robot, --robot my_arm.yaml."
            )
        missing = [key for key in ("robot", "task", "episodes") if key not in data]
        if missing:
            raise DatasetError(f"{source}: field '{missing[0]}' is missing; {FIX}")
        try:
            return cls(
                robot=RobotSpec.from_dict(data["robot"], source=source),
                task=str(data["task"]),
                episodes=tuple(EpisodeMeta(**episode) for episode in data["episodes"]),
                failed_seeds=tuple(int(seed) for seed in data.get("failed_seeds", ())),
                settings=dict(data.get("settings", {})),
                versions=dict(data.get("versions", {})),
                cpu_seconds=dict(data.get("cpu_seconds", {})),
            )
        except (TypeError, ValueError, RobotSpecError) as error:
            raise DatasetError(f"{source} is malformed: {error}; {FIX}") from error


def meta_path(root: Path) -> Path:
    """Returns where a dataset keeps this file."""
    return root / "meta" / "wam.json"


def write_meta(root: Path, meta: DatasetMeta) -> None:
    """Writes ``meta/wam.json``."""
    path = meta_path(root)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, meta.to_dict())


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Writes a file in one step: whatever interrupts it, a reader sees the old one or the new one, never half of it."""
    temporary = path.with_suffix(".json.tmp")
    try:
        temporary.write_text(json.dumps(data, indent=1) + "\n")
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read_meta(root: Path) -> DatasetMeta | None:
    """Reads ``meta/wam.json``; None when the dataset was recorded by another tool and has none.

    Raises:
        DatasetError: The file is not JSON or not ours.
    """
    path = meta_path(root)
    if not path.is_file():
        return None
    try:
        data = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path} is not valid JSON ({error}): it was truncated; {FIX}") from error
    return DatasetMeta.from_dict(data, source=str(path))


def robot_differences(recorded: RobotSpec, wanted: RobotSpec) -> list[str]:
    """Says in words how two robots differ where recorded data would be misread.

    Names, order, cameras and the control rate decide what a column or a frame means. Limits may change without harm, so
    that is only said (``limit_changes``), and topics and frames do not matter. Sizes are those of the films themselves
    (``wam.dataset_pictures``).

    Returns:
        One phrase per difference; empty when the data fits.
    """
    pairs = {
        "name": (recorded.name, wanted.name),
        "joints and gripper": (recorded.action_names, wanted.action_names),
        "cameras": (recorded.camera_names, wanted.camera_names),
        "control rate [Hz]": (recorded.control_rate_hz, wanted.control_rate_hz),
    }
    return [f"{what}: {was} recorded, {now} wanted" for what, (was, now) in pairs.items() if was != now]


def limit_changes(recorded: RobotSpec, wanted: RobotSpec) -> list[str]:
    """Says in words that two robots which agree in all that ``robot_differences`` compares have other limits."""
    changed = [axis.name for axis, was in zip(wanted.axes, recorded.axes, strict=True) if axis != was]
    if not changed:
        return []
    return [f"robot '{wanted.name}' has other limits than on the day of the dataset: {', '.join(changed)}"]
