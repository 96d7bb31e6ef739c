"""How well a loop keeps its time: lateness and jitter of ticks, and how old an observation is when it moves the arm."""

from ros_nodes.diagnostics import Window

__all__ = ["ChunkClock", "TickTimes"]

REMEMBERED_CHUNKS = 8


class TickTimes:
    """Deviation of ticks from their period.

    Args:
        period_s: Nominal period [s].
    """

    def __init__(self, period_s: float) -> None:
        self.jitter = Window()  # |time between two ticks - period|
        self._period_s = period_s
        self._last: float | None = None

    def tick(self, now: float) -> None:
        """Takes the steady time of a tick [s]."""
        if self._last is not None:
            self.jitter.add(abs(now - self._last - self._period_s))
        self._last = now


class ChunkClock:
    """Time from the observation of the chunk in effect to its first command, in robot time."""

    def __init__(self) -> None:
        self.latency_s = 0.0
        self._stamps: dict[tuple[int, int], float] = {}
        self._playing: tuple[int, int] | None = None

    def arrived(self, epoch: int, sequence: int, stamp: float) -> None:
        """Remembers when a chunk's observation was taken [s]."""
        self._stamps[epoch, sequence] = stamp
        while len(self._stamps) > REMEMBERED_CHUNKS:
            self._stamps.pop(next(iter(self._stamps)))

    def consumed(self, epoch: int, sequence: int, robot_now: float) -> None:
        """Notes which chunk is in effect at a tick."""
        playing = (epoch, sequence)
        if playing != self._playing and playing in self._stamps:
            self.latency_s = robot_now - self._stamps[playing]
        self._playing = playing
