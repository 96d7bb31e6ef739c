"""Bus servos of SO-101-class arms: ticks to radians and opening, LeRobot's calibration files, and a new calibration.

The numbers mean what they mean in LeRobot, so its files work here and ours work there. A servo counts 4096 ticks a turn
and reports its raw position less ``homing_offset``. A joint's angle is zero in the middle of its range; a gripper's
opening runs over its range. As in LeRobot, ``drive_mode`` turns an opening round but not an angle.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from calibration.errors import CalibrationError
from calibration.servo_entries import LEROBOT_FIELDS, MAX_OFFSET, MAX_TICK
from wam.calibration_spec import RobotCalibration, ServoCalibration
from wam.errors import unknown_name
from wam.robot import RobotSpec

__all__ = [
    "HALF_TURN",
    "RangeRecorder",
    "ServoBus",
    "angle_rad",
    "angle_ticks",
    "homing_offsets",
    "opening",
    "opening_ticks",
    "unreachable",
    "with_servos",
    "write_lerobot",
]

HALF_TURN = MAX_TICK // 2
_LEAST_RANGE = 100  # ticks, 9 degrees: a joint that was moved less was forgotten


class ServoBus(Protocol):
    """What a calibration needs of the servos; ``calibration.feetech`` drives real ones."""

    def read_positions(self) -> Mapping[str, int]:
        """Position of every servo [tick]."""

    def release(self) -> None:
        """Turns torque off, so that the arm can be moved by hand."""

    def reset_offsets(self) -> None:
        """Makes every servo report raw positions over its whole turn."""

    def write_offsets(self, offsets: Mapping[str, int]) -> None:
        """Stores homing offsets [tick]."""

    def write_calibration(self, servos: Mapping[str, ServoCalibration]) -> None:
        """Stores offsets and limits in the servos."""


def angle_rad(servo: ServoCalibration, ticks: float) -> float:
    """Joint angle [rad] at a position [tick]."""
    return (ticks - (servo.range_min + servo.range_max) / 2) * 2 * np.pi / MAX_TICK


def angle_ticks(servo: ServoCalibration, angle: float) -> int:
    """Position [tick] of a joint angle [rad]; the inverse of ``angle_rad`` to the nearest tick."""
    return round(angle * MAX_TICK / (2 * np.pi) + (servo.range_min + servo.range_max) / 2)


def opening(servo: ServoCalibration, ticks: float) -> float:
    """Gripper opening in [0, 1] at a position [tick]."""
    share = float(np.clip((ticks - servo.range_min) / (servo.range_max - servo.range_min), 0.0, 1.0))
    return 1.0 - share if servo.drive_mode else share


def opening_ticks(servo: ServoCalibration, value: float) -> int:
    """Position [tick] of a gripper opening; the inverse of ``opening`` to the nearest tick."""
    share = float(np.clip(1.0 - value if servo.drive_mode else value, 0.0, 1.0))
    return round(servo.range_min + share * (servo.range_max - servo.range_min))


def homing_offsets(raw: Mapping[str, int]) -> dict[str, int]:
    """Offsets that make the present raw positions the middle of a turn.

    Args:
        raw: Positions while the servos' own offsets are zero [tick].

    Raises:
        CalibrationError: A position that no twelve-bit encoder gives.
    """
    for name, ticks in raw.items():
        if not 0 <= ticks <= MAX_TICK:
            raise CalibrationError(
                f"servo '{name}' reports {ticks} ticks, outside 0 to {MAX_TICK}: it is no twelve-bit servo, or its "
                "stored offset was not reset; switch it off and on again."
            )
    return {name: int(np.clip(ticks - HALF_TURN, -MAX_OFFSET, MAX_OFFSET)) for name, ticks in raw.items()}


class RangeRecorder:
    """Widest positions seen while someone moves every joint to both its ends."""

    def __init__(self, names: Sequence[str]) -> None:
        self._low: dict[str, int] = {}
        self._high: dict[str, int] = {}
        self._names = tuple(names)

    def add(self, positions: Mapping[str, int]) -> None:
        """Takes in one reading [tick]."""
        for name in self._names:
            self._low[name] = min(positions[name], self._low.get(name, positions[name]))
            self._high[name] = max(positions[name], self._high.get(name, positions[name]))

    def rows(self) -> list[tuple[str, int, int]]:
        """Name, lowest and highest position of each joint so far."""
        return [(name, self._low.get(name, 0), self._high.get(name, 0)) for name in self._names]

    def ranges(self) -> dict[str, tuple[int, int]]:
        """Lowest and highest position of each joint.

        Raises:
            CalibrationError: A joint was hardly moved, or ran through the end of its encoder.
        """
        still = [name for name, low, high in self.rows() if high - low < _LEAST_RANGE]
        if still:
            raise CalibrationError(
                f"{', '.join(still)} moved less than {_LEAST_RANGE} ticks: move every joint to both ends of its range "
                "before you press Enter."
            )
        wrapped = [name for name, low, high in self.rows() if high - low > MAX_TICK - _LEAST_RANGE]
        if wrapped:
            raise CalibrationError(
                f"{', '.join(wrapped)} passed the point where the encoder starts again at 0: begin with every joint in "
                "the middle of its range, as the first step asks."
            )
        return {name: (low, high) for name, low, high in self.rows()}


def write_lerobot(servos: Mapping[str, ServoCalibration], path: Path) -> None:
    """Writes a file that LeRobot reads, all at once."""
    data = {name: {field: getattr(servo, field) for field in LEROBOT_FIELDS} for name, servo in servos.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".tmp")
    draft.write_text(json.dumps(data, indent=4) + "\n")
    os.replace(draft, path)


def with_servos(robot: RobotSpec, servos: Mapping[str, ServoCalibration]) -> RobotCalibration:
    """The robot's calibration with these servos in it; joint zeros found otherwise are kept.

    Raises:
        CalibrationError: A joint of the robot has no servo, or a servo no joint.
    """
    for name in servos:
        if name not in robot.action_names:
            raise CalibrationError(
                unknown_name(
                    "joint of the servos", name, robot.action_names, fix="Give the robot file LeRobot's names."
                )
            )
    missing = [name for name in robot.action_names if name not in servos]
    if missing:
        raise CalibrationError(
            f"robot '{robot.name}' has {', '.join(missing)}, but these servos do not: {', '.join(servos)}."
        )
    calibration = robot.calibration or RobotCalibration()
    for name, servo in servos.items():
        joint = calibration.joint(name)
        calibration = calibration.with_joint(type(joint)(name=name, offset_rad=joint.offset_rad, servo=servo))
    return calibration


def unreachable(robot: RobotSpec, servos: Mapping[str, ServoCalibration]) -> list[str]:
    """What the robot file allows and these servos cannot reach, one sentence per joint.

    A servo stops at the ends of its range, whatever it is told; the guard then faults, because the arm does not follow.

    Args:
        robot: Its limits, the margin that the guard keeps free of them, and the joints' zeros.
        servos: Of its joints, by name; joints without one are left out.
    """
    found = []
    for joint in robot.joints:
        servo = servos.get(joint.name)
        if servo is None:
            continue
        zero = (robot.calibration or RobotCalibration()).joint(joint.name).offset_rad
        low, high = (angle_rad(servo, ticks) + zero for ticks in (servo.range_min, servo.range_max))
        margin = robot.safety.position_margin
        if joint.position[0] + margin < low or joint.position[1] - margin > high:
            found.append(
                f"joint '{joint.name}': the robot file allows {joint.position[0]:.2f} to {joint.position[1]:.2f} rad, "
                f"but the range that was measured reaches from {low:.2f} to {high:.2f}: narrow its position in the "
                "robot file, or calibrate again and move it to both its ends"
            )
    return found
