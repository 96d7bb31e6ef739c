"""Lens calibration from views of a board: robust, with errors that say how far to trust it.

Corners that disagree are found with a Cauchy weighting, whose scale follows the corners that agree, and then left out
for good; the rest is a plain least-squares fit, so clean data give what OpenCV's ``calibrateCamera`` gives. Views that
stay bad are left out as a whole. The leave-out error calibrates without a fifth of the views and predicts it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from calibration.board_views import only, plausible_corners
from calibration.boards import Board
from calibration.bundle import Adjustment, adjust, board_pose, board_poses
from calibration.detection import Detection, check_detections
from calibration.errors import CalibrationError
from calibration.view_selection import Coverage, coverage, select_views
from wam.calibration_spec import DISTORTION_LENGTHS, LensSpec
from wam.errors import unknown_name
from wam.lens import FISHEYE, lens_from_parameters

__all__ = ["LENS_MODELS", "IntrinsicsResult", "ViewResult", "calibrate_intrinsics", "robust_sigma"]

LENS_MODELS = {"pinhole": "plumb_bob", "rational": "rational_polynomial", "fisheye": FISHEYE}  # command line -> ROS
MIN_VIEWS = 6  # three fix the equations; six leave something to judge them by
_REJECT = 4.75  # sigmas beyond which a corner is a bad detection: 1 in 80 000 good ones
_BAD_VIEW = 3.0  # times the median error of the views
_FOLDS = 5
_MAX_FOCAL_STD = 0.01  # relative: beyond it the views do not fix the focal length
_RAYLEIGH_MEDIAN = 1.1774  # median distance over sigma of a two-dimensional Gaussian


@dataclass(frozen=True, kw_only=True)
class ViewResult:
    """One view that was used."""

    detection: Detection
    pose: np.ndarray  # (6,) rotation vector [rad] and position [m] of the board in the camera frame
    residuals: np.ndarray  # (N, 2) seen minus predicted [px]
    inlier: np.ndarray  # (N,) bool, corners that took part

    @property
    def rms_px(self) -> float:
        """Root mean square reprojection error of the corners that took part [px]."""
        return _rms(self.residuals[self.inlier])


@dataclass(frozen=True, kw_only=True)
class IntrinsicsResult:
    """A calibrated lens and what speaks for and against it."""

    lens: LensSpec
    std: np.ndarray  # (L,) standard deviation of fx, fy, cx, cy [px] and the distortion
    covariance: np.ndarray  # (L, L)
    rms_px: float  # root mean square reprojection error over all corners that took part
    leave_out_px: float  # the same for views that were not calibrated with
    noise_px: float  # standard deviation of one coordinate of a corner
    views: tuple[ViewResult, ...]
    rejected: tuple[tuple[str, str], ...]  # picture and why it was not used
    bad_corners: int  # corners left out in the views that were used
    coverage: Coverage


def calibrate_intrinsics(
    board: Board, detections: Sequence[Detection], model: str = "pinhole", *, max_views: int = 60
) -> IntrinsicsResult:
    """Calibrates one lens.

    Args:
        board: The board in the pictures.
        detections: One per picture; those with a problem are left out.
        model: A key of ``LENS_MODELS``.
        max_views: Upper bound on the views that are used.

    Raises:
        CalibrationError: Unknown model, too few views, pictures of several sizes, or views that do not fix the lens.
    """
    if model not in LENS_MODELS:
        raise CalibrationError(unknown_name("lens model", model, LENS_MODELS))
    good = check_detections(board, detections, needed=MIN_VIEWS)
    rejected = [(view.source, view.problem) for view in detections if view.problem]
    selection = select_views(board, good, limit=max_views)
    rejected += [(good[index].source, why) for index, why in sorted(selection.rejected.items())]
    views = [good[index] for index in selection.chosen]
    if len(views) < MIN_VIEWS:
        raise CalibrationError(
            f"only {len(views)} different sharp views of the board are left of {len(detections)} pictures; {MIN_VIEWS} "
            f"are needed, 20 to 40 are good: move and tilt the board between pictures, and hold it still."
        )
    ros_model = LENS_MODELS[model]
    fit, inliers, views, bad = _robust_fit(board, views, ros_model)
    rejected += bad
    sigma = _sigma(fit, inliers)
    std = sigma * np.sqrt(np.maximum(np.diag(fit.covariance), 0))
    spread = coverage(board, views)
    _check_focal(fit.parameters, std, spread)
    rms = _rms(np.concatenate([residual[mask] for residual, mask in zip(fit.residuals, inliers, strict=True)]))
    lens = lens_from_parameters(ros_model, fit.parameters, views[0].size_px)
    return IntrinsicsResult(
        lens=replace(lens, rms_px=round(rms, 4)),
        std=std,
        covariance=sigma**2 * fit.covariance,
        rms_px=rms,
        leave_out_px=_leave_out(board, views, ros_model, fit, inliers),
        noise_px=sigma,
        views=tuple(
            ViewResult(detection=view, pose=pose, residuals=residual, inlier=mask)
            for view, pose, residual, mask in zip(views, fit.poses, fit.residuals, inliers, strict=True)
        ),
        rejected=tuple(rejected),
        bad_corners=int(sum((~mask).sum() for mask in inliers)),
        coverage=spread,
    )


def robust_sigma(distances: np.ndarray) -> float:
    """Sigma of a two-dimensional Gaussian from the median of distances, which bad ones hardly move."""
    return float(np.median(distances)) / _RAYLEIGH_MEDIAN


def _robust_fit(
    board: Board, views: list[Detection], model: str
) -> tuple[Adjustment, list[np.ndarray], list[Detection], list[tuple[str, str]]]:
    """Fit, inliers of each view, the views that stayed, and those that did not with the reason."""
    plausible = [plausible_corners(board, view) for view in views]
    fit = _reweighted(board, views, model, _start(board, views, plausible, model))
    fit = _reweighted(board, views, model, _posed_again(board, views, plausible, model, fit))
    rejected: list[tuple[str, str]] = []
    while True:
        fit, inliers = _without_outliers(board, views, model, fit)
        kept = list(zip(fit.residuals, inliers, strict=True))
        errors = np.array([_rms(residual[mask]) if mask.sum() >= 4 else np.inf for residual, mask in kept])
        few = np.array([mask.mean() < 0.5 for mask in inliers])
        bad = (errors > _BAD_VIEW * np.median(errors)) | few
        if not bad.any() or (~bad).sum() < MIN_VIEWS:
            return fit, inliers, views, rejected
        for index in np.flatnonzero(bad):
            reason = "most of its corners disagree with the other views" if few[index] else "its corners fit badly"
            rejected.append((views[index].source, reason))
        keep = np.flatnonzero(~bad)
        views = [views[i] for i in keep]
        fit = replace(fit, poses=fit.poses[keep], residuals=tuple(fit.residuals[i] for i in keep))
        fit = _reweighted(board, views, model, fit)


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


def _reweighted(board: Board, views: Sequence[Detection], model: str, fit: Adjustment) -> Adjustment:
    for _ in range(6):
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
        bound = _REJECT * max(robust_sigma(np.concatenate(distances)), 1e-3)
        found = [distance < bound for distance in distances]
        same = all(np.array_equal(a, b) for a, b in zip(found, masks, strict=True))
        masks = found
        fit = adjust(board, views, model, fit.parameters, fit.poses, [mask.astype(float) for mask in masks])
        if same:
            break
    return fit, masks


def _leave_out(
    board: Board, views: Sequence[Detection], model: str, fit: Adjustment, inliers: Sequence[np.ndarray]
) -> float:
    errors = []
    order = np.arange(len(views))
    for fold in range(min(_FOLDS, len(views) - MIN_VIEWS + 1)):
        out = order[order % _FOLDS == fold]
        kept = order[order % _FOLDS != fold]
        if len(kept) < 3 or len(out) == 0:
            continue
        part = adjust(
            board,
            [views[i] for i in kept],
            model,
            fit.parameters,
            fit.poses[kept],
            [inliers[i].astype(float) for i in kept],
            steps=10,
        )
        held = [only(views[i], inliers[i]) for i in out]
        seen = adjust(board, held, model, part.parameters, fit.poses[out], steps=10, fixed_lens=True)
        errors += list(seen.residuals)
    return _rms(np.concatenate(errors)) if errors else float("nan")


def _check_focal(parameters: np.ndarray, std: np.ndarray, spread: Coverage) -> None:
    relative = float((std[:2] / np.abs(parameters[:2])).max())
    if relative > _MAX_FOCAL_STD or not np.isfinite(parameters).all() or parameters[:2].min() <= 0:
        advice = "; ".join(spread.advice()) or "take more views"
        raise CalibrationError(
            f"these views do not fix the focal length ({parameters[0]:.1f} px, uncertain by {100 * relative:.1f} %; "
            f"at most {100 * _MAX_FOCAL_STD:g} % is accepted): {advice}."
        )


def _sigma(fit: Adjustment, inliers: Sequence[np.ndarray]) -> float:
    used = np.concatenate([residual[mask] for residual, mask in zip(fit.residuals, inliers, strict=True)])
    freedom = max(used.size - len(fit.parameters) - 6 * len(inliers), 1)
    return float(np.sqrt((used**2).sum() / freedom))


def _cost(fit: Adjustment) -> float:
    return float(sum((residual**2).sum() for residual in fit.residuals))


def _rms(residuals: np.ndarray) -> float:
    return float(np.sqrt((residuals**2).sum(axis=1).mean())) if len(residuals) else float("nan")
