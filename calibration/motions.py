"""Do the robot's motions fix a hand-eye calibration, and if not, which are missing?

Two poses that differ by a translation alone say nothing about the camera's position; turns about one axis leave the
position along that axis free. So the tool must turn about at least two axes that are far from parallel.

Source: Tsai and Lenz, "A new technique for fully autonomous and efficient 3D robotics hand/eye calibration", 1989.
"""

from dataclasses import dataclass

import numpy as np

from calibration.errors import CalibrationError
from calibration.rigid import inverse, rotation_vector

__all__ = ["MIN_POSES", "MotionReport", "check_motions", "describe_motions"]

MIN_POSES = 6  # three would do for the equations
_LITTLE_TURN_DEG = 8.0  # typical turn about the main axis below which everything drowns in noise
_ONE_AXIS_DEG = 4.0  # typical turn about the second axis below which there is only one
_GOOD_TURN_DEG = 12.0  # about the second axis: below it the result is weak, and advice is given


@dataclass(frozen=True, kw_only=True)
class MotionReport:
    """How the tool turned between poses."""

    turns_deg: tuple[float, float, float]  # typical turn between two poses about the three principal axes, descending
    axes: np.ndarray  # (3, 3), rows: the principal axes in the tool's frame
    span_mm: float  # largest distance between two poses

    def advice(self) -> list[str]:
        """Which motions to add, in words; empty when the set is good."""
        words = []
        if self.turns_deg[0] < _GOOD_TURN_DEG:
            words.append("turn the tool by 20 to 40 degrees between poses")
        for turn, axis in zip(self.turns_deg[1:2], self.axes[1:2], strict=True):
            if turn < _GOOD_TURN_DEG:
                words.append(f"tilt the tool about its {_axis_name(axis)} as well, by 20 to 40 degrees both ways")
        return words


def describe_motions(robot_poses: np.ndarray) -> MotionReport:
    """Measures (N, 4, 4) tool poses."""
    first, second = np.triu_indices(len(robot_poses), k=1)
    between = inverse(robot_poses[first]) @ robot_poses[second]
    turns = rotation_vector(between[:, :3, :3])
    values, vectors = np.linalg.eigh(turns.T @ turns / max(len(turns), 1))
    typical = np.degrees(np.sqrt(np.maximum(values[::-1], 0)))
    span = 1e3 * float(np.linalg.norm(between[:, :3, 3], axis=1).max(initial=0.0))
    largest, middle, smallest = (float(value) for value in typical)
    return MotionReport(turns_deg=(largest, middle, smallest), axes=vectors.T[::-1], span_mm=span)


def check_motions(robot_poses: np.ndarray) -> MotionReport:
    """Refuses poses from which no hand-eye calibration follows.

    Args:
        robot_poses: (N, 4, 4) ``T_base_tool``.

    Raises:
        CalibrationError: Too few poses, hardly any turn, or turns about one axis only; says which motions are missing.
    """
    if len(robot_poses) < MIN_POSES:
        raise CalibrationError(
            f"{len(robot_poses)} poses show the board but a hand-eye calibration needs {MIN_POSES}, better 25: add "
            "poses in which the whole board is visible."
        )
    report = describe_motions(robot_poses)
    first, second, _ = report.turns_deg
    if first < _LITTLE_TURN_DEG:
        raise CalibrationError(
            f"the tool hardly turns between the poses (typically {first:.1f} degrees), so the camera's place cannot be "
            "found from them: turn it by 20 to 40 degrees about two different axes while the board stays in view; "
            "moving it without turning does not help."
        )
    if second < _ONE_AXIS_DEG:
        main, other = _axis_name(report.axes[0]), _axis_name(report.axes[1])
        raise CalibrationError(
            f"all poses turn the tool about one axis only (about its {main}, typically {first:.0f} degrees; about any "
            f"other at most {second:.1f}), so the camera's position along that axis stays unknown: tilt the tool "
            f"about its {other} as well, by 20 to 40 degrees both ways."
        )
    return report


def _axis_name(axis: np.ndarray) -> str:
    """The tool axis that is nearest, or the direction when none is near."""
    index = int(np.argmax(np.abs(axis)))
    if abs(axis[index]) > 0.9:
        return f"{'xyz'[index]} axis"
    return f"direction ({', '.join(f'{value:.1f}' for value in axis * np.sign(axis[index]))})"
