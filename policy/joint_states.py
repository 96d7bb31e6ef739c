"""Joint states of one robot, whole again: drivers may send the arm and its gripper in two messages on one topic.

A message that names every axis is taken as it is. Parts are put together by name: a state is there once every axis was
heard of again, it is as old as its oldest part, and no two parts may be further apart than a joint state may be old.
Guard, policy and the conversion of recordings share this, so all of them know the same states.

Shape legend: A action width.
"""

from collections.abc import Sequence

import numpy as np

from policy.wire import positions_by_name
from wam.errors import ValueContractError

__all__ = ["JointStates"]

PATIENCE = 20  # messages, or the longest age, until an axis that nobody ever named is missed
JUMP_S = 1.0  # a stamp that is this much older than the newest part begins anew: the clock was set


class JointStates:
    """Puts joint states together.

    Args:
        wanted: (A,) names of the robot file, in order.
        longest_s: Time that may lie between two parts, ``safety.state_age_s`` [s].
        what: What the messages are, for error messages ("/joint_states").
    """

    def __init__(self, wanted: Sequence[str], longest_s: float, what: str) -> None:
        self._wanted, self._longest_s, self._what = tuple(wanted), longest_s, what
        self.clear()

    def clear(self) -> None:
        """Forgets every part."""
        self._parts: dict[str, tuple[float, float]] = {}  # axis -> stamp [s], position
        self._heard: dict[str, float] = {}  # any name -> stamp [s]
        self._fresh: set[str] = set()  # axes that came since the last whole state
        self._first = self._newest = -np.inf
        self._incomplete = 0

    def add(self, names: Sequence[str], positions: Sequence[float], stamp: float) -> tuple[float, np.ndarray] | None:
        """Takes a message.

        Args:
            names: Names in the message.
            positions: One number per name.
            stamp: Of the message [s].

        Returns:
            Stamp [s] and (A,) float32 positions of a whole state; None while one is being put together.

        Raises:
            ValueContractError: Names and positions differ in number, a name occurs twice, a number is not finite, or an
                axis has not been heard of.
        """
        here = [name for name in self._wanted if name in names]
        values = positions_by_name(names, positions, here, self._what)
        if len(here) == len(self._wanted):
            self.clear()
            return stamp, values
        if stamp < self._newest - JUMP_S:
            self.clear()
        if not self._heard:
            self._first = stamp
        self._newest = max(self._newest, stamp)
        self._incomplete += 1
        self._heard |= dict.fromkeys(names, stamp)
        for name, value in zip(here, values, strict=True):
            if stamp >= self._parts.get(name, (-np.inf, 0.0))[0]:
                self._parts[name] = stamp, float(value)
                self._fresh.add(name)
        if len(self._fresh) < len(self._wanted):
            self._miss()
            return None
        return self._whole()

    def _whole(self) -> tuple[float, np.ndarray] | None:
        """The state, all of whose axes were heard of again."""
        stamps = [self._parts[name][0] for name in self._wanted]
        if max(stamps) - min(stamps) > self._longest_s:
            self._miss()
            return None
        self._fresh.clear()
        self._incomplete = 0
        return min(stamps), np.array([self._parts[name][1] for name in self._wanted], dtype=np.float32)

    def _miss(self) -> None:
        """Raises if an axis is overdue."""
        late = [name for name in self._wanted if self._overdue(name)]
        if not late:
            return
        recent = [name for name, stamp in self._heard.items() if self._newest - stamp <= self._longest_s]
        raise ValueContractError(
            f"{self._what} lacks {', '.join(late)}; it has {', '.join(recent) or 'no names'} but the robot file wants "
            f"{', '.join(self._wanted)}, in one message or in several within {self._longest_s:g} s "
            "(safety.state_age_s): rename the joints in the driver or in the robot file, or start what publishes them."
        )

    def _overdue(self, name: str) -> bool:
        if name in self._parts:
            return self._newest - self._parts[name][0] > self._longest_s
        return self._incomplete > PATIENCE or self._newest - self._first > self._longest_s
