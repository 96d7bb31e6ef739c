"""What the policy of this robot says about itself, for whoever misses its chunks: it knows why it plans nothing."""

import time

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node

from ros_nodes import qos
from ros_nodes.diagnostics import TOPIC as DIAGNOSTICS_TOPIC
from ros_nodes.diagnostics import values_of

__all__ = ["CHUNK_TOPIC_KEY", "PolicyReport"]

CHUNK_TOPIC_KEY = "chunk_topic"  # diagnostics value of a policy node, active or not: on which topic it plans
FRESH_S = 3.0  # diagnostics come once a second


class PolicyReport:
    """Listens to the diagnostics of policies.

    Args:
        node: Who listens.
        chunk_topic: Topic of the chunks that are missed, as the node names it.
    """

    def __init__(self, node: Node, chunk_topic: str) -> None:
        self._topic = node.resolve_topic_name(chunk_topic)
        self._newest: tuple[float, str] | None = None  # steady time [s], what it said
        node.create_subscription(DiagnosticArray, DIAGNOSTICS_TOPIC, self._on_diagnostics, qos.STATE)

    def why(self) -> str:
        """One sentence: what the policy says, or that there is none."""
        if self._newest is None or time.monotonic() - self._newest[0] > FRESH_S:
            return f"no policy node that plans on {self._topic} was heard"
        return self._newest[1]

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if values_of(status).get(CHUNK_TOPIC_KEY) == self._topic:
                self._newest = time.monotonic(), f"the policy '{status.name}' says: {status.message}"
