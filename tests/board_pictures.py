"""Pictures of boards whose truth is known, by a homography: exact for a lens without distortion, and quick."""

import cv2
import numpy as np

from calibration.boards import Board
from wam.calibration_spec import LensSpec

PIXELS_PER_SQUARE = 60
MARGIN_SQUARES = 1.0
OVERSAMPLING = 3


def straight_lens(width: int = 640, height: int = 480, focal: float = 600.0) -> LensSpec:
    """A lens without distortion whose principal point is not in the middle."""
    return LensSpec(
        model="plumb_bob",
        width_px=width,
        height_px=height,
        focal_px=(focal, focal * 1.002),
        center_px=(width / 2 - 4.3, height / 2 + 3.1),
        distortion=(0.0,) * 5,
    )


def photograph(
    board: Board, lens: LensSpec, pose: np.ndarray, *, blur_px: float = 0.6, noise: float = 2.0, seed: int = 0
) -> np.ndarray:
    """Draws a board.

    Args:
        board: The board.
        lens: Without distortion.
        pose: (4, 4) ``T_camera_board``.
        blur_px: Sigma of a Gaussian blur.
        noise: Standard deviation of the grey levels.
        seed: Of the noise.

    Returns:
        (height, width, 3) rgb_hwc_u8.
    """
    drawn = board.picture(PIXELS_PER_SQUARE, margin_squares=MARGIN_SQUARES)
    side = board.square_m / PIXELS_PER_SQUARE
    first = 0.5 * side - MARGIN_SQUARES * board.square_m  # where the first pixel's centre is on the board
    on_board = np.array([[side, 0, first], [0, side, first], [0, 0, 1]])
    finer = np.array([[OVERSAMPLING, 0, (OVERSAMPLING - 1) / 2], [0, OVERSAMPLING, (OVERSAMPLING - 1) / 2], [0, 0, 1]])
    homography = finer @ lens.matrix @ pose[:3, [0, 1, 3]] @ on_board
    size = (OVERSAMPLING * lens.width_px, OVERSAMPLING * lens.height_px)
    large = cv2.warpPerspective(drawn, homography, size, flags=cv2.INTER_LINEAR, borderValue=(115.0,))
    image = cv2.resize(large, (lens.width_px, lens.height_px), interpolation=cv2.INTER_AREA).astype(np.float32)
    if blur_px > 0:
        image = cv2.GaussianBlur(image, (0, 0), blur_px)
    image = 20 + 0.84 * image + np.random.default_rng(seed).normal(0, noise, image.shape)
    return np.repeat(np.clip(image, 0, 255).astype(np.uint8)[..., None], 3, axis=2)


def tabletop(width: int = 640, height: int = 480, seed: int = 0) -> np.ndarray:
    """(height, width) uint8 of blots of many sizes and some things with edges: what a work table looks like."""
    rng = np.random.default_rng(seed)
    image = np.full((height, width), 128.0, dtype=np.float32)
    for sigma, strength in ((2, 300.0), (6, 700.0), (18, 1600.0)):
        image += cv2.GaussianBlur(rng.normal(0, 1, image.shape).astype(np.float32), (0, 0), sigma) * strength / 10
    for _ in range(60):
        x, y = rng.integers(0, (width, height))
        across, down = rng.integers(8, 60, 2)
        cv2.rectangle(image, (int(x), int(y)), (int(x + across), int(y + down)), float(rng.uniform(0, 255)), -1)
    return np.clip(image, 0, 255).astype(np.uint8)
