"""Camera intrinsics: from ROS's calibration file, from a simulated camera's field of view, and as ``camera_info``.

The file format is that of ``camera_calibration_parsers``: what ``cameracalibrator`` writes is read here.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from builtin_interfaces.msg import Time
from sensor_msgs.msg import CameraInfo

from ros_nodes.errors import NodeError
from wam.calibration_spec import DISTORTION_LENGTHS, LensSpec
from wam.errors import unknown_name
from wam.robot import CameraSpec, RobotSpec

__all__ = ["camera_info", "check_size", "info_topic", "known_lens", "lens_from_fovy", "read_lens"]


def lens_from_fovy(camera: CameraSpec, fovy_rad: float) -> LensSpec:
    """Intrinsics of a simulated camera: square pixels, no distortion, centred.

    Args:
        camera: Its image size.
        fovy_rad: Vertical field of view [rad].
    """
    focal = camera.height_px / 2 / math.tan(fovy_rad / 2)  # [px]
    return LensSpec(
        model="plumb_bob",
        width_px=camera.width_px,
        height_px=camera.height_px,
        focal_px=(focal, focal),
        # Pixel (0, 0) is the centre of the first pixel, so the middle of a 96 pixel wide image is at 47.5
        center_px=((camera.width_px - 1) / 2, (camera.height_px - 1) / 2),
        distortion=(0.0, 0.0, 0.0, 0.0, 0.0),
    )


def known_lens(robot: RobotSpec, camera: CameraSpec) -> LensSpec | None:
    """The lens in the robot file's calibration, or None if it has none for this camera.

    Raises:
        NodeError: It was calibrated at another image size.
    """
    lens = None if robot.calibration is None else robot.calibration.camera(camera.name).lens
    if lens is not None:
        check_size(lens, camera, f"calibration of robot '{robot.name}'")
    return lens


def read_lens(path: Path) -> LensSpec:
    """Reads a calibration file in ROS's format.

    Raises:
        NodeError: The file is missing, is not such a file, or holds numbers that cannot be a camera's.
    """
    try:
        data = yaml.safe_load(path.read_text())
        model = str(data["distortion_model"])
        if model not in DISTORTION_LENGTHS:
            raise NodeError(f"{path}: " + unknown_name("distortion_model", model, DISTORTION_LENGTHS))
        fx, _, cx, _, fy, cy, *_ = _numbers(data["camera_matrix"]["data"], 9)
        if min(fx, fy) <= 0:
            raise NodeError(f"{path}: focal lengths are {fx} and {fy} px but must be positive: calibrate again.")
        return LensSpec(
            model=model,
            width_px=int(data["image_width"]),
            height_px=int(data["image_height"]),
            focal_px=(fx, fy),
            center_px=(cx, cy),
            distortion=_numbers(data["distortion_coefficients"]["data"], DISTORTION_LENGTHS[model]),
        )
    except OSError as error:
        raise NodeError(f"camera calibration {path} cannot be read: {error.strerror}; give the file's path.") from error
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:  # ValueError: not a number, not UTF-8
        raise NodeError(
            f"{path} is not a camera calibration in ROS's format ({type(error).__name__}: {error}): it needs "
            "image_width, image_height, camera_matrix, distortion_model and distortion_coefficients."
        ) from error


def check_size(lens: LensSpec, camera: CameraSpec, source: str) -> None:
    """Refuses intrinsics of another image size: they would be wrong by the ratio of the sizes.

    Raises:
        NodeError: The sizes differ.
    """
    if (lens.width_px, lens.height_px) != (camera.width_px, camera.height_px):
        raise NodeError(
            f"{source} was made for {lens.width_px}x{lens.height_px} images but camera '{camera.name}' of the robot "
            f"file has {camera.width_px}x{camera.height_px}: calibrate at the size that is used."
        )


def camera_info(lens: LensSpec, stamp: Time, frame_id: str) -> CameraInfo:
    """Builds the message that goes with every unrectified image, with the image's stamp and frame."""
    (fx, fy), (cx, cy) = lens.focal_px, lens.center_px
    message = CameraInfo(
        height=lens.height_px,
        width=lens.width_px,
        distortion_model=lens.model,
        d=list(lens.distortion),
        k=[fx, 0.0, cx, 0.0, fy, cy, 0.0, 0.0, 1.0],
        r=[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
        p=[fx, 0.0, cx, 0.0, 0.0, fy, cy, 0.0, 0.0, 0.0, 1.0, 0.0],
    )
    message.header.stamp, message.header.frame_id = stamp, frame_id
    return message


def info_topic(image_topic: str) -> str:
    """Name of the ``camera_info`` topic that belongs to an image topic: its sibling, by ROS's convention."""
    return image_topic.rsplit("/", 1)[0] + "/camera_info" if "/" in image_topic else "camera_info"


def _numbers(values: Any, length: int) -> tuple[float, ...]:
    numbers = tuple(float(value) for value in values)
    if len(numbers) != length or not np.isfinite(numbers).all():
        raise ValueError(f"{list(values)} must be {length} finite numbers")
    return numbers
