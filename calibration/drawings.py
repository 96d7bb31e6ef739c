"""Pictures for people: coverage, corners with their errors, an error map over the image, each an RGB array.

Colours mean the same everywhere: green is good, yellow doubtful, red bad or left out.
"""

from collections.abc import Sequence

import cv2
import numpy as np

from calibration.detection import Detection
from calibration.intrinsics import IntrinsicsResult, ViewResult
from calibration.view_selection import Coverage
from wam.lens import lens_parameters, pixel_directions, project_with_jacobians

__all__ = ["coverage_picture", "error_map", "overlay", "uncertainty_map", "worst_views"]

GOOD, DOUBT, BAD = (40, 170, 80), (230, 180, 40), (220, 60, 50)
_INK, _PAPER = (40, 44, 52), (250, 250, 248)
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_WIDTH = 640  # of every picture made here [px]


def coverage_picture(views: Sequence[Detection], coverage: Coverage) -> np.ndarray:
    """Draws where corners were seen, the outlines of the views and how far each goal is reached."""
    width, height = views[0].size_px if views else (640, 480)
    scale = _WIDTH / width
    canvas = _blank(_WIDTH, round(height * scale) + 74)
    picture_height = round(height * scale)
    rows, columns = coverage.cells.shape
    for row in range(rows):
        for column in range(columns):
            if coverage.cells[row, column]:
                continue
            corner = (round(column * _WIDTH / columns), round(row * picture_height / rows))
            end = (round((column + 1) * _WIDTH / columns), round((row + 1) * picture_height / rows))
            cv2.rectangle(canvas, corner, end, (252, 222, 218), -1)
    for view in views:
        hull = cv2.convexHull((view.pixels * scale).astype(np.float32)).astype(np.int32)
        cv2.polylines(canvas, [hull], True, (170, 190, 210), 1, cv2.LINE_AA)
        for x, y in (view.pixels * scale).round().astype(int):
            cv2.circle(canvas, (int(x), int(y)), 1, GOOD, -1, cv2.LINE_AA)
    cv2.rectangle(canvas, (0, 0), (_WIDTH - 1, picture_height - 1), _INK, 1)
    shares = {**coverage.shares, "filled": min(1.0, coverage.filled / 0.75)}
    for index, (name, share) in enumerate(shares.items()):
        left = 8 + index * (_WIDTH // len(shares))
        length = _WIDTH // len(shares) - 16
        top = picture_height + 34
        cv2.putText(canvas, f"{name} {100 * share:.0f} %", (left, top - 8), _FONT, 0.45, _INK, 1, cv2.LINE_AA)
        cv2.rectangle(canvas, (left, top), (left + length, top + 14), (225, 225, 225), -1)
        cv2.rectangle(canvas, (left, top), (left + round(length * share), top + 14), GOOD if share >= 1 else DOUBT, -1)
    return canvas


def overlay(image: np.ndarray, view: ViewResult, *, magnify: float = 0.0) -> np.ndarray:
    """Draws corners and their errors over a picture.

    Args:
        image: (height, width, 3) rgb_hwc_u8.
        view: What was found in it.
        magnify: Length of the error lines over the errors; chosen so that they are seen when 0.
    """
    scale = _WIDTH / image.shape[1]
    canvas = cv2.resize(image, (_WIDTH, round(image.shape[0] * scale)), interpolation=cv2.INTER_AREA)
    magnify = magnify or 12.0 / max(float(np.median(np.linalg.norm(view.residuals, axis=1))) * scale, 1e-3)
    for pixel, residual, good in zip(view.detection.pixels, view.residuals, view.inlier, strict=True):
        start = pixel * scale
        end = start + (residual * scale * magnify if good else residual * scale)
        colour = GOOD if good else BAD
        cv2.circle(canvas, _point(start), 4, colour, 1, cv2.LINE_AA)
        cv2.line(canvas, _point(start), _point(end), colour, 1, cv2.LINE_AA)
    label = f"{view.detection.source}  rms {view.rms_px:.2f} px, errors x {magnify:.0f}"
    cv2.putText(canvas, label, (8, canvas.shape[0] - 10), _FONT, 0.5, _PAPER, 3, cv2.LINE_AA)
    cv2.putText(canvas, label, (8, canvas.shape[0] - 10), _FONT, 0.5, _INK, 1, cv2.LINE_AA)
    return canvas


def error_map(result: IntrinsicsResult) -> np.ndarray:
    """Draws every corner's error where it was seen; a pattern in it means the lens model does not suit the lens."""
    lens = result.lens
    scale = _WIDTH / lens.width_px
    canvas = _blank(_WIDTH, round(lens.height_px * scale))
    longest = 3 * max(result.noise_px, 1e-3)
    for view in result.views:
        for pixel, residual, good in zip(view.detection.pixels, view.residuals, view.inlier, strict=True):
            if not good:
                cv2.drawMarker(canvas, _point(pixel * scale), BAD, cv2.MARKER_TILTED_CROSS, 6, 1, cv2.LINE_AA)
                continue
            size = float(np.linalg.norm(residual))
            colour = GOOD if size < longest * 0.66 else DOUBT
            cv2.line(
                canvas, _point(pixel * scale), _point(pixel * scale + 14 * residual / longest), colour, 1, cv2.LINE_AA
            )
    cv2.rectangle(canvas, (0, 0), (_WIDTH - 1, canvas.shape[0] - 1), _INK, 1)
    return canvas


def uncertainty_map(result: IntrinsicsResult) -> tuple[np.ndarray, float, float]:
    """How far a known ray's pixel is uncertain, over the image.

    Returns:
        The picture, and the median and the largest standard deviation [px].
    """
    lens = result.lens
    columns, rows = 48, round(48 * lens.height_px / lens.width_px)
    grid = np.stack(np.meshgrid(np.linspace(-1, 1, columns), np.linspace(-1, 1, rows)), axis=-1).reshape(-1, 2)
    pixels = (grid + 1) / 2 * [lens.width_px - 1, lens.height_px - 1]
    directions = pixel_directions(lens, pixels)
    _, _, by_lens = project_with_jacobians(lens.model, lens_parameters(lens), np.zeros(3), np.zeros(3), directions)
    blocks = by_lens.reshape(-1, 2, by_lens.shape[1])
    variance = np.einsum("nil,lm,nim->n", blocks, result.covariance, blocks)
    std = np.sqrt(np.maximum(variance, 0)).reshape(rows, columns)
    median, largest = float(np.median(std)), float(std.max())
    level = np.clip(255 * std / max(3 * median, 1e-9), 0, 255).astype(np.uint8)
    coloured = cv2.applyColorMap(level, cv2.COLORMAP_VIRIDIS)[..., ::-1]
    size = (_WIDTH, round(_WIDTH * lens.height_px / lens.width_px))
    return cv2.resize(coloured, size, interpolation=cv2.INTER_CUBIC), median, largest


def worst_views(views: Sequence[ViewResult], count: int) -> list[ViewResult]:
    """The first, the best and the worst views, without repeats, at most ``count``."""
    ordered = sorted(views, key=lambda view: view.rms_px)
    picked = [ordered[0], *reversed(ordered[-(count - 1) :])] if len(ordered) > 1 else list(ordered)
    return picked[:count]


def _blank(width: int, height: int) -> np.ndarray:
    return np.full((height, width, 3), _PAPER, dtype=np.uint8)


def _point(place: np.ndarray) -> tuple[int, int]:
    x, y = np.clip(np.nan_to_num(place), -1e4, 1e4)
    return round(float(x)), round(float(y))
