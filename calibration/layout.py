"""Do the markers that are seen lie as the described ChArUco board says? If not, which board is it?

Each marker's four corners give a local map from picture to board, which predicts where the neighbouring markers are.
That needs no lens model and no fit over the whole board, so it works through a fisheye lens as well.
"""

from functools import lru_cache

import numpy as np
from cv2 import getPerspectiveTransform

from calibration.boards import Board

__all__ = ["layout_problem"]

_NEAR = 2.3  # markers closer than this are compared [squares]
_AGREE = 0.35  # a neighbour lies where it is expected, within this [squares]
_MIN_SHARE = 0.7  # of the compared pairs that must agree
_MAX_RATIO_ERROR = 0.15  # of square to marker size; blur makes markers look up to 10 % smaller
_CANDIDATES = range(3, 31)  # columns that are tried when the described ones do not fit


def layout_problem(board: Board, ids: np.ndarray, markers: np.ndarray) -> str:
    """Compares detected markers with a board.

    Args:
        board: The ChArUco board they should belong to.
        ids: (M,) marker numbers.
        markers: (M, 4, 2) corners in the picture [px].

    Returns:
        What is wrong, or "" when they agree or are too few to tell.
    """
    share, ratio, pairs = _agreement(board.columns, _starts_white(board), ids, markers)
    if pairs < 3:
        return ""
    if share < _MIN_SHARE:
        return _other_layout(board, ids, markers)
    extra = ids[ids >= board.columns * board.rows // 2]
    if len(extra) > 2:
        return (
            f"the board has more rows than described: its markers go up to number {extra.max()}, but {board} has "
            f"{board.columns * board.rows // 2} of them; describe the board that is there"
        )
    expected = board.square_m / board.marker_m
    if abs(ratio / expected - 1) > _MAX_RATIO_ERROR:
        return (
            f"markers are {100 / ratio:.0f} % of a square in the picture but {100 / expected:.0f} % in {board}: "
            "measure squares and markers of the printed board and describe those"
        )
    return ""


def _other_layout(board: Board, ids: np.ndarray, markers: np.ndarray) -> str:
    tried = [(columns, white) for columns in _CANDIDATES for white in (False, True)]
    scored = [(_agreement(columns, white, ids, markers)[0], columns, white) for columns, white in tried]
    best = max(scored, key=lambda entry: (entry[0], entry[1] == board.columns))
    if best[0] < _MIN_SHARE:
        return f"the markers do not lie as on {board}, or on any board with this kind of layout"
    if best[1] == board.columns:
        return (
            f"the markers lie as on the {'legacy' if best[2] else 'present'} pattern of OpenCV: describe the board "
            + ("with '-legacy' at the end" if best[2] else "without '-legacy'")
        )
    return (
        f"the board in the picture has {best[1]} columns of squares but {board} has {board.columns}: describe the "
        "board that is there"
    )


def _starts_white(board: Board) -> bool:
    return board.legacy and board.rows % 2 == 0


@lru_cache(maxsize=128)
def _centers(columns: int, starts_white: bool, count: int) -> np.ndarray:
    """(count, 2) centres of the markers in squares: one in each white square, row by row."""
    rows = 2 * count // columns + 3
    white = [
        (column + 0.5, row + 0.5)
        for row in range(rows)
        for column in range(columns)
        if (row + column) % 2 == (0 if starts_white else 1)
    ]
    return np.array(white[:count])


def _agreement(columns: int, starts_white: bool, ids: np.ndarray, markers: np.ndarray) -> tuple[float, float, int]:
    """Share of neighbouring pairs that agree, measured square-to-marker ratio, number of pairs."""
    places = _centers(columns, starts_white, int(ids.max()) + 1)[ids]  # (M, 2)
    offsets = places[None] - places[:, None]  # (M, M, 2), from first to second
    distance = np.linalg.norm(offsets, axis=-1)
    first, second = np.nonzero((distance > 0) & (distance < _NEAR))
    if len(first) == 0:
        return 0.0, 1.0, 0
    seen = np.array([_seen_from(markers[a], markers[b].mean(axis=0)) for a, b in zip(first, second, strict=True)])
    wanted = offsets[first, second]
    ratio = float(np.median(np.linalg.norm(seen, axis=1) / np.linalg.norm(wanted, axis=1)))
    good = np.linalg.norm(seen / max(ratio, 1e-6) - wanted, axis=1) < _AGREE * np.linalg.norm(wanted, axis=1)
    return float(good.mean()), ratio, len(first)


def _seen_from(marker: np.ndarray, point: np.ndarray) -> np.ndarray:
    """A pixel in the frame of one marker: origin at its centre, unit its side."""
    unit = np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]], dtype=np.float32)
    x, y, w = getPerspectiveTransform(marker.astype(np.float32), unit) @ np.append(point, 1.0)
    return np.array([x, y]) / w
