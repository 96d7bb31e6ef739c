"""The times at which messages of a recording arrived, made fit for replaying: a clock may have been set meanwhile.

Messages arrive in the order of the file, but for neighbours that changed places. One whose time lies elsewhere, while
the next one goes on where the others were, has a wild time and is left out. Where the next ones stay at the new time,
the robot's clock jumped: what comes after has nothing to do with what came before. Both are told. A silence of the
whole recording for longer than ``FAR_NS`` is a jump as well, so no time makes more than a bounded number of ticks.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from sim.recordings import RecordedMessage

__all__ = ["REORDER_NS", "Jump", "RecordedTime"]

NANO = 1_000_000_000
REORDER_NS = NANO // 2  # messages of different topics reach the file at most this much out of order
FAR_NS = 5 * NANO  # ... and after a stall of the recorder, whose queues hold 4 s, less than this
MOST_TOLD = 3  # jumps


@dataclass(frozen=True, kw_only=True)
class Jump:
    """Between two messages the robot's clock was set, or everything was silent."""

    seconds: float  # from the one to the other [s]


class RecordedTime:
    """Follows the times of one recording."""

    def __init__(self) -> None:
        self._newest_ns: int | None = None
        self._wild, self._first_wild = 0, ""
        self._jumps: list[str] = []

    def notes(self) -> list[str]:
        """What was left out or not joined, one sentence each."""
        notes = list(self._jumps[:MOST_TOLD])
        if len(self._jumps) > MOST_TOLD:
            notes.append(f"the robot's clock jumped {len(self._jumps) - MOST_TOLD} more times")
        if self._wild:
            notes.append(
                f"{self._wild} messages with a wild time of arrival were left out; the first, {self._first_wild}"
            )
        return notes

    def follow(self, messages: Iterable[RecordedMessage]) -> Iterator[RecordedMessage | Jump]:
        """Returns the messages without wild ones, and where the clock jumped."""
        doubtful: RecordedMessage | None = None
        for message in messages:
            if doubtful is not None:
                yield from self._decide(doubtful, message)
                doubtful = None
            if self._newest_ns is None or abs(message.log_ns - self._newest_ns) <= FAR_NS:
                self._newest_ns = max(message.log_ns, self._newest_ns or message.log_ns)
                yield message
            else:
                doubtful = message
        if doubtful is not None:
            yield from self._decide(doubtful, None)

    def _decide(self, doubtful: RecordedMessage, after: RecordedMessage | None) -> Iterator[RecordedMessage | Jump]:
        """The message that is far from those before it, if the one after it is with it and not with them."""
        assert self._newest_ns is not None
        seconds = (doubtful.log_ns - self._newest_ns) / NANO
        if after is None or abs(after.log_ns - self._newest_ns) < abs(after.log_ns - doubtful.log_ns):
            self._wild += 1
            self._first_wild = self._first_wild or f"of '{doubtful.role}', is off by {seconds:+.3f} s"
            return
        self._jumps.append(
            f"the robot's clock jumped by {seconds:+.3f} s, or nothing arrived meanwhile: what came before and what "
            "came after is not joined"
        )
        yield Jump(seconds=seconds)
        self._newest_ns = doubtful.log_ns
        yield doubtful
