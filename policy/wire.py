"""What the numbers in ROS messages mean: message fields → numpy, in one place for live nodes and recorded files.

Nothing here imports ROS. A message is anything with the fields of its type, so the same code reads what rclpy delivers
and what an MCAP reader decodes years later; that is what makes a recording mean what the robot saw.

Shape legend: A action width.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from wam.errors import ValueContractError, unknown_name

__all__ = ["UNSTAMPED", "command_by_name", "positions_by_name", "rgb_from_image", "stamp_seconds", "unstamped"]

UNSTAMPED = (
    "the driver publishes header.stamp 0, which means that it does not stamp, and nobody can say of when the message "
    "is: let it set header.stamp to the time of the measurement (the ROS clock of its node)"
)

# ROS image encodings of 8 bits per channel -> (channels, which of them are red, green, blue)
ENCODINGS: dict[str, tuple[int, tuple[int, int, int]]] = {
    "rgb8": (3, (0, 1, 2)),
    "bgr8": (3, (2, 1, 0)),
    "rgba8": (4, (0, 1, 2)),
    "bgra8": (4, (2, 1, 0)),
    "mono8": (1, (0, 0, 0)),
}


def stamp_seconds(stamp: Any) -> float:
    """Returns a ``builtin_interfaces/Time`` in seconds of robot time; a float keeps about 0.2 µs of it."""
    return stamp.sec + stamp.nanosec * 1e-9


def unstamped(stamp: float) -> bool:
    """Whether a stamp [s] is the 0 of a driver that does not stamp; simulated time is near 0 only, once it runs."""
    return stamp == 0.0


def rgb_from_image(message: Any) -> np.ndarray:
    """Decodes a ``sensor_msgs/Image``.

    Args:
        message: Fields ``encoding height width step data``.

    Returns:
        (height, width, 3) rgb_hwc_u8, which may be a read-only view of the message's memory.

    Raises:
        ValueContractError: An encoding that is not 8 bits per channel, or fewer bytes than the size promises.
    """
    if message.encoding not in ENCODINGS:
        fix = "Let the camera driver publish one of these."
        raise ValueContractError(unknown_name("image encoding", message.encoding, ENCODINGS, fix=fix))
    channels, order = ENCODINGS[message.encoding]
    height, width, step = message.height, message.width, message.step
    pixels = np.frombuffer(message.data, dtype=np.uint8)
    if step < width * channels or pixels.size < height * step:
        raise ValueContractError(
            f"image of {width}x{height} {message.encoding} has step {step} and {pixels.size} bytes but needs at least "
            f"{width * channels} bytes per row and {height} rows: the driver publishes a wrong size."
        )
    rows = pixels[: height * step].reshape(height, step)[:, : width * channels]
    image = rows.reshape(height, width, channels)
    return image if order == (0, 1, 2) and channels == 3 else image[:, :, order]


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
