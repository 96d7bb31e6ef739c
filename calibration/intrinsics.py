"""Lens calibration from views of a board: robust, with errors that say how far to trust it.

The fit is that of ``calibration.robust_fit``. A lens model that leaves out what another one explains is refused,
however small the error of the corners that are left. The leave-out error calibrates without a fifth of the views and
predicts it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from calibration.board_views import only
from calibration.boards import Board
from calibration.bundle import adjust
from calibration.detection import Detection, check_detections
from calibration.errors import CalibrationError
from calibration.lens_comparison import LENS_MODELS, LensComparison, compare_lens_models
from calibration.robust_fit import MIN_VIEWS, RobustFit, rms, robust_fit
from calibration.view_selection import Coverage, coverage, select_views
from wam.calibration_spec import LensSpec
from wam.errors import unknown_name
from wam.lens import lens_from_parameters

__all__ = ["IntrinsicsResult", "ViewResult", "calibrate_intrinsics"]

_FOLDS = 5
_MAX_FOCAL_STD = 0.01  # relative: beyond it the views do not fix the focal length


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
        return rms(self.residuals[self.inlier])


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
    comparison: LensComparison  # with the other lens models, and what this one left out


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
        CalibrationError: Unknown model, too few views, pictures of several sizes, a model that does not suit the lens,
            or views that do not fix it.
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
    found = robust_fit(board, views, LENS_MODELS[model])
    comparison = compare_lens_models(board, views, found)
    if comparison.misfit:
        raise CalibrationError(comparison.misfit)
    return _result(board, found, comparison, [*rejected, *found.rejected])


def _result(
    board: Board, found: RobustFit, comparison: LensComparison, rejected: Sequence[tuple[str, str]]
) -> IntrinsicsResult:
    fit, views, inliers, sigma = found.fit, found.views, found.inliers, found.sigma
    std = sigma * np.sqrt(np.maximum(np.diag(fit.covariance), 0))
    spread = coverage(board, views)
    _check_focal(fit.parameters, std, spread)
    error = rms(found.residuals)
    lens = lens_from_parameters(found.model, fit.parameters, views[0].size_px)
    return IntrinsicsResult(
        lens=replace(lens, rms_px=round(error, 4)),
        std=std,
        covariance=sigma**2 * fit.covariance,
        rms_px=error,
        leave_out_px=_leave_out(board, found),
        noise_px=sigma,
        views=tuple(
            ViewResult(detection=view, pose=pose, residuals=residual, inlier=mask)
            for view, pose, residual, mask in zip(views, fit.poses, fit.residuals, inliers, strict=True)
        ),
        rejected=tuple(rejected),
        bad_corners=int(sum((~mask).sum() for mask in inliers)),
        coverage=spread,
        comparison=comparison,
    )


def _leave_out(board: Board, found: RobustFit) -> float:
    fit, views, inliers, model = found.fit, found.views, found.inliers, found.model
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
    return rms(np.concatenate(errors)) if errors else float("nan")


def _check_focal(parameters: np.ndarray, std: np.ndarray, spread: Coverage) -> None:
    relative = float((std[:2] / np.abs(parameters[:2])).max())
    if relative > _MAX_FOCAL_STD or not np.isfinite(parameters).all() or parameters[:2].min() <= 0:
        advice = "; ".join(spread.advice()) or "take more views"
        raise CalibrationError(
            f"these views do not fix the focal length ({parameters[0]:.1f} px, uncertain by {100 * relative:.1f} %; "
            f"at most {100 * _MAX_FOCAL_STD:g} % is accepted): {advice}."
        )
