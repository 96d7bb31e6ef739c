"""Which chunk comes after which, for every start of a policy by itself.

Within one start epoch and sequence must grow. One stray chunk with a later epoch must not deafen the guard to the
policy that plans: the memory of what came last holds only as long as it is followed by more, and after a silence any
chunk from a later observation goes on. ``now`` is steady time [s].
"""

import math
from dataclasses import dataclass

from policy.chunk_checks import CheckedChunk

__all__ = ["ChunkOrder"]

REMEMBERED = 8  # starts of policies; more within seconds are noise


@dataclass
class _Session:
    heard: float  # steady time of the newest well-formed chunk [s]
    accepted: float = -math.inf  # of the newest accepted one
    last: tuple[int, int] = (-1, -1)  # its epoch and sequence
    stamp: float = -math.inf  # and when its observation was made, robot time [s]


class ChunkOrder:
    """What was heard of every policy.

    Args:
        silence_s: Without a chunk for this long a policy counts as silent [s].
    """

    def __init__(self, silence_s: float) -> None:
        self._silence_s = silence_s
        self._sessions: dict[int, _Session] = {}

    def hear(self, chunk: CheckedChunk, now: float) -> None:
        """Notes that a policy plans, whatever becomes of its chunk."""
        known = self._sessions.pop(chunk.session, None) or _Session(heard=now)
        known.heard = now
        self._sessions[chunk.session] = known  # newest last
        while len(self._sessions) > REMEMBERED:
            self._sessions.pop(next(iter(self._sessions)))

    def accept(self, chunk: CheckedChunk, now: float) -> None:
        """Notes a chunk that was ``heard`` and will be played."""
        known = self._sessions[chunk.session]
        known.accepted, known.last, known.stamp = now, (chunk.epoch, chunk.sequence), chunk.stamp

    def refusal(self, chunk: CheckedChunk, now: float) -> str:
        """Why a chunk comes too late, or ""."""
        known = self._sessions[chunk.session]
        if (chunk.epoch, chunk.sequence) > known.last:
            return ""
        if now - known.accepted > self._silence_s and chunk.stamp > known.stamp:
            return ""
        epoch, sequence = known.last
        return f"chunk {chunk.epoch}/{chunk.sequence} comes after {epoch}/{sequence}: out of order"

    def planning(self, now: float) -> tuple[int, ...]:
        """Starts of the policies that were heard of late, oldest first."""
        return tuple(sorted(s for s, known in self._sessions.items() if now - known.heard <= self._silence_s))

    def forget_stamps(self) -> None:
        """After a clock jump any observation is a later one."""
        for known in self._sessions.values():
            known.stamp = -math.inf
