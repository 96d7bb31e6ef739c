"""Recordings for tests, made as the recorder makes them: a joint that moves steadily, and cameras that count."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ros_nodes.episode_file import EpisodeFile, StoredMessage
from ros_nodes.recorded_topics import contract_topics, schema_text
from sim.recordings import Recording, read_header
from sim.ticks import Tick, TickSettings, ticks
from tests import wire_messages as wire
from wam.robot import load_robot, robot_file

ROBOT = load_robot("sim6")
NAMES = ROBOT.action_names
TOPICS = {topic.role: topic for topic in contract_topics(ROBOT, image_late_s=0.15, state_late_s=0.1)}
START = 1_700_000_000  # robot time at which every recording here begins [s]
MS = 1_000_000
IMAGE_DELAY_MS = 20  # from stamp to arrival


@dataclass(frozen=True)
class Event:
    """A message on its way into a file."""

    at_ms: float  # arrival, after START
    role: str
    data: bytes
    log_ns: int | None = None  # what the file says of the arrival, where that is something else [ns]


def picture(number: int, size_px: int = 96) -> np.ndarray:
    """A frame that shows its number."""
    return np.full((size_px, size_px, 3), 40 + 3 * (number % 60), dtype=np.uint8)


def scene(
    seconds: float, *, guard: str = "RUN_TELEOP", task: str = "wave", images: bool = True, size_px: int = 96
) -> list[Event]:
    """A robot whose joint 'yaw' is at t - START, commanded 5 ms ahead of it; cameras show their frame's number."""
    events = [Event(0, "task", wire.text(task))] if task else []
    for number in range(int(seconds * 100)):
        ms = number * 10
        events.append(Event(ms + 1, "state", wire.joint_state(stamp_ns(ms), NAMES[::-1], [0.0] * 6 + [ms / 1e3])))
    for number in range(int(seconds * 50)):
        ms = number * 20 + 7
        events.append(Event(ms, "command", wire.forward_command(NAMES, [ms / 1e3] + [0.0] * 6)))
        events.append(Event(ms, "guard", wire.status("guard", state=guard)))
    for number in range(int(seconds * 30) if images else 0):
        ms = number * 1000 / 30
        for camera in ROBOT.camera_names:
            data = wire.image(stamp_ns(ms), picture(number, size_px))
            events.append(Event(ms + IMAGE_DELAY_MS, f"image/{camera}", data))
    return sorted(events, key=lambda event: event.at_ms)


def stamp_ns(ms: float) -> int:
    return START * 1_000 * MS + round(ms * MS)


def write(
    path: Path,
    events: list[Event],
    *,
    robot_text: str = "",
    finish: bool = True,
    per_chunk: int | None = None,
    namespace: str = "",
    compression: str = "none",
    **metadata: str,
) -> Path:
    """Writes a recording as the recorder does, in chunks of so many messages; returns where it is."""
    names = {role: f"{namespace}/{topic.topic}" for role, topic in TOPICS.items() if topic.topic[0] != "/"}
    names |= {role: topic.topic for role, topic in TOPICS.items() if topic.topic[0] == "/"}
    path.parent.mkdir(parents=True, exist_ok=True)
    described = {
        "format": "1",
        "robot": robot_text or robot_file("sim6").read_text(),
        "fingerprint": ROBOT.fingerprint(),
        "calibration_hash": "",
        "task": "",
        "topics": json.dumps(names),
        "started": "2023-11-14T22:13:20.000+00:00",
    }
    channels = {role: (names[role], topic.type_name, schema_text(topic.type_name)) for role, topic in TOPICS.items()}
    index, described = int(path.name.split("_")[1][:6]), described | metadata
    file = EpisodeFile(path.parent, index, metadata=described, channels=channels, compression=compression)
    for number, event in enumerate(events):
        arrived = stamp_ns(event.at_ms) if event.log_ns is None else event.log_ns
        if per_chunk and number % per_chunk == 0:
            file.flush()
        file.write(StoredMessage(role=event.role, data=event.data, log_ns=arrived, publish_ns=arrived, sequence=number))
    if finish:
        return file.finish({})
    file.flush()
    return file.partial


def replay(path: Path, **options: Any) -> list[Tick]:
    header = read_header(path)
    return list(ticks(header, Recording(header).messages(), TickSettings(**options)))
