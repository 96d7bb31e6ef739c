"""Does the chosen lens model suit the lens? Compared with the other models on the same corners, dropped ones included.

A model that cannot bend enough fits the middle of the picture well and drops the rest as bad detections: its error
looks small, and the evidence against it is gone. So every model is charged for each corner of every view, at most what
an outlier costs; corners that are really bad cost all models the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from calibration.boards import Board
from calibration.bundle import adjust
from calibration.detection import Detection
from calibration.errors import CalibrationError
from calibration.rigid import exp
from calibration.robust_fit import REJECT, RobustFit, reweighted, rms, robust_fit
from wam.calibration_spec import DISTORTION_LENGTHS
from wam.lens import FISHEYE, lens_from_parameters, project

__all__ = ["LENS_MODELS", "LensComparison", "compare_lens_models"]

LENS_MODELS = {"pinhole": "plumb_bob", "rational": "rational_polynomial", "fisheye": FISHEYE}  # command line -> ROS
_CERTAIN = 40.0  # difference of two models' cost [sigma^2] that chance does not make
_DROPPED = (8, 0.005)  # corners that only the chosen model drops, at least; the same as a share of all
_QUICK = 12  # steps that show whether a model comes near
_SEEN = 0.05  # root mean square misfit below which that is said, but nothing refused [px]
_EXCESS = (0.15, 0.5)  # root mean square misfit beyond the other model's error, at least [px]; relative to that error
_SHIFT = (2.0, 6.0)  # distance of the two principal points, at least [px]; in its standard deviations
_STEEPEST = np.radians(78)  # rays that a plane picture can still hold


@dataclass(frozen=True, kw_only=True)
class LensComparison:
    """What the chosen model leaves unexplained."""

    corners: int  # of all views that were chosen
    dropped: int  # of them left out, in views that were used and in those that fitted badly
    dropped_outside: int  # of those, among the quarter of all corners that lies furthest from the picture's middle
    better: str  # command line's name of the model that suits better; "" when none does
    note: str  # in words what speaks for that model; "" when nothing does
    misfit: str  # why the chosen model is refused, with the way out; "" when it is not

    @property
    def where(self) -> str:
        """In words, how many corners were left out and where."""
        if not self.dropped:
            return f"none of {self.corners}"
        return f"{self.dropped} of {self.corners}, {self.dropped_outside} of them among the outermost quarter"


def compare_lens_models(board: Board, views: Sequence[Detection], chosen: RobustFit) -> LensComparison:
    """Fits the other models to the same views.

    Args:
        board: The board.
        views: All that the chosen model was given.
        chosen: What it made of them.
    """
    fits = {chosen.model: chosen}
    if len(chosen.views) == len(views):
        found = {model: _rival(board, chosen, model) for model in _others(chosen.model)}
        fits |= {model: fit for model, fit in found.items() if fit is not None}
    best = _better(views, chosen, fits)
    if best or len(chosen.views) < len(views):  # no start, or that of a wrong model: do it properly
        for model in _others(chosen.model):
            try:
                fits[model] = robust_fit(board, views, model)
            except CalibrationError:  # no lens of this kind explains them
                fits.pop(model, None)
        best = _better(views, chosen, fits)
    dropped = _dropped(views, chosen)
    middle = (np.array(views[0].size_px) - 1) / 2
    seen = np.linalg.norm(np.concatenate([view.pixels for view in views]) - middle, axis=1)
    outside = np.linalg.norm(dropped - middle, axis=1) > np.percentile(seen, 75)
    counts = {"corners": len(seen), "dropped": len(dropped), "dropped_outside": int(outside.sum())}
    if not best:
        return LensComparison(**counts, better="", note="", misfit="")
    return _judged(views, chosen, fits[best], counts)


def _judged(views: Sequence[Detection], chosen: RobustFit, other: RobustFit, counts: dict[str, int]) -> LensComparison:
    """Says what speaks for the other model, and whether that is enough to refuse the chosen one."""
    ours, theirs = _name(chosen.model), _name(other.model)
    fewer = counts["dropped"] - len(_dropped(views, other))
    sigma = max(chosen.sigma, other.sigma)  # the larger one, or all of a misfit would count as outliers
    excess = np.sqrt(max(_cost(views, chosen, sigma) - _cost(views, other, sigma), 0) / counts["corners"])
    error = np.sqrt(2) * other.sigma
    shift = np.linalg.norm(chosen.fit.parameters[2:4] - other.fit.parameters[2:4])
    std = max(fit.sigma * np.sqrt(max(np.diag(fit.fit.covariance)[2:4].max(), 0)) for fit in (chosen, other))
    reasons = []
    if excess > _SEEN and fewer >= max(_DROPPED[0], _DROPPED[1] * counts["corners"]):
        reasons.append(f"'{ours}' leaves out {fewer} corners that '{theirs}' explains")
    if excess > max(_EXCESS[0], _EXCESS[1] * error):
        reasons.append(
            f"over all corners it is {excess:.2f} px further off (root mean square) than '{theirs}', which has "
            f"{rms(other.residuals):.3f} px"
        )
    if shift > max(_SHIFT[0], _SHIFT[1] * std):
        reasons.append(f"it puts the principal point {shift:.1f} px ({shift / max(std, 1e-9):.0f} sigma) elsewhere")
    text = LensComparison(**counts, better=theirs, note="", misfit="").where
    if not reasons:
        note = f"'{theirs}' explains the corners a little better than '{ours}': try --model {theirs}"
        return LensComparison(**counts, better=theirs, note=note, misfit="")
    note = f"the lens model '{ours}' does not suit this lens: {'; '.join(reasons)}"
    misfit = (
        f"{note}. It left out {text}; the error of the others, {rms(chosen.residuals):.3f} px, does not count them. "
        f"Calibrate with --model {theirs}."
    )
    return LensComparison(**counts, better=theirs, note=note, misfit=misfit)


def _better(views: Sequence[Detection], chosen: RobustFit, fits: dict[str, RobustFit]) -> str:
    """The model that explains the views better than the chosen one, beyond chance; "" when none does."""
    sigma = max(min(fit.sigma for fit in fits.values()), 1e-9)
    count = 2 * sum(len(view) for view in views)
    # A parameter must gain what chance would give it (the Bayesian information criterion)
    costs = {
        model: _cost(views, fit, sigma) / sigma**2 + len(fit.fit.parameters) * np.log(count)
        for model, fit in fits.items()
    }
    best = min(costs, key=lambda model: costs[model])
    return best if costs[chosen.model] > costs[best] + _CERTAIN else ""


def _cost(views: Sequence[Detection], found: RobustFit, sigma: float) -> float:
    """Sum over all corners of all views of the squared error, at most an outlier's [px^2]."""
    bound = (REJECT * sigma) ** 2
    seen = sum(float(np.minimum((residual**2).sum(axis=1), bound).sum()) for residual in found.fit.residuals)
    count = sum(len(residual) for residual in found.fit.residuals)
    return seen + bound * (sum(len(view) for view in views) - count)


def _dropped(views: Sequence[Detection], found: RobustFit) -> np.ndarray:
    """(N, 2) pixels of the corners that took no part."""
    within = [view.pixels[~mask] for view, mask in zip(found.views, found.inliers, strict=True)]
    return np.concatenate([*within, *(view.pixels for view in found.left_out), np.zeros((0, 2))])


def _others(model: str) -> list[str]:
    return [other for other in LENS_MODELS.values() if other != model]


def _name(model: str) -> str:
    return next(name for name, other in LENS_MODELS.items() if other == model)


def _rival(board: Board, chosen: RobustFit, model: str) -> RobustFit | None:
    """The other model, from poses and bend of the chosen one; None when that start leads nowhere better."""
    parameters, weights = _bent_alike(board, chosen, model), [mask.astype(float) for mask in chosen.inliers]
    start = adjust(board, chosen.views, model, parameters, chosen.fit.poses, weights, steps=_QUICK)
    start = reweighted(board, chosen.views, model, start, rounds=1)
    trial = replace(chosen, model=model, fit=start)
    sigma = max(chosen.sigma, 1e-9)
    if _cost(chosen.views, trial, sigma) > _cost(chosen.views, chosen, sigma) + _CERTAIN * sigma**2:
        return None
    return robust_fit(board, chosen.views, model, start)


def _bent_alike(board: Board, chosen: RobustFit, model: str) -> np.ndarray:
    """(L,) lens parameters of a model whose radius grows with the angle as the chosen lens' does where corners are."""
    fx, fy, cx, cy, *distortion = chosen.fit.parameters
    if (chosen.model, model) == ("plumb_bob", "rational_polynomial"):
        return np.array([fx, fy, cx, cy, *distortion, 0, 0, 0])
    points = np.concatenate(
        [
            board.points[view.ids] @ exp(pose)[:3, :3].T + pose[3:]
            for view, pose in zip(chosen.views, chosen.fit.poses, strict=True)
        ]
    )
    steepest = np.arctan2(np.linalg.norm(points[:, :2], axis=1), points[:, 2]).max()
    angles = np.linspace(0.02, min(float(steepest), _STEEPEST), 60)
    lens = lens_from_parameters(chosen.model, chosen.fit.parameters, chosen.views[0].size_px)
    rays = np.stack([np.sin(angles), 0 * angles, np.cos(angles)], axis=1)
    radii = project(lens, rays)[:, 0] - cx
    grows = np.cumprod(np.diff(radii, prepend=0) > 0).astype(bool)  # a polynomial may fold back
    base = angles if model == FISHEYE else np.tan(angles)
    powers = range(1, 10, 2) if model == FISHEYE else range(1, 8, 2)
    design = np.stack([base**power for power in powers], axis=1)
    focal, *bends = np.linalg.lstsq(design[grows] / radii[grows, None], np.ones(grows.sum()), rcond=None)[0]
    bends = [bend / focal for bend in bends]
    rest = bends if model == FISHEYE else [bends[0], bends[1], 0, 0, bends[2]]
    rest = [*rest, *[0.0] * (DISTORTION_LENGTHS[model] - len(rest))]
    return np.array([focal, focal * fy / fx, cx, cy, *rest])
