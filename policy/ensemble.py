"""Temporal ensembling: what is commanded at an instant is the mean of all chunks that planned for it.

The weight of a chunk is exp(-m i), i = 0 for the oldest, so that early plans are kept and new ones blend in.
Source: Zhao et al., "Learning fine-grained bimanual manipulation with low-cost hardware" (arXiv 2304.13705).

Shape legend: H chunk length, A action width.
"""

import dataclasses

import numpy as np

from wam.spec import ActionChunk

__all__ = ["Ensemble"]

DECAY = 0.01  # m of the paper


class Ensemble:
    """Remembers the newest chunks and averages them."""

    def __init__(self, *, decay: float = DECAY) -> None:
        self._decay = decay
        self._chunks: list[ActionChunk] = []  # oldest first, as they were predicted

    def clear(self) -> None:
        """Forgets every chunk."""
        self._chunks.clear()

    def add(self, chunk: ActionChunk) -> ActionChunk:
        """Returns the newest chunk averaged with those before it.

        Args:
            chunk: Newer than all before.

        Returns:
            A chunk with the same stamp, anchor and length.
        """
        over = chunk.stamp - 1e-3 * chunk.control_dt
        self._chunks = [old for old in self._chunks if old.stamp + (len(old.actions) - 1) * old.control_dt >= over]
        self._chunks.append(chunk)
        total, weight = np.zeros(chunk.actions.shape), np.zeros((len(chunk.actions), 1))
        times = chunk.stamp + np.arange(len(chunk.actions)) * chunk.control_dt  # (H,)
        counts = np.zeros((len(chunk.actions), 1))  # i: how many older chunks planned for the instant
        for old in self._chunks:
            values, covers = _at(old, times)
            share = np.exp(-self._decay * counts) * covers
            total += share * values
            weight += share
            counts += covers
        return dataclasses.replace(chunk, actions=(total / weight).astype(np.float32))


def _at(chunk: ActionChunk, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns a chunk's (H, A) actions at instants, and (H, 1) whether it planned for them at all."""
    place = (times - chunk.stamp) / chunk.control_dt
    last = len(chunk.actions) - 1
    inside = np.clip(place, 0, last)
    before = np.floor(inside + 1e-6).astype(int)
    after, share = np.minimum(before + 1, last), np.clip(inside - before, 0, 1)[:, None]
    values = (1 - share) * chunk.actions[before] + share * chunk.actions[after]
    return values, ((place > -1e-3) & (place < last + 1e-3))[:, None].astype(float)
