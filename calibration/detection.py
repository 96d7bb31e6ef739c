"""Finds a board in a picture: inner corners to a few hundredths of a pixel, how blurred it is, and what is wrong.

Pixel (0, 0) is the centre of the first pixel. OpenCV's ChArUco detector (4.13) counts from the pixel's corner instead,
half a pixel further, so corners are refined here; a test holds the bias below 0.03 px.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import cv2
import numpy as np

from calibration.boards import Board
from calibration.errors import CalibrationError
from calibration.layout import layout_problem
from calibration.unseen_markers import why_unseen

__all__ = ["Detection", "check_detections", "detect", "good_detections", "gray"]

MIN_CORNERS = 6  # fewer do not fix a pose well enough to notice a bad one
_NO_SECOND_MAP = np.zeros(0, dtype=np.float32)  # cv2.remap takes (x, y) pairs as its first map then
_EDGE_SAMPLES = 5  # profiles averaged per edge
_BLUR_PER_WIDTH = 1 / np.sqrt(2 * np.pi)  # a step blurred by a Gaussian has slope contrast / (sigma sqrt(2 pi))


@dataclass(frozen=True, kw_only=True)
class Detection:
    """A board seen in one picture."""

    ids: np.ndarray  # (N,) int, which of the board's points
    pixels: np.ndarray  # (N, 2) float64 where they are [px]
    size_px: tuple[int, int]  # width and height of the picture
    source: str = ""  # file, or number of the frame
    blur_px: float = 0.0  # Gaussian sigma of the board's edges [px]
    problem: str = field(default="")  # why it cannot be used; "" when it can

    def __len__(self) -> int:
        return len(self.ids)


def gray(image: np.ndarray) -> np.ndarray:
    """Returns (height, width) uint8 from a grey or rgb_hwc_u8 picture."""
    if image.ndim == 3:
        return cv2.cvtColor(np.ascontiguousarray(image[..., :3]), cv2.COLOR_RGB2GRAY)
    return np.ascontiguousarray(image)


def detect(board: Board, image: np.ndarray, source: str = "", *, thorough: bool = True) -> Detection:
    """Looks for a board.

    Args:
        board: What to look for.
        image: (height, width[, 3]) uint8.
        source: Name of the picture, for messages.
        thorough: Spends more time on a chessboard that is not found at once, and says why nothing was found.

    Returns:
        The detection; its ``problem`` says why there are no corners, or why they cannot be trusted.
    """
    picture = gray(image)
    size = (picture.shape[1], picture.shape[0])
    finder = _find_charuco if board.kind == "charuco" else _find_chessboard
    ids, pixels, problem = finder(board, picture, thorough)
    if not problem and len(ids) < MIN_CORNERS:
        problem = f"only {len(ids)} corners are visible; at least {MIN_CORNERS} are needed"
    if not problem and np.linalg.matrix_rank(board.points[ids, :2] - board.points[ids[0], :2], tol=1e-6) < 2:
        problem = "all visible corners lie on one line"
    blur = 0.0 if problem else _blur(board, picture, ids, pixels)
    return Detection(ids=ids, pixels=pixels, size_px=size, source=source, blur_px=blur, problem=problem)


def good_detections(detections: Sequence[Detection]) -> list[Detection]:
    """Those without a problem."""
    return [detection for detection in detections if not detection.problem]


def check_detections(board: Board, detections: Sequence[Detection], *, needed: int) -> list[Detection]:
    """Returns the usable detections, or says what is wrong with the pictures as a whole.

    Raises:
        CalibrationError: Pictures of several sizes, a board of another size, a mirrored board, or too few pictures.
    """
    sizes = Counter(detection.size_px for detection in detections)
    if len(sizes) > 1:
        listing = ", ".join(f"{width} x {height} ({count})" for (width, height), count in sizes.most_common())
        raise CalibrationError(
            f"the pictures have {len(sizes)} different sizes: {listing}. Intrinsics hold for one size only: take all "
            "pictures with one setting of the camera, or leave the others out."
        )
    good = good_detections(detections)
    if len(good) < needed:
        reasons = Counter(detection.problem for detection in detections if detection.problem).most_common(3)
        listing = "; ".join(f"{count} x {reason}" for reason, count in reasons)
        if not detections:
            listing = "no pictures were given"
        raise CalibrationError(
            f"the board {board} was found in {len(good)} of {len(detections)} pictures but {needed} are needed"
            f"{': ' if listing else ''}{listing}. Take more pictures of the whole board, well lit and still."
        )
    return good


def _find_charuco(board: Board, picture: np.ndarray, thorough: bool) -> tuple[np.ndarray, np.ndarray, str]:
    detector = cv2.aruco.CharucoDetector(board.charuco)
    corners, ids, marker_corners, marker_ids = detector.detectBoard(picture)
    if marker_ids is None or len(marker_ids) == 0:
        return *_nothing(), (why_unseen(board, picture) if thorough else "") or "no marker of the board is visible"
    markers = np.array(marker_corners, dtype=float).reshape(-1, 4, 2)
    problem = layout_problem(board, np.array(marker_ids).ravel(), markers)
    if problem:
        return *_nothing(), (why_unseen(board, picture, seen=len(markers)) if thorough else "") or problem
    if ids is None or len(ids) == 0:
        return *_nothing(), _without_corners(board, picture, len(markers)) if thorough else _NO_CORNERS
    found = np.array(ids).ravel()
    # The window stays clear of the markers, which begin (square - marker) / 2 from the corner.
    window = 0.13 * _square_px(board, found, corners)
    pixels = _refine(picture, np.array(corners, dtype=float).reshape(-1, 2) - 0.5, window)
    inside = ((pixels > 1) & (pixels < np.array(picture.shape[::-1]) - 2)).all(axis=1)
    return found[inside], pixels[inside], ""


_NO_CORNERS = "markers are visible but no corner between them"


def _without_corners(board: Board, picture: np.ndarray, markers: int) -> str:
    reason = why_unseen(board, picture, seen=markers)
    if reason:
        return reason
    other = replace(board, legacy=not board.legacy)
    ids = cv2.aruco.CharucoDetector(other.charuco).detectBoard(picture)[1]
    if ids is not None and len(ids) >= MIN_CORNERS:
        return f"the board has the other of OpenCV's two ChArUco patterns: describe it as {other}"
    return _NO_CORNERS


def _nothing() -> tuple[np.ndarray, np.ndarray]:
    return np.zeros(0, dtype=int), np.zeros((0, 2))


def _find_chessboard(board: Board, picture: np.ndarray, thorough: bool) -> tuple[np.ndarray, np.ndarray, str]:
    flags = cv2.CALIB_CB_ACCURACY | cv2.CALIB_CB_NORMALIZE_IMAGE
    found, corners = cv2.findChessboardCornersSB(picture, board.inner, flags=flags)
    if not found and thorough:
        found, corners = cv2.findChessboardCornersSB(picture, board.inner, flags=flags | cv2.CALIB_CB_EXHAUSTIVE)
    if not found:
        return *_nothing(), _other_chessboard(board, picture) if thorough else "no chessboard of that size is visible"
    ids = np.arange(len(board.points))
    pixels = _from_black_corner(board, picture, np.array(corners, dtype=float).reshape(-1, 2))
    return ids, _refine(picture, pixels, 0.25 * _square_px(board, ids, pixels)), ""


def _from_black_corner(board: Board, picture: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Puts the corners in the board's order: right-handed, beginning at the black square."""
    across, down = board.inner
    grid: np.ndarray = pixels.reshape(down, across, 2)
    right, below = grid[0, -1] - grid[0, 0], grid[-1, 0] - grid[0, 0]
    if right[0] * below[1] - right[1] * below[0] < 0:
        grid = grid[:, ::-1]
    # Centres of the squares inside the corners; square (1, 1) of the board is as black as its top-left one.
    centers = (grid[:-1, :-1] + grid[1:, 1:]) / 2
    levels = cv2.remap(picture, centers.astype(np.float32), _NO_SECOND_MAP, cv2.INTER_LINEAR).astype(float)
    even = np.add.outer(np.arange(down - 1), np.arange(across - 1)) % 2 == 0
    starts_black = levels[even].mean() < levels[~even].mean()
    if not starts_black:
        grid = grid[::-1, ::-1]
    return grid.reshape(-1, 2)


def _other_chessboard(board: Board, picture: np.ndarray) -> str:
    flags = cv2.CALIB_CB_LARGER | cv2.CALIB_CB_NORMALIZE_IMAGE
    found, _, meta = cv2.findChessboardCornersSBWithMeta(picture, (3, 3), flags=flags)
    size = sorted(count + 1 for count in meta.shape) if found else []
    if not size or size == sorted((board.columns, board.rows)):
        return "no chessboard is visible as a whole"
    return (
        f"a chessboard of {size[1]} x {size[0]} squares is visible where {board.columns} x {board.rows} are expected; "
        "count squares, not inner corners, and describe the board that is there"
    )


def _square_px(board: Board, ids: np.ndarray, corners: np.ndarray) -> float:
    """Side of the smallest neighbouring square in the picture [px]."""
    points = np.array(corners, dtype=float).reshape(-1, 2)
    sides = [np.linalg.norm(points[a] - points[b]) for a, b in _neighbours(board, ids)]
    return float(np.percentile(sides, 10)) if sides else 10.0


def _neighbours(board: Board, ids: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of indices into ``ids`` that are next to each other on the board; right before below."""
    place = {int(number): index for index, number in enumerate(ids)}
    across = board.inner[0]
    right = [(place[n], place[n + 1]) for n in place if (n + 1) % across and n + 1 in place]
    below = [(place[n], place[n + across]) for n in place if n + across in place]
    return right + below


def _refine(picture: np.ndarray, pixels: np.ndarray, window: float) -> np.ndarray:
    half = int(np.clip(round(window), 2, 10))
    criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 40, 1e-3)
    start = pixels.astype(np.float32).reshape(-1, 1, 2)
    return cv2.cornerSubPix(picture, start, (half, half), (-1, -1), criteria).reshape(-1, 2).astype(float)


def _blur(board: Board, picture: np.ndarray, ids: np.ndarray, pixels: np.ndarray) -> float:
    """Gaussian sigma [px] of the edges between neighbouring corners, the worse of the two edge directions."""
    pairs = np.array(_neighbours(board, ids), dtype=int)
    if len(pairs) < 2:
        return 0.0
    first, second = pixels[pairs[:, 0]], pixels[pairs[:, 1]]
    along = second - first
    length = np.linalg.norm(along, axis=1)
    across = np.stack([-along[:, 1], along[:, 0]], axis=1) / length[:, None]
    reach = np.clip((0.12 if board.kind == "charuco" else 0.4) * length, 1.5, 8.0)
    places = first[:, None] + np.linspace(0.3, 0.7, _EDGE_SAMPLES)[None, :, None] * along[:, None]  # (E, S, 2)
    offsets = np.linspace(-1, 1, 17)[None, :] * reach[:, None]  # (E, 17)
    grid = places[:, :, None] + offsets[:, None, :, None] * across[:, None, None]  # (E, S, 17, 2)
    flat = grid.reshape(len(pairs) * _EDGE_SAMPLES, 17, 2).astype(np.float32)
    values = cv2.remap(
        picture.astype(np.float32), flat, _NO_SECOND_MAP, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    profile = values.reshape(len(pairs), _EDGE_SAMPLES, 17).mean(axis=1)
    slope = np.abs(np.diff(profile, axis=1)).max(axis=1) / (reach / 8)  # [grey levels per px]
    low, high = np.percentile(profile, 10), np.percentile(profile, 90)
    sigma = _BLUR_PER_WIDTH * (high - low) / np.maximum(slope, 1e-3)
    rightwards = pairs[:, 1] - pairs[:, 0] == 1
    groups = [sigma[mask] for mask in (rightwards, ~rightwards) if mask.any()]
    return float(max(np.median(group) for group in groups))
