"""The reference between chunks: a smooth path through the points of one chunk, and the seam from what came before.

An action is reached ``reach_s`` after its own time, over a monotone cubic, so the path never leaves the range of its
neighbouring points and comes to rest at the last one. At a seam the path does not start where the arm is told to be;
the difference in position and velocity is added to it and fades out over a few control steps. Position and velocity of
the sum are continuous, whatever the two chunks disagree about.

Source of the slopes: Fritsch and Butland, "A method for constructing local monotone piecewise cubic interpolants",
SIAM J. Sci. Stat. Comput. 5(2), 1984.
Shape legend: N knots, A axes. Times are seconds from the chunk's stamp.
"""

import numpy as np

__all__ = ["ChunkPath", "Fade"]


class ChunkPath:
    """A continuous path through one chunk.

    Args:
        start: (A,) commanded position at the stamp of the chunk [rad]: the path leaves from there.
        times_s: (H,) times of the actions [s], strictly increasing, H >= 2.
        positions: (H, A) actions [rad].
        reach_s: Time after its own at which an action is reached [s], at most the first interval.
    """

    def __init__(self, start: np.ndarray, times_s: np.ndarray, positions: np.ndarray, reach_s: float) -> None:
        self.times_s = np.asarray(times_s, dtype=np.float64)
        step = self.times_s[1] - self.times_s[0]
        self.end_s = float(self.times_s[-1] + step)  # the last action's time is over
        knots, values = self.times_s + reach_s, np.asarray(positions, dtype=np.float64)
        if reach_s > 0:
            knots, values = np.append(self.times_s[0], knots), np.vstack([start, values])
        self._knots, self._values = knots, values  # (N,), (N, A)
        self._slopes = _monotone_slopes(knots, values)  # (N, A)

    def index(self, t: float) -> int:
        """Returns which action is in effect at t [s]."""
        return int(np.clip(np.searchsorted(self.times_s, t + 1e-9, side="right") - 1, 0, len(self.times_s) - 1))

    def at(self, t: float) -> tuple[np.ndarray, np.ndarray]:
        """Returns (A,) position [rad] and (A,) velocity [rad/s] at t [s]; at rest before and after the path."""
        if t < self._knots[0]:
            return self._values[0].copy(), np.zeros_like(self._values[0])
        if t >= self._knots[-1]:
            return self._values[-1].copy(), np.zeros_like(self._values[-1])
        i = int(np.searchsorted(self._knots, t, side="right")) - 1
        width = self._knots[i + 1] - self._knots[i]
        return _hermite(
            (t - self._knots[i]) / width,
            width,
            (self._values[i], self._values[i + 1]),
            (self._slopes[i], self._slopes[i + 1]),
        )


class Fade:
    """An offset that starts with a given position and velocity and fades to nothing.

    Args:
        position: (A,) offset now [rad].
        velocity: (A,) its velocity now [rad/s].
        fade_s: Shortest time in which it fades [s]; axes that would have to accelerate harder take longer.
        acceleration: (A,) what the fade may use [rad/s^2].
        longest_s: Longest time in which it fades [s].
    """

    def __init__(
        self, position: np.ndarray, velocity: np.ndarray, *, fade_s: float, acceleration: np.ndarray, longest_s: float
    ) -> None:
        self._position, self._velocity = position, velocity
        # The cubic's largest acceleration is at its ends, at most 6 |position| / T^2 + 4 |velocity| / T.
        speed = 4 * np.abs(velocity)
        needed = (speed + np.sqrt(speed**2 + 24 * acceleration * np.abs(position))) / (2 * acceleration)
        self._width = np.clip(needed, fade_s, max(fade_s, longest_s))  # (A,)

    def at(self, t: float) -> tuple[np.ndarray, np.ndarray]:
        """Returns (A,) offset [rad] and (A,) velocity [rad/s], t seconds after the seam."""
        nothing = np.zeros_like(self._position)
        share = np.clip(t / self._width, 0.0, 1.0)
        return _hermite(share, self._width, (self._position, nothing), (self._velocity, nothing))


def _hermite(
    share: float | np.ndarray,
    width: float | np.ndarray,
    values: tuple[np.ndarray, np.ndarray],
    slopes: tuple[np.ndarray, np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """Cubic Hermite value and derivative at ``share`` in [0, 1] of an interval of ``width`` seconds."""
    rise = values[1] - values[0]
    first, last = width * slopes[0], width * slopes[1]
    square, cube = share**2, share**3
    position = values[0] + rise * (3 * square - 2 * cube) + first * (share - 2 * square + cube) + last * (cube - square)
    change = rise * 6 * (share - square) + first * (1 - 4 * share + 3 * square) + last * (3 * square - 2 * share)
    return position, change / width


def _monotone_slopes(knots: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(N, A) slopes: weighted harmonic means, 0 at turning points and at the end, the secant at the start."""
    widths = np.diff(knots)[:, None]  # (N - 1, 1)
    secants = np.diff(values, axis=0) / widths  # (N - 1, A)
    slopes = np.zeros_like(values)
    slopes[0] = secants[0]
    before, after, left, right = secants[:-1], secants[1:], widths[:-1], widths[1:]
    same = before * after > 0
    first, second = 2 * right + left, right + 2 * left
    safe_before, safe_after = np.where(same, before, 1.0), np.where(same, after, 1.0)
    with np.errstate(over="ignore"):  # a secant of almost nothing makes the mean almost nothing
        slopes[1:-1] = np.where(same, (first + second) / (first / safe_before + second / safe_after), 0.0)
    return slopes
