"""Playing chunks: which action is due is counted in what was played, never in what the clock says.

The play clock [s] runs while a chunk moves the arm and stands still while the guard holds or the chunk is over. A chunk
that arrives continues at the time that was *played* since its observation: nothing the arm did not execute is skipped,
and nothing it did is repeated.

Shape legend: A axes.
"""

from collections import deque

import numpy as np

from policy.chunk_checks import CheckedChunk
from policy.guard_types import NOTHING_CONSUMED
from policy.limiter import AxisLimits
from policy.seams import ChunkPath, Fade

__all__ = ["ChunkPlayer"]

HISTORY_S = 1.5  # how far back an observation can be placed [s]: more than the oldest stamp that is accepted
LONGEST_FADE_S = 1.0  # a fade is no second plan


class ChunkPlayer:
    """The chunk that plays, with its seam.

    Args:
        limits: Of the axes; the fade keeps to their acceleration.
        reach_s: Time after its own at which an action is reached [s].
        fade_s: Shortest time over which a seam fades out [s].
    """

    def __init__(self, limits: AxisLimits, *, reach_s: float, fade_s: float) -> None:
        self._limits, self._reach_s, self._fade_s = limits, reach_s, fade_s
        self.clear()

    def clear(self) -> None:
        """Forgets chunk and history; for a clock jump or a reset."""
        self.drop()
        self._played_s = 0.0
        self._history: deque[tuple[float, float]] = deque()  # robot time, play time

    def drop(self) -> None:
        """Forgets the chunk."""
        self._path: ChunkPath | None = None
        self._fade: Fade | None = None
        self._elapsed_s = 0.0  # play time since the chunk's stamp
        self._since_seam_s = 0.0
        self.consumed = NOTHING_CONSUMED

    @property
    def playing(self) -> bool:
        """There is a chunk, over or not."""
        return self._path is not None

    @property
    def exhausted(self) -> bool:
        """The chunk's last action has been played."""
        return self._path is not None and self._elapsed_s >= self._path.end_s

    def note(self, robot_now: float) -> None:
        """Remembers how far play had come at a tick, to place later observations."""
        self._history.append((robot_now, self._played_s))
        while self._history[0][0] < robot_now - HISTORY_S:
            self._history.popleft()

    def due(self, chunk: CheckedChunk) -> np.ndarray:
        """(A,) where a chunk plans the arm to be now, if it went on from what was played [rad]."""
        return self._path_of(chunk, None).at(self._since(chunk))[0]

    def start(self, chunk: CheckedChunk, position: np.ndarray, velocity: np.ndarray, *, from_rest: bool) -> None:
        """Begins to play a chunk.

        Args:
            chunk: What to play.
            position: (A,) commanded now [rad].
            velocity: (A,) of the commanded position [rad/s].
            from_rest: After a hold: action 0 is due now. Else play continues at the action that is due.
        """
        self._elapsed_s = 0.0 if from_rest else self._since(chunk)
        self._path = self._path_of(chunk, position if from_rest else None)
        planned, planned_velocity = self._path.at(self._elapsed_s)
        self._fade = Fade(
            position - planned,
            # A gripper is told to close within one action: a speed that no axis has is none to be made up for
            velocity - np.clip(planned_velocity, -self._limits.velocity, self._limits.velocity),
            fade_s=self._fade_s,
            acceleration=self._limits.acceleration,
            longest_s=LONGEST_FADE_S,
        )
        self._since_seam_s = 0.0
        self._chunk = chunk

    def advance(self, dt: float) -> tuple[np.ndarray, np.ndarray]:
        """Plays on for a tick.

        Args:
            dt: Length of the tick [s].

        Returns:
            (A,) where to be after it [rad] and (A,) how fast to move there [rad/s].
        """
        assert self._path is not None
        assert self._fade is not None
        played = min(dt, max(0.0, self._path.end_s - self._elapsed_s))
        self._played_s += played
        self._elapsed_s += played
        self._since_seam_s += dt
        self.consumed = (self._chunk.epoch, self._chunk.sequence, self._path.index(self._elapsed_s))
        position, velocity = self._path.at(self._elapsed_s)
        offset, drift = self._fade.at(self._since_seam_s)
        return position + offset, velocity + drift

    def _path_of(self, chunk: CheckedChunk, start: np.ndarray | None) -> ChunkPath:
        """The chunk's path, from a position at rest or, without one, as if it had been under way before.

        A path from where the arm was told to be at the observation would be wrong here: what the two disagree about is
        the seam's to fade out. Catching up within the first step as well asks for a speed that no axis has, and the
        fade, which keeps the speed continuous, then drives the arm away from the chunk, farther with every new one.
        """
        first, second = chunk.positions[0], chunk.positions[1]
        step_s = float(chunk.times_s[1] - chunk.times_s[0])
        reach_s = min(self._reach_s, step_s)
        if start is None:
            start = first - (reach_s / step_s) * (second - first)
        return ChunkPath(start, chunk.times_s, chunk.positions, reach_s)

    def _since(self, chunk: CheckedChunk) -> float:
        """Play time since a chunk's observation [s]."""
        return self._played_s - self._at(chunk.stamp)

    def _at(self, stamp: float) -> float:
        """Play time at a robot time [s]; the ends of the history beyond it."""
        if not self._history:
            return self._played_s
        times, played = zip(*self._history, strict=True)
        return float(np.interp(stamp, times, played))
