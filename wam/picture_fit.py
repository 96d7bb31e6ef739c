"""How a camera's picture becomes the model's, which has one size for all cameras and may have another aspect.

``crop`` keeps the middle and cuts off what is too wide or too high; ``pad`` keeps everything and fills up with black;
``stretch`` keeps everything and changes its proportions. A policy must see on the robot what it saw in training, so the
fit stands in the robot file and travels with checkpoints and bundles.
"""

import numpy as np

from wam.robot import FITS

__all__ = ["FITS", "fit_note", "fit_picture", "same_aspect"]

ASPECT_TOLERANCE = 0.01  # 848 x 480 passes for 16:9: at most a pixel on pictures of 100


def fit_picture(image: np.ndarray, size_px: tuple[int, int], fit: str) -> np.ndarray:
    """Brings a picture to a size; areas are averaged where it shrinks.

    Args:
        image: (height, width, 3) rgb_hwc_u8.
        size_px: (height, width) of the result.
        fit: One of ``FITS``.

    Returns:
        (height, width, 3) uint8.
    """
    if fit == "crop":
        height, width = _kept(image.shape[:2], size_px)
        top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
        return _resized(image[top : top + height, left : left + width], size_px)
    if fit == "pad":
        height, width = _filled(image.shape[:2], size_px)
        top, left = (size_px[0] - height) // 2, (size_px[1] - width) // 2
        padded = np.zeros((*size_px, 3), dtype=np.uint8)
        padded[top : top + height, left : left + width] = _resized(image, (height, width))
        return padded
    # Areas are averaged only where both sides shrink: the side that does goes first
    return _resized(_resized(image, (min(image.shape[0], size_px[0]), min(image.shape[1], size_px[1]))), size_px)


def fit_note(camera: str, found_px: tuple[int, int], size_px: tuple[int, int], fit: str) -> str:
    """Says what a fit does to the pictures of a camera; "" where the aspect is the model's.

    Args:
        camera: Its name.
        found_px: (height, width) of its pictures.
        size_px: (height, width) that the model sees.
        fit: One of ``FITS``.
    """
    (height, width), (kept_height, kept_width) = found_px, _kept(found_px, size_px)
    if max(height - kept_height, width - kept_width) <= 1:
        return ""
    said = f"camera '{camera}' gives {width}x{height} px and the model sees {size_px[1]}x{size_px[0]}: fit {fit}"
    if fit == "crop":
        cut, sides = (
            (width - kept_width, "left and right") if kept_width < width else (height - kept_height, "top and bottom")
        )
        others = "fit: pad or fit: stretch for it in the robot file keeps everything"
        return f"{said} cuts off {cut / 2:g} px of its pictures on each side, {sides} ({others})"
    if fit == "pad":
        inner = _filled(found_px, size_px)
        bar, sides = (
            (size_px[0] - inner[0], "top and bottom")
            if inner[0] < size_px[0]
            else (size_px[1] - inner[1], "left and right")
        )
        return f"{said} adds {bar / 2:g} black px of the model's on each side, {sides}"
    ratio = width * size_px[0] / (height * size_px[1])
    return (
        f"{said} makes things {max(ratio, 1 / ratio):.2f} times {'narrower' if ratio > 1 else 'flatter'} than they are"
    )


def same_aspect(one_px: tuple[int, int], other_px: tuple[int, int]) -> bool:
    """Whether two sizes, in the same order, show the same part of a scene but for rounding."""
    return abs(one_px[0] * other_px[1] / (one_px[1] * other_px[0]) - 1) <= ASPECT_TOLERANCE


def _kept(found_px: tuple[int, int], size_px: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of the largest part of a picture that has the aspect of a size."""
    height, width = found_px
    return min(height, round(width * size_px[0] / size_px[1])), min(width, round(height * size_px[1] / size_px[0]))


def _filled(found_px: tuple[int, int], size_px: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of a whole picture inside a size."""
    scale = min(size_px[0] / found_px[0], size_px[1] / found_px[1])
    return max(1, round(found_px[0] * scale)), max(1, round(found_px[1] * scale))


def _resized(image: np.ndarray, size_px: tuple[int, int]) -> np.ndarray:
    import cv2  # a robot file names a fit and needs none

    if image.shape[:2] == size_px:
        return np.ascontiguousarray(image)
    shrinks = image.shape[0] >= size_px[0]
    return cv2.resize(image, size_px[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
