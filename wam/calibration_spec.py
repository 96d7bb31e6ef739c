"""What calibration knows of one physical robot: lenses, camera poses, latencies, joint zeros, servo ranges.

The optional section ``calibration`` of a robot file. It describes one specimen, not the kind of robot, so it is no part
of ``RobotSpec.fingerprint()``: a policy runs on two arms of one kind, and ``RobotCalibration.hash()`` tells them apart.

Conventions: pixel (0, 0) is the centre of the first pixel, as in OpenCV and ROS. Camera frames are optical: x right,
y down, z forward. ``T_body_camera`` is the camera's pose in the body's frame; ``quat_wxyz``.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from wam.errors import RobotSpecError, unknown_name
from wam.lens_checks import intrinsics_problem
from wam.plain_data import is_finite, shown

__all__ = [
    "DISTORTION_LENGTHS",
    "BoardPlacement",
    "CameraCalibration",
    "JointCalibration",
    "KinematicsSpec",
    "LensSpec",
    "PoseSpec",
    "RobotCalibration",
    "ServoCalibration",
]

# ROS's names. plumb_bob: k1 k2 p1 p2 k3; rational_polynomial: the same and k4 k5 k6; equidistant (fisheye): k1 to k4.
DISTORTION_LENGTHS = {"plumb_bob": 5, "rational_polynomial": 8, "equidistant": 4}


@dataclass(frozen=True, kw_only=True)
class KinematicsSpec:
    """Where the arm's geometry stands: an MJCF or a URDF whose joints are called as in the robot file."""

    file: str  # path, relative to the robot file; or the name of a model in sim/assets
    base: str = ""  # body whose frame robot poses are given in; "": the model's world
    tool: str = ""  # body or site that carries a camera or a board; "": the body behind the last joint


@dataclass(frozen=True, kw_only=True)
class PoseSpec:
    """A pose, for example ``T_body_camera``."""

    position_m: tuple[float, float, float]
    quat_wxyz: tuple[float, float, float, float]

    @property
    def matrix(self) -> np.ndarray:
        """(4, 4) float64 homogeneous matrix."""
        w, x, y, z = np.array(self.quat_wxyz) / np.linalg.norm(self.quat_wxyz)
        matrix = np.eye(4)
        matrix[:3, :3] = [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
        matrix[:3, 3] = self.position_m
        return matrix

    @classmethod
    def from_matrix(cls, matrix: np.ndarray) -> "PoseSpec":
        """Rounds a (4, 4) pose to 0.1 micrometre and 1e-8 in the quaternion, far below what can be measured."""
        rotation = np.asarray(matrix)[:3, :3]
        # The eigenvector of the largest eigenvalue is the quaternion closest to the matrix (Bar-Itzhack 2000).
        (a, b, c), (d, e, f), (g, h, i) = rotation
        symmetric = np.array(
            [
                [a + e + i, h - f, c - g, d - b],
                [h - f, a - e - i, b + d, c + g],
                [c - g, b + d, e - a - i, f + h],
                [d - b, c + g, f + h, i - a - e],
            ]
        )
        quat = np.linalg.eigh(symmetric)[1][:, -1]
        quat = quat if quat[0] >= 0 else -quat
        x, y, z = (round(float(value), 7) for value in np.asarray(matrix)[:3, 3])
        qw, qx, qy, qz = (round(float(value), 8) for value in quat)
        return cls(position_m=(x, y, z), quat_wxyz=(qw, qx, qy, qz))


@dataclass(frozen=True, kw_only=True)
class LensSpec:
    """Intrinsics of one camera at one image size."""

    model: str  # a key of DISTORTION_LENGTHS
    width_px: int  # image size they hold for [px]
    height_px: int
    focal_px: tuple[float, float]  # fx, fy [px]
    center_px: tuple[float, float]  # principal point cx, cy [px]
    distortion: tuple[float, ...]  # in OpenCV's and ROS's order
    rms_px: float | None = None  # reprojection error of the calibration that found it [px]

    @property
    def matrix(self) -> np.ndarray:
        """(3, 3) float64 camera matrix K."""
        (fx, fy), (cx, cy) = self.focal_px, self.center_px
        return np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])


@dataclass(frozen=True, kw_only=True)
class BoardPlacement:
    """A board that stays where it is, so that any day's picture of a camera can be compared with it."""

    board: str  # its description, as `wam calibrate board` prints it
    body: str = ""  # "" : fixed to the base; otherwise the kinematics' tool
    pose: PoseSpec  # T_body_board


@dataclass(frozen=True, kw_only=True)
class CameraCalibration:
    """One camera of the robot."""

    name: str  # as in the robot file's cameras
    lens: LensSpec | None = None
    body: str | None = None  # frame it is mounted in: the kinematics' tool, or "" for the base; None: unknown
    pose: PoseSpec | None = None  # T_body_camera
    latency_s: float = 0.0  # the picture shows the robot as it was at stamp - latency_s, on the joint states' clock [s]
    board: BoardPlacement | None = None  # for the daily check
    reference: str | None = None  # picture for the daily check, relative to the robot file

    @property
    def eye_in_hand(self) -> bool:
        """The camera moves with the arm."""
        return bool(self.body)


@dataclass(frozen=True, kw_only=True)
class ServoCalibration:
    """One bus servo, with LeRobot's fields and meaning: position [tick] = raw position - homing_offset."""

    id: int  # on the bus
    drive_mode: int  # 1: turns the other way round
    homing_offset: int  # [tick]
    range_min: int  # [tick]
    range_max: int  # [tick]


@dataclass(frozen=True, kw_only=True)
class JointCalibration:
    """One joint, or the gripper."""

    name: str
    offset_rad: float = 0.0  # true angle = reported angle + offset_rad [rad]
    servo: ServoCalibration | None = None


@dataclass(frozen=True, kw_only=True)
class RobotCalibration:
    """Everything measured on one specimen of a robot."""

    date: str = ""  # of the last change, ISO 8601; not part of the hash
    cameras: tuple[CameraCalibration, ...] = ()
    joints: tuple[JointCalibration, ...] = ()
    notes: tuple[str, ...] = field(default=())  # which command wrote what, for people; not part of the hash

    def camera(self, name: str) -> CameraCalibration:
        """Returns what is known of a camera; an empty entry if nothing is."""
        return next((camera for camera in self.cameras if camera.name == name), CameraCalibration(name=name))

    def joint(self, name: str) -> JointCalibration:
        """Returns what is known of a joint; an empty entry if nothing is."""
        return next((joint for joint in self.joints if joint.name == name), JointCalibration(name=name))

    def latency_s(self, camera: str) -> float:
        """Time from exposure to stamp of a camera [s]: subtract it from the image's stamp before aligning."""
        return self.camera(camera).latency_s

    def with_camera(self, camera: CameraCalibration) -> "RobotCalibration":
        """Returns a copy with this camera put in, or in place of the one of its name."""
        return dataclasses.replace(self, cameras=_put(self.cameras, camera))

    def with_joint(self, joint: JointCalibration) -> "RobotCalibration":
        """Returns a copy with this joint put in, or in place of the one of its name."""
        return dataclasses.replace(self, joints=_put(self.joints, joint))

    def hash(self) -> str:
        """sha256 of what changes the meaning of data: not dates, notes and what the daily check compares with."""
        data = json.loads(json.dumps(dataclasses.asdict(self)))
        del data["date"], data["notes"]
        for camera in data["cameras"]:
            del camera["reference"], camera["board"]
        for part in ("cameras", "joints"):
            data[part].sort(key=lambda entry: entry["name"])
        return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()

    @classmethod
    def from_dict(cls, data: Any, *, where: str) -> "RobotCalibration":
        """Builds and validates the section from plain data.

        Raises:
            RobotSpecError: A field is unknown, missing, of the wrong type or impossible.
        """
        return build(cls, data, where)


def build[Spec](cls: type[Spec], data: Any, where: str) -> Spec:
    """Builds one of this module's dataclasses from plain data.

    Args:
        cls: The dataclass.
        data: A mapping of its fields.
        where: Place in the file, for messages.

    Raises:
        RobotSpecError: A field is unknown, missing, of the wrong type or impossible.
    """
    if not isinstance(data, Mapping):
        raise RobotSpecError(f"{where} must be a mapping of fields, but is {shown(data)}.")
    fields = {item.name: item for item in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in data:
        if key not in fields:
            raise RobotSpecError(f"{where}: " + unknown_name("field", key, fields))
    values = {}
    for name, item in fields.items():
        required = item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
        if name in data:
            values[name] = _value(item.type, data[name], f"{where}: {name}")
        elif required:
            raise RobotSpecError(f"{where}: field '{name}' is missing; fields: {', '.join(fields)}.")
    spec = cls(**values)
    _check(spec, where)
    return spec


_NESTED: Mapping[Any, type] = {
    PoseSpec | None: PoseSpec,
    LensSpec | None: LensSpec,
    ServoCalibration | None: ServoCalibration,
    BoardPlacement | None: BoardPlacement,
    PoseSpec: PoseSpec,
}
_LISTS: Mapping[Any, type] = {
    tuple[CameraCalibration, ...]: CameraCalibration,
    tuple[JointCalibration, ...]: JointCalibration,
}
_NUMBERS: Mapping[Any, int] = {
    tuple[float, float]: 2,
    tuple[float, float, float]: 3,
    tuple[float, float, float, float]: 4,
    tuple[float, ...]: -1,
}


def _value(kind: Any, value: Any, where: str) -> Any:
    optional = kind in (str | None, float | None) or (kind in _NESTED and kind is not PoseSpec)
    if value is None and optional:
        return None
    if kind in _NESTED:
        return build(_NESTED[kind], value, where)
    if kind in _LISTS or kind in _NUMBERS or kind == tuple[str, ...]:
        if not isinstance(value, list | tuple):
            raise RobotSpecError(f"{where} is {shown(value)} but must be a list.")
        if kind in _LISTS:
            return tuple(build(_LISTS[kind], entry, f"{where}[{i}]") for i, entry in enumerate(value))
        if kind == tuple[str, ...]:
            return tuple(_value(str, entry, where) for entry in value)
        if _NUMBERS[kind] not in (-1, len(value)):
            raise RobotSpecError(f"{where} holds {len(value)} numbers but must hold {_NUMBERS[kind]}.")
        return tuple(_value(float, entry, where) for entry in value)
    whole = isinstance(value, int) and not isinstance(value, bool)
    if kind in (str, str | None) and isinstance(value, str):
        return value
    if kind is int and whole:
        return value
    if kind in (float, float | None) and is_finite(value):
        return float(value)
    words = {str: "a string", str | None: "a string", int: "a whole number"}
    raise RobotSpecError(f"{where} is {shown(value)} but must be {words.get(kind, 'a finite number')}.")


def _check(spec: Any, where: str) -> None:
    if isinstance(spec, LensSpec):
        if spec.model not in DISTORTION_LENGTHS:
            raise RobotSpecError(f"{where}: " + unknown_name("lens model", spec.model, DISTORTION_LENGTHS))
        if len(spec.distortion) != DISTORTION_LENGTHS[spec.model]:
            raise RobotSpecError(
                f"{where}: distortion holds {len(spec.distortion)} numbers but {spec.model} has "
                f"{DISTORTION_LENGTHS[spec.model]}."
            )
        problem = intrinsics_problem((spec.width_px, spec.height_px), spec.focal_px, spec.center_px)
        if problem:
            raise RobotSpecError(f"{where}: {problem}.")
    if isinstance(spec, PoseSpec) and abs(np.linalg.norm(spec.quat_wxyz) - 1) > 1e-3:
        raise RobotSpecError(f"{where}: quat_wxyz {list(spec.quat_wxyz)} is not a unit quaternion.")
    if isinstance(spec, CameraCalibration):
        if (spec.pose is None) != (spec.body is None):
            raise RobotSpecError(f"{where}: pose and body belong together, but only one of them is there.")
        if abs(spec.latency_s) > 2:
            raise RobotSpecError(f"{where}: latency_s is {spec.latency_s} s; beyond 2 s it is no camera latency.")
    if isinstance(spec, ServoCalibration) and spec.range_min >= spec.range_max:
        raise RobotSpecError(
            f"{where}: servo range is [{spec.range_min}, {spec.range_max}] but the lowest must be below the highest."
        )
    if isinstance(spec, RobotCalibration):
        for kind, entries in (("camera", spec.cameras), ("joint", spec.joints)):
            names = [entry.name for entry in entries]
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise RobotSpecError(f"{where}: {kind} {', '.join(twice)} occurs twice.")


def _put(entries: tuple[Any, ...], entry: Any) -> tuple[Any, ...]:
    if entry.name in [old.name for old in entries]:
        return tuple(entry if old.name == entry.name else old for old in entries)
    return (*entries, entry)
