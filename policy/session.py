"""Inference in a thread of its own; see ``PolicySession``."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from policy.runner import Policy
from wam.robot import RobotSpec
from wam.spec import ActionChunk, Observation

__all__ = ["ChunkResult", "PolicySession"]


@dataclass(frozen=True, kw_only=True)
class ChunkResult:
    """What became of one submitted observation."""

    chunk: ActionChunk | None  # None when inference failed
    epoch: int  # life of the session; grows with every ``reset``
    sequence: int  # number of the observation within the epoch, from 0
    latency_s: float  # from ``submit`` to the result [s]
    error: str = ""  # why there is no chunk


class PolicySession:
    """A policy on a thread of its own, one observation at a time.

    Args:
        policy: A warmed-up policy; used only by the session's thread from now on.
        robot: The robot it runs on.
        mode: One of ``policy.schedule.MODES`` but "frozen".
        execution_horizon: Actions after which the next observation is wanted in hold_last mode, and at which the
            weights of real-time chunking reach zero; None takes half of the chunk.
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
        epoch: int = 0,
        on_result: Callable[[ChunkResult], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        raise NotImplementedError

    @property
    def busy(self) -> bool:
        """Whether an observation is being worked on."""
        raise NotImplementedError

    def submit(self, observation: Observation) -> bool:
        """Hands over an observation; False, and nothing happens, while busy or while none is wanted yet (hold_last)."""
        raise NotImplementedError

    def poll(self) -> ChunkResult | None:
        """Returns the oldest result that was not fetched yet."""
        raise NotImplementedError

    def on_consumed(self, epoch: int, sequence: int, index: int) -> None:
        """Notes which action the guard has in effect (``guard/state``): the only truth about delay."""
        raise NotImplementedError

    def reset(self) -> None:
        """Begins a new epoch: what is being inferred will be thrown away, as will all memory of earlier chunks."""
        raise NotImplementedError

    def status(self) -> dict[str, str]:
        """Returns mode, counts, latency percentiles and the forecast delay, for diagnostics."""
        raise NotImplementedError

    def close(self) -> None:
        """Ends the thread; waits for an inference that runs."""
        raise NotImplementedError
