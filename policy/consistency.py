"""What happened against what was commanded, while the robot runs: pairs the three things the comparison needs.

An observation now, the one ``judged_steps`` control steps before, and the actions that the guard reports as consumed
between. A window with a gap (the guard held, somebody drove by hand, no report came) gives no number. Robot time [s]
comes in as a number; calls may come from several threads.

Shape legend: O actions between the two observations, A axes.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from policy.runner import Policy
from wam.spec import ActionChunk, Observation

__all__ = ["ConsistencyMonitor", "Window"]

KEPT_CHUNKS = 16  # chunks whose actions may still be reported; more are planned during no window
KEPT_NUMBERS = 600  # numbers that percentiles are of: five minutes at the usual rate


@dataclass(frozen=True, kw_only=True)
class Window:
    """One comparison to make."""

    before: Observation
    after: Observation
    commanded: np.ndarray  # (O, A) absolute targets in force between


class ConsistencyMonitor:
    """Collects windows and judges some of them.

    Args:
        policy: With an inverse-dynamics head (``Policy.can_judge``).
        rate_hz: Comparisons per second at the most.
        longest_s: One that takes longer would starve the guard of chunks [s]; then this one was the last.
        clock: Steady clock [s].
    """

    def __init__(
        self, policy: Policy, *, rate_hz: float, longest_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._policy, self._period, self._longest_s, self._clock = policy, 1.0 / rate_hz, longest_s, clock
        self._dt, self._steps = policy.control_dt, policy.judged_steps
        self._lock = threading.Lock()
        self._numbers: deque[float] = deque(maxlen=KEPT_NUMBERS)
        self._axis = ""  # that differed most in the last window
        self._due = 0.0  # steady time of the next comparison [s]
        self.problem = ""  # why there are no more numbers
        self.forget()

    def forget(self) -> None:
        """Drops observations, chunks and reports: an episode begins, or time jumped."""
        with self._lock:
            self._seen: deque[Observation] = deque()
            self._chunks: dict[tuple[int, int], ActionChunk] = {}
            self._consumed: deque[tuple[float, np.ndarray | None]] = deque()  # robot time, action in force

    def on_observation(self, observation: Observation) -> None:
        """Takes what was seen."""
        with self._lock:
            self._seen.append(observation)
            oldest = observation.stamp - (self._steps + 2) * self._dt
            while self._seen[0].stamp < oldest:
                self._seen.popleft()

    def on_chunk(self, epoch: int, sequence: int, chunk: ActionChunk) -> None:
        """Takes what was planned, by the numbers under which the guard reports it."""
        with self._lock:
            self._chunks[epoch, sequence] = chunk
            while len(self._chunks) > KEPT_CHUNKS:
                self._chunks.pop(next(iter(self._chunks)))

    def on_consumed(self, epoch: int, sequence: int, index: int, t: float) -> None:
        """Takes which action the guard has in effect at robot time t [s]; a negative sequence: none."""
        with self._lock:
            chunk = self._chunks.get((epoch, sequence))
            known = chunk is not None and 0 <= index < len(chunk.actions)
            self._consumed.append((t, chunk.actions[index] if chunk is not None and known else None))
            oldest = t - (self._steps + 4) * self._dt
            while self._consumed[0][0] < oldest:
                self._consumed.popleft()

    def judge(self) -> float | None:
        """Makes a comparison when one is due and there is a window; call it where the policy may be used.

        Returns:
            Mean absolute difference in normalised units, or None.
        """
        begun = self._clock()
        window = None if self.problem or begun < self._due else self.window()
        if window is None:
            return None
        self._due = begun + self._period
        per_axis = self._policy.consistency(window.before, window.after, window.commanded)  # (A,)
        seconds = self._clock() - begun
        number = float(per_axis.mean())
        with self._lock:
            self._numbers.append(number)
            self._axis = self._policy.manifest.robot.action_names[int(per_axis.argmax())]
            if seconds > self._longest_s:
                self.problem = (
                    f"comparing pictures with commands took {seconds:.2f} s and was switched off: the guard waits "
                    f"{self._longest_s:.2f} s"
                )
        return number

    def window(self) -> Window | None:
        """Returns the newest comparison that can be made, or None."""
        with self._lock:
            if not self._seen:
                return None
            after = self._seen[-1]
            wanted = after.stamp - self._steps * self._dt
            before = min(self._seen, key=lambda seen: abs(seen.stamp - wanted))
            if abs(before.stamp - wanted) > self._dt / 2:
                return None
            commanded = [self._in_force(before.stamp + (step + 0.5) * self._dt) for step in range(self._steps)]
        known = [action for action in commanded if action is not None]
        if len(known) < len(commanded):
            return None
        return Window(before=before, after=after, commanded=np.stack(known))

    def status(self) -> dict[str, str]:
        """Returns the last number, percentiles and the axis that differed most, for diagnostics."""
        with self._lock:
            numbers, axis = list(self._numbers), self._axis
        if not numbers:
            return {"consistency_count": "0"}
        p50, p95 = np.percentile(numbers, [50, 95])
        return {
            "consistency": f"{numbers[-1]:.3f}",
            "consistency_axis": axis,
            "consistency_p50": f"{p50:.3f}",
            "consistency_p95": f"{p95:.3f}",
            "consistency_max": f"{max(numbers):.3f}",
            "consistency_count": str(len(numbers)),
        }

    def _in_force(self, t: float) -> np.ndarray | None:
        """The action at robot time t, by the last report before it, which must not be older than a control step."""
        last = next(((when, action) for when, action in reversed(self._consumed) if when <= t), None)
        return None if last is None or last[0] < t - self._dt else last[1]
