"""What is known of one recorded stream: is it alive, and what is missing or late in it. No ROS, no clock.

Four signs that a recording is not what it seems: *lost* messages were published but never arrived (a gap in the
publisher's sequence numbers); *missing* ones were never published (a gap in the stamps of a stream with a known rate,
as when a camera driver drops a frame); *late* ones arrived long after their stamp; *unusable* ones are stored and
cannot be converted. A clock that leads (``policy.clock_lead``) makes a whole stream unusable.
"""

import math
from collections import deque
from dataclasses import dataclass

import numpy as np

from policy.clock_lead import ClockLead, lead_sentence
from policy.wire import UNSTAMPED, unstamped
from ros_nodes.recorded_topics import RecordedTopic

__all__ = ["Arrival", "StreamWatch"]

GAP_PERIODS = 1.5  # a longer pause between two stamps means that at least one frame is missing
LATENCY_SAMPLES = 20_000  # of one episode: eleven minutes at 30 Hz; later ones replace earlier ones


@dataclass(frozen=True, kw_only=True)
class Arrival:
    """What came with one message, apart from its bytes."""

    now: float  # monotonic time of reception [s]
    received_ns: int  # robot time of reception [ns]
    stamp_ns: int | None = None  # stamp of its header [ns]; None when it has no header
    sequence: int | None = None  # the publisher's own count of its messages; None when ROS does not tell
    waited_s: float = 0.0  # how long it waited in this process until it was looked at [s]


class StreamWatch:
    """Follows one topic through the life of a recorder, and counts within an episode.

    Args:
        topic: What it is and what is expected of it.
    """

    def __init__(self, topic: RecordedTopic) -> None:
        self.topic = topic
        self._lead = ClockLead(topic.lead_s)
        self._wrong = ""  # why the newest message cannot be converted
        self.last: Arrival | None = None  # newest message, whether recorded or not
        self.publishers = 0  # how many there are now
        self.strangers = ""  # that somebody publishes it as something else, and what to do
        self.begin()

    def begin(self) -> None:
        """Starts counting for a new episode."""
        self.count = 0
        self.lost: int | None = 0  # None when several publishers make sequence numbers meaningless
        self.missing = 0
        self.late = 0
        self.waited_s = 0.0  # longest that one waited for this process; what waits too long is lost
        self.overflowed = 0  # arrived, but the queue to the disk was full
        self.unusable = 0
        self.problem = ""  # why the first unusable message cannot be converted
        self._first: Arrival | None = None
        self._previous: Arrival | None = None
        self._latencies: deque[float] = deque(maxlen=LATENCY_SAMPLES)

    def saw(self, arrival: Arrival, *, counted: bool, unusable: str = "") -> None:
        """Takes note of a message.

        Args:
            arrival: What came with it.
            counted: It belongs to the running episode.
            unusable: Why its content cannot be converted; empty when it can.
        """
        self.last = arrival
        self._wrong = self._wrong_stamp(arrival) or unusable
        if not counted:
            return
        self.count += 1
        self.waited_s = max(self.waited_s, arrival.waited_s)
        self.unusable += bool(self._wrong)
        self.problem = self.problem or self._wrong
        self._first = self._first or arrival
        if self._previous is not None:
            self._note_gaps(self._previous, arrival)
        if arrival.stamp_ns is not None:
            latency = (arrival.received_ns - arrival.stamp_ns) * 1e-9
            self._latencies.append(latency)
            self.late += bool(self.topic.late_s and latency > self.topic.late_s)
        self._previous = arrival

    def trouble(self, now: float, fresh_s: float) -> str:
        """Why a recording must not start now, in words; empty when the stream is alive or not required.

        Args:
            now: Monotonic time [s].
            fresh_s: Age of the newest message from which the stream counts as dead [s].
        """
        if not self.topic.required:
            return ""
        if self.last is None:
            heard = "nobody publishes it" if self.publishers == 0 else "no message has arrived yet"
            heard = self.strangers or heard
            return f"{self.topic.topic} ({self.topic.role}): {heard}"
        age = now - self.last.now
        if age > fresh_s:
            return f"{self.topic.topic} ({self.topic.role}): last message {age:.2f} s ago"
        if self._wrong:
            return f"{self.topic.topic} ({self.topic.role}): {self._wrong}"
        if self.topic.late_s and self.last.stamp_ns is not None:
            latency = (self.last.received_ns - self.last.stamp_ns) * 1e-9
            if latency > fresh_s:
                return f"{self.topic.topic} ({self.topic.role}): stamps lie {latency:.2f} s in the past, clocks differ"
        return ""

    def complaint(self) -> str:
        """What was recorded of it in this episode that cannot be converted."""
        return f"{self.unusable} of {self.count} messages of {self.topic.topic} ({self.topic.role}): {self.problem}"

    def summary(self) -> dict[str, object]:
        """Counts, rate and latency of the episode, for its summary file."""
        return {
            "topic": self.topic.topic,
            "count": self.count,
            "rate_hz": self._rate(),
            "lost": self.lost,
            "missing": self.missing,
            "late": self.late,
            "overflowed": self.overflowed,
            **({"unusable": self.unusable, "problem": self.problem} if self.unusable else {}),
            "waited_max_ms": round(1e3 * self.waited_s, 3),
            **self._latency(),
        }

    def _wrong_stamp(self, arrival: Arrival) -> str:
        """Why the stamps of the stream cannot be used, as far as they are judged."""
        if arrival.stamp_ns is None or self.topic.latched:
            return ""
        if unstamped(arrival.stamp_ns):
            return UNSTAMPED
        if not self.topic.lead_s:
            return ""
        self._lead.add(arrival.stamp_ns * 1e-9, arrival.received_ns * 1e-9)
        return lead_sentence(self.topic.role, self._lead) if self._lead.refused else ""

    def _note_gaps(self, before: Arrival, arrival: Arrival) -> None:
        if self.publishers > 1:
            self.lost = None
        if self.lost is not None and before.sequence is not None and arrival.sequence is not None:
            # A restarted publisher counts from 1 again: that is no loss.
            self.lost += max(0, arrival.sequence - before.sequence - 1)
        if self.topic.period_s and before.stamp_ns is not None and arrival.stamp_ns is not None:
            periods = (arrival.stamp_ns - before.stamp_ns) * 1e-9 / self.topic.period_s
            self.missing += max(0, round(periods) - 1) if periods > GAP_PERIODS else 0

    def _rate(self) -> float:
        """Messages per second, by stamps where there are any [Hz]."""
        if self._first is None or self._previous is None or self.count < 2:
            return 0.0
        first, last = self._first, self._previous
        if first.stamp_ns is not None and last.stamp_ns is not None:
            span = (last.stamp_ns - first.stamp_ns) * 1e-9
        else:
            span = (last.received_ns - first.received_ns) * 1e-9
        return round((self.count - 1) / span, 3) if span > 0 else math.nan

    def _latency(self) -> dict[str, float]:
        if not self._latencies:
            return {}
        milliseconds = 1e3 * np.array(self._latencies)
        values = {f"latency_p{share}_ms": float(np.percentile(milliseconds, share)) for share in (50, 95, 99)}
        values["latency_max_ms"] = float(milliseconds.max())
        return {name: round(value, 3) for name, value in values.items()}
