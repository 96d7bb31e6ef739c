"""Frames of several datasets behind one index.

Every frame stays in the memory-mapped file of its own dataset, so joining costs no memory and no disk.

Shape legend: M frames of all episodes, K cameras.
"""

from collections.abc import Sequence

import numpy as np

__all__ = ["JoinedFrames"]


class JoinedFrames:
    """Frames of several arrays behind one index, read by (B,) integer indices."""

    def __init__(self, parts: Sequence[np.ndarray]) -> None:
        self._parts = list(parts)
        self._ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def shape(self) -> tuple[int, ...]:
        """(M, K, height, width, 3)."""
        return (len(self), *self._parts[0].shape[1:])

    def __getitem__(self, frames: np.ndarray) -> np.ndarray:
        """Gathers (B,) frames: (B, K, height, width, 3) uint8."""
        frames = np.asarray(frames)
        owner = np.searchsorted(self._ends, frames, side="right")
        gathered = np.empty((len(frames), *self.shape[1:]), dtype=self._parts[0].dtype)
        for number in np.unique(owner):
            mine = owner == number
            first = self._ends[number] - len(self._parts[number])
            gathered[mine] = self._parts[number][frames[mine] - first]
        return gathered
