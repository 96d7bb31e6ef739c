"""How far the guard has come with the chunks it was given, as it reports it.

Indices count actions of a chunk; time is a steady clock [s], used only to know when a last action is over.
"""

from policy.delay import DelayForecast

__all__ = ["Progress"]


class Progress:
    """What was consumed, and how many actions passed between observations and their chunks.

    Args:
        control_dt: Time between two actions [s].
    """

    def __init__(self, control_dt: float) -> None:
        self._control_dt = control_dt
        self.forecast = DelayForecast()
        self.forget()

    def forget(self) -> None:
        """Nothing of what was handed out counts any more; measured delays do."""
        self._newest: tuple[int, int] | None = None  # sequence and index in effect, as reported last
        self._since = 0.0  # when that index was first reported
        self._held = False  # the guard reported that nothing is in effect
        self._handed_out = 0.0  # when the newest chunk left

    def hand_out(self, now: float) -> None:
        """A chunk leaves; the guard's report on it takes a moment."""
        self._handed_out = now

    def note(self, sequence: int, index: int, now: float) -> None:
        """Takes a report; a negative sequence says that nothing is in effect."""
        if sequence < 0:
            self._held = True
            return
        if self._newest is not None and sequence < self._newest[0]:
            return
        began = self._newest is None or sequence > self._newest[0]
        if began and not self._held and self._newest is not None:
            self.forecast.add(index)  # a chunk begins at the action that was due: so many were consumed meanwhile
        if self._newest != (sequence, index):
            self._newest, self._since = (sequence, index), now
        self._held = False

    def place(self, sequence: int, *, by_clock: float) -> float | None:
        """Where a chunk is, in actions.

        Args:
            sequence: Of the chunk that was handed out last.
            by_clock: What the clock says. It counts between two actions, and alone while there is no report yet.

        Returns:
            The action in effect and the share of it that is over, or None while the guard holds.
        """
        if self._held:
            return None
        if self._newest is not None and self._newest[0] == sequence:
            index = self._newest[1]
            return min(max(by_clock, float(index)), index + 1.0)
        return by_clock

    def over(self, sequence: int, last: int, now: float) -> bool:
        """Whether a chunk's last action has had its time, or the chunk is not being played at all."""
        if self._held:
            return True
        if self._newest is None or self._newest[0] != sequence:
            return now - self._handed_out >= self._control_dt
        return self._newest[1] >= last and now - self._since >= self._control_dt
