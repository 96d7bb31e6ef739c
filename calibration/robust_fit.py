"""Robust fit of a lens and the board poses of all views: corners that disagree are found and left out for good.

They are found with a Cauchy weighting, whose scale follows the corners that agree; the rest is a plain least-squares
fit, so clean data give what OpenCV's ``calibrateCamera`` gives. Views that stay bad are left out as a whole.

Shape legend: V views, N corners of a view, L lens parameters.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from calibration.board_views import only, plausible_corners
from calibration.boards import Board
from calibration.bundle import Adjustment, adjust, board_pose, board_poses
from calibration.detection import Detection
from calibration.errors import CalibrationError
from wam.calibration_spec import DISTORTION_LENGTHS
from wam.lens import FISHEYE, lens_from_parameters

__all__ = ["MIN_VIEWS", "REJECT", "RobustFit", "reweighted", "rms", "robust_fit", "robust_sigma"]

MIN_VIEWS = 6  # three fix the equations; six leave something to judge them by
REJECT = 4.75  # sigmas beyond which a corner is a bad detection: 1 in 80 000 good ones
_BAD_VIEW = 3.0  # times the median error of the views
_RAYLEIGH_MEDIAN = 1.1774  # median distance over sigma of a two-dimensional Gaussian


@dataclass(frozen=True, kw_only=True)
class RobustFit:
    """A lens model fitted to views."""

    model: str  # ROS's name
    fit: Adjustment  # of the views that stayed
    views: tuple[Detection, ...]  # V that stayed
    inliers: tuple[np.ndarray, ...]  # V times (N,) bool, corners that took part
    rejected: tuple[tuple[str, str], ...]  # picture and why it was not used
    left_out: tuple[Detection, ...]  # the views that were not used

    @property
    def residuals(self) -> np.ndarray:
        """(M, 2) of the corners that took part, seen minus predicted [px]."""
        pairs = zip(self.fit.residuals, self.inliers, strict=True)
        return np.concatenate([residual[mask] for residual, mask in pairs])

    @property
    def sigma(self) -> float:
        """Standard deviation of one coordinate of a corner [px]."""
        used = self.residuals
        freedom = max(used.size - len(self.fit.parameters) - 6 * len(self.inliers), 1)
        return float(np.sqrt((used**2).sum() / freedom))


def robust_fit(board: Board, views: Sequence[Detection], model: str, start: Adjustment | None = None) -> RobustFit:
    """Fits a lens.

    Args:
        board: The board in the views.
        views: At least ``MIN_VIEWS`` views without problems.
        model: The lens model, ROS's name.
        start: Lens and poses of these views to start from; found anew when None.

    Raises:
        CalibrationError: No lens of this model explains the views at all.
    """
    views, left_out, given = list(views), list[Detection](), start
    if start is None:
        plausible = [plausible_corners(board, view) for view in views]
        fit = reweighted(board, views, model, _start(board, views, plausible, model))
        start = _posed_again(board, views, plausible, model, fit)
    fit = reweighted(board, views, model, start, rounds=6 if given is None else 2)
    rejected: list[tuple[str, str]] = []
    while True:
        fit, inliers = _without_outliers(board, views, model, fit)
        kept = list(zip(fit.residuals, inliers, strict=True))
        errors = np.array([rms(residual[mask]) if mask.sum() >= 4 else np.inf for residual, mask in kept])
        few = np.array([mask.mean() < 0.5 for mask in inliers])
        bad = (errors > _BAD_VIEW * np.median(errors)) | few
        if not bad.any() or (~bad).sum() < MIN_VIEWS:
            return RobustFit(
                model=model,
                fit=fit,
                views=tuple(views),
                inliers=tuple(inliers),
                rejected=tuple(rejected),
                left_out=tuple(left_out),
            )
        for index in np.flatnonzero(bad):
            reason = "most of its corners disagree with the other views" if few[index] else "its corners fit badly"
            rejected.append((views[index].source, reason))
            left_out.append(views[index])
        keep = np.flatnonzero(~bad)
        views = [views[i] for i in keep]
        fit = replace(fit, poses=fit.poses[keep], residuals=tuple(fit.residuals[i] for i in keep))
        fit = reweighted(board, views, model, fit)


def robust_sigma(distances: np.ndarray) -> float:
    """Sigma of a two-dimensional Gaussian from the median of distances, which bad ones hardly move."""
    return float(np.median(distances)) / _RAYLEIGH_MEDIAN


def rms(residuals: np.ndarray) -> float:
    """Root mean square length of (N, 2) residuals [px]; NaN without any."""
    return float(np.sqrt((residuals**2).sum(axis=1).mean())) if len(residuals) else float("nan")


def _posed_again(
    board: Board, views: Sequence[Detection], plausible: Sequence[np.ndarray], model: str, fit: Adjustment
) -> Adjustment:
    """Views that fit badly get a new pose with the lens found so far: the first may have been the mirror solution."""
    poses = fit.poses.copy()
    lens = lens_from_parameters(model, fit.parameters, views[0].size_px)
    medians = [float(np.median(np.linalg.norm(residual, axis=1))) for residual in fit.residuals]
    for index in np.flatnonzero(np.array(medians) > 1.5 * np.median(medians)):
        candidates = board_pose(board, only(views[index], plausible[index]), lens)[:2]
        fits = [adjust(board, [views[index]], model, fit.parameters, pose[None], steps=0) for pose in candidates]
        errors = [float(np.median(np.linalg.norm(trial.residuals[0], axis=1))) for trial in fits]
        if min(errors) < medians[index]:
            poses[index] = candidates[int(np.argmin(errors))]
    return adjust(board, views, model, fit.parameters, poses, steps=0)


def _start(board: Board, views: Sequence[Detection], inliers: Sequence[np.ndarray], model: str) -> Adjustment:
    """A first fit to the plausible corners."""
    plausible = [only(view, mask) for view, mask in zip(views, inliers, strict=True)]
    size = views[0].size_px
    best: Adjustment | None = None
    for guess in _first_lenses(board, plausible, model):
        lens = lens_from_parameters(model, guess, size)
        try:
            fit = adjust(board, plausible, model, guess, board_poses(board, plausible, lens), steps=30)
        except cv2.error:  # a guess so wrong that no pose exists
            continue
        if best is None or _cost(fit) < _cost(best):
            best = fit
    if best is None or not np.isfinite(_cost(best)):
        raise CalibrationError(
            "no lens explains these pictures: check that they show the board that was described, that it is flat, and "
            "that the lens model suits the camera."
        )
    weights = [np.ones(len(view)) for view in views]
    return adjust(board, views, model, best.parameters, best.poses, weights, steps=0)


def _first_lenses(board: Board, views: Sequence[Detection], model: str) -> list[np.ndarray]:
    width, height = views[0].size_px
    rest = np.zeros(DISTORTION_LENGTHS[model])
    center = [(width - 1) / 2, (height - 1) / 2]
    if model == FISHEYE:
        # Half the picture's width lies at focal * angle: fields of view from 80 to 200 degrees across.
        focals = [width / np.radians(angle) for angle in (80, 120, 160, 200)]
        return [np.array([focal, focal, *center, *rest]) for focal in focals]
    points = [board.points[view.ids].astype(np.float32) for view in views]
    pixels = [view.pixels.astype(np.float32) for view in views]
    matrix = cv2.initCameraMatrix2D(points, pixels, (width, height))
    guesses = [float(matrix[0, 0])] if np.isfinite(matrix).all() and 0.2 * width < matrix[0, 0] < 10 * width else []
    return [np.array([focal, focal, *center, *rest]) for focal in [*guesses, 0.8 * width, 1.5 * width]]


def reweighted(board: Board, views: Sequence[Detection], model: str, fit: Adjustment, rounds: int = 6) -> Adjustment:
    """Goes on from a fit with corners that disagree weighted down, by the scale of those that agree."""
    for _ in range(rounds):
        distances = [np.linalg.norm(residual, axis=1) for residual in fit.residuals]
        scale = 2.5 * max(robust_sigma(np.concatenate(distances)), 1e-3)
        weights = [1 / (1 + (distance / scale) ** 2) for distance in distances]
        fit = adjust(board, views, model, fit.parameters, fit.poses, weights, steps=8)
    return fit


def _without_outliers(
    board: Board, views: Sequence[Detection], model: str, fit: Adjustment
) -> tuple[Adjustment, list[np.ndarray]]:
    masks = [np.ones(len(view), dtype=bool) for view in views]
    for _ in range(8):
        distances = [np.linalg.norm(residual, axis=1) for residual in fit.residuals]
        bound = REJECT * max(robust_sigma(np.concatenate(distances)), 1e-3)
        found = [distance < bound for distance in distances]
        same = all(np.array_equal(a, b) for a, b in zip(found, masks, strict=True))
        masks = found
        fit = adjust(board, views, model, fit.parameters, fit.poses, [mask.astype(float) for mask in masks])
        if same:
            break
    return fit, masks


def _cost(fit: Adjustment) -> float:
    return float(sum((residual**2).sum() for residual in fit.residuals))
