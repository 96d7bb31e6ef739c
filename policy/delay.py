"""Forecast of how many actions are consumed while a chunk is inferred.

A percentile over the newest measurements, never their maximum: the first inference pays for memory and caches and takes
many times as long, and a maximum would remember it for the rest of the run.
"""

import math
from collections import deque

__all__ = ["DelayForecast"]

WINDOW = 20  # measurements looked at: about three seconds at 7 Hz
SHARE = 0.9  # of them that the forecast covers


class DelayForecast:
    """Windowed percentile of measured delays [steps]."""

    def __init__(self, *, window: int = WINDOW, share: float = SHARE) -> None:
        self._delays: deque[int] = deque(maxlen=window)
        self._share = share

    def add(self, steps: int) -> None:
        """Notes how many actions were really consumed between an observation and the start of its chunk."""
        self._delays.append(max(0, steps))

    def steps(self, default: int = 0) -> int:
        """Returns the delay to expect [steps].

        Args:
            default: Without any measurement.

        Returns:
            The smallest measured delay that ``share`` of the others do not exceed, rounded down: of up to ten
            measurements one outlier is left out, of twenty two.
        """
        if not self._delays:
            return default
        ordered = sorted(self._delays)
        return ordered[math.floor(self._share * (len(ordered) - 1))]

    def clear(self) -> None:
        """Forgets every measurement."""
        self._delays.clear()
