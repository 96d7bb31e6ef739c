"""Camera intrinsics: from a calibration file, from a simulated camera's field of view, and as ``camera_info``.

The file format is ROS's own (``camera_calibration_parsers``): what ``cameracalibrator`` writes is read here. Pixels
have their centres at whole numbers, as in OpenCV, so the middle of a 96 pixel wide image is 47.5.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from builtin_interfaces.msg import Time
from sensor_msgs.msg import CameraInfo

from ros_nodes.errors import NodeError
from wam.errors import unknown_name
from wam.robot import CameraSpec

__all__ = ["Intrinsics", "camera_info", "from_fovy", "read_intrinsics"]

DISTORTION_LENGTHS = {"plumb_bob": (5,), "rational_polynomial": (8, 12, 14), "equidistant": (4,)}


@dataclass(frozen=True, kw_only=True)
class Intrinsics:
    """Pinhole parameters and lens distortion of one camera."""

    width_px: int
    height_px: int
    camera_matrix: tuple[float, ...]  # 9 numbers, row by row: fx 0 cx 0 fy cy 0 0 1 [px]
    distortion_model: str = "plumb_bob"  # a key of DISTORTION_LENGTHS
    distortion: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0, 0.0)

    def check_camera(self, camera: CameraSpec, source: str) -> None:
        """Refuses intrinsics of another image size: they would be wrong by the ratio of the sizes.

        Raises:
            NodeError: The sizes differ.
        """
        if (self.width_px, self.height_px) != (camera.width_px, camera.height_px):
            raise NodeError(
                f"{source} was made for {self.width_px}x{self.height_px} images but camera '{camera.name}' of the "
                f"robot file has {camera.width_px}x{camera.height_px}: calibrate at the size that is used."
            )


def from_fovy(camera: CameraSpec, fovy_rad: float) -> Intrinsics:
    """Intrinsics of a simulated camera: square pixels, no distortion, centred.

    Args:
        camera: Its image size.
        fovy_rad: Vertical field of view [rad].
    """
    focal = camera.height_px / 2 / math.tan(fovy_rad / 2)  # [px]
    centre = ((camera.width_px - 1) / 2, (camera.height_px - 1) / 2)
    matrix = (focal, 0.0, centre[0], 0.0, focal, centre[1], 0.0, 0.0, 1.0)
    return Intrinsics(width_px=camera.width_px, height_px=camera.height_px, camera_matrix=matrix)


def read_intrinsics(path: Path) -> Intrinsics:
    """Reads a calibration file in ROS's format.

    Raises:
        NodeError: The file is missing, is not such a file, or holds numbers that cannot be a camera's.
    """
    try:
        data = yaml.safe_load(path.read_text())
        matrix = _numbers(data["camera_matrix"]["data"], (9,))
        model = str(data["distortion_model"])
        if model not in DISTORTION_LENGTHS:
            raise NodeError(f"{path}: " + unknown_name("distortion_model", model, DISTORTION_LENGTHS))
        return Intrinsics(
            width_px=int(data["image_width"]),
            height_px=int(data["image_height"]),
            camera_matrix=matrix,
            distortion_model=model,
            distortion=_numbers(data["distortion_coefficients"]["data"], DISTORTION_LENGTHS[model]),
        )
    except OSError as error:
        raise NodeError(f"camera calibration {path} cannot be read: {error.strerror}; give the file's path.") from error
    except (yaml.YAMLError, KeyError, TypeError, ValueError, UnicodeDecodeError) as error:
        raise NodeError(
            f"{path} is not a camera calibration in ROS's format ({type(error).__name__}: {error}): it needs "
            "image_width, image_height, camera_matrix, distortion_model and distortion_coefficients."
        ) from error


def camera_info(intrinsics: Intrinsics, stamp: Time, frame_id: str) -> CameraInfo:
    """Builds the message that goes with every unrectified image, with the image's stamp and frame."""
    k = intrinsics.camera_matrix
    message = CameraInfo(
        height=intrinsics.height_px,
        width=intrinsics.width_px,
        distortion_model=intrinsics.distortion_model,
        d=list(intrinsics.distortion),
        k=list(k),
        r=[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
        p=[*k[0:3], 0.0, *k[3:6], 0.0, *k[6:9], 0.0],
    )
    message.header.stamp, message.header.frame_id = stamp, frame_id
    return message


def _numbers(values: Any, lengths: tuple[int, ...]) -> tuple[float, ...]:
    numbers = tuple(float(value) for value in values)
    if len(numbers) not in lengths or not np.isfinite(numbers).all():
        raise ValueError(f"{list(values)} must be {' or '.join(map(str, lengths))} finite numbers")
    return numbers
