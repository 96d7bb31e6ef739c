"""Camera intrinsics as ``camera_info`` messages: from the robot file's calibration, or a simulated field of view."""

import math

from builtin_interfaces.msg import Time
from sensor_msgs.msg import CameraInfo

from ros_nodes.errors import NodeError
from wam.calibration_spec import LensSpec
from wam.robot import CameraSpec, RobotSpec

__all__ = ["camera_info", "check_size", "info_topic", "known_lens", "lens_from_fovy"]


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
