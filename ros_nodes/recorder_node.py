"""The node ``recorder``: raw subscriptions to every topic of the contract, one MCAP file per episode.

Messages are never decoded on the way to the disk. Subscriptions ask for the best that their publishers offer and step
down when one offers less, so other people's drivers are recorded too. The rest is ``ros_nodes.recording``.
"""

import functools
import importlib.util
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from std_srvs.srv import Trigger

from ros_nodes import qos
from ros_nodes.diagnostics import ERROR, DiagnosticsReporter, Health
from ros_nodes.episode_file import COMPRESSIONS
from ros_nodes.errors import NodeError
from ros_nodes.graph import other_types
from ros_nodes.parameters import declare, param
from ros_nodes.recorded_topics import RecordedTopic, contract_topics, message_type
from ros_nodes.recording import RecorderSettings, Recording
from ros_nodes.spinning import run
from ros_nodes.timing import reception, with_steady_time
from ros_nodes.topics import load_robot_of
from wam.robot import robot_file

__all__ = ["RecorderNode", "RecorderParameters", "main"]

FOLLOW_SECONDS = 0.5  # how often publishers are looked at
DEPTH = 400  # of small messages: as many seconds of joint states may wait for this process as of images


@dataclass(frozen=True, kw_only=True)
class RecorderParameters:
    """Parameters of the recorder."""

    robot: str = field(metadata=param("robot file, by name or path"))
    folder: str = field(default="recordings", metadata=param("where episodes go; made if need be"))
    task: str = field(default="", metadata=param("instruction of episodes during which nobody publishes policy/task"))
    compression: str = field(default="none", metadata=param("of chunks in the file", choices=COMPRESSIONS))
    queue_mb: int = field(default=256, metadata=param("what may wait for the disk", unit="MB", low=8, high=65536))
    flush_period_s: float = field(
        default=0.5, metadata=param("what a killed recorder loses at most", unit="s", low=0.05, high=10.0)
    )
    sync_period_s: float = field(
        default=5.0,
        metadata=param("what a power cut costs at most; 0: until the episode ends", unit="s", low=0, high=600),
    )
    min_free_gb: float = field(
        default=1.0, metadata=param("free disk space below which no episode begins", unit="GB", low=0.0)
    )
    fresh_s: float = field(
        default=0.5, metadata=param("silence after which a required stream is dead", unit="s", low=0.05, high=60.0)
    )
    image_late_s: float = field(
        default=0.15,
        metadata=param("age on arrival from which an image is late", unit="s", low=0.0, high=10.0),
    )
    state_late_s: float = field(
        default=0.1,
        metadata=param("age on arrival from which joint states are late", unit="s", low=0.0, high=10.0),
    )


class RecorderNode(Node):
    """See the module docstring."""

    def __init__(self, **options: Any) -> None:
        super().__init__("recorder", **options)
        parameters = declare(self, RecorderParameters)
        if importlib.util.find_spec("mcap") is None:
            raise NodeError("recording needs the library 'mcap': pip install mcap, or 'world_action_model[ros]'.")
        robot = load_robot_of(self, parameters.robot)
        topics = contract_topics(robot, image_late_s=parameters.image_late_s, state_late_s=parameters.state_late_s)
        self._recording = Recording(
            _settings(parameters),
            robot,
            robot_file(parameters.robot).read_text(),
            topics,
            {topic.role: self.resolve_topic_name(topic.topic) for topic in topics},
        )
        self._streams = [_Stream(self, topic, self._recording) for topic in topics]
        for name, handler in (("start", self._start), ("stop", self._stop), ("discard", self._discard)):
            self.create_service(Trigger, f"recorder/{name}", handler)
        self._diagnostics = DiagnosticsReporter(self, self._health, hardware_id=robot.name)
        self._follow_timer = self.create_timer(
            FOLLOW_SECONDS, self._follow, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )
        self._failure = ""
        self.get_logger().info(f"ready to record robot '{robot.name}' into {Path(parameters.folder).absolute()}")

    def destroy_node(self) -> None:
        """Completes a running episode first: leaving in good order must not leave half of one."""
        recording = getattr(self, "_recording", None)  # a node whose constructor raised is destroyed as well
        result = recording.close() if recording is not None else ""
        if result:
            self.get_logger().info(result)
        super().destroy_node()

    def _start(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._follow()
        now_ns, now = with_steady_time(lambda: self.get_clock().now().nanoseconds)
        started = self._recording.start(now=now, now_ns=now_ns)
        return self._answer(response, started)

    def _stop(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        return self._answer(response, self._recording.stop())

    def _discard(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        return self._answer(response, self._recording.discard())

    def _answer(self, response: Trigger.Response, result: tuple[bool, str]) -> Trigger.Response:
        response.success, response.message = result
        if response.success:
            self.get_logger().info(response.message)
        else:
            self.get_logger().warning(response.message)
        return response

    def _follow(self) -> None:
        for stream in self._streams:
            stream.follow()
        failure = self._recording.failure()
        if failure and failure != self._failure:
            self.get_logger().error(failure)
        self._failure = failure
        for problem in self._recording.problems():
            self.get_logger().error(f"recording what cannot be converted: {problem}", throttle_duration_sec=5.0)

    def _health(self) -> Health:
        values = self._recording.values()
        if self._failure:
            return Health(level=ERROR, message=self._failure, values=values)
        if values["overflowed"]:
            text = f"{values['overflowed']} messages did not fit into the queue to the disk: it is too slow"
            return Health(level=ERROR, message=text, values=values)
        problems = self._recording.problems()
        if problems:
            return Health(level=ERROR, message=f"recording what cannot be converted: {problems[0]}", values=values)
        return Health(message="recording" if self._recording.active else "idle", values=values)


class _Stream:
    """One raw subscription that fits whatever is published."""

    def __init__(self, node: RecorderNode, topic: RecordedTopic, recording: Recording) -> None:
        self._node, self._topic, self._recording = node, topic, recording
        self._name = node.resolve_topic_name(topic.topic)
        self._kind = message_type(topic.type_name)
        self._profile = _first_profile(topic)
        self._subscription = self._subscribe()

    def follow(self) -> None:
        """Counts the publishers, and asks for less when one of them offers less."""
        publishers = self._node.get_publishers_info_by_topic(self._name)
        watch = self._recording.watches[self._topic.role]
        watch.publishers = len(publishers)
        watch.strangers = "; ".join(other_types(self._node, {self._topic.topic: self._topic.type_name}))
        publishers = [publisher for publisher in publishers if publisher.topic_type == self._topic.type_name]
        wanted = _common_profile(self._profile, [publisher.qos_profile for publisher in publishers])
        if wanted != self._profile:
            self._profile = wanted
            self._node.destroy_subscription(self._subscription)
            self._subscription = self._subscribe()

    def _subscribe(self) -> Any:
        callback = functools.partial(_received, self._node, self._recording, self._topic.role)
        return self._node.create_subscription(self._kind, self._topic.topic, callback, self._profile, raw=True)


def _received(node: Node, recording: Recording, role: str, data: bytes, info: Any) -> None:
    arrived = reception(node, info)
    sequence = info["publication_sequence_number"]
    waited_s = time.monotonic() - arrived.now
    recording.saw(role, data, now=arrived.now, received_ns=arrived.robot_ns, sequence=sequence, waited_s=waited_s)


def _first_profile(topic: RecordedTopic) -> QoSProfile:
    if topic.role.startswith(("image/", "camera_info/")):
        return qos.SENSOR_RECORDED
    return QoSProfile(
        depth=DEPTH,
        reliability=ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if topic.latched else DurabilityPolicy.VOLATILE,
    )


def _common_profile(profile: QoSProfile, offered: Sequence[QoSProfile]) -> QoSProfile:
    """The profile, or the nearest one that receives from every publisher."""
    reliable = profile.reliability == ReliabilityPolicy.RELIABLE
    latched = profile.durability == DurabilityPolicy.TRANSIENT_LOCAL
    reliable &= all(other.reliability != ReliabilityPolicy.BEST_EFFORT for other in offered)
    latched &= all(other.durability != DurabilityPolicy.VOLATILE for other in offered)
    return QoSProfile(
        depth=profile.depth,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )


def _settings(parameters: RecorderParameters) -> RecorderSettings:
    return RecorderSettings(
        folder=Path(parameters.folder).expanduser(),
        task=parameters.task,
        compression=parameters.compression,
        queue_bytes=parameters.queue_mb << 20,
        flush_period_s=parameters.flush_period_s,
        sync_period_s=parameters.sync_period_s,
        min_free_bytes=round(parameters.min_free_gb * 1e9),
        fresh_s=parameters.fresh_s,
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the recorder until a signal."""
    run(RecorderNode, argv)


if __name__ == "__main__":
    main()
