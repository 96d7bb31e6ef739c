"""What the numbers in ROS messages mean: message fields → numpy, in one place for live nodes and recorded files.

Nothing here imports ROS. A message is anything with the fields of its type, so the same code reads what rclpy delivers
and what an MCAP reader decodes years later; that is what makes a recording mean what the robot saw.

Shape legend: A action width.
"""

import re
import secrets
from collections.abc import Sequence
from typing import Any

import numpy as np

from policy.encodings import rgb_from_image
from wam.errors import ValueContractError

__all__ = [
    "GUARD",
    "UNSTAMPED",
    "command_by_name",
    "command_source",
    "new_source",
    "positions_by_name",
    "rgb_from_image",
    "stamp_seconds",
    "unstamped",
]

GUARD = "wam_guard/"  # how the source of a guard's commands begins
_SOURCE = re.compile(r"wam_(guard|arm)/[0-9a-f]{16}")

UNSTAMPED = (
    "the driver publishes header.stamp 0, which means that it does not stamp, and nobody can say of when the message "
    "is: let it set header.stamp to the time of the measurement (the ROS clock of its node)"
)


def stamp_seconds(stamp: Any) -> float:
    """Returns a ``builtin_interfaces/Time`` in seconds of robot time; a float keeps about 0.2 µs of it."""
    return stamp.sec + stamp.nanosec * 1e-9


def unstamped(stamp: float) -> bool:
    """Whether a stamp [s] is the 0 of a driver that does not stamp; simulated time is near 0 only, once it runs."""
    return stamp == 0.0


def positions_by_name(names: Sequence[str], positions: Sequence[float], wanted: Sequence[str], what: str) -> np.ndarray:
    """Orders positions as the robot file does, by name: drivers list joints in any order, and more than ours.

    Args:
        names: Names in the message.
        positions: One number per name.
        wanted: (A,) names of the robot file, in order.
        what: What the message is, for error messages ("/joint_states").

    Returns:
        (A,) float32.

    Raises:
        ValueContractError: Names and positions differ in number, a wanted name is missing or occurs twice, or its
            number is not finite.
    """
    if len(names) != len(positions):
        raise ValueContractError(
            f"{what} has {len(names)} names ({', '.join(names)}) for {len(positions)} positions: every position needs "
            "its joint's name, because order alone says nothing."
        )
    index = {name: place for place, name in enumerate(names)}
    missing = [name for name in wanted if name not in index]
    twice = [name for name in wanted if list(names).count(name) > 1] if len(index) < len(names) else []
    if missing or twice:
        wrong = f"lacks {', '.join(missing)}" if missing else f"names {', '.join(twice)} twice"
        raise ValueContractError(
            f"{what} {wrong}; it has {', '.join(names) or 'no names'} but the robot file wants {', '.join(wanted)}: "
            "rename the joints in the driver or in the robot file."
        )
    values = np.array([positions[index[name]] for name in wanted], dtype=np.float32)
    if not np.isfinite(values).all():
        broken = [name for name, value in zip(wanted, values, strict=True) if not np.isfinite(value)]
        raise ValueContractError(f"{what} is not finite for {', '.join(broken)}: check that joint's sensor.")
    return values


def command_by_name(message: Any, wanted: Sequence[str], what: str = "the command") -> np.ndarray:
    """Reads a command of either interface, ordered as the robot file does.

    Args:
        message: ``std_msgs/Float64MultiArray`` whose first dimension's label lists the joint names, separated by
            commas, or ``trajectory_msgs/JointTrajectory``, of which the first point is the target (a second one only
            says where the arm comes to rest if nobody commands it again).
        wanted: (A,) names of the robot file, in order.
        what: What the message is, for error messages.

    Returns:
        (A,) float32 joint targets [rad] and gripper opening [0, 1].

    Raises:
        ValueContractError: No names, no point, or as for ``positions_by_name``.
    """
    if hasattr(message, "layout"):
        label = message.layout.dim[0].label if message.layout.dim else ""
        return positions_by_name(label.split(",") if label else [], message.data, wanted, what)
    if not message.points:
        raise ValueContractError(f"{what} is a trajectory without points: at least one is needed.")
    return positions_by_name(message.joint_names, message.points[0].positions, wanted, what)


def new_source(node: str) -> str:
    """Who commands: ``wam_<node>/<id>``, to be written into every command of one process.

    The id is random, so that a restarted node, or a second one of the same name, is told from the first.

    Args:
        node: "guard", or "arm" for what the arm node sends on to somebody else's controllers.
    """
    return f"wam_{node}/{secrets.token_hex(8)}"


def command_source(message: Any) -> str:
    """Who says to have made a command of either interface; "" when it does not say, or not in our words.

    Args:
        message: ``std_msgs/Float64MultiArray``, with the source as label of a second dimension, or
            ``trajectory_msgs/JointTrajectory``, with the source as ``frame_id``.
    """
    if hasattr(message, "layout"):
        text = message.layout.dim[1].label if len(message.layout.dim) > 1 else ""
    else:
        text = message.header.frame_id
    return text if _SOURCE.fullmatch(text) else ""
