"""Whether another policy plans for the same robot: two of them would fight over one arm.

The graph alone cannot tell: a policy that was killed stays listed for many seconds, and its successor must not wait for
that. So a rival is one that is heard: several chunks of its, or its diagnostics that say it is active.
"""

import math
import time
from collections import deque
from dataclasses import dataclass, field

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
# A single chunk is a stray message, and no reason to give up an arm; a policy that plans sends seven a second and more
CHUNKS = 3


@dataclass
class _Heard:
    where: str  # for people
    said: float = -math.inf  # steady time of its newest diagnostics [s]
    chunks: deque[float] = field(default_factory=lambda: deque(maxlen=CHUNKS))  # steady times of its newest ones [s]

    def active(self, now: float) -> bool:
        many = len(self.chunks) == CHUNKS and now - self.chunks[0] < MEMORY_S
        return many or now - self.said < MEMORY_S

    def newest(self) -> float:
        return max(self.said, *self.chunks, -math.inf)


class Rivals:
    """Listens for other policies.

    Args:
        node: The policy node.
    """

    def __init__(self, node: Node) -> None:
        self._topic = node.resolve_topic_name(CHUNK_TOPIC)
        self._own: set[int] = set()
        self._heard: dict[int, _Heard] = {}  # by start of the policy
        node.create_subscription(JointTrajectory, CHUNK_TOPIC, self._on_chunk, qos.STATE)
        node.create_subscription(DiagnosticArray, DIAGNOSTICS_TOPIC, self._on_diagnostics, qos.STATE)

    def own(self, session: int) -> None:
        """Notes that a session is this node's own."""
        self._own.add(session)

    def session_value(self, session: int) -> str:
        """What an active policy says under ``SESSION_KEY``: on which topic it plans, and as which session."""
        return f"{self._topic} {session}"

    def active(self) -> str:
        """Says who else plans for this robot; "" when nobody does."""
        return "; ".join(f"{heard.where} (session {session})" for session, heard in self._active().items())

    def newer_than(self, session: int) -> bool:
        """Whether a rival was started later, and so is the one that somebody wants."""
        return any(rival > session for rival in self._active())

    def _active(self) -> dict[int, _Heard]:
        now = time.monotonic()
        self._heard = {session: heard for session, heard in self._heard.items() if now - heard.newest() < MEMORY_S}
        return {s: heard for s, heard in self._heard.items() if s not in self._own and heard.active(now)}

    def _on_chunk(self, message: JointTrajectory) -> None:
        try:
            session, _, _ = parse_chunk_frame_id(message.header.frame_id)
        except MessageError:
            return  # the guard complains about it
        heard = self._heard.setdefault(session, _Heard(where=f"chunks on {self._topic}"))
        heard.chunks.append(time.monotonic())

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            topic, _, session = values_of(status).get(SESSION_KEY, "").partition(" ")
            if topic == self._topic and session.isdigit():
                heard = self._heard.setdefault(int(session), _Heard(where=""))
                heard.where, heard.said = f"node '{status.name}'", time.monotonic()
