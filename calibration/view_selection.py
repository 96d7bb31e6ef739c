"""Which pictures of a board to calibrate with: sharp ones, no two alike, spread over place, size and slant.

People see coverage as (x, y, size, skew), known from ROS's camera_calibration. Views are taken greedily, each time the
one whose board corners lie furthest from those of every view taken; what remains close to one is a duplicate.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from calibration.boards import Board
from calibration.detection import Detection

__all__ = ["GOALS", "Coverage", "Selection", "blurred", "coverage", "select_views", "view_features"]

# How much of each feature a good set spans: x and y of the board's middle, its size and its skew, each in [0, 1].
GOALS = {"x": 0.6, "y": 0.6, "size": 0.35, "skew": 0.4}
DUPLICATE = 0.015  # mean shift of the board's corners, in picture diagonals, below which a view adds nothing
_BLUR_FACTOR = 2.2  # times the median of all views
_BLUR_FLOOR_PX = 1.6  # below this sigma corners are found as well as in a sharp picture
_SKEW_FULL = 0.5  # ratio of opposite sides, as a logarithm, that counts as full skew
_GRID = (8, 6)  # cells across and down in which corners are counted


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """How well a set of views spans what a calibration needs."""

    spans: dict[str, tuple[float, float]]  # feature -> lowest and highest value
    cells: np.ndarray  # (6, 8) int, corners in each cell of the picture

    @property
    def shares(self) -> dict[str, float]:
        """Feature -> share of its goal that is reached, in [0, 1]."""
        return {name: min(1.0, (high - low) / GOALS[name]) for name, (low, high) in self.spans.items()}

    @property
    def filled(self) -> float:
        """Share of the picture's cells that hold a corner."""
        return float((self.cells > 0).mean())

    def advice(self) -> list[str]:
        """What to do next, in words; empty when every goal is reached."""
        words = {
            "x": "move the board to the left and right edge of the picture",
            "y": "move the board to the upper and lower edge of the picture",
            "size": "hold the board once so close that it fills the picture, and once far away",
            "skew": "tilt the board by 30 to 50 degrees, to all four sides",
        }
        advice = [words[name] for name, share in self.shares.items() if share < 1]
        if self.filled < 0.75:
            advice.append("bring the board into the empty parts of the picture, most of all its corners")
        return advice


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which views to use."""

    chosen: tuple[int, ...]  # in order of choice
    rejected: dict[int, str]  # index -> why not


def view_features(board: Board, view: Detection) -> np.ndarray:
    """Returns x, y, size and skew of a view, each in [0, 1].

    x and y run over what the board's middle can reach, so that a large board can still go from 0 to 1.
    """
    width, height = view.size_px
    outline = _outline(board, view)
    area = abs(cv2.contourArea(outline.astype(np.float32)))
    size = float(np.clip(np.sqrt(area / (width * height)), 0.0, 1.0))
    middle = outline.mean(axis=0)
    border = size * np.array([width, height]) / 2
    place = (middle - border) / np.maximum([width, height] - 2 * border, 1.0)
    sides = np.linalg.norm(np.roll(outline, -1, axis=0) - outline, axis=1)
    # Perspective makes opposite sides unequal, foreshortening changes the aspect ratio: both show slant.
    unequal = [abs(np.log(max(sides[i], 1e-6) / max(sides[i + 2], 1e-6))) for i in (0, 1)]
    aspect = np.log(max(sides[0] + sides[2], 1e-6) / max(sides[1] + sides[3], 1e-6))
    expected = np.log((board.inner[0] - 1) / (board.inner[1] - 1))
    skew = min(1.0, max(*unequal, abs(aspect - expected)) / _SKEW_FULL)
    return np.array([*np.clip(place, 0, 1), size, skew])


def coverage(board: Board, views: Sequence[Detection]) -> Coverage:
    """Measures a set of views."""
    features = np.array([view_features(board, view) for view in views]).reshape(-1, 4)
    spans = {
        name: (float(features[:, i].min()), float(features[:, i].max())) if len(features) else (0.0, 0.0)
        for i, name in enumerate(GOALS)
    }
    cells = np.zeros((_GRID[1], _GRID[0]), dtype=int)
    for view in views:
        places = (view.pixels / view.size_px * _GRID).astype(int)
        places = np.clip(places, 0, np.array(_GRID) - 1)
        np.add.at(cells, (places[:, 1], places[:, 0]), 1)
    return Coverage(spans=spans, cells=cells)


def select_views(board: Board, views: Sequence[Detection], *, limit: int = 60) -> Selection:
    """Chooses views.

    Args:
        board: The board.
        views: Views without problems.
        limit: Upper bound on how many are chosen; more cost time and gain little.
    """
    rejected = blurred(views)
    left = [index for index in range(len(views)) if index not in rejected]
    outlines = np.array([_outline(board, view) / np.hypot(*view.size_px) for view in views]).reshape(-1, 4, 2)
    chosen: list[int] = []
    nearest: np.ndarray = np.full(len(views), np.inf)  # distance to the nearest chosen view
    owner: np.ndarray = np.zeros(len(views), dtype=int)
    while left and len(chosen) < limit:
        best = max(left, key=lambda index: (nearest[index], len(views[index])))
        if nearest[best] < DUPLICATE:
            break
        chosen.append(best)
        left.remove(best)
        distance = np.linalg.norm(outlines - outlines[best], axis=2).mean(axis=1)
        owner = np.where(distance < nearest, best, owner)
        nearest = np.minimum(nearest, distance)
    for index in left:
        twin = views[owner[index]].source or str(owner[index])
        rejected[index] = f"the same view as {twin}" if nearest[index] < DUPLICATE else "enough views already"
    return Selection(chosen=tuple(chosen), rejected=rejected)


def blurred(views: Sequence[Detection]) -> dict[int, str]:
    """Views that are much more blurred than the others, with the reason."""
    if not views:
        return {}
    bound = max(_BLUR_FLOOR_PX, _BLUR_FACTOR * float(np.median([view.blur_px for view in views])))
    return {
        index: f"blurred: edges are {view.blur_px:.1f} px wide (sigma), the others allow {bound:.1f} px"
        for index, view in enumerate(views)
        if view.blur_px > bound
    }


def _outline(board: Board, view: Detection) -> np.ndarray:
    """(4, 2) where the board's outer inner corners are, extrapolated when some of them are hidden."""
    across, down = board.inner
    ids = [0, across - 1, across * down - 1, across * (down - 1)]
    place = {int(number): index for index, number in enumerate(view.ids)}
    if all(number in place for number in ids):
        return view.pixels[[place[number] for number in ids]]
    plane = board.points[:, :2].astype(np.float32)
    homography, _ = cv2.findHomography(plane[view.ids], view.pixels.astype(np.float32))
    if homography is None:
        low, high = view.pixels.min(axis=0), view.pixels.max(axis=0)
        return np.array([low, [high[0], low[1]], high, [low[0], high[1]]])
    return cv2.perspectiveTransform(plane[ids].reshape(-1, 1, 2), homography).reshape(-1, 2).astype(float)
