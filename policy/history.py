"""The instants of an observation at run time: which past ones belong to it, and what serves one that has none.

Who holds the past (a buffer of messages, a simulation, a list of observations) says what it knows of an instant;
``History`` says which instants those are, by ``wam.history``, exactly as training picked them. Nothing is ever thrown
away on the way: the window slides. Where the past has a hole, because a camera was silent for longer than an
observation may be old, the next later instant stands in, as the first one of an episode does for what lies before it.
"""

import bisect
import dataclasses
import math
from collections.abc import Callable

from wam.history import Window, pick
from wam.spec import Observation

__all__ = ["History", "ObservationHistory"]


class History:
    """Puts the past behind observations, from the beginning of an episode on.

    Args:
        window: How far back an observation looks.
    """

    def __init__(self, window: Window) -> None:
        self.window = window
        self.holes = 0  # past instants since construction that a later one had to stand in for
        self._begin = math.inf  # time of the first observation [s]

    def clear(self) -> None:
        """Begins an episode: the next observation is its first."""
        self._begin = math.inf

    def begin(self, t: float) -> None:
        """Begins an episode at a time [s] at which it could be seen, whoever looked."""
        self._begin = t

    def with_past(self, observation: Observation, known: Callable[[float], Observation | None]) -> Observation:
        """Returns an observation with its past.

        Args:
            observation: The present, complete.
            known: What was to be seen at a time [s], or None where nobody can say.
        """
        if self.window.n_instants == 1:
            return observation
        self._begin = min(self._begin, observation.stamp)
        past: list[Observation] = []
        later = observation
        for time in self.window.times(observation.stamp, self._begin)[-2::-1]:
            found = known(float(time)) if time != later.stamp else later
            self.holes += int(found is None)
            later = found or later
            past.append(later)
        return dataclasses.replace(observation, history=tuple(past[::-1]))


class ObservationHistory:
    """A ring of observations, for whoever makes one at every control step: a gymnasium loop, a film.

    Args:
        window: ``policy.runner.Policy.window``.
        longest_s: Age above which an earlier observation does not serve an instant [s].
    """

    def __init__(self, window: Window, longest_s: float = math.inf) -> None:
        self._history = History(window)
        self._longest_s = longest_s
        self._ring: list[Observation] = []

    def add(self, observation: Observation) -> Observation:
        """Takes the observation of this step and returns it with its past; its stamp must be the newest."""
        span = self._history.window.span
        oldest = bisect.bisect_right(self._ring, observation.stamp - span, key=lambda held: held.stamp) - 1
        del self._ring[: max(0, oldest)]  # what serves the oldest instant stays
        self._ring.append(observation)
        return self._history.with_past(observation, self._known)

    def clear(self) -> None:
        """Begins an episode."""
        self._history.clear()
        self._ring.clear()

    def _known(self, time: float) -> Observation | None:
        picked = pick([held.stamp for held in self._ring], (time,), self._longest_s)
        return None if picked.too_old[0] else self._ring[int(picked.places[0])]
