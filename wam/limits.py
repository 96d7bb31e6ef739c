"""How far outside a robot's ranges a number may lie before it is no position of this robot; torch-free.

Data, observations and chunks are held to the same margins, so that what trains is what plays.

Shape legend: A axes.
"""

import math

import numpy as np

from wam.errors import ValueContractError
from wam.robot import RobotSpec

__all__ = ["ABSURD", "FOREIGN_OPENING", "FOREIGN_RAD", "GRAZE", "check_measured", "foreign_bounds", "grazed_bounds"]

ABSURD = 1e3  # no joint is told or found to be a thousand radians away: a wrong unit or memory, not a position
# How far beyond an axis' range an action may lie, as a share of that range. A network grazes the ends of what it was
# trained on; what lies farther out is another unit or another robot, and clamping would turn "10 of 100" into "open".
GRAZE = 0.1
FOREIGN_RAD = math.pi  # no arm is found so far outside its joints' ranges: such a state is in another unit
FOREIGN_OPENING = 1.0  # the same of a gripper [opening]


def grazed_bounds(robot: RobotSpec) -> tuple[np.ndarray, np.ndarray]:
    """(A,) float64 lowest and highest position [rad, opening] that still counts as inside an axis' range."""
    spans = _spans(robot)
    graze = GRAZE * (spans[:, 1] - spans[:, 0])
    return spans[:, 0] - graze, spans[:, 1] + graze


def foreign_bounds(robot: RobotSpec) -> tuple[np.ndarray, np.ndarray]:
    """(A,) float64 lowest and highest position [rad, opening] that this robot can be found at, however badly set up."""
    spans = _spans(robot)
    foreign = np.array([FOREIGN_RAD] * len(robot.joints) + [FOREIGN_OPENING] * (robot.gripper is not None))
    return spans[:, 0] - foreign, spans[:, 1] + foreign


def check_measured(proprio: np.ndarray, robot: RobotSpec) -> None:
    """Refuses a measured state (..., A) that lies far outside the robot's ranges.

    Raises:
        ValueContractError: Names every axis concerned, its value and its range.
    """
    lowest, highest = foreign_bounds(robot)
    rows = np.asarray(proprio, dtype=np.float64).reshape(-1, robot.action_dim)
    beyond = ~((rows >= lowest) & (rows <= highest))  # also True for NaN
    if not beyond.any():
        return
    found = []
    for column in np.flatnonzero(beyond.any(axis=0)):
        axis, value = robot.axes[column], rows[beyond[:, column], column][0]
        found.append(f"'{axis.name}' {value:.4g} (range [{axis.position[0]:g}, {axis.position[1]:g}])")
    raise ValueContractError(
        f"proprio is far outside the ranges of robot '{robot.name}': {', '.join(found)}. The policy knows radians and "
        "a gripper opening of 0 to 1: another unit (degrees, ticks, 0 to 100) in the driver, or another robot. "
        "Convert it where the observation is made."
    )


def _spans(robot: RobotSpec) -> np.ndarray:
    return np.array([axis.position for axis in robot.axes], dtype=np.float64)  # (A, 2)
