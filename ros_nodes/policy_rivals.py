"""Whether another policy plans for the same robot: two of them would fight over one arm.

The graph alone cannot tell: a policy that was killed stays listed for many seconds, and its successor must not wait for
that. So a rival is one that is heard: its chunks, or its diagnostics that say it is active.
"""

import time

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from trajectory_msgs.msg import JointTrajectory

from ros_nodes import qos
from ros_nodes.diagnostics import TOPIC as DIAGNOSTICS_TOPIC
from ros_nodes.diagnostics import values_of
from ros_nodes.errors import MessageError
from ros_nodes.messages import parse_chunk_frame_id

__all__ = ["CHUNK_TOPIC", "SESSION_KEY", "Rivals"]

CHUNK_TOPIC = "policy/chunk"
SESSION_KEY = "chunks_from_session"  # diagnostics value of an active policy
MEMORY_S = 2.5  # a rival is active if it was heard this recently: diagnostics come once a second


class Rivals:
    """Listens for other policies.

    Args:
        node: The policy node.
    """

    def __init__(self, node: Node) -> None:
        self._topic = node.resolve_topic_name(CHUNK_TOPIC)
        self._own: set[int] = set()
        self._heard: dict[int, tuple[float, str]] = {}  # first epoch of a session -> when and from where
        node.create_subscription(JointTrajectory, CHUNK_TOPIC, self._on_chunk, qos.STATE)
        node.create_subscription(DiagnosticArray, DIAGNOSTICS_TOPIC, self._on_diagnostics, qos.STATE)

    def own(self, epoch: int) -> None:
        """Notes an epoch of this node's own session."""
        self._own.add(epoch)

    def session_value(self, epoch: int) -> str:
        """What an active policy says under ``SESSION_KEY``: on which topic it plans, and as which epoch."""
        return f"{self._topic} {epoch}"

    def active(self) -> str:
        """Says who else plans for this robot; "" when nobody does."""
        now = time.monotonic()
        self._heard = {epoch: heard for epoch, heard in self._heard.items() if now - heard[0] < MEMORY_S}
        others = [f"{where} (epoch {epoch})" for epoch, (_, where) in self._heard.items() if epoch not in self._own]
        return "; ".join(others)

    def newer_than(self, epoch: int) -> bool:
        """Whether a rival has a later epoch, and so has taken over at the guard."""
        return any(rival > epoch for rival in self._heard if rival not in self._own) and bool(self.active())

    def _on_chunk(self, message: JointTrajectory) -> None:
        try:
            epoch, _ = parse_chunk_frame_id(message.header.frame_id)
        except MessageError:
            return  # the guard complains about it
        self._heard[epoch] = (time.monotonic(), f"chunks on {self._topic}")

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            topic, _, epoch = values_of(status).get(SESSION_KEY, "").partition(" ")
            if topic == self._topic and epoch.isdigit():
                self._heard[int(epoch)] = (time.monotonic(), f"node '{status.name}'")
