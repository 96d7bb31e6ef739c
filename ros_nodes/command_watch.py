"""Whether somebody else commands what this node commands: two publishers on one topic fight over one arm.

The graph alone cannot tell: a process that was killed stays listed for many seconds. So whoever is listed is reported,
and listened to; a command that does not carry this process's own source is what counts.
"""

import time
from collections.abc import Callable
from typing import Any

from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.node import Node
from rclpy.subscription import Subscription

from policy.commanders import RIVAL_MEMORY_S
from policy.wire import command_source
from ros_nodes import qos
from ros_nodes.diagnostics import ERROR, WARN
from ros_nodes.graph import UNNAMED, other_publishers

__all__ = ["CommandWatch"]

PERIOD_S = 1.0


class CommandWatch:
    """Watches one topic that a node commands on.

    Args:
        node: The node.
        kind: Message type of the topic.
        topic: The topic.
        source: Of this node's own commands.
        on_heard: Told who it was, each time another's command is heard.
    """

    def __init__(
        self, node: Node, kind: type, topic: str, source: str, on_heard: Callable[[str], None] = lambda name: None
    ) -> None:
        self._node, self._kind, self._source, self._on_heard = node, kind, source, on_heard
        self._topic = node.resolve_topic_name(topic)
        self._listed: list[str] = []
        self._heard = float("-inf")  # steady time of the newest command of another [s]
        self.count = 0  # commands of others
        self._subscription: Subscription | None = None
        node.create_timer(PERIOD_S, self.look, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def look(self) -> None:
        """Looks who publishes; listens as long as there is somebody else."""
        listed = other_publishers(self._node, self._topic)
        if listed:
            self._listed = sorted(listed)
        if listed and self._subscription is None:
            self._subscription = self._node.create_subscription(self._kind, self._topic, self._on_command, qos.STATE)
        if not listed and not self._commands():
            self._listed = []
            if self._subscription is not None:
                self._node.destroy_subscription(self._subscription)
                self._subscription = None

    def judged(self, level: bytes, message: str) -> tuple[bytes, str]:
        """Level and message of a node's health, or what is worse: that somebody else commands, or may."""
        if self._commands():
            return ERROR, f"{self._who()} commands on {self._topic} as well: stop it, only one node may move the arm"
        if self._listed and level < WARN:
            return WARN, (
                f"{self._who()} is listed as publisher of {self._topic} and silent: stop it, if it is not one that was "
                "killed, which the graph forgets by itself"
            )
        return level, message

    def _commands(self) -> bool:
        return time.monotonic() - self._heard <= RIVAL_MEMORY_S

    def _who(self) -> str:
        return " or ".join(f"'{name}'" for name in self._listed)

    def _on_command(self, message: Any) -> None:
        if command_source(message) != self._source:
            self._heard = time.monotonic()
            self.count += 1
            if UNNAMED in self._listed:
                self._listed = sorted(other_publishers(self._node, self._topic)) or self._listed
            self._on_heard(f"{self._who()} on {self._topic}")
