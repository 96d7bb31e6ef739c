"""A box for the tool: motion may not end outside of it.

Shape legend: A axes.
"""

from collections.abc import Callable

import numpy as np

__all__ = ["Workspace"]


class Workspace:
    """Says whether the arm could still stop inside the box.

    Args:
        box: ((x, x), (y, y), (z, z)) lowest and highest tool position in the base frame [m].
        forward_kinematics: (A,) positions -> (3,) tool position in the base frame [m].
    """

    def __init__(
        self, box: tuple[tuple[float, float], ...], forward_kinematics: Callable[[np.ndarray], np.ndarray]
    ) -> None:
        self._low, self._high = np.array(box, dtype=np.float64).T  # (3,), (3,)
        self._tool = forward_kinematics

    def outside(self, positions: np.ndarray) -> float:
        """Returns how far outside the box the tool is at (A,) positions [m]; 0 inside."""
        tool = np.asarray(self._tool(positions), dtype=np.float64)
        return float(np.linalg.norm(tool - np.clip(tool, self._low, self._high)))

    def allows(self, braking_end: np.ndarray, position: np.ndarray) -> bool:
        """Whether a motion may go on: it would stop inside, or nearer to the box than the arm is now.

        Args:
            braking_end: (A,) where braking from the planned motion ends.
            position: (A,) commanded now.
        """
        after = self.outside(braking_end)
        return after == 0.0 or after < self.outside(position)
