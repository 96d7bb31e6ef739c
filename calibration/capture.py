"""Capture folders: pictures of one camera with the robot's joints, for the capture node and `wam calibrate`.

A folder holds the pictures and ``capture.json``. There are three kinds: *pictures* (a board before the camera, nothing
of the robot), *poses* (the arm stands still in each picture) and *motion* (the arm moves; pictures with stamps, and
joint states at their own rate). Angles are radians, stamps robot time in seconds.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from calibration.errors import CalibrationError
from calibration.timing import JointTrack
from wam.errors import unknown_name
from wam.plain_data import is_finite, shortened, shown
from wam.robot import RobotSpec
from wam.strict_json import parse_json

__all__ = ["KINDS", "Capture", "Sample", "load_picture", "picture_files", "read_capture", "write_capture"]

FILE = "capture.json"
FORMAT = 1
KINDS = ("pictures", "poses", "motion")
_FIELDS = ("format", "robot", "camera", "kind", "samples", "joint_names", "joint_stamps", "joint_positions")
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One picture."""

    image: str  # file name, relative to the folder
    stamp: float = 0.0  # header stamp [s]
    joints: Mapping[str, float] = field(default_factory=dict)  # name -> reported angle [rad]; poses only
    tool_pose: np.ndarray | None = None  # (4, 4) T_base_tool, when the robot's own kinematics gave it


@dataclass(frozen=True, kw_only=True)
class Capture:
    """All pictures of one recording."""

    folder: Path
    robot: str
    camera: str
    kind: str  # one of KINDS
    samples: tuple[Sample, ...]
    joint_names: tuple[str, ...] = ()  # motion only
    joint_stamps: tuple[float, ...] = ()
    joint_positions: tuple[tuple[float, ...], ...] = ()

    def positions(self, robot: RobotSpec) -> np.ndarray:
        """(N, J) reported joint angles of all samples, in the robot file's order, without the gripper.

        Raises:
            CalibrationError: A joint is missing.
        """
        names = [joint.name for joint in robot.joints]
        for sample in self.samples:
            for name in names:
                if name not in sample.joints:
                    raise CalibrationError(
                        f"{self.folder / FILE}: picture {sample.image} has no angle of joint '{name}': "
                        + unknown_name("joint", name, sample.joints, fix="Capture with this robot's driver.")
                    )
        return np.array([[sample.joints[name] for name in names] for sample in self.samples]).reshape(-1, len(names))

    def track(self, robot: RobotSpec) -> JointTrack:
        """The joint states of a motion, in the robot file's order, without the gripper.

        Raises:
            CalibrationError: A joint is missing.
        """
        for joint in robot.joints:
            if joint.name not in self.joint_names:
                raise CalibrationError(f"{self.folder / FILE}: " + unknown_name("joint", joint.name, self.joint_names))
        order = [self.joint_names.index(joint.name) for joint in robot.joints]
        positions = np.array(self.joint_positions, dtype=float).reshape(-1, len(self.joint_names))
        return JointTrack(stamps=np.array(self.joint_stamps), positions=positions[:, order])


def write_capture(capture: Capture) -> Path:
    """Writes ``capture.json``, all at once; the pictures are written by whoever takes them."""
    data = {
        "format": FORMAT,
        "robot": capture.robot,
        "camera": capture.camera,
        "kind": capture.kind,
        "samples": [_plain(sample) for sample in capture.samples],
        "joint_names": list(capture.joint_names),
        "joint_stamps": list(capture.joint_stamps),
        "joint_positions": [list(row) for row in capture.joint_positions],
    }
    path = capture.folder / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".tmp")
    draft.write_text(json.dumps(data))
    os.replace(draft, path)
    return path


def read_capture(folder: Path, *, kind: str, robot: str = "", camera: str = "") -> Capture:
    """Reads a capture folder.

    Args:
        folder: The folder.
        kind: What it must hold; plain pictures may also come without a ``capture.json``.
        robot: Name of the robot it must be of; any when empty.
        camera: Name of the camera it must be of; any when empty.

    Raises:
        CalibrationError: Missing, broken, of another kind, robot or camera.
    """
    path = folder / FILE
    if not path.is_file():
        if kind != "pictures":
            raise CalibrationError(
                f"{folder} holds no {FILE}: record it with the capture node (docs/calibration.md shows how), which "
                "writes the robot's joints beside each picture."
            )
        samples = tuple(Sample(image=file.name) for file in picture_files(folder))
        return Capture(folder=folder, robot=robot, camera=camera, kind=kind, samples=samples)
    try:
        capture = _parsed(parse_json(path.read_text(encoding="utf-8")), folder)
    except (OSError, ValueError) as error:
        raise CalibrationError(
            f"{path} is no capture file of this version ({error}). Capture again, or restore it: pictures alone lack "
            "the joints."
        ) from error
    if capture.kind != kind and kind != "pictures":
        raise CalibrationError(
            f"{folder} was captured as '{capture.kind}' but '{kind}' is needed here: in 'poses' the arm stands still "
            "in every picture, in 'motion' it moves."
        )
    for what, found, wanted in (("robot", capture.robot, robot), ("camera", capture.camera, camera)):
        if wanted and found and found != wanted:
            raise CalibrationError(
                f"{folder} was captured with {what} '{found}', not '{wanted}': give that {what}'s own capture, or "
                f"choose --{what} {found}."
            )
    return capture


def picture_files(folder: Path) -> list[Path]:
    """Pictures in a folder, by name.

    Raises:
        CalibrationError: No such folder, or no picture in it.
    """
    if not folder.is_dir():
        raise CalibrationError(f"{folder} is no folder: give one with pictures of the board, or a camera's number.")
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES)
    if not files:
        raise CalibrationError(f"{folder} holds no pictures ({', '.join(PICTURES)}).")
    return files


def load_picture(path: Path) -> np.ndarray:
    """Reads one picture.

    Returns:
        (height, width, 3) rgb_hwc_u8.

    Raises:
        CalibrationError: It cannot be read.
    """
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise CalibrationError(f"picture {path} is missing or damaged: leave it out, or capture again.")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _plain(sample: Sample) -> dict[str, Any]:
    data: dict[str, Any] = {"image": sample.image, "stamp": sample.stamp, "joints": dict(sample.joints)}
    if sample.tool_pose is not None:
        data["tool_pose"] = sample.tool_pose.tolist()
    return data


def _parsed(data: Any, folder: Path) -> Capture:
    """Builds a capture from a file's data; a ``ValueError`` names the field that is wrong."""
    fields = _fields(data, "the file", _FIELDS)
    if fields["format"] != FORMAT or fields["kind"] not in KINDS:
        raise ValueError(f"format and kind must be {FORMAT} and one of {KINDS}")
    samples = enumerate(_list(fields["samples"], "samples"))
    names = tuple(_text(name, "joint_names") for name in _list(fields["joint_names"], "joint_names"))
    stamps = _numbers(fields["joint_stamps"], "joint_stamps")
    rows = enumerate(_list(fields["joint_positions"], "joint_positions"))
    positions = tuple(_numbers(row, f"joint_positions[{i}]", len(names)) for i, row in rows)
    if len(positions) != len(stamps):
        raise ValueError(f"joint_positions has {len(positions)} rows but joint_stamps has {len(stamps)}")
    return Capture(
        folder=folder,
        robot=_text(fields["robot"], "robot"),
        camera=_text(fields["camera"], "camera"),
        kind=fields["kind"],
        samples=tuple(_sample(entry, f"samples[{i}]") for i, entry in samples),
        joint_names=names,
        joint_stamps=stamps,
        joint_positions=positions,
    )


def _sample(entry: Any, where: str) -> Sample:
    fields = _fields(entry, where, ("image", "stamp", "joints"), optional=("tool_pose",))
    matrix = None
    if fields.get("tool_pose") is not None:
        rows = _list(fields["tool_pose"], f"{where}.tool_pose")
        matrix = np.array([_numbers(row, f"{where}.tool_pose", 4) for row in rows])
        if matrix.shape != (4, 4):
            raise ValueError(f"{where}.tool_pose must be a 4 x 4 matrix")
    joints = fields["joints"]
    if not isinstance(joints, dict):
        raise ValueError(f"{where}.joints is {shown(joints)} but must map joint names to angles")
    image = _text(fields["image"], f"{where}.image")
    if Path(image).name != image:
        raise ValueError(f"{where}: picture '{image}' must lie in the folder itself")
    angles = _numbers(list(joints.values()), f"{where}.joints")
    stamp = _numbers([fields["stamp"]], f"{where}.stamp")[0]
    return Sample(image=image, stamp=stamp, joints=dict(zip(joints, angles, strict=True)), tool_pose=matrix)


def _fields(data: Any, where: str, names: tuple[str, ...], optional: tuple[str, ...] = ()) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise ValueError(f"{where} is {shown(data)} but must be an object of fields")
    missing = [name for name in names if name not in data]
    unknown = [key for key in data if key not in (*names, *optional)]
    if missing or unknown:
        what = " and ".join([*(f"lacks {name}" for name in missing), *(f"has unknown field {key}" for key in unknown)])
        raise ValueError(f"{where} {shortened(what)}")
    return data


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{where} is {shown(value)} but must be a list")
    return value


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError(f"{where} is {shown(value)} but must be a text")
    return value


def _numbers(values: Any, where: str, count: int | None = None) -> tuple[float, ...]:
    for value in _list(values, where):
        if not is_finite(value):
            raise ValueError(f"{where} holds {shown(value)} but must hold finite numbers")
    if count is not None and len(values) != count:
        raise ValueError(f"{where} holds {len(values)} numbers but must hold {count}")
    return tuple(map(float, values))
