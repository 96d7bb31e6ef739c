"""Whether what is asked for follows from where the arm is: the one check before anything but a person moves it.

A limiter turns any jump into a motion within the limits, at full speed if need be. That the motion was meant is a
question of its own: a plan that begins, or goes on, far from where the arm is commanded and measured was made for
another moment, another arm or in another unit. The gripper may hold an object, and closes from one action to the next,
so it is left out.

Shape legend: H points of a chunk, A axes.
"""

import numpy as np

from policy.chunk_checks import CheckedChunk
from wam.robot import RobotSpec

__all__ = ["HAND_SPEED", "far_joint", "far_step", "one_step"]

HAND_SPEED = 15.0  # no hand turns a joint of a leader arm faster [rad/s]


def far_joint(robot: RobotSpec, command: np.ndarray, measured: np.ndarray, limit: float | np.ndarray) -> str:
    """Names the joint that is farthest beyond a limit, "" when none is.

    Args:
        robot: Names of the joints.
        command: (A,) [rad].
        measured: (A,) [rad].
        limit: Allowed distance, one number or (A,) [rad].
    """
    joints = len(robot.joints)
    distance = np.abs(command - measured)[:joints]
    allowed = np.broadcast_to(limit, (robot.action_dim,))[:joints]
    worst = int((distance - allowed).argmax())
    if distance[worst] <= allowed[worst]:
        return ""
    return f"'{robot.joints[worst].name}' differs by {distance[worst]:.3f}, {allowed[worst]:.3f} is allowed"


def one_step(robot: RobotSpec) -> np.ndarray:
    """(A,) how far an action may lie from where the arm is [rad]: ``engage_error`` and a control step at full speed."""
    fastest = np.array([axis.max_velocity for axis in robot.axes], dtype=np.float64)
    return robot.safety.engage_error + fastest * robot.control_dt


def far_step(robot: RobotSpec, chunk: CheckedChunk) -> str:
    """Names a joint that jumps from one action of a chunk to the next, "" when none does.

    A plan that no arm could follow is none, wherever it begins: an arm that is sent after it passes through places that
    nobody planned.
    """
    joints = len(robot.joints)
    fastest = np.array([axis.max_velocity for axis in robot.joints], dtype=np.float64)
    steps = np.abs(np.diff(chunk.positions[:, :joints], axis=0))  # (H - 1, joints)
    allowed = robot.safety.engage_error + np.diff(chunk.times_s)[:, None] * fastest
    beyond = steps - allowed
    if beyond.max() <= 0:
        return ""
    row, column = np.unravel_index(int(beyond.argmax()), beyond.shape)
    return (
        f"'{robot.joints[column].name}' jumps by {steps[row, column]:.3f} at point {row + 1}, "
        f"{allowed[row, column]:.3f} is allowed"
    )
