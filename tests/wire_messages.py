"""Serialised ROS messages for tests without ROS, made by an independent library (rosbags)."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from rosbags.typesys import Stores, get_typestore

NANO = 1_000_000_000


@functools.cache
def _store() -> Any:
    return get_typestore(Stores.ROS2_JAZZY)


def serialise(type_name: str, **fields: Any) -> bytes:
    """CDR of a message."""
    return bytes(_store().serialize_cdr(_store().types[type_name](**fields), type_name))


def _make(type_name: str, **fields: Any) -> Any:
    return _store().types[type_name](**fields)


def header(stamp_ns: int, frame_id: str = "") -> Any:
    stamp = _make("builtin_interfaces/msg/Time", sec=stamp_ns // NANO, nanosec=stamp_ns % NANO)
    return _make("std_msgs/msg/Header", stamp=stamp, frame_id=frame_id)


def image(stamp_ns: int, rgb: np.ndarray) -> bytes:
    height, width = rgb.shape[:2]
    return serialise(
        "sensor_msgs/msg/Image",
        header=header(stamp_ns),
        height=height,
        width=width,
        encoding="rgb8",
        is_bigendian=0,
        step=3 * width,
        data=np.ascontiguousarray(rgb).reshape(-1),
    )


def joint_state(stamp_ns: int, names: Sequence[str], positions: Sequence[float]) -> bytes:
    return serialise(
        "sensor_msgs/msg/JointState",
        header=header(stamp_ns),
        name=list(names),
        position=np.array(positions, dtype=np.float64),
        velocity=np.array([], dtype=np.float64),
        effort=np.array([], dtype=np.float64),
    )


def forward_command(names: Sequence[str], positions: Sequence[float]) -> bytes:
    size = len(names)
    dimension = _make("std_msgs/msg/MultiArrayDimension", label=",".join(names), size=size, stride=size)
    layout = _make("std_msgs/msg/MultiArrayLayout", dim=[dimension], data_offset=0)
    return serialise("std_msgs/msg/Float64MultiArray", layout=layout, data=np.array(positions, dtype=np.float64))


def trajectory(stamp_ns: int, names: Sequence[str], points: Sequence[Sequence[float]]) -> bytes:
    def duration(seconds: float) -> Any:
        return _make("builtin_interfaces/msg/Duration", sec=int(seconds), nanosec=0)

    empty = np.array([], dtype=np.float64)
    made = [
        _make(
            "trajectory_msgs/msg/JointTrajectoryPoint",
            positions=np.array(point, dtype=np.float64),
            velocities=empty,
            accelerations=empty,
            effort=empty,
            time_from_start=duration(number),
        )
        for number, point in enumerate(points)
    ]
    return serialise(
        "trajectory_msgs/msg/JointTrajectory", header=header(stamp_ns), joint_names=list(names), points=made
    )


def text(data: str) -> bytes:
    return serialise("std_msgs/msg/String", data=data)


def status(name: str, level: int = 0, message: str = "", **values: str) -> bytes:
    pairs = [_make("diagnostic_msgs/msg/KeyValue", key=key, value=value) for key, value in values.items()]
    return serialise(
        "diagnostic_msgs/msg/DiagnosticStatus", level=level, name=name, message=message, hardware_id="", values=pairs
    )
