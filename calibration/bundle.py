"""Least squares over a lens and the board poses of all views, with weights per corner and parameter covariance.

Levenberg-Marquardt on the normal equations; the poses, which no two views share, are eliminated by their Schur
complement, so the cost grows linearly with the number of views. OpenCV's ``calibrateCamera`` minimises the same sum,
but takes no weights, no fisheye lens and gives no full covariance.

Source: Triggs et al., "Bundle adjustment - a modern synthesis", 2000, section 6.
Shape legend: V views, N corners of a view, L lens parameters.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from calibration.boards import Board
from calibration.detection import Detection
from calibration.rigid import rotations
from wam.calibration_spec import LensSpec
from wam.lens import lens_parameters, pixel_directions, project_with_jacobians

__all__ = ["Adjustment", "adjust", "board_pose", "board_poses"]

_STEPS = 60
_DAMPING = 1e-3
_SAME_POSE = 0.02  # rotations closer than this have run into one minimum
_TOLERANCE = 1e-9  # relative decrease of the cost at which it has converged


@dataclass(frozen=True, kw_only=True)
class Adjustment:
    """The minimum that was found."""

    parameters: np.ndarray  # (L,) lens parameters
    poses: np.ndarray  # (V, 6) rotation vector [rad] and position [m] of the board in the camera frame
    residuals: tuple[np.ndarray, ...]  # V times (N, 2), seen minus predicted [px]
    covariance: np.ndarray  # (L, L) of the lens parameters for pixel noise of 1 px; zero where the lens is fixed


def adjust(
    board: Board,
    views: Sequence[Detection],
    model: str,
    parameters: np.ndarray,
    poses: np.ndarray,
    weights: Sequence[np.ndarray] | None = None,
    *,
    steps: int = _STEPS,
    fixed_lens: bool = False,
) -> Adjustment:
    """Minimises the weighted squared reprojection error.

    Args:
        board: Whose points were seen.
        views: V views.
        model: The lens model.
        parameters: (L,) where to start.
        poses: (V, 6) where to start.
        weights: V times (N,) in [0, 1]; all one when None.
        steps: Upper bound on iterations.
        fixed_lens: Moves the poses only.
    """
    parameters, poses = np.array(parameters, dtype=float), np.array(poses, dtype=float)
    weights = [np.ones(len(view)) for view in views] if weights is None else weights
    damping, system = _DAMPING, _System(board, views, model, parameters, poses, weights, fixed_lens)
    for _ in range(steps):
        step_lens, step_poses = system.step(damping)
        trial = _System(board, views, model, parameters + step_lens, poses + step_poses, weights, fixed_lens)
        if trial.cost <= system.cost:
            gain = system.cost - trial.cost
            parameters, poses, system = parameters + step_lens, poses + step_poses, trial
            damping = max(damping / 10, 1e-12)
            if gain <= _TOLERANCE * (1e-12 + system.cost):
                break
        else:
            damping *= 10
            if damping > 1e8:
                break
    return Adjustment(
        parameters=parameters, poses=poses, residuals=tuple(system.residuals), covariance=system.lens_covariance()
    )


class _System:
    """Residuals, cost and normal equations at one point."""

    def __init__(
        self,
        board: Board,
        views: Sequence[Detection],
        model: str,
        parameters: np.ndarray,
        poses: np.ndarray,
        weights: Sequence[np.ndarray],
        fixed_lens: bool,
    ) -> None:
        self._fixed_lens = fixed_lens
        count = len(parameters)
        self.residuals: list[np.ndarray] = []
        self.cost = 0.0
        self.lens = np.zeros((count, count))
        self.lens_gradient = np.zeros(count)
        self.cross = np.zeros((len(views), count, 6))
        self.pose = np.zeros((len(views), 6, 6))
        self.pose_gradient = np.zeros((len(views), 6))
        for index, view in enumerate(views):
            points = board.points[view.ids]
            pixels, by_pose, by_lens = project_with_jacobians(
                model, parameters, poses[index, :3], poses[index, 3:], points
            )
            residual = view.pixels - pixels
            weight = np.repeat(weights[index], 2)
            flat = residual.ravel()
            self.residuals.append(residual)
            self.cost += float(weight @ flat**2)
            weighted_pose = by_pose * weight[:, None]
            self.pose[index] = by_pose.T @ weighted_pose
            self.pose_gradient[index] = weighted_pose.T @ flat
            if fixed_lens:
                continue
            weighted_lens = by_lens * weight[:, None]
            self.lens += by_lens.T @ weighted_lens
            self.lens_gradient += weighted_lens.T @ flat
            self.cross[index] = by_lens.T @ weighted_pose
        if not np.isfinite(self.cost):
            self.cost = np.inf

    def step(self, damping: float) -> tuple[np.ndarray, np.ndarray]:
        """Damped Gauss-Newton step of lens and poses."""
        damped = _damped(self.pose, damping)
        if self._fixed_lens:
            return np.zeros_like(self.lens_gradient), np.linalg.solve(damped, self.pose_gradient[..., None])[..., 0]
        inverse = np.linalg.pinv(damped, hermitian=True)  # (V, 6, 6)
        folded = self.cross @ inverse  # (V, L, 6)
        reduced = _damped(self.lens, damping) - np.einsum("vli,vmi->lm", folded, self.cross)
        gradient = self.lens_gradient - np.einsum("vli,vi->l", folded, self.pose_gradient)
        scale = 1 / np.sqrt(np.maximum(np.diag(self.lens), 1e-30))  # parameters differ by ten orders of magnitude
        lens_step = scale * np.linalg.lstsq(scale[:, None] * reduced * scale, scale * gradient, rcond=1e-14)[0]
        right = self.pose_gradient - np.einsum("vli,l->vi", self.cross, lens_step)
        return lens_step, np.einsum("vij,vj->vi", inverse, right)

    def lens_covariance(self) -> np.ndarray:
        """(L, L) inverse of the reduced normal matrix."""
        if self._fixed_lens:
            return np.zeros_like(self.lens)
        inverse = np.linalg.pinv(self.pose, hermitian=True)
        reduced = self.lens - np.einsum("vli,vij,vmj->lm", self.cross, inverse, self.cross)
        scale = 1 / np.sqrt(np.maximum(np.diag(self.lens), 1e-30))
        scaled = scale[:, None] * reduced * scale
        return scale[:, None] * np.linalg.pinv(scaled, rcond=1e-14, hermitian=True) * scale


def _damped(matrices: np.ndarray, damping: float) -> np.ndarray:
    size = matrices.shape[-1]
    return matrices + damping * matrices * np.eye(size) + 1e-12 * np.eye(size)


def board_pose(board: Board, view: Detection, lens: LensSpec) -> tuple[np.ndarray, np.ndarray, float]:
    """Pose of the board from one view.

    Args:
        board: The board.
        view: At least four corners that are not on a line.
        lens: The lens.

    Returns:
        (6,) rotation vector [rad] and position [m] of the board in the camera frame; (6,) the second-best pose, which a
        flat board seen from afar resembles; and the ratio of their reprojection errors, at least 1: near 1 it is a
        guess, infinite when there is only one.
    """
    candidates = _planar_poses(board.points[view.ids], pixel_directions(lens, view.pixels))
    refined = [
        adjust(board, [view], lens.model, lens_parameters(lens), pose[None], steps=15, fixed_lens=True)
        for pose in candidates
    ]
    errors = [float(np.sqrt(np.mean(fit.residuals[0] ** 2))) for fit in refined]
    order = np.argsort(errors)
    best, second = refined[order[0]].poses[0], refined[order[-1]].poses[0]
    same = bool(np.linalg.norm(rotations(best[:3]) - rotations(second[:3])) < _SAME_POSE)
    return best, second, np.inf if same else max(errors[order[-1]] / max(errors[order[0]], 1e-9), 1.0)


def board_poses(board: Board, views: Sequence[Detection], lens: LensSpec) -> np.ndarray:
    """(V, 6) best poses of the board, as ``board_pose`` finds them."""
    return np.array([board_pose(board, view, lens)[0] for view in views]).reshape(-1, 6)


def _planar_poses(points: np.ndarray, directions: np.ndarray) -> list[np.ndarray]:
    """Algebraic solutions in a camera turned towards the board, where no ray is far from the axis."""
    turn = _towards(directions.mean(axis=0))  # R_turned_camera
    turned = directions @ turn.T
    ahead = turned[:, 2] > 0.05
    middle = points[ahead].mean(axis=0)  # IPPE wants the plane through the origin; centring also steadies it
    found, rvecs, tvecs, _ = cv2.solvePnPGeneric(
        (points[ahead] - middle).reshape(-1, 1, 3),
        (turned[ahead, :2] / turned[ahead, 2:]).reshape(-1, 1, 2),
        np.eye(3),
        np.zeros(4),
        flags=cv2.SOLVEPNP_IPPE,
    )
    poses = []
    for rvec, tvec in zip(rvecs, tvecs, strict=True) if found else []:
        rotation = turn.T @ cv2.Rodrigues(rvec)[0]
        pose = np.concatenate([cv2.Rodrigues(rotation)[0].ravel(), turn.T @ tvec.ravel() - rotation @ middle])
        if np.isfinite(pose).all():
            poses.append(pose)
    return poses or [np.array([0.0, 0.0, 0.0, 0.0, 0.0, 1.0])]


def _towards(direction: np.ndarray) -> np.ndarray:
    """The smallest rotation that brings a direction onto the z axis."""
    unit = direction / np.linalg.norm(direction)
    axis = np.cross(unit, [0.0, 0.0, 1.0])
    sine = np.linalg.norm(axis)
    return rotations(axis / max(sine, 1e-12) * np.arctan2(sine, unit[2]))
