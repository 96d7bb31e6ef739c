"""Board poses from views with a known lens: robust against bad corners, with covariance and the second-best solution.

Shape legend: V views, N corners of a view.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from calibration.boards import Board
from calibration.bundle import Adjustment, adjust, board_pose
from calibration.detection import Detection
from calibration.errors import CalibrationError
from calibration.rigid import exp, skew
from wam.calibration_spec import LensSpec
from wam.lens import lens_parameters, project_with_jacobians

__all__ = ["AMBIGUOUS", "BoardViews", "check_lens_size", "measure_boards", "only", "plausible_corners"]

AMBIGUOUS = 3.0  # ratio of errors below which the second-best pose is kept in mind
_REJECT = 4.75  # sigmas, as for intrinsics
_RAYLEIGH_MEDIAN = 1.1774
_NOISE_FLOOR_PX = 0.02


@dataclass(frozen=True, kw_only=True)
class BoardViews:
    """What V views say about where the board was."""

    poses: np.ndarray  # (V, 4, 4) T_camera_board
    others: np.ndarray  # (V, 4, 4) the second-best solution of a flat board
    ratios: np.ndarray  # (V,) its error over that of the best; below AMBIGUOUS either may be right
    covariances: np.ndarray  # (V, 6, 6) of x in exp(x) @ T_camera_board: [rad, m]
    rms_px: np.ndarray  # (V,) reprojection error of the corners that agree
    noise_px: float  # standard deviation of one coordinate, over all views
    sources: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.poses)


def check_lens_size(lens: LensSpec, views: Sequence[Detection], camera: str = "the camera") -> None:
    """Refuses pictures of another size than the lens was calibrated for.

    Raises:
        CalibrationError: The sizes differ.
    """
    for view in views:
        if view.size_px != (lens.width_px, lens.height_px):
            raise CalibrationError(
                f"picture {view.source or 'given'} is {view.size_px[0]} x {view.size_px[1]} px but the intrinsics of "
                f"{camera} are for {lens.width_px} x {lens.height_px}: use pictures of that size, or calibrate the "
                "lens at the size that is used."
            )


def measure_boards(board: Board, views: Sequence[Detection], lens: LensSpec) -> BoardViews:
    """Finds the board's pose in each view.

    Args:
        board: The board; one that looks the same upside down is refused.
        views: Views without problems.
        lens: Intrinsics of the camera.

    Raises:
        CalibrationError: A board that is not ``one_way_up``, or pictures of another size than the lens is for.
    """
    if not board.one_way_up:
        raise CalibrationError(
            f"board {board} looks the same upside down, so its pose is ambiguous: use a ChArUco board, or a chessboard "
            "with an odd number of squares one way and an even number the other way."
        )
    check_lens_size(lens, views)
    fits = [_pose(board, view, lens) for view in views]
    used = np.concatenate([fit.residuals[0][mask] for fit, _, _, mask in fits]) if fits else np.zeros((0, 2))
    freedom = max(used.size - 6 * len(fits), 1)
    noise = max(float(np.sqrt((used**2).sum() / freedom)), _NOISE_FLOOR_PX)
    return BoardViews(
        poses=exp(np.array([fit.poses[0] for fit, *_ in fits]).reshape(-1, 6)),
        others=exp(np.array([other for _, other, _, _ in fits]).reshape(-1, 6)),
        ratios=np.array([ratio for _, _, ratio, _ in fits]),
        covariances=noise**2
        * np.array(
            [
                _covariance(board.points[view.ids[mask]], fit.poses[0], lens)
                for view, (fit, _, _, mask) in zip(views, fits, strict=True)
            ]
        ).reshape(-1, 6, 6),
        rms_px=np.array([np.sqrt((fit.residuals[0][mask] ** 2).sum(axis=1).mean()) for fit, _, _, mask in fits]),
        noise_px=noise,
        sources=tuple(view.source for view in views),
    )


def plausible_corners(board: Board, view: Detection) -> np.ndarray:
    """(N,) bool: corners near where a plane would put them, with much room for distortion."""
    plane = board.points[view.ids, :2].astype(np.float32)
    extent = float(np.ptp(view.pixels, axis=0).max())
    homography, _ = cv2.findHomography(plane, view.pixels.astype(np.float32), cv2.LMEDS)
    if homography is None:
        return np.ones(len(view), dtype=bool)
    predicted = cv2.perspectiveTransform(plane.reshape(-1, 1, 2), homography).reshape(-1, 2)
    distance = np.linalg.norm(predicted - view.pixels, axis=1)
    good = distance < max(6 * float(np.median(distance)), 0.02 * extent, 2.0)
    return good if good.sum() >= 6 else np.ones(len(view), dtype=bool)


def _pose(board: Board, view: Detection, lens: LensSpec) -> tuple[Adjustment, np.ndarray, float, np.ndarray]:
    """Fit to the corners that agree, second-best pose, ratio of errors, and which corners agree."""
    mask = plausible_corners(board, view)
    best, other, ratio = board_pose(board, only(view, mask), lens)
    parameters = lens_parameters(lens)
    fit = adjust(board, [view], lens.model, parameters, best[None], [mask.astype(float)], steps=0, fixed_lens=True)
    for _ in range(4):
        distance = np.linalg.norm(fit.residuals[0], axis=1)
        scale = max(float(np.median(distance)) / _RAYLEIGH_MEDIAN, _NOISE_FLOOR_PX)
        weights = [1 / (1 + (distance / (2.5 * scale)) ** 2)]
        fit = adjust(board, [view], lens.model, parameters, fit.poses, weights, steps=4, fixed_lens=True)
    distance = np.linalg.norm(fit.residuals[0], axis=1)
    mask = distance < _REJECT * max(float(np.median(distance)) / _RAYLEIGH_MEDIAN, _NOISE_FLOOR_PX)
    fit = adjust(board, [view], lens.model, parameters, fit.poses, [mask.astype(float)], steps=15, fixed_lens=True)
    return fit, other, ratio, mask


def only(view: Detection, mask: np.ndarray) -> Detection:
    """A view with some of its corners."""
    return replace(view, ids=view.ids[mask], pixels=view.pixels[mask])


def _covariance(points: np.ndarray, pose: np.ndarray, lens: LensSpec) -> np.ndarray:
    """(6, 6) for pixel noise of 1 px."""
    matrix = exp(pose)
    _, by_pose, _ = project_with_jacobians(lens.model, lens_parameters(lens), pose[:3], pose[3:], points)
    by_place = by_pose[:, 3:].reshape(-1, 2, 3)  # also the derivative by each point's own position
    moved = points @ matrix[:3, :3].T + matrix[:3, 3]
    by_turn = -by_place @ skew(moved)  # (N, 2, 3): a turn about the camera's origin
    jacobian = np.concatenate([by_turn, by_place], axis=2).reshape(-1, 6)
    return np.linalg.pinv(jacobian.T @ jacobian, hermitian=True)
