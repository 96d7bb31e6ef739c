"""Values to messages and back, for everything the graph says; the only place that builds message fields.

Message to numpy is ``policy.wire``, which recordings are decoded with as well. numpy to message is here: sequences are
filled through ``array.frombytes``, because assigning an ndarray converts it number by number.

Shape legend: H chunk length, A action width.
"""

import re
from array import array
from collections.abc import Sequence

import numpy as np
from builtin_interfaces.msg import Duration, Time
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Float64MultiArray, MultiArrayDimension
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from policy.guard_types import ChunkMessage
from policy.wire import stamp_seconds
from ros_nodes.errors import MessageError
from wam.robot import RobotSpec
from wam.spec import ActionChunk

__all__ = [
    "chunk_frame_id",
    "chunk_trajectory",
    "forward_command",
    "joint_state",
    "parse_chunk_frame_id",
    "rgb_image",
    "single_point",
    "to_duration",
    "to_time",
    "trajectory_chunk",
    "trajectory_command",
]

_FRAME_ID = re.compile(r"wam/(?:([0-9]+)/)?([0-9]+)/([0-9]+)")
_NANO = 1_000_000_000


def to_time(seconds: float) -> Time:
    """Robot time [s] as a message."""
    nanoseconds = round(seconds * _NANO)
    return Time(sec=nanoseconds // _NANO, nanosec=nanoseconds % _NANO)


def to_duration(seconds: float) -> Duration:
    """A duration [s] as a message."""
    nanoseconds = round(seconds * _NANO)
    return Duration(sec=nanoseconds // _NANO, nanosec=nanoseconds % _NANO)


def rgb_image(rgb: np.ndarray, stamp: Time, frame_id: str) -> Image:
    """Builds an image message from (height, width, 3) rgb_hwc_u8."""
    height, width = rgb.shape[:2]
    message = Image(height=height, width=width, encoding="rgb8", step=3 * width)
    message.header.stamp, message.header.frame_id = stamp, frame_id
    data = array("B")
    data.frombytes(np.ascontiguousarray(rgb).data.cast("B"))
    message.data = data
    return message


def joint_state(names: Sequence[str], positions: np.ndarray, stamp: Time) -> JointState:
    """Builds measured positions [rad, gripper opening], one per name."""
    message = JointState(name=list(names), position=_doubles(positions))
    message.header.stamp = stamp
    return message


def chunk_frame_id(session: int, epoch: int, sequence: int) -> str:
    """Returns the ``frame_id`` that says which start of a policy planned a chunk, in which life, as how many-eth."""
    return f"wam/{session}/{epoch}/{sequence}"


def parse_chunk_frame_id(frame_id: str) -> tuple[int, int, int]:
    """Inverse of ``chunk_frame_id``; without a session, as recordings of before have it, every epoch is one.

    Raises:
        MessageError: The frame is not of that form, so the message is not a chunk of ours.
    """
    found = _FRAME_ID.fullmatch(frame_id)
    if found is None:
        raise MessageError(
            f"chunk has frame_id '{frame_id}' but must have 'wam/<session>/<epoch>/<sequence>': only a policy node may "
            "publish chunks, and its session tells a restarted one from the one that was engaged."
        )
    session, epoch, sequence = found.groups()
    return int(session or epoch), int(epoch), int(sequence)


def chunk_trajectory(
    chunk: ActionChunk, names: Sequence[str], epoch: int, sequence: int, *, session: int | None = None
) -> JointTrajectory:
    """Builds the message of an action chunk; its stamp is that of the observation it was planned from.

    Args:
        chunk: What was planned.
        names: (A,) joint names.
        epoch: Life of the policy.
        sequence: Number of the chunk in that life.
        session: Start of the policy; None: this epoch is its first.
    """
    message = JointTrajectory(joint_names=list(names))
    message.header.stamp = to_time(chunk.stamp)
    message.header.frame_id = chunk_frame_id(epoch if session is None else session, epoch, sequence)
    message.points = [
        JointTrajectoryPoint(positions=_doubles(action), time_from_start=to_duration(step * chunk.control_dt))
        for step, action in enumerate(chunk.actions)
    ]
    return message


def trajectory_chunk(message: JointTrajectory) -> ChunkMessage:
    """Reads the message of an action chunk; numbers are checked by the guard, which counts what is malformed.

    Raises:
        MessageError: The frame does not say whose chunk it is.
    """
    session, epoch, sequence = parse_chunk_frame_id(message.header.frame_id)
    times = [point.time_from_start.sec + point.time_from_start.nanosec / _NANO for point in message.points]
    return ChunkMessage(
        names=message.joint_names,
        times_s=np.array(times, dtype=float),
        positions=[point.positions for point in message.points],  # type: ignore[arg-type]  # may be ragged
        stamp=stamp_seconds(message.header.stamp),
        epoch=epoch,
        sequence=sequence,
        session=session,
    )


def single_point(names: Sequence[str], positions: np.ndarray, stamp: Time) -> JointTrajectory:
    """Builds a teleoperation command: one target that is meant now."""
    message = JointTrajectory(joint_names=list(names), points=[JointTrajectoryPoint(positions=_doubles(positions))])
    message.header.stamp = stamp
    return message


def forward_command(names: Sequence[str], positions: np.ndarray, source: str = "") -> Float64MultiArray:
    """Builds a command of the forward interface.

    The first dimension's label carries the names, so that order is never all there is; that of a second one, of size 1,
    carries the source, where there is one: see ``policy.wire.command_source``.
    """
    message = Float64MultiArray(data=_doubles(positions))
    size = len(names)
    message.layout.dim = [MultiArrayDimension(label=",".join(names), size=size, stride=size)]
    if source:
        message.layout.dim = [*message.layout.dim, MultiArrayDimension(label=source, size=1, stride=1)]
    return message


def trajectory_command(
    robot: RobotSpec, positions: np.ndarray, velocities: np.ndarray, period_s: float, source: str = ""
) -> JointTrajectory:
    """Builds a command of the trajectory interface, to be followed from now on.

    The first point is the target. A moving arm gets a second one: where all joints come to rest together, none of
    them braking harder than it may. A controller that hears nothing more stops there by itself.

    Args:
        robot: Names, limits and accelerations.
        positions: (A,) targets [rad, opening], to be reached after ``period_s``.
        velocities: (A,) velocities there [rad/s, 1/s].
        period_s: Time between two commands [s].
        source: Who commands: see ``policy.wire.command_source``.
    """
    message = JointTrajectory(joint_names=list(robot.action_names))  # stamp 0: begin at once
    message.header.frame_id = source
    braking = np.array([axis.max_acceleration for axis in robot.axes])
    rest_s = float(np.max(np.abs(velocities) / braking))
    moving = rest_s > 1e-6
    target = JointTrajectoryPoint(positions=_doubles(positions), time_from_start=to_duration(period_s))
    message.points = [target]
    if moving:
        target.velocities = _doubles(velocities)
        rest = np.clip(positions + velocities * rest_s / 2, robot.lower, robot.upper)
        message.points = [
            target,
            JointTrajectoryPoint(
                positions=_doubles(rest),
                velocities=_doubles(np.zeros(len(rest))),
                time_from_start=to_duration(period_s + rest_s),
            ),
        ]
    return message


def _doubles(values: np.ndarray) -> "array[float]":
    numbers = array("d")
    numbers.frombytes(np.ascontiguousarray(values, dtype=np.float64).data.cast("B"))
    return numbers
