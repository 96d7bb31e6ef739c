"""ChunkSchedule: which action of which chunk to command at a robot time. Pure logic, no clock of its own.

Chunks are time-stamped: ``actions[j]`` is meant for ``stamp + j * control_dt``, where ``stamp`` is the time of the
observation, and each action is held until the next one's time. The modes differ in what happens while inference runs:

* ``frozen``: the world waits, so a chunk arrives at its own stamp. What peers report; a simulator can do it, a robot
  cannot.
* ``hold_last``: the last action is held until the next chunk arrives, which is then played from its first action,
  because the robot executed none of them meanwhile.
* ``asynchronous``: the old chunk plays on past its horizon; the new one takes over at the action whose time it is.
* ``temporal_ensembling``: as asynchronous, but what plays is the mean of all chunks that planned for the instant.
* ``real_time_chunking``, ``hard_prefix``: as asynchronous, but the next chunk is inferred so that it agrees with the
  one that plays meanwhile (``policy.rtc``); give ``continuation`` to the policy.

A caller asks ``wants_chunk``, takes an observation and calls ``request``, calls ``deliver`` when the chunk is there and
``action`` at every control step. Time is robot time in seconds, passed in, and never flow time.

Shape legend: H chunk length, A action width.
"""

import math
from dataclasses import dataclass

import numpy as np

from policy.delay import DelayForecast
from policy.ensemble import Ensemble
from policy.errors import ScheduleError
from policy.rtc import Continuation
from wam.errors import unknown_name
from wam.spec import ActionChunk

__all__ = ["CONTINUING", "MODES", "ChunkSchedule", "Delivery", "ScheduleCounts", "ScheduledAction"]

CONTINUING = ("real_time_chunking", "hard_prefix")  # modes in which the next chunk is inferred knowing the playing one
MODES = ("frozen", "hold_last", "asynchronous", "temporal_ensembling", *CONTINUING)
# Fraction of control_dt by which a time may miss a step and still count as on it: well above the 2.4e-7 s resolution
# of Unix time in float64, well below anything a robot notices.
TIME_TOLERANCE = 1e-3


@dataclass(frozen=True, kw_only=True)
class ScheduledAction:
    """One action with where it came from; relative consumers decode against ``chunk.anchor``."""

    action: np.ndarray  # (A,) float32 absolute command
    index: int  # its place in the chunk, 0..H-1
    chunk: ActionChunk  # the chunk it belongs to, with stamp and anchor
    held: bool  # True when the chunk has run out and its last action is being repeated


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """What became of a chunk that arrived."""

    status: str  # "accepted", "expired" (its last action's time is over) or "out_of_order" (older than the playing one)
    delay_steps: int  # actions consumed between its request and its arrival: the true delay in steps


@dataclass(frozen=True, kw_only=True)
class ScheduleCounts:
    """What happened since construction or ``reset``."""

    chunks: int = 0  # chunks accepted
    dropped: int = 0  # chunks expired or out of order
    consumed: int = 0  # distinct actions commanded
    skipped: int = 0  # actions passed over without being commanded before a later one of their chunk was
    held: int = 0  # calls of ``action`` answered by repeating a chunk's last action


class ChunkSchedule:
    """Orders time-stamped chunks into one command per control step.

    Args:
        mode: One of ``MODES``.
        chunk_length: H, actions per chunk.
        execution_horizon: Actions after which a new chunk is wanted, 1..H. In the modes that play on, the rest of the
            chunk bridges the inference; frozen and hold_last never play it.
        control_dt: Time between two actions [s].

    Raises:
        ScheduleError: Unknown mode, horizon outside 1..H or a control step that is not positive.
    """

    def __init__(self, mode: str, *, chunk_length: int, execution_horizon: int, control_dt: float) -> None:
        if mode not in MODES:
            raise ScheduleError(unknown_name("schedule mode", mode, MODES))
        if not 1 <= execution_horizon <= chunk_length:
            raise ScheduleError(
                f"execution_horizon is {execution_horizon} but chunks have {chunk_length} actions: the next one can be "
                f"asked for after 1 to {chunk_length} of them."
            )
        if not (math.isfinite(control_dt) and control_dt > 0):
            raise ScheduleError(f"control_dt is {control_dt} s but must be a positive, finite time between actions.")
        self.mode = mode
        self.chunk_length = chunk_length
        self.execution_horizon = execution_horizon
        self.control_dt = control_dt
        self._plays_on = mode not in {"frozen", "hold_last"}
        self._forecast = DelayForecast()
        self._ensemble = Ensemble() if mode == "temporal_ensembling" else None
        self.reset()

    @property
    def counts(self) -> ScheduleCounts:
        """What happened so far."""
        return self._counts

    @property
    def pending(self) -> bool:
        """Whether a chunk was requested and has not arrived."""
        return self._consumed_at_request is not None

    @property
    def chunk(self) -> ActionChunk | None:
        """The chunk that plays now."""
        return self._chunk

    def reset(self) -> None:
        """Forgets chunks, a pending request, delays and counts; for a new episode or after a hold."""
        self._chunk: ActionChunk | None = None
        self._start = -math.inf  # robot time of the chunk's action 0 [s]
        self._next_index = 0  # first index of the chunk that was neither commanded nor skipped
        self._consumed_at_request: int | None = None
        self._last_time = -math.inf
        self._counts = ScheduleCounts()
        self._forecast.clear()
        if self._ensemble is not None:
            self._ensemble.clear()

    def wants_chunk(self, now: float) -> bool:
        """Whether an observation taken at ``now`` [s] should be sent to inference."""
        if self.pending:
            return False
        return self._chunk is None or self._elapsed_steps(now) >= self.execution_horizon

    def request(self, now: float) -> None:
        """Notes that an observation was taken at ``now`` [s] and inference has begun.

        Raises:
            ScheduleError: A chunk is already being inferred, or time ran backwards.
        """
        if self.pending:
            raise ScheduleError("a chunk is already being inferred: deliver it, or cancel(), before the next request.")
        self._advance_clock(now)
        self._consumed_at_request = self._counts.consumed

    def continuation(self, now: float) -> Continuation | None:
        """Returns what a chunk requested at ``now`` [s] has to agree with; None if with nothing, or in other modes."""
        if self.mode not in CONTINUING or self._chunk is None:
            return None
        left = self._chunk.actions[max(0, self._elapsed_steps(now)) :]
        if len(left) == 0:
            return None
        delay = self._forecast.steps()
        horizon = max(delay, self.execution_horizon)
        return Continuation(actions=left, delay=delay, horizon=horizon, hard=self.mode == "hard_prefix")

    def cancel(self) -> None:
        """Forgets the pending request, for an inference that failed."""
        self._consumed_at_request = None

    def deliver(self, chunk: ActionChunk, now: float) -> Delivery:
        """Takes a chunk that arrived at ``now`` [s].

        Returns:
            Whether it plays from now on and how many actions were consumed while it was inferred. A chunk that plays
            replaces the one before; a chunk that does not changes nothing but the counts.

        Raises:
            ScheduleError: The chunk has another length or control step, comes from the future, arrived late in frozen
                mode, or time ran backwards.
        """
        self._advance_clock(now)
        self._check_chunk(chunk, now)
        begun = self._consumed_at_request
        delay_steps = 0 if begun is None else self._counts.consumed - begun
        self._consumed_at_request = None
        status = self._status(chunk, now)
        # Before the first chunk nothing can be consumed; then the time it took is the best guess.
        self._forecast.add(delay_steps if self._chunk is not None else math.ceil(self._late_steps(chunk, now)))
        if status != "accepted":
            self._count(dropped=1)
            return Delivery(status=status, delay_steps=delay_steps)
        self._chunk = chunk if self._ensemble is None else self._ensemble.add(chunk)
        self._start = now if self.mode == "hold_last" else chunk.stamp
        self._next_index = 0
        self._count(chunks=1)
        return Delivery(status=status, delay_steps=delay_steps)

    def action(self, now: float) -> ScheduledAction | None:
        """Returns the action to command at ``now`` [s], or None before the first chunk: hold the measured pose then.

        May be called at any rate; an action is counted as consumed once, when it is first returned.

        Raises:
            ScheduleError: Time ran backwards.
        """
        self._advance_clock(now)
        if self._chunk is None:
            return None
        last = (self.chunk_length if self._plays_on else self.execution_horizon) - 1
        elapsed = self._elapsed_steps(now)
        index = min(elapsed, last)
        held = elapsed > last
        if index >= self._next_index:
            self._count(consumed=1, skipped=index - self._next_index)
            self._next_index = index + 1
        self._count(held=int(held))
        return ScheduledAction(action=self._chunk.actions[index], index=index, chunk=self._chunk, held=held)

    def _elapsed_steps(self, now: float) -> int:
        return math.floor((now - self._start) / self.control_dt + TIME_TOLERANCE)

    def _advance_clock(self, now: float) -> None:
        if not now >= self._last_time - TIME_TOLERANCE * self.control_dt:  # also true for NaN
            raise ScheduleError(
                f"robot time went from {self._last_time} s to {now} s: chunks are ordered by time, so call reset() "
                "after a clock jump and start from a fresh observation."
            )
        self._last_time = max(now, self._last_time)

    def _check_chunk(self, chunk: ActionChunk, now: float) -> None:
        if len(chunk.actions) != self.chunk_length or not math.isclose(chunk.control_dt, self.control_dt, rel_tol=1e-6):
            raise ScheduleError(
                f"chunk has {len(chunk.actions)} actions every {chunk.control_dt} s but the schedule was made for "
                f"{self.chunk_length} every {self.control_dt} s: build both from the same bundle."
            )
        late = (now - chunk.stamp) / self.control_dt
        if late < -TIME_TOLERANCE:
            raise ScheduleError(
                f"chunk is stamped {chunk.stamp} s but arrived at {now} s: stamp it with the time of its observation, "
                "on the clock that drives the schedule."
            )
        if self.mode == "frozen" and late > TIME_TOLERANCE:
            raise ScheduleError(
                f"frozen mode: chunk of {chunk.stamp} s arrived at {now} s, so time did not stand still during "
                "inference: do not advance the world, or choose hold_last or asynchronous."
            )

    def _status(self, chunk: ActionChunk, now: float) -> str:
        if self._chunk is not None and chunk.stamp <= self._chunk.stamp:
            return "out_of_order"
        if self._plays_on and math.floor(self._late_steps(chunk, now) + 2 * TIME_TOLERANCE) >= self.chunk_length:
            return "expired"
        return "accepted"

    def _late_steps(self, chunk: ActionChunk, now: float) -> float:
        """Control steps since the chunk's observation, a little less so that whole numbers round up to themselves."""
        return (now - chunk.stamp) / self.control_dt - TIME_TOLERANCE

    def _count(self, **increments: int) -> None:
        self._counts = ScheduleCounts(
            **{name: value + increments.get(name, 0) for name, value in vars(self._counts).items()}
        )
