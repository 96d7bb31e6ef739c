"""What a ``camera_info`` matrix may hold: entries that our lens has no number for are refused, never dropped.

The lens is K without skew, and distortion. A raw picture needs no more: the rectification R is a stereo pair's, and the
projection P only says how a rectified picture would be drawn. Both are checked, because they tell when K is not what it
seems, and because a file that is passed on as if it had neither would be another camera.

Source: the field comments of sensor_msgs/CameraInfo; image_pipeline's ``camera_calibration`` for how P comes from K.
"""

import cv2
import numpy as np

from calibration.errors import CalibrationError
from wam.calibration_spec import LensSpec
from wam.lens import FISHEYE

__all__ = ["check_projection", "check_rectification", "checked_camera_matrix"]

_EXACT = 1e-6  # of entries that must be 0 or 1
_NO_TURN = 1e-5  # of R's entries: 0.0006 degrees
_FOCAL_ROOM, _CENTER_ROOM = 0.1, 0.05  # of P beyond what K gives: relative; share of the picture's side
_AGAIN = "Calibrate again (wam calibrate intrinsics), or take the file as the calibration wrote it"


def checked_camera_matrix(matrix: np.ndarray, where: str) -> np.ndarray:
    """Returns K, (3, 3), which must be [fx, 0, cx, 0, fy, cy, 0, 0, 1].

    Raises:
        CalibrationError: It has skew, is transposed or scaled, or is no camera matrix.
    """
    if np.abs(matrix).max() < _EXACT or (matrix[0, 0] == 0 and matrix[1, 1] == 0):
        raise CalibrationError(
            f"{where} has focal length 0 px: the camera is not calibrated; wam calibrate intrinsics."
        )
    bottom, side = matrix[2, :2], matrix[:2, 2]
    if np.abs(bottom).max() > _EXACT and np.abs(side).max() <= _EXACT:
        raise CalibrationError(
            f"{where} is transposed, the principal point stands in its last row: write it row by row, "
            "[fx, 0, cx, 0, fy, cy, 0, 0, 1]."
        )
    if np.abs(bottom).max() > _EXACT or abs(matrix[1, 0]) > _EXACT:
        raise CalibrationError(
            f"{where} is no camera matrix: entries 4, 7 and 8 are {matrix[1, 0]:g}, {bottom[0]:g} and {bottom[1]:g} "
            f"but must be 0, as in [fx, 0, cx, 0, fy, cy, 0, 0, 1]. {_AGAIN}."
        )
    if abs(matrix[2, 2] - 1) > _EXACT:
        raise CalibrationError(
            f"{where} is scaled: its last entry is {matrix[2, 2]:g} but must be 1. If all of it was multiplied by that "
            "number, divide all nine entries by it."
        )
    if abs(matrix[0, 1]) > _EXACT:
        raise CalibrationError(
            f"{where} has skew: its second entry is {matrix[0, 1]:g} but must be 0, because no lens model here or in "
            "ROS has skew. Calibrate without it (wam calibrate intrinsics)."
        )
    return matrix


def check_rectification(matrix: np.ndarray, where: str) -> None:
    """Refuses every R, (3, 3), but the identity.

    Raises:
        CalibrationError: It turns the camera, or is no rotation.
    """
    if np.abs(matrix - np.eye(3)).max() <= _NO_TURN:
        return
    if np.abs(matrix @ matrix.T - np.eye(3)).max() > 1e-3 or np.linalg.det(matrix) < 0:
        raise CalibrationError(f"{where} is no rotation: for one camera it is [1, 0, 0, 0, 1, 0, 0, 0, 1]. {_AGAIN}.")
    degrees = np.degrees(np.arccos(np.clip((np.trace(matrix) - 1) / 2, -1, 1)))
    raise CalibrationError(
        f"{where} turns the camera by {degrees:.2f} degrees: it is of a stereo pair, whose rectified pictures lie "
        "elsewhere than the camera's own. One camera is read here: calibrate it alone (wam calibrate intrinsics), or, "
        "if its raw pictures are used, write [1, 0, 0, 0, 1, 0, 0, 0, 1] there and the camera matrix into the "
        "projection."
    )


def check_projection(matrix: np.ndarray, lens: LensSpec, where: str) -> None:
    """Refuses a P, (3, 4), that does not come from this lens.

    Raises:
        CalibrationError: It is of a second camera, or disagrees with the camera matrix.
    """
    form = matrix.copy()
    form[0, 0] = form[1, 1] = form[0, 2] = form[1, 2] = form[0, 3] = form[1, 3] = 0
    form[2, 2] -= 1
    if np.abs(form).max() > _EXACT or min(matrix[0, 0], matrix[1, 1]) <= 0:
        raise CalibrationError(
            f"{where} is no projection: it must be [fx, 0, cx, 0, 0, fy, cy, 0, 0, 0, 1, 0], row by row. {_AGAIN}."
        )
    if np.abs(matrix[:2, 3]).max() > _EXACT:
        raise CalibrationError(
            f"{where} has {matrix[0, 3]:g} and {matrix[1, 3]:g} in its last column, so it is of the second camera of a "
            "stereo pair. One camera is read here: calibrate it alone (wam calibrate intrinsics), or, if its raw "
            "pictures are used, write 0 there."
        )
    if np.array_equal(matrix[:, :3], lens.matrix):
        return
    names = ("fx", "fy", "cx", "cy")
    found = dict(zip(names, (matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2]), strict=True))
    for name, (low, high) in zip(names, _expected(lens), strict=True):
        if not low <= found[name] <= high:
            raise CalibrationError(
                f"{where} has {name} = {found[name]:g} where this camera matrix and distortion give {low:.6g} to "
                f"{high:.6g}: one of them is of another image size or another calibration. If the camera matrix is "
                f"right, write its numbers there; else calibrate again (wam calibrate intrinsics)."
            )


def _expected(lens: LensSpec) -> list[tuple[float, float]]:
    """Lowest and highest fx, fy, cx, cy of a rectified picture, from no border to all that was seen."""
    size = (lens.width_px, lens.height_px)
    if lens.model == FISHEYE:
        scaled = lens.matrix * [[0.5, 1, 1], [1, 0.5, 1], [1, 1, 1]]
        matrices = [lens.matrix, scaled]
    else:
        distortion = np.array(lens.distortion)
        drawn = [np.array(cv2.getOptimalNewCameraMatrix(lens.matrix, distortion, size, a)[0]) for a in (0.0, 1.0)]
        matrices = [lens.matrix, *(matrix for matrix in drawn if np.isfinite(matrix).all())]
    values = np.array([[m[0, 0], m[1, 1], m[0, 2], m[1, 2]] for m in matrices])
    low, high = values.min(axis=0), values.max(axis=0)
    (fx, fy), (share, side) = lens.focal_px, (_FOCAL_ROOM, _CENTER_ROOM)
    room = np.array([share * fx, share * fy, side * size[0], side * size[1]])
    return [(float(a - r), float(b + r)) for a, b, r in zip(low, high, room, strict=True)]
