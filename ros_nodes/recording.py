"""The recorder without ROS: which messages are kept, when an episode may begin, and what is said about it afterwards.

Times are passed in: monotonic seconds for freshness, robot time in nanoseconds for what is stored.
"""

import dataclasses
import datetime
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import wam
from ros_nodes.cdr import header_stamp_ns, string_data
from ros_nodes.content_check import ContentCheck
from ros_nodes.episode_file import EpisodeFile, StoredMessage, check_folder, next_index
from ros_nodes.episode_writer import EpisodeWriter
from ros_nodes.errors import NodeError
from ros_nodes.recorded_topics import RecordedTopic, schema_text
from ros_nodes.stream_watch import Arrival, StreamWatch
from wam.dataset_meta import write_json
from wam.robot import RobotSpec

__all__ = ["RecorderSettings", "Recording"]

FORMAT = "1"  # of the metadata record; raised when an older reader would misunderstand a file
NANO = 1_000_000_000

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RecorderSettings:
    """How to record."""

    folder: Path  # of the episodes
    task: str = ""  # instruction for episodes during which nobody publishes one
    compression: str = "none"  # images of a real camera are noisy: they hardly shrink without loss
    queue_bytes: int = 256 << 20  # four seconds of two cameras of 640 x 480 at 30 Hz
    flush_period_s: float = 0.5  # what a killed recorder loses at most [s]
    sync_period_s: float = 5.0  # what a power cut costs at most [s]
    min_free_bytes: int = 1_000_000_000  # twenty seconds of the same; below it no episode begins
    fresh_s: float = 0.5  # a required stream that is silent for longer is dead [s]


class Recording:
    """Everything a recorder node does; call it from one thread.

    Args:
        settings: How to record.
        robot: Whose topics these are.
        robot_text: Its robot file as it stands; goes into every episode, so that it can be read anywhere.
        topics: What to record.
        resolved: role -> name of the topic on the graph, after namespaces and remapping.

    Raises:
        NodeError: The folder is not usable, or a message definition is not installed.
    """

    def __init__(
        self,
        settings: RecorderSettings,
        robot: RobotSpec,
        robot_text: str,
        topics: tuple[RecordedTopic, ...],
        resolved: Mapping[str, str],
    ) -> None:
        self._settings, self._robot, self._robot_text = settings, robot, robot_text
        self._resolved = dict(resolved)
        self.watches = {
            topic.role: StreamWatch(dataclasses.replace(topic, topic=resolved[topic.role])) for topic in topics
        }
        self._schemas = {topic.role: schema_text(topic.type_name) for topic in topics}
        self._content = ContentCheck(robot)
        self._latched: dict[str, tuple[bytes, Arrival]] = {}
        self._writer: EpisodeWriter | None = None
        self._index, self._started_ns, self._now_ns = 0, 0, 0
        self.finished = 0  # episodes since the node started
        problem = check_folder(settings.folder, min_free_bytes=0)
        if problem:
            raise NodeError(f"{problem}.")

    @property
    def active(self) -> bool:
        """Whether an episode is being recorded."""
        return self._writer is not None

    @property
    def task(self) -> str:
        """The instruction in force."""
        heard = self._latched.get("task")
        return string_data(heard[0]) if heard else self._settings.task

    def saw(
        self,
        role: str,
        data: bytes,
        *,
        now: float,
        received_ns: int,
        sequence: int | None,
        waited_s: float = 0.0,
    ) -> None:
        """Takes one message as it came from the wire."""
        watch = self.watches[role]
        stamp_ns = header_stamp_ns(data) if watch.topic.stamped else None
        arrival = Arrival(now=now, received_ns=received_ns, stamp_ns=stamp_ns, sequence=sequence, waited_s=waited_s)
        self._now_ns = received_ns
        if watch.topic.latched:
            self._latched[role] = (data, arrival)
        watch.saw(arrival, counted=self.active, unusable=self._content.trouble(role, data))
        self._store(watch, data, arrival)

    def start(self, *, now: float, now_ns: int) -> tuple[bool, str]:
        """Begins an episode, unless a required stream is not alive or the disk is not ready."""
        if self._writer is not None and self._writer.error is None:
            return False, f"an episode is being recorded already ({self._writer.partial.name}): stop or discard it."
        troubles = [text for watch in self.watches.values() if (text := watch.trouble(now, self._settings.fresh_s))]
        if troubles:
            why = f"not recording, because {len(troubles)} required streams are not alive or usable: "
            return False, why + "; ".join(troubles)
        problem = check_folder(self._settings.folder, min_free_bytes=self._settings.min_free_bytes)
        if problem:
            return False, f"not recording: {problem}."
        try:
            self._open(now_ns)
        except OSError as error:
            return False, f"not recording: {self._settings.folder} cannot be written ({error.strerror})."
        return True, "; ".join([f"recording {self._resolved_name()}", *self._content.grey.values()])

    def stop(self) -> tuple[bool, str]:
        """Completes the episode: index, summary and final name."""
        writer = self._writer
        if writer is None:
            return False, "no episode is being recorded: start one first."
        self._writer = None
        summary = self._summary(writer)
        try:
            path = writer.finish(summary)
        except OSError as error:
            return False, _lost(writer.partial, error)
        summary["bytes"] = path.stat().st_size
        self.finished += 1
        try:
            write_json(path.with_suffix(".json"), summary)
        except OSError as error:
            logger.warning("no summary beside %s (%s); the file itself is complete and holds it.", path, error.strerror)
        return True, f"{path}: {_counts(summary)}"

    def discard(self) -> tuple[bool, str]:
        """Removes the running episode."""
        writer, self._writer = self._writer, None
        if writer is None:
            return False, "no episode is being recorded, so there is nothing to discard; finished files are yours."
        writer.discard()
        return True, f"discarded {writer.partial.name}"

    def close(self) -> str:
        """Completes a running episode because the node leaves; returns what became of it."""
        return self.stop()[1] if self.active else ""

    def failure(self) -> str:
        """Why the running episode is no longer written; empty while all is well."""
        writer = self._writer
        return _lost(writer.partial, writer.error) if writer is not None and writer.error is not None else ""

    def problems(self) -> list[str]:
        """What the running episode holds that cannot be converted, one sentence per stream."""
        if self._writer is None:
            return []
        return [watch.complaint() for watch in self.watches.values() if watch.unusable]

    def values(self) -> dict[str, object]:
        """Numbers for diagnostics: state, sizes, and count/lost/missing/late of every stream."""
        writer = self._writer
        numbers: dict[str, object] = {
            "recording": writer is not None,
            "episode": self._resolved_name() if writer is not None else "",
            "episodes_finished": self.finished,
            "seconds": round((self._now_ns - self._started_ns) / NANO, 1) if writer is not None else 0.0,
            "megabytes": round(writer.size / 1e6, 1) if writer is not None else 0.0,
            "queue_most_megabytes": round(writer.most_waiting / 1e6, 1) if writer is not None else 0.0,
        }
        for role, watch in self.watches.items():
            numbers[role] = f"{watch.count}/{watch.lost}/{watch.missing}/{watch.late}"
        numbers["overflowed"] = sum(watch.overflowed for watch in self.watches.values())
        numbers["unusable"] = sum(watch.unusable for watch in self.watches.values())
        return numbers

    def _store(self, watch: StreamWatch, data: bytes, arrival: Arrival) -> None:
        if self._writer is None:
            return
        stamp_ns = arrival.received_ns if arrival.stamp_ns is None else arrival.stamp_ns
        message = StoredMessage(
            role=watch.topic.role,
            data=data,
            log_ns=arrival.received_ns,
            publish_ns=max(0, stamp_ns),
            sequence=(arrival.sequence or 0) & 0xFFFFFFFF,
        )
        if not self._writer.put(message):
            watch.overflowed += 1

    def _open(self, now_ns: int) -> None:
        settings = self._settings
        self._index = next_index(settings.folder)
        file = EpisodeFile(
            settings.folder,
            self._index,
            metadata=self._metadata(now_ns),
            channels={
                role: (watch.topic.topic, watch.topic.type_name, self._schemas[role])
                for role, watch in self.watches.items()
            },
            compression=settings.compression,
        )
        self._writer = EpisodeWriter(
            file,
            queue_bytes=settings.queue_bytes,
            flush_period_s=settings.flush_period_s,
            sync_period_s=settings.sync_period_s,
        )
        self._started_ns = self._now_ns = now_ns
        for watch in self.watches.values():
            watch.begin()
        for role, (data, arrival) in self._latched.items():
            again = dataclasses.replace(arrival, received_ns=now_ns, stamp_ns=None, waited_s=0.0)
            self.watches[role].saw(again, counted=True)
            self._store(self.watches[role], data, again)

    def _metadata(self, now_ns: int) -> dict[str, str]:
        return {
            "format": FORMAT,
            "robot": self._robot_text,
            "fingerprint": self._robot.fingerprint(),
            "calibration_hash": self._robot.calibration_hash(),
            "task": self._settings.task,
            "topics": json.dumps(self._resolved),
            "started": _iso(now_ns),
            "wam": wam.__version__,
            "ros_distro": os.environ.get("ROS_DISTRO", ""),
        }

    def _summary(self, writer: EpisodeWriter) -> dict[str, Any]:
        streams = {role: watch.summary() for role, watch in self.watches.items()}
        return {
            "episode": self._index,
            "robot": self._robot.name,
            "fingerprint": self._robot.fingerprint(),
            "calibration_hash": self._robot.calibration_hash(),
            "task": self.task,
            "started": _iso(self._started_ns),
            "duration_s": round((self._now_ns - self._started_ns) / NANO, 3),
            "messages": sum(watch.count - watch.overflowed for watch in self.watches.values()),
            "lost": sum(watch.lost or 0 for watch in self.watches.values()),
            "overflowed": sum(watch.overflowed for watch in self.watches.values()),
            "problems": [watch.complaint() for watch in self.watches.values() if watch.unusable],
            "queue_most_bytes": writer.most_waiting,
            "streams": streams,
        }

    def _resolved_name(self) -> str:
        return f"episode_{self._index:06d}"


def _lost(partial: Path, error: OSError) -> str:
    return (
        f"the episode could not be written to its end ({error.strerror}): {partial} holds it up to there and can be "
        "converted; free some space or mend the disk before the next one."
    )


def _counts(summary: Mapping[str, Any]) -> str:
    unusable = "".join(f"; cannot be converted: {problem}" for problem in summary["problems"])
    return (
        f"{summary['messages']} messages in {summary['duration_s']:.1f} s, {summary['lost']} lost, "
        f"{summary['overflowed']} overflowed, {summary['bytes'] / 1e6:.1f} MB{unusable}"
    )


def _iso(now_ns: int) -> str:
    return datetime.datetime.fromtimestamp(now_ns / NANO, tz=datetime.UTC).isoformat(timespec="milliseconds")
