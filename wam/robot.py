"""RobotSpec: the one place a robot is described, ``config/robots/<name>.yaml`` as a frozen dataclass.

Simulation, recording, training, safety and nodes all read it, so a new arm is one file. Units are SI and radians; the
gripper is an opening in [0, 1], 0 closed. Unknown fields are refused, so a typo cannot silently fall back to a default.
"""

import dataclasses
import json
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wam.calibration_spec import KinematicsSpec, RobotCalibration, build
from wam.errors import RobotSpecError, unknown_name
from wam.lens_checks import MAX_SIDE_PX
from wam.plain_data import is_finite, shown
from wam.robot_identity import fingerprint
from wam.strict_yaml import parse_yaml, read_yaml_text

__all__ = ["FITS", "CameraSpec", "JointSpec", "RobotSpec", "SafetySpec", "load_robot", "robot_file", "robot_names"]

COMMAND_INTERFACES = ("forward", "trajectory")
FITS = ("crop", "pad", "stretch")  # see wam.picture_fit
ROBOT_DIR_VARIABLE = "WAM_ROBOT_DIR"
MAY_BE_ZERO = ("position_margin", "heartbeat_s")  # of the safety fields
GRIPPING = ("gripper", "finger", "jaw", "claw")  # a joint called so closes on things
TURNING = ("roll", "pitch", "yaw", "rotat")  # and a gripper's own joints of these kinds turn the wrist


@dataclass(frozen=True, kw_only=True)
class JointSpec:
    """One joint, or the gripper, with its limits."""

    name: str  # as in the joint states and in the MJCF or URDF
    position: tuple[float, float]  # lowest and highest position [rad]; gripper opening [0, 1]
    max_velocity: float  # [rad/s]; gripper [1/s]
    max_acceleration: float  # [rad/s^2]; gripper [1/s^2]


@dataclass(frozen=True, kw_only=True)
class CameraSpec:
    """One camera stream."""

    name: str  # becomes observation.images.<name>
    width_px: int  # image width [px]
    height_px: int  # image height [px]
    rate_hz: float  # frames per second
    frame_id: str  # ROS frame of the optical centre
    topic: str  # ROS topic of the image; a relative one follows the nodes' namespace
    fit: str = "crop"  # how its pictures become the model's where the aspect differs: crop, pad or stretch


@dataclass(frozen=True, kw_only=True)
class SafetySpec:
    """Ages, margins and rates that alignment and the guard hold this robot to; every field has a default."""

    image_age_s: float = 0.15  # oldest image an observation may hold [s]: four frames at 30 Hz
    state_age_s: float = 0.10  # oldest joint state to act on [s]
    stream_spread_s: float = 0.05  # largest time between the streams of one observation [s]
    stamp_lead_s: float = 0.05  # a stamp may lie this far ahead of its message's arrival [s]: one period of a /clock
    chunk_age_s: float = 0.35  # without a new chunk for this long the guard holds [s]: two periods of 7 Hz and a margin
    resume_s: float = 2.0  # an engaged arm that nothing has moved for this long must be engaged again [s]
    teleop_age_s: float = 0.20  # without a teleoperation command for this long the guard holds [s]
    position_margin: float = 0.01  # kept free at both ends of every axis' range [rad, gripper opening]
    tracking_error: float = 0.5  # |command - measured| of a joint that faults [rad]
    tracking_time_s: float = 0.2  # ... from everything that was commanded for this long [s]
    engage_error: float = 0.15  # |command - measured| of a joint above which the guard refuses to engage [rad]
    state_fault_s: float = 1.0  # joint states missing for this long latch a fault [s]
    heartbeat_s: float = 0.5  # silence of a heartbeat that was heard once, which stops the arm [s]; 0: never watched
    guard_rate_hz: float = 50.0  # rate of commands to the arm [Hz]
    # ((x, x), (y, y), (z, z)) box the tool must stay in, in the base frame [m]; only the guard that is given forward
    # kinematics can check it
    workspace: tuple[tuple[float, float], ...] | None = None


@dataclass(frozen=True, kw_only=True)
class RobotSpec:
    """A robot: joints in command order, gripper, cameras, rates and interfaces."""

    name: str  # equal to the file's name
    joints: tuple[JointSpec, ...]  # in the order of every proprio and action vector
    gripper: JointSpec | None = None  # last entry of proprio and action vectors, when there is one
    cameras: tuple[CameraSpec, ...]  # in the order the model sees them
    control_rate_hz: float  # rate of actions [Hz]
    state_topic: str = "joint_states"  # ROS topic of measured joint positions; relative ones follow a namespace
    command_topic: str = "command"  # ROS topic the guard commands on
    command_interface: str = "forward"  # "forward" (Float64MultiArray) or "trajectory" (JointTrajectory)
    safety: SafetySpec = SafetySpec()  # limits beyond those of the joints
    kinematics: KinematicsSpec | None = None  # MJCF or URDF of the arm, for calibration
    calibration: RobotCalibration | None = None  # what was measured on this specimen

    @property
    def control_dt(self) -> float:
        """Time between two actions [s]."""
        return 1.0 / self.control_rate_hz

    @property
    def axes(self) -> tuple[JointSpec, ...]:
        """Joints and, last, the gripper: one entry per action dimension."""
        return self.joints if self.gripper is None else (*self.joints, self.gripper)

    @property
    def action_names(self) -> tuple[str, ...]:
        """Names of the action and proprio dimensions, in order."""
        return tuple(axis.name for axis in self.axes)

    @property
    def action_dim(self) -> int:
        """Width A of proprio and action vectors."""
        return len(self.axes)

    @property
    def camera_names(self) -> tuple[str, ...]:
        """Camera names in model order."""
        return tuple(camera.name for camera in self.cameras)

    @property
    def lower(self) -> np.ndarray:
        """(A,) float32 lowest positions [rad, gripper opening]."""
        return np.array([axis.position[0] for axis in self.axes], dtype=np.float32)

    @property
    def upper(self) -> np.ndarray:
        """(A,) float32 highest positions [rad, gripper opening]."""
        return np.array([axis.position[1] for axis in self.axes], dtype=np.float32)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain lists, strings and numbers, the exact inverse of ``from_dict``."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    def fingerprint(self) -> str:
        """sha256 of what a dataset, checkpoint or bundle was made for: see ``wam.robot_identity``."""
        return fingerprint(self.to_dict())

    def calibration_hash(self) -> str:
        """sha256 of the calibration, or "" without one: recordings with different hashes do not belong together."""
        return "" if self.calibration is None else self.calibration.hash()

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, source: str = "robot description") -> "RobotSpec":
        """Builds and validates a robot from plain data.

        Args:
            data: Fields as in the YAML file.
            source: Where the data came from, for error messages.

        Raises:
            RobotSpecError: A field is unknown, missing, of the wrong type or contradicts another one.
        """
        fields = dict(_checked_fields(cls, data, source))
        fields["joints"] = tuple(
            _joint(item, f"{source}: joints[{i}]") for i, item in enumerate(_list(fields, "joints", source))
        )
        fields["cameras"] = tuple(
            _camera(item, f"{source}: cameras[{i}]") for i, item in enumerate(_list(fields, "cameras", source))
        )
        if fields.get("gripper") is not None:
            fields["gripper"] = _joint(fields["gripper"], f"{source}: gripper")
        fields["control_rate_hz"] = _number(fields["control_rate_hz"], f"{source}: control_rate_hz", positive=True)
        fields["safety"] = _safety(fields.get("safety", {}), f"{source}: safety")
        if fields.get("kinematics") is not None:
            fields["kinematics"] = build(KinematicsSpec, fields["kinematics"], f"{source}: kinematics")
        if fields.get("calibration") is not None:
            fields["calibration"] = RobotCalibration.from_dict(fields["calibration"], where=f"{source}: calibration")
        robot = cls(**fields)
        _check_robot(robot, source)
        return robot


def robot_names() -> tuple[str, ...]:
    """Names of the robots that ship with the package or lie in ``$WAM_ROBOT_DIR``."""
    return tuple(sorted({path.stem for folder in _robot_folders() for path in folder.glob("*.yaml")}))


def load_robot(name_or_path: str | Path) -> RobotSpec:
    """Reads a robot file by name or by path.

    Args:
        name_or_path: A name from ``robot_names()`` or the path of a ``.yaml`` file.

    Raises:
        RobotSpecError: No such robot, or the file is not a valid robot description.
    """
    path = robot_file(name_or_path)
    try:
        data = parse_yaml(read_yaml_text(path.read_bytes()))
    except (OSError, ValueError) as error:
        raise RobotSpecError(f"robot file {path} cannot be read: {error}.") from error
    if not isinstance(data, dict):
        raise RobotSpecError(f"robot file {path} must be a mapping of fields, but holds {type(data).__name__}.")
    robot = RobotSpec.from_dict(data, source=str(path))
    if robot.name != path.stem:
        raise RobotSpecError(f"robot file {path} says name '{robot.name}': the file must be called {robot.name}.yaml.")
    return robot


def robot_file(name_or_path: str | Path) -> Path:
    """Finds a robot file by name or by path.

    Raises:
        RobotSpecError: No such robot.
    """
    path = Path(name_or_path)
    if path.suffix not in {".yaml", ".yml"}:
        found = [folder / f"{name_or_path}.yaml" for folder in _robot_folders()]
        path = next((candidate for candidate in found if candidate.is_file()), path)
    if not path.is_file():
        fix = f"Or give the path of a robot file, or set {ROBOT_DIR_VARIABLE} to a folder of them."
        raise RobotSpecError(unknown_name("robot", name_or_path, robot_names(), fix=fix))
    return path


def _robot_folders() -> list[Path]:
    root = Path(__file__).resolve().parent.parent
    # A colcon workspace puts one prefix per overlay in front; a wheel installs beside the interpreter
    prefixes = [Path(prefix) for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if prefix]
    shared = [prefix / "share/world_action_model/config/robots" for prefix in (*prefixes, Path(sys.prefix))]
    folders = [root / "config/robots", *shared]
    own = os.environ.get(ROBOT_DIR_VARIABLE)
    return [folder for folder in ([Path(own)] if own else []) + folders if folder.is_dir()]


def _checked_fields(cls: type, data: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(data, Mapping):
        raise RobotSpecError(f"{where} must be a mapping of fields, but is {shown(data)}.")
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for key in data:
        if key not in fields:
            raise RobotSpecError(f"{where}: " + unknown_name("field", key, fields))
    for name, field in fields.items():
        if field.default is dataclasses.MISSING and name not in data:
            raise RobotSpecError(f"{where}: field '{name}' is missing; fields: {', '.join(fields)}.")
        if field.type is str and name in data and not (isinstance(data[name], str) and data[name].strip()):
            raise RobotSpecError(f"{where}: field '{name}' is {shown(data[name])} but must be a non-empty string.")
    return data


def _list(fields: Mapping[str, Any], name: str, where: str) -> list[Any]:
    value = fields[name]
    if not isinstance(value, list | tuple):
        raise RobotSpecError(f"{where}: field '{name}' is {shown(value)} but must be a list.")
    return list(value)


def _number(value: Any, where: str, *, positive: bool = False) -> float:
    if not is_finite(value) or (positive and value <= 0):
        kind = "a positive finite number" if positive else "a finite number"
        raise RobotSpecError(f"{where} is {shown(value)} but must be {kind}.")
    return float(value)


def _joint(data: Any, where: str) -> JointSpec:
    fields = dict(_checked_fields(JointSpec, data, where))
    span = fields["position"]
    if not isinstance(span, list | tuple) or len(span) != 2:
        raise RobotSpecError(f"{where}: position is {shown(span)} but must be [lowest, highest].")
    low, high = (_number(value, f"{where}: position") for value in span)
    if low >= high:
        raise RobotSpecError(f"{where}: position is [{low}, {high}] but the lowest must be below the highest.")
    fields["position"] = (low, high)
    for name in ("max_velocity", "max_acceleration"):
        fields[name] = _number(fields[name], f"{where}: {name}", positive=True)
    return JointSpec(**fields)


def _camera(data: Any, where: str) -> CameraSpec:
    fields = dict(_checked_fields(CameraSpec, data, where))
    for name in ("width_px", "height_px"):
        value = fields[name]
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_SIDE_PX:
            raise RobotSpecError(
                f"{where}: {name} is {shown(value)} but must be a positive whole number of pixels, at most "
                f"{MAX_SIDE_PX}."
            )
    fields["rate_hz"] = _number(fields["rate_hz"], f"{where}: rate_hz", positive=True)
    if fields.get("fit", "crop") not in FITS:
        raise RobotSpecError(f"{where}: " + unknown_name("fit", fields["fit"], FITS))
    return CameraSpec(**fields)


def _safety(data: Any, where: str) -> SafetySpec:
    fields = dict(_checked_fields(SafetySpec, data, where))
    for name in fields.keys() - {"workspace"}:
        fields[name] = _number(fields[name], f"{where}: {name}", positive=name not in MAY_BE_ZERO)
        if fields[name] < 0:
            raise RobotSpecError(f"{where}: {name} is {fields[name]} but must be 0 or more.")
    if fields.get("workspace") is not None:
        fields["workspace"] = _box(fields["workspace"], f"{where}: workspace")
    return SafetySpec(**fields)


def _box(data: Any, where: str) -> tuple[tuple[float, float], ...]:
    pairs = isinstance(data, list | tuple) and all(isinstance(span, list | tuple) and len(span) == 2 for span in data)
    if not pairs or len(data) != 3:
        raise RobotSpecError(f"{where} is {shown(data)} but must be [[x, x], [y, y], [z, z]], lowest and highest [m].")
    box = tuple((_number(low, where), _number(high, where)) for low, high in data)
    for axis, (low, high) in zip("xyz", box, strict=True):
        if low >= high:
            raise RobotSpecError(f"{where}: {axis} is [{low}, {high}] but the lowest must be below the highest.")
    return box


def _check_safety(robot: RobotSpec, where: str) -> None:
    safety = robot.safety
    if safety.guard_rate_hz < robot.control_rate_hz:
        raise RobotSpecError(
            f"{where}: safety.guard_rate_hz is {safety.guard_rate_hz:g} but control_rate_hz is "
            f"{robot.control_rate_hz:g}: the guard would pass over actions; give it at least the rate of actions."
        )
    if safety.state_fault_s < safety.state_age_s:
        raise RobotSpecError(
            f"{where}: safety.state_fault_s is {safety.state_fault_s:g} but state_age_s is {safety.state_age_s:g}: "
            "joint states must be stale before their absence can latch a fault."
        )
    if safety.resume_s < safety.chunk_age_s:
        raise RobotSpecError(
            f"{where}: safety.resume_s is {safety.resume_s:g} but chunk_age_s is {safety.chunk_age_s:g}: the guard "
            "would disengage before it noticed that no chunk comes."
        )
    for axis in robot.axes:
        if 2 * safety.position_margin >= axis.position[1] - axis.position[0]:
            raise RobotSpecError(
                f"{where}: safety.position_margin is {safety.position_margin:g} at both ends, but '{axis.name}' only "
                f"moves in {list(axis.position)}: nothing would be left of it."
            )


def _check_grippers(robot: RobotSpec, where: str) -> None:
    """Refuses grippers among the joints: one that holds something never reaches its command, which is a fault there."""
    found = [joint.name for joint in robot.joints if _grips(joint.name)]
    if found:
        raise RobotSpecError(
            f"{where}: joint {', '.join(found)} has the name of a gripper. As a joint it would fault when it holds "
            "something, because it stops short of its command (tracking error). Describe the one gripper under "
            "'gripper:' as an opening in [0, 1], which the arm driver maps to the device. A second one cannot be "
            "described yet: leave it out of this file and let its own driver hold it. A joint that is no gripper needs "
            "another name, here and in its driver."
        )


def _grips(name: str) -> bool:
    words = [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)]
    kinds = {kind for kind in GRIPPING for word in words if word.endswith((kind, kind + "s"))}
    kinds |= {kind for kind in ("gripper", "finger") for word in words if word.startswith(kind)}  # "fingertip"
    turns = any(word.startswith(TURNING) for word in words)
    return bool(kinds) and not (kinds == {"gripper"} and turns)


def _check_robot(robot: RobotSpec, where: str) -> None:
    if not robot.joints or not robot.cameras:
        raise RobotSpecError(f"{where}: a robot needs at least one joint and one camera.")
    for kind, names in (("joint or gripper", robot.action_names), ("camera", robot.camera_names)):
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise RobotSpecError(f"{where}: {kind} names must be unique, but {', '.join(twice)} occurs twice.")
    if robot.gripper is not None and robot.gripper.position != (0.0, 1.0):
        raise RobotSpecError(
            f"{where}: gripper position is {list(robot.gripper.position)} but the gripper is an opening in [0, 1] "
            "(0 closed): map the device's range to it in the arm driver."
        )
    if robot.command_interface not in COMMAND_INTERFACES:
        raise RobotSpecError(
            f"{where}: " + unknown_name("command_interface", robot.command_interface, COMMAND_INTERFACES)
        )
    _check_grippers(robot, where)
    _check_safety(robot, where)
    if robot.calibration is not None:
        for kind, entries, names in (
            ("camera", robot.calibration.cameras, robot.camera_names),
            ("joint", robot.calibration.joints, robot.action_names),
        ):
            for name in (entry.name for entry in entries):
                if name not in names:
                    raise RobotSpecError(f"{where}: calibration: " + unknown_name(kind, name, names))
