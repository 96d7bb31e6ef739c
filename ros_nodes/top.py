"""``wam top``: the running graph in a terminal, over ssh as well.

Rates, ages, the guard, latencies, the last refusal, the recorder. It listens like any other node and changes nothing.
Rates are those that arrive here; images are taken raw and not looked at.
"""

import datetime
import functools
import sys
import time
from dataclasses import dataclass
from typing import Any

import rclpy
import tyro
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.executors import SingleThreadedExecutor
from rich.console import Console
from rich.live import Live

from ros_nodes import qos
from ros_nodes.cdr import header_stamp_ns
from ros_nodes.diagnostics import values_of
from ros_nodes.errors import GraphError
from ros_nodes.graph import open_node
from ros_nodes.recorded_topics import RecordedTopic, contract_topics, message_type
from ros_nodes.top_view import LEVELS, GuardView, NodeView, StreamView, TopState, frame
from ros_nodes.topics import load_robot_of
from wam.errors import ConfigError, WamError

__all__ = ["TopConfig", "main"]

GUARD_TOPIC = "guard/state"
NOT_SHOWN = ("diagnostics", "guard")  # these have their own places in the view
SETTLE_S = 2.0  # nodes report every second, and rates are counted over this long [s]


@dataclass(frozen=True, kw_only=True)
class TopConfig:
    """Show the running graph in the terminal; Ctrl-C ends it and changes nothing."""

    robot: str = ""  # robot name or file; default: the one the nodes say they drive
    namespace: str = ""  # of the graph, when it was started in one
    once: bool = False  # print one frame and leave
    wait_s: float = 5.0  # how long to wait for something to show [s]
    refresh_hz: float = 4.0  # frames per second of the display

    def __post_init__(self) -> None:
        if self.wait_s <= 0 or not 0 < self.refresh_hz <= 60:
            raise ConfigError(
                f"wait_s is {self.wait_s:g} and refresh_hz {self.refresh_hz:g}: a time above 0, and above 0 to 60."
            )


class Top:
    """Listens and keeps the state; a context manager."""

    def __init__(self, config: TopConfig) -> None:
        self.state = TopState()
        self._config = config
        self._context = rclpy.Context()
        self._context.init(args=[])
        self._node = open_node("wam_top", self._context, config.namespace)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, qos.DIAGNOSTICS)
        self._node.create_subscription(DiagnosticStatus, GUARD_TOPIC, self._on_guard, qos.STATE)
        if config.robot:
            self._follow(config.robot)

    def __enter__(self) -> "Top":
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown()
        self._node.destroy_node()
        self._context.try_shutdown()

    def listen(self, seconds: float) -> None:
        """Handles what arrives for a while."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._executor.spin_once(timeout_sec=min(left, 0.1))

    def wait(self) -> None:
        """Waits until there is something to show, and then long enough for every node to have spoken.

        Raises:
            GraphError: Nothing was heard.
        """
        end = time.monotonic() + self._config.wait_s
        while time.monotonic() < end and not self._heard():
            self.listen(0.1)
        self.listen(SETTLE_S if self._heard() else 0.0)
        if not self._heard():
            raise GraphError(
                f"nothing was heard for {self._config.wait_s:g} s on ROS domain {self._context.get_domain_id()}: start "
                "the graph (ros2 launch, or wam up), and use the same ROS_DOMAIN_ID and RMW_IMPLEMENTATION here. In "
                "another namespace, give --namespace; on another machine, check ROS_AUTOMATIC_DISCOVERY_RANGE."
            )

    def _heard(self) -> bool:
        return self.state.guard is not None or bool(self.state.nodes)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        now = time.monotonic()
        inside = self._node.get_namespace().strip("/")  # diagnostics are those of every robot on the graph
        for status in message.status:
            if inside and not status.name.startswith(f"{inside}/"):
                continue
            level = LEVELS[min(status.level[0], len(LEVELS) - 1)]
            self.state.nodes[status.name] = NodeView(
                level=level, message=status.message, values=values_of(status), when=now
            )
            if not self.state.robot and status.hardware_id:
                self._follow(status.hardware_id)

    def _on_guard(self, message: DiagnosticStatus) -> None:
        self.state.guard = GuardView(message=message.message, values=values_of(message), when=time.monotonic())

    def _follow(self, name: str) -> None:
        """Subscribes to a robot's streams."""
        try:
            robot = load_robot_of(self._node, name)
        except WamError:
            if self._config.robot:
                raise
            return  # a device's name, or a robot file that is not on this machine or not for this namespace
        self.state.robot = robot.name
        for topic in contract_topics(robot, image_late_s=0.0, state_late_s=0.0):
            if topic.role in NOT_SHOWN or topic.role.startswith("camera_info/"):
                continue
            expected = 1.0 / topic.period_s if topic.period_s else 0.0
            stream = StreamView(topic=self._node.resolve_topic_name(topic.topic), expected_hz=expected)
            self.state.streams[topic.role] = stream
            callback = functools.partial(self._on_raw, stream, topic)
            profile = qos.LATCHED if topic.latched else qos.STATE
            self._node.create_subscription(message_type(topic.type_name), topic.topic, callback, profile, raw=True)

    def _on_raw(self, stream: StreamView, topic: RecordedTopic, data: bytes, info: Any) -> None:
        latency = None
        if topic.stamped:
            latency = (self._node.get_clock().now().nanoseconds - header_stamp_ns(data)) * 1e-9
        stream.saw(time.monotonic(), latency)


def main(argv: list[str] | None = None) -> int:
    """Command line of ``wam top``."""
    config = tyro.cli(TopConfig, args=argv, prog="wam top")
    console = Console()
    with Top(config) as top:
        top.wait()
        if config.once:
            console.print(_frame(top))
            return 0
        try:
            with Live(_frame(top), console=console, screen=True, auto_refresh=False) as live:
                while True:
                    top.listen(1.0 / config.refresh_hz)
                    live.update(_frame(top), refresh=True)
        except KeyboardInterrupt:
            return 0


def _frame(top: Top) -> Any:
    return frame(top.state, time.monotonic(), clock=datetime.datetime.now().strftime("%H:%M:%S"))


if __name__ == "__main__":
    sys.exit(main())
