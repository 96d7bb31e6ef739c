"""Inference in a thread of its own: observations in, numbered chunks out, the schedule's mode in between.

The guard plays the chunks; this side only has to know how far it has come, and hears it through ``on_consumed``. What
the mode adds happens before a chunk leaves: continuing the playing chunk, averaging with earlier ones, or cutting a
chunk to the part that is played before the arm waits for the next one.
"""

import logging
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from policy.ensemble import Ensemble
from policy.errors import ScheduleError
from policy.progress import Progress
from policy.rtc import Continuation, actions_ahead
from policy.runner import Policy
from policy.schedule import CONTINUING, MODES
from wam.errors import unknown_name
from wam.robot import RobotSpec
from wam.spec import ActionChunk, Observation

__all__ = ["ChunkResult", "PolicySession"]

logger = logging.getLogger(__name__)

SESSION_MODES = tuple(mode for mode in MODES if mode != "frozen")  # on a robot the world does not wait
LATENCIES = 200  # newest ones that percentiles are taken of
UNFETCHED = 8  # results kept for ``poll``; older ones are of no use to anybody


@dataclass(frozen=True, kw_only=True)
class ChunkResult:
    """What became of one submitted observation."""

    chunk: ActionChunk | None  # None when inference failed
    epoch: int  # life of the session; grows with every ``reset``
    sequence: int  # number of the observation within the epoch, from 0
    latency_s: float  # from ``submit`` to the result [s]
    error: str = ""  # why there is no chunk


@dataclass(frozen=True, kw_only=True)
class _Work:
    """One observation on its way."""

    observation: Observation
    epoch: int
    sequence: int
    begun: float  # steady time of ``submit`` [s]
    continuation: Continuation | None
    fresh: bool  # first of its epoch


class PolicySession:
    """A policy on a thread of its own, one observation at a time.

    Args:
        policy: A warmed-up policy; used only by the session's thread from now on.
        robot: The robot it runs on.
        mode: One of ``policy.schedule.MODES`` but "frozen".
        execution_horizon: Actions after which the next observation is wanted in hold_last mode, and at which the
            weights of real-time chunking reach zero; None takes half of the chunk.
        same_noise: Whether every chunk starts from the same noise, so that a policy that could go left or right decides
            alike from chunk to chunk. None: in asynchronous and hold_last mode; where chunks are tied to one another
            already, the same noise on top made the arm stand still.
        epoch: First epoch: larger than that of any earlier session on the same graph (seconds since 1970 will do).
        on_result: Called in the session's thread with every result; without it, use ``poll``.
        clock: Steady clock [s].

    Raises:
        ScheduleError: Unknown mode, or one that this policy cannot run.
    """

    def __init__(
        self,
        policy: Policy,
        robot: RobotSpec,
        mode: str = "asynchronous",
        *,
        execution_horizon: int | None = None,
        same_noise: bool | None = None,
        epoch: int = 0,
        on_result: Callable[[ChunkResult], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._policy, self._mode, self._clock, self._on_result = policy, mode, clock, on_result
        same = mode in {"asynchronous", "hold_last"} if same_noise is None else same_noise
        self._noise_seed = 0 if same else None
        self._horizon = max(1, policy.chunk_length // 2) if execution_horizon is None else execution_horizon
        _check(policy, robot, mode, self._horizon)
        self._progress = Progress(policy.control_dt)
        self._ensemble = Ensemble() if mode == "temporal_ensembling" else None
        self._epoch, self._sequence = epoch, 0
        self._playing: tuple[int, ActionChunk] | None = None  # sequence and chunk that was handed out last
        self._latencies: deque[float] = deque(maxlen=LATENCIES)
        self._counts: Counter[str] = Counter()
        self._results: deque[ChunkResult] = deque(maxlen=UNFETCHED)
        self._work: _Work | None = None
        self._busy = self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="inference", daemon=True)
        self._thread.start()

    @property
    def busy(self) -> bool:
        """Whether an observation is being worked on."""
        return self._busy

    def submit(self, observation: Observation) -> bool:
        """Hands over an observation; False, and nothing happens, while busy or while none is wanted yet (hold_last)."""
        with self._changed:
            if self._busy or self._closed or not self._wanted():
                return False
            self._work = _Work(
                observation=observation,
                epoch=self._epoch,
                sequence=self._sequence,
                begun=self._clock(),
                continuation=self._continuation(observation),
                fresh=self._sequence == 0,
            )
            self._sequence += 1
            self._busy = True
            self._changed.notify_all()
        return True

    def poll(self) -> ChunkResult | None:
        """Returns the oldest result that was not fetched yet; of many that nobody fetched only the newest are kept."""
        with self._changed:
            return self._results.popleft() if self._results else None

    def on_consumed(self, epoch: int, sequence: int, index: int) -> None:
        """Notes which action the guard has in effect (``guard/state``): the only truth about delay."""
        with self._changed:
            if epoch == self._epoch or sequence < 0:
                self._progress.note(sequence, index, self._clock())

    def reset(self) -> None:
        """Begins a new epoch: what is being inferred will be thrown away, as will all memory of earlier chunks."""
        with self._changed:
            self._epoch += 1
            self._sequence = 0
            self._playing = None
            self._progress.forget()
            self._results.clear()

    def status(self) -> dict[str, str]:
        """Returns mode, counts, latency percentiles and the forecast delay, for diagnostics."""
        with self._changed:
            ordered = sorted(self._latencies)
            delay = self._delay()
            counts = dict(self._counts)
        ranks = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}
        percentiles = {
            f"latency_{name}_ms": f"{1e3 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]:.1f}"
            for name, share in ranks.items()
            if ordered
        }
        return {
            "mode": self._mode,
            "inferred": str(counts.get("inferred", 0)),
            "failed": str(counts.get("failed", 0)),
            "thrown_away": str(counts.get("thrown_away", 0)),
            "delay_steps": str(delay),
            **percentiles,
        }

    def close(self) -> None:
        """Ends the thread; waits for an inference that runs. May be called twice."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _wanted(self) -> bool:
        """Everywhere but in hold_last mode a newer observation is always welcome."""
        if self._mode != "hold_last" or self._playing is None:
            return True
        return self._progress.over(self._playing[0], self._horizon - 1, self._clock())

    def _delay(self) -> int:
        """Steps that will be consumed during the next inference."""
        ordered = sorted(self._latencies)
        guess = math.ceil(ordered[len(ordered) // 2] / self._policy.control_dt) if ordered else 0
        return self._progress.forecast.steps(guess)

    def _continuation(self, observation: Observation) -> Continuation | None:
        if self._mode not in CONTINUING or self._playing is None:
            return None
        sequence, chunk = self._playing
        elapsed = (observation.stamp - chunk.stamp) / chunk.control_dt
        place = self._progress.place(sequence, by_clock=elapsed)
        if place is None or not 0 <= place <= len(chunk.actions) - 1:
            return None  # held, or the chunk is over: the next one starts afresh
        delay = self._delay()
        return Continuation(
            actions=actions_ahead(chunk.actions, place),
            delay=delay,
            horizon=max(delay, self._horizon),
            hard=self._mode == "hard_prefix",
        )

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._work is not None or self._closed)
                work, self._work = self._work, None
            if work is None:
                return
            self._finish(work, *self._infer(work))

    def _infer(self, work: _Work) -> tuple[ActionChunk | None, str]:
        """Returns a chunk, or why there is none; nothing that a policy raises ends the thread."""
        try:
            if work.fresh:
                self._policy.reset()
                if self._ensemble is not None:
                    self._ensemble.clear()
            chunk = self._policy.infer(work.observation, noise_seed=self._noise_seed, continuation=work.continuation)
            if self._ensemble is not None:
                chunk = self._ensemble.add(chunk)
        except Exception as error:
            logger.exception("inference failed")
            return None, f"{type(error).__name__}: {error}"
        return (replace(chunk, actions=chunk.actions[: self._horizon]) if self._mode == "hold_last" else chunk), ""

    def _finish(self, work: _Work, chunk: ActionChunk | None, error: str) -> None:
        with self._changed:
            latency_s = self._clock() - work.begun
            result = ChunkResult(
                chunk=chunk, epoch=work.epoch, sequence=work.sequence, latency_s=latency_s, error=error
            )
            current = work.epoch == self._epoch and not self._closed
            self._counts["inferred" if not error else "failed"] += 1
            self._counts["thrown_away"] += int(not current)
            self._latencies.append(latency_s)
            if current and chunk is not None:
                self._playing = (work.sequence, chunk)
                self._progress.hand_out(self._clock())
            if current and self._on_result is None:
                self._results.append(result)
            self._busy = False
        try:
            if current and self._on_result is not None:
                self._on_result(result)
        except Exception:
            logger.exception("the receiver of chunk %d/%d failed", work.epoch, work.sequence)


def _check(policy: Policy, robot: RobotSpec, mode: str, horizon: int) -> None:
    if mode not in SESSION_MODES:
        raise ScheduleError(unknown_name("session mode", mode, SESSION_MODES))
    if not 1 <= horizon <= policy.chunk_length:
        raise ScheduleError(
            f"execution_horizon is {horizon} but chunks have {policy.chunk_length} actions: give 1 to "
            f"{policy.chunk_length}."
        )
    if mode == "hard_prefix" and not policy.max_prefix:
        raise ScheduleError(
            "mode hard_prefix needs a model that was trained with clean prefixes, but this one was not (max_prefix is "
            "0): use real_time_chunking, which needs no training."
        )
    played_s = horizon * policy.control_dt
    if mode == "hold_last" and played_s >= robot.safety.chunk_age_s:
        raise ScheduleError(
            f"mode hold_last plays {horizon} actions ({played_s:g} s) per chunk, but the guard of robot '{robot.name}' "
            f"holds after {robot.safety.chunk_age_s:g} s without a new one: lower execution_horizon, raise "
            "safety.chunk_age_s, or use asynchronous."
        )
    if mode == "hold_last" and horizon < 2:
        raise ScheduleError("mode hold_last needs an execution_horizon of at least 2: a chunk has two points or more.")
