"""Starting points for hand-eye calibration: OpenCV's closed-form methods, on everything and on random subsets.

A closed-form method has no defence against a bad pose. So each is also run on small random subsets, some of which hold
good poses only, and the candidate is taken whose typical (median) error over all poses is the smallest.
"""

from collections.abc import Iterator

import cv2
import numpy as np

from calibration.rigid import inverse, pose, separation

__all__ = ["METHODS", "closed_form", "other_pose", "start"]

METHODS = {
    "tsai": cv2.CALIB_HAND_EYE_TSAI,
    "park": cv2.CALIB_HAND_EYE_PARK,
    "horaud": cv2.CALIB_HAND_EYE_HORAUD,
    "andreff": cv2.CALIB_HAND_EYE_ANDREFF,
    "daniilidis": cv2.CALIB_HAND_EYE_DANIILIDIS,
}
_SUBSETS = 40
_SUBSET_SIZE = 5  # with a tenth of the poses bad, six subsets in ten are clean
_MM_PER_DEG = 5.0  # one degree counts as much as this many millimetres


def closed_form(robot: np.ndarray, boards: np.ndarray, *, eye_in_hand: bool, method: str = "park") -> np.ndarray | None:
    """Runs OpenCV's ``calibrateHandEye``.

    Args:
        robot: (N, 4, 4) ``T_base_tool``.
        boards: (N, 4, 4) ``T_camera_board``.
        eye_in_hand: The camera is on the tool; otherwise it stands still and the board is on the tool.
        method: A key of ``METHODS``.

    Returns:
        (4, 4) ``T_tool_camera``, or ``T_base_camera`` for a camera that stands still; None when it fails.
    """
    grippers = robot if eye_in_hand else inverse(robot)
    try:
        rotation, translation = cv2.calibrateHandEye(
            list(grippers[:, :3, :3]),
            list(grippers[:, :3, 3]),
            list(boards[:, :3, :3]),
            list(boards[:, :3, 3]),
            method=METHODS[method],
        )
    except cv2.error:
        return None
    found = pose(rotation, translation.ravel())
    return found if np.isfinite(found).all() and abs(np.linalg.det(rotation) - 1) < 1e-3 else None


def other_pose(robot: np.ndarray, boards: np.ndarray, camera: np.ndarray, *, eye_in_hand: bool) -> np.ndarray:
    """The board's pose that goes with a camera: ``T_base_board``, or ``T_tool_board`` for a camera that stands still.

    Each view implies one; the one that agrees best with all others is returned, which bad views do not move.
    """
    implied = robot @ camera @ boards if eye_in_hand else inverse(robot) @ camera @ boards
    distance, angle = separation(implied[:, None], implied[None])
    return implied[int(np.argmin(np.median(distance + _MM_PER_DEG * angle, axis=1)))]


def start(robot: np.ndarray, boards: np.ndarray, *, eye_in_hand: bool) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns the best starting camera and board pose, or None when no method gives one.

    Args:
        robot: (N, 4, 4) ``T_base_tool``.
        boards: (N, 4, 4) ``T_camera_board``.
        eye_in_hand: As for ``closed_form``.
    """
    best: tuple[float, np.ndarray, np.ndarray] | None = None
    for camera in _candidates(robot, boards, eye_in_hand):
        board = other_pose(robot, boards, camera, eye_in_hand=eye_in_hand)
        predicted = (
            inverse(camera) @ inverse(robot) @ board if eye_in_hand else inverse(camera) @ robot @ board
        )  # T_camera_board
        distance, angle = separation(predicted, boards)
        error = float(np.median(distance + _MM_PER_DEG * angle))
        if best is None or error < best[0]:
            best = (error, camera, board)
    return None if best is None else best[1:]


def _candidates(robot: np.ndarray, boards: np.ndarray, eye_in_hand: bool) -> Iterator[np.ndarray]:
    everything: np.ndarray = np.arange(len(robot))
    draws = [everything]
    if len(robot) > _SUBSET_SIZE + 1:
        rng = np.random.default_rng(0)  # the same data give the same answer
        draws += [rng.choice(everything, _SUBSET_SIZE, replace=False) for _ in range(_SUBSETS)]
    for draw in draws:
        for method in METHODS if draw is everything else ("park", "daniilidis"):
            found = closed_form(robot[draw], boards[draw], eye_in_hand=eye_in_hand, method=method)
            if found is not None:
                yield found
