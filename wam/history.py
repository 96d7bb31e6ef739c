"""Which frames make up an observation that looks back: the one sampling function of training and run time.

An observation holds ``n_instants`` instants, ``spacing`` apart, the present last. An instant is served by the newest
frame at or before it, so nothing is seen before it was there. What lies before the beginning of an episode is served by
its first frame; the window slides and is never emptied on the way. Training asks with the frames of a dataset, the
ring buffers of a robot and of a simulation with what has arrived: the same two functions, hence the same frames.

Times and stamps are in one unit, seconds at run time and control steps in a dataset. Torch-free.

Shape legend: T instants of an observation, oldest first, S stamps.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["TOLERANCE", "Picked", "Window", "pick"]

# Robot time since 1970 in float64 is rounded to 2.4e-7 s: a frame stamped exactly at an instant must not be missed.
TOLERANCE = 1e-6


@dataclass(frozen=True, kw_only=True)
class Window:
    """How far back an observation looks."""

    n_instants: int = 1  # T, the present one included
    spacing: float = 0.0  # time between two of them

    @property
    def span(self) -> float:
        """Time from the oldest instant to the present."""
        return (self.n_instants - 1) * self.spacing

    def times(self, t: float, begin: float = -math.inf) -> np.ndarray:
        """(T,) float64 times of the instants of an observation at t, oldest first; none is before ``begin``.

        A past instant is ``TOLERANCE`` later than the spacing says, so that rounding cannot move it behind its frame.
        """
        back = self.spacing * np.arange(self.n_instants - 1, -1, -1)  # (T,)
        return np.clip(t - back + TOLERANCE, min(begin, t), t)


@dataclass(frozen=True, kw_only=True)
class Picked:
    """Which frame serves each time."""

    places: np.ndarray  # (T,) int64 index of the newest stamp at or before each time; 0 where there is none that old
    ages: np.ndarray  # (T,) float64 time - stamp; negative where only the earliest frame, later than asked, is left
    too_old: np.ndarray  # (T,) bool: the frame is older than allowed


def pick(
    stamps: Sequence[float] | np.ndarray, times: Sequence[float] | np.ndarray, longest: float = math.inf
) -> Picked:
    """Finds the frame that serves each time.

    Args:
        stamps: (S,) stamps of the frames that exist, increasing, at least one.
        times: (T,) times to serve, of ``Window.times``.
        longest: Age above which a frame is too old for the time it serves.

    Raises:
        ValueError: There is no frame.
    """
    known, wanted = np.asarray(stamps, dtype=np.float64), np.asarray(times, dtype=np.float64)
    if not len(known):
        raise ValueError("no frame can be picked where there is none.")
    places = np.maximum(np.searchsorted(known, wanted, side="right") - 1, 0)
    ages = wanted - known[places]
    return Picked(places=places, ages=ages, too_old=ages > longest)
