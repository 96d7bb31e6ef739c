"""Who commands the arm: it follows one guard, and a guard notices whoever else commands it. Reads no clock.

Every command carries its source, random per process (``policy.wire.new_source``). The rules are those of
docs/run_time.md, "One guard per arm". Shape legend: A axes.
"""

import numpy as np

from policy.intent import far_joint
from policy.wire import GUARD
from wam.robot import RobotSpec

__all__ = ["RIVAL_MEMORY_S", "CommandRival", "GuardBinding"]

LONGEST_TICK_S = 0.1  # silence that one tick counts at most: while this process is not run, nobody is silent
RIVAL_MEMORY_S = 2.5  # who was heard this recently still commands: others are looked for once a second


class GuardBinding:
    """Which guard an arm follows. Call ``tick`` at a steady rate, whatever happens.

    Args:
        robot: Its joints and ``safety.engage_error``.
        silence_s: Without a command of the guard for this long another one may follow [s].
    """

    def __init__(self, robot: RobotSpec, silence_s: float) -> None:
        self.bound = ""  # source of the guard that is followed; "" before the first
        self._robot, self._silence_s = robot, silence_s
        self._silence = 0.0  # of the bound guard [s], counted in ticks
        self._ticked: float | None = None
        self._waiting: set[str] = set()  # guards heard since the bound one spoke
        self._rivals: set[str] = set()  # guards that spoke between two commands of the bound one

    def tick(self, now: float) -> None:
        """Advances to steady time ``now`` [s]."""
        if self._ticked is not None:
            self._silence += min(now - self._ticked, LONGEST_TICK_S)
        self._ticked = now

    def refusal(self, source: str, positions: np.ndarray | None, measured: np.ndarray | None) -> str:
        """Takes note of a command; returns why it is not followed, or "".

        Args:
            source: Of ``policy.wire.command_source``.
            positions: (A,) where it wants the arm [rad, opening]; None when it cannot be read.
            measured: (A,) where the arm is [rad, opening]; None when that is not known.
        """
        if not source.startswith(GUARD):
            return "it is not of a guard"
        self.bound = self.bound or source
        if source == self.bound:
            self._silence = 0.0
            self._rivals |= self._waiting
            self._waiting.clear()
            return ""
        if source in self._rivals:
            return f"it is of {source}, a second guard beside {self.bound}, and refused until that one is restarted"
        if self._silence <= self._silence_s:
            self._waiting.add(source)
            return f"it is of {source}, and the arm follows {self.bound}"
        return self._succession(source, positions, measured)

    def _succession(self, source: str, positions: np.ndarray | None, measured: np.ndarray | None) -> str:
        """The guard has gone, and a new one commands."""
        if positions is None or measured is None:
            return f"it is of the new guard {source}, and nothing tells whether that begins where the arm is"
        far = far_joint(self._robot, positions, measured, self._robot.safety.engage_error)
        if far:
            return f"it is of the new guard {source}, which does not begin where the arm is ({far}): call guard/reset"
        self.bound, self._silence = source, 0.0
        self._waiting.clear()
        return ""


class CommandRival:
    """Another node that was heard commanding the arm beside this guard."""

    def __init__(self) -> None:
        self._name, self._heard = "", -np.inf

    def heard(self, name: str, now: float) -> tuple[str, str]:
        """Notes a command of it at steady time ``now`` [s].

        Returns:
            What ``commanding`` said before, and what it says now. The first commands of a node may come before its
            name, so a fault that was latched for the one reads like the other from now on.
        """
        before = self.commanding(now)
        self._name, self._heard = name, now
        return before, self.commanding(now)

    def commanding(self, now: float) -> str:
        """Why nobody may engage; "" when no other node commands."""
        return f"another node commands the arm: {self._name}" if now - self._heard <= RIVAL_MEMORY_S else ""
