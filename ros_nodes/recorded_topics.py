"""Which topics make a recording, and where ROS keeps the text of their message types; no ROS is imported here.

A recording holds every topic of the contract, so that it can be judged and converted without the robot: what was seen,
what was measured, what each source wanted and what was commanded in the end.
"""

import dataclasses
import importlib
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ros_nodes.errors import NodeError
from wam.robot import RobotSpec

__all__ = ["RecordedTopic", "camera_role", "contract_topics", "message_type", "schema_text"]

IMAGE, CAMERA_INFO, JOINT_STATE = "sensor_msgs/msg/Image", "sensor_msgs/msg/CameraInfo", "sensor_msgs/msg/JointState"
TRAJECTORY, STATUS = "trajectory_msgs/msg/JointTrajectory", "diagnostic_msgs/msg/DiagnosticStatus"
COMMAND_TYPES = {"forward": "std_msgs/msg/Float64MultiArray", "trajectory": TRAJECTORY}
SEPARATOR = "=" * 80  # between the definitions of one schema, as rosbag2 and Foxglove expect it
FIELD = re.compile(r"^\s*([A-Za-z]\w*(?:/[A-Za-z]\w*)?)(?:<=\d+)?(?:\[[^\]]*\])?\s+[a-z]\w*")
PRIMITIVES = frozenset(
    ["bool", "byte", "char", "float32", "float64", "string", "wstring"]
    + [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
)


@dataclass(frozen=True, kw_only=True)
class RecordedTopic:
    """One topic of a recording."""

    role: str  # what it is, whatever its name became through namespaces and remapping: "state", "image/front"
    topic: str  # as the robot file and the contract name it
    type_name: str  # "sensor_msgs/msg/Image"
    required: bool = False  # a recording cannot start without it
    latched: bool = False  # the last message counts until there is another one, so every episode begins with it
    stamped: bool = False  # begins with a std_msgs/Header
    period_s: float = 0.0  # expected time between stamps [s]; 0 when there is no fixed rate
    late_s: float = 0.0  # stamps older than this at reception are late [s]; 0 when they are not judged
    lead_s: float = 0.0  # a clock whose stamps lie further ahead of reception leads [s]; 0 when it is not judged


def contract_topics(robot: RobotSpec, *, image_late_s: float, state_late_s: float) -> tuple[RecordedTopic, ...]:
    """Returns every topic to record for a robot.

    Args:
        robot: Names cameras, joint states and the command.
        image_late_s: Age at reception from which an image is late [s].
        state_late_s: The same for joint states [s].
    """
    cameras = [topic for camera in robot.cameras for topic in _camera_topics(camera.name, camera.topic, camera.rate_hz)]
    lead_s = robot.safety.stamp_lead_s
    return (
        *(
            dataclasses.replace(topic, late_s=image_late_s, lead_s=lead_s) if topic.required else topic
            for topic in cameras
        ),
        RecordedTopic(
            role="state",
            topic=robot.state_topic,
            type_name=JOINT_STATE,
            required=True,
            stamped=True,
            late_s=state_late_s,
            lead_s=lead_s,
        ),
        RecordedTopic(
            role="command",
            topic=robot.command_topic,
            type_name=COMMAND_TYPES[robot.command_interface],
            required=True,
        ),
        RecordedTopic(role="guard", topic="guard/state", type_name=STATUS, required=True),
        RecordedTopic(role="chunk", topic="policy/chunk", type_name=TRAJECTORY, stamped=True),
        RecordedTopic(role="task", topic="policy/task", type_name="std_msgs/msg/String", latched=True),
        RecordedTopic(role="teleop", topic="teleop/command", type_name=TRAJECTORY, stamped=True),
        RecordedTopic(role="e_stop", topic="e_stop", type_name="std_msgs/msg/Bool", latched=True),
        RecordedTopic(role="episode", topic="arm/episode", type_name=STATUS, latched=True),
        RecordedTopic(role="diagnostics", topic="/diagnostics", type_name="diagnostic_msgs/msg/DiagnosticArray"),
    )


def camera_role(camera: str) -> str:
    """Role of a camera's images."""
    return f"image/{camera}"


def schema_text(type_name: str) -> str:
    """Returns a message definition with those of all the types it uses, as an MCAP schema of encoding ``ros2msg``.

    Args:
        type_name: "package/msg/Name".

    Raises:
        NodeError: The definition is not installed.
    """
    texts: dict[str, str] = {}
    todo = [type_name]
    while todo:
        name = todo.pop(0)
        if name not in texts:
            texts[name] = _definition(name)
            todo += list(_used_types(name, texts[name]))
    first, *others = texts.items()
    return first[1] + "".join(f"{SEPARATOR}\nMSG: {_short(name)}\n{text}" for name, text in others)


def message_type(type_name: str) -> Any:
    """The Python class of a message type; needs ROS's message packages."""
    package, _, name = type_name.split("/")
    return getattr(importlib.import_module(f"{package}.msg"), name)


def _camera_topics(name: str, topic: str, rate_hz: float) -> Sequence[RecordedTopic]:
    info = topic.rsplit("/", 1)[0] + "/camera_info" if "/" in topic else "camera_info"
    return (
        RecordedTopic(
            role=camera_role(name), topic=topic, type_name=IMAGE, required=True, stamped=True, period_s=1.0 / rate_hz
        ),
        RecordedTopic(role=f"camera_info/{name}", topic=info, type_name=CAMERA_INFO, stamped=True, latched=True),
    )


def _definition(type_name: str) -> str:
    package, name = type_name.split("/")[0], type_name.split("/")[-1]
    # A colcon workspace puts one prefix per overlay in front; the wheels install beside the interpreter.
    prefixes = [prefix for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if prefix]
    for prefix in (*prefixes, sys.prefix):
        path = Path(prefix) / "share" / package / "msg" / f"{name}.msg"
        if path.is_file():
            return path.read_text().rstrip() + "\n"
    raise NodeError(
        f"the definition of message type '{type_name}' is not installed, and a recording without it could not be read: "
        f"install the ROS package '{package}', or source the workspace that has it."
    )


def _used_types(owner: str, text: str) -> Iterator[str]:
    for line in text.splitlines():
        found = FIELD.match(line.split("#", 1)[0])
        if found is None or found.group(1) in PRIMITIVES:
            continue
        kind = found.group(1)
        package, _, name = kind.rpartition("/")
        yield f"{package or owner.split('/')[0]}/msg/{name}"


def _short(type_name: str) -> str:
    return f"{type_name.split('/')[0]}/{type_name.split('/')[-1]}"
