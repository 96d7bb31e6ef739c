"""Whether the clock that stamps a stream runs ahead of the robot's, and how far.

A message cannot arrive before it was taken, so its stamp lies before its arrival, both in robot time. Where it does
not, the clock that made the stamp leads by at least the difference; the way of the message, which is unknown, hides
the rest. A stream whose clock leads by 0.2 s would offer, at every instant, what it saw 0.2 s before, under a stamp
that looks fresh. A few stamps ahead of their arrival mean nothing: what counts is the median of about a second, and a
message that is stamped later than it arrived counts as taken when it arrived.

Live streams are judged by when their messages arrived, recorded ones by when they arrived at the recorder.
"""

import statistics
from collections import deque

__all__ = ["ClockLead", "lead_sentence"]

WINDOW_S = 1.0  # messages that arrived in this time before the newest one are judged [s]
MOST = 100  # of them
FEWEST = 5  # fewer say nothing yet

FIX = (
    "set that computer's clock by the robot's (chronyc makestep, then chronyc tracking), let the driver stamp with ROS "
    "time, and start all nodes with the same use_sim_time"
)


class ClockLead:
    """The stamps of one stream against their arrivals.

    Args:
        limit_s: A lead of more is refused [s].
    """

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self._aheads: deque[tuple[float, float]] = deque(maxlen=MOST)  # arrival [s], stamp - arrival [s]

    def add(self, stamp: float, received: float) -> float:
        """Takes the stamp of a message and when it arrived, both robot time [s]; returns the earlier one."""
        kept = self._aheads
        while kept and not 0.0 <= received - kept[0][0] <= WINDOW_S:
            kept.popleft()
        kept.append((received, stamp - received))
        return min(stamp, received)

    @property
    def lead_s(self) -> float:
        """How far the clock leads at least [s]; below 0 it only says how long messages are on their way."""
        if len(self._aheads) < FEWEST:
            return 0.0
        return statistics.median(ahead for _, ahead in self._aheads)

    @property
    def refused(self) -> bool:
        """Whether the clock leads by more than the limit."""
        return self.lead_s > self.limit_s

    def clear(self) -> None:
        """Forgets what arrived, for a jump of the robot's own clock."""
        self._aheads.clear()


def lead_sentence(what: str, lead: ClockLead) -> str:
    """Says that the clock of a stream leads, and what to do."""
    return (
        f"{what} is stamped by a clock that is {lead.lead_s:.3f} s ahead of the robot's, and safety.stamp_lead_s "
        f"allows {lead.limit_s:.3f} s: what it shows is older than its stamps say; {FIX}"
    )
