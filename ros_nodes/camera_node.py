"""A camera of the robot: images stamped with the time they were taken at, and the lens that took them.

One node per camera; topic, frame, size and rate stand in the robot file. Capturing is ``ros_nodes.capture``; this node
turns its steady time stamps into robot time. A camera that delivers nothing, or the same pixels for too long, is
reported and opened again. Asked by its place for a camera that the robot has not, the node does nothing, but stays:
launch files start the nodes of two cameras, and again whenever they end.
"""

import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image

from calibration.camera_info import read_camera_info
from ros_nodes import messages, qos, spinning
from ros_nodes.camera_info import camera_info, info_topic, known_lens
from ros_nodes.capture import Capture, Frame, open_source
from ros_nodes.diagnostics import ERROR, OK, WARN, DiagnosticsReporter, Health, Window
from ros_nodes.parameters import declare, param
from ros_nodes.timing import robot_and_steady_time
from ros_nodes.topics import load_robot_of
from wam.calibration_spec import LensSpec
from wam.errors import RobotSpecError, unknown_name
from wam.robot import CameraSpec, RobotSpec

__all__ = ["CameraNode", "CameraParameters", "main"]


@dataclass(frozen=True, kw_only=True)
class CameraParameters:
    """What a camera node is started with."""

    robot: str = field(metadata=param("name or path of the robot file"))
    device: str = field(metadata=param("index or file of the device; or a video file, or a folder of pictures"))
    camera: str = field(
        default="", metadata=param("which camera it is, by its name in the robot file; empty: the one at 'place'")
    )
    place: int = field(default=1, metadata=param("which camera of the robot file it is without a name", low=1))
    calibration: str = field(
        default="", metadata=param("ROS calibration file of the lens; empty takes the robot file's calibration")
    )
    fourcc: str = field(default="", metadata=param("pixel format asked of the device, such as MJPG; empty leaves it"))
    loop: bool = field(default=True, metadata=param("begin again at the end of a video file or folder"))
    silence_s: float = field(
        default=1.0, metadata=param("time without a frame that is reported", unit="s", low=0.05, high=60)
    )
    frozen_s: float = field(
        default=3.0, metadata=param("time with the same pixels after which it is opened again", unit="s", low=0.1)
    )
    retry_s: float = field(
        default=1.0, metadata=param("time between two attempts to open it", unit="s", low=0.05, high=60)
    )


class CameraNode(Node):
    """See the module."""

    def __init__(self) -> None:
        super().__init__("camera")
        self._p = p = declare(self, CameraParameters)
        robot = load_robot_of(self, p.robot)
        if not p.camera and p.place > len(robot.cameras):
            self._have_nothing_to_do(robot)
            return
        self._camera = camera = _camera(robot, p.camera or robot.camera_names[p.place - 1])
        self._lens = _lens(robot, camera, p.calibration)
        self._images = self.create_publisher(Image, camera.topic, qos.SENSOR)
        self._infos = self.create_publisher(CameraInfo, info_topic(camera.topic), qos.SENSOR)
        self._delay, self._wrong_size, self._begun = Window(), "", time.monotonic()
        source = functools.partial(
            open_source,
            p.device,
            width_px=camera.width_px,
            height_px=camera.height_px,
            rate_hz=camera.rate_hz,
            fourcc=p.fourcc,
            loop=p.loop,
        )
        self._capture = Capture(source, self._on_frame, retry_s=p.retry_s)
        self._reporter = DiagnosticsReporter(self, self._health, hardware_id=f"{robot.name} {camera.name}")
        self.get_logger().info(f"camera '{camera.name}' of '{robot.name}' from {p.device} on {camera.topic}")

    def _have_nothing_to_do(self, robot: RobotSpec) -> None:
        why = (
            f"nothing to do: robot '{robot.name}' has no camera {self._p.place} (only {', '.join(robot.camera_names)})"
        )
        self._reporter = DiagnosticsReporter(self, lambda: Health(message=why), hardware_id=robot.name)
        self.get_logger().info(f"{why}; launch argument camera_{self._p.place}:=none leaves this node out")

    def destroy_node(self) -> None:
        """Ends the capture first."""
        if hasattr(self, "_capture"):
            self._capture.close()
        super().destroy_node()

    def _on_frame(self, frame: Frame) -> None:
        """Runs in the capture thread: a frame leaves the moment it is there."""
        camera, (height, width) = self._camera, frame.rgb.shape[:2]
        if (width, height) != (camera.width_px, camera.height_px):
            self._wrong_size = (
                f"the device gives {width}x{height} images but the robot file promises {camera.width_px}x"
                f"{camera.height_px} for camera '{camera.name}': set one to the other (and calibrate at that size)"
            )
            return
        self._wrong_size = ""
        robot_now, now = robot_and_steady_time(self)
        self._delay.add(now - frame.taken)
        stamp = messages.to_time(robot_now - (now - frame.taken))
        self._images.publish(messages.rgb_image(frame.rgb, stamp, camera.frame_id))
        if self._lens is not None:
            self._infos.publish(camera_info(self._lens, stamp, camera.frame_id))

    def _health(self) -> Health:
        state, now = self._capture.state, time.monotonic()
        silence = now - (state.newest or self._begun)
        frozen = state.same_pixels / self._camera.rate_hz
        level, message = OK, "capturing"
        if self._lens is None:
            message = "capturing; not calibrated, so there is no camera_info"
        if frozen > self._p.frozen_s:
            level, message = WARN, f"the same pixels for {frozen:.1f} s: frozen, or a picture; opening it again"
            self._capture.reconnect()
        if self._wrong_size:
            level, message = ERROR, self._wrong_size
        if state.problem or silence > self._p.silence_s:
            why = f": {state.problem}" if state.problem else ""
            level, message = ERROR, f"no frame for {silence:.1f} s{why}"
        counts = {name: getattr(state, name) for name in ("frames", "reconnects", "same_pixels")}
        return Health(level=level, message=message, values={**counts, **self._delay.summary("publish_delay")})


def _camera(robot: RobotSpec, name: str) -> CameraSpec:
    for camera in robot.cameras:
        if camera.name == name:
            return camera
    raise RobotSpecError(f"robot '{robot.name}': {unknown_name('camera', name, robot.camera_names)}")


def _lens(robot: RobotSpec, camera: CameraSpec, calibration: str) -> LensSpec | None:
    if not calibration:
        return known_lens(robot, camera)
    return read_camera_info(Path(calibration), size_px=(camera.width_px, camera.height_px))


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the node."""
    spinning.run(CameraNode, argv)


if __name__ == "__main__":
    main()
