"""Captures for ``wam calibrate``: a camera's pictures with the joint states, into a folder that the commands read.

The service ``calibration/capture`` stores one sample (kinds ``pictures`` and ``poses``) or records for some seconds
(``motion``); what makes a sample good enough is ``calibration.capture_session``. The node never moves the arm.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rclpy.node import Node
from sensor_msgs.msg import Image, JointState
from std_srvs.srv import Trigger

from calibration.capture import KINDS
from calibration.capture_session import CaptureLimits, CaptureSession
from calibration.errors import CalibrationError
from policy.wire import UNSTAMPED, rgb_from_image, stamp_seconds, unstamped
from ros_nodes import qos, spinning
from ros_nodes.diagnostics import OK, WARN, DiagnosticsReporter, Health
from ros_nodes.parameters import declare, param
from ros_nodes.topics import load_robot_of
from wam.errors import WamError

__all__ = ["CalibrationNode", "CalibrationParameters", "main"]


@dataclass(frozen=True, kw_only=True)
class CalibrationParameters:
    """What a capture node is started with."""

    robot: str = field(metadata=param("name or path of the robot file"))
    camera: str = field(metadata=param("which camera of the robot file is captured"))
    folder: str = field(metadata=param("where pictures and capture.json go; made if need be, continued if it is one"))
    kind: str = field(default="poses", metadata=param("what is captured", choices=KINDS))
    max_age_s: float = field(
        default=0.5, metadata=param("age of the newest picture that is accepted", unit="s", low=0.01, high=10)
    )
    still_s: float = field(
        default=0.5, metadata=param("how long the arm must have stood still, in poses", unit="s", low=0.05, high=10)
    )
    still_rad: float = field(
        default=0.004, metadata=param("how far a joint may move in that time", unit="rad", low=1e-5, high=0.1)
    )
    motion_s: float = field(default=10.0, metadata=param("length of a capture of motion", unit="s", low=1, high=120))


class CalibrationNode(Node):
    """See the module."""

    def __init__(self) -> None:
        super().__init__("calibration")
        p = declare(self, CalibrationParameters)
        robot = load_robot_of(self, p.robot)
        limits = CaptureLimits(max_age_s=p.max_age_s, still_s=p.still_s, still_rad=p.still_rad, motion_s=p.motion_s)
        self._session = CaptureSession(robot, p.camera, Path(p.folder), p.kind, limits)
        self._problem, self._images, self._states = "", 0, 0
        self._unstamped: dict[str, str] = {}  # topic -> that its newest message has no stamp
        topic = next(camera.topic for camera in robot.cameras if camera.name == p.camera)
        self._image_topic, self._state_topic = topic, robot.state_topic
        depth = qos.SENSOR_RECORDED if p.kind == "motion" else qos.SENSOR
        self.create_subscription(Image, topic, self._on_image, depth)
        self.create_subscription(JointState, robot.state_topic, self._on_state, qos.STATE)
        self.create_service(Trigger, "calibration/capture", self._on_capture)
        self._kind = p.kind
        self._reporter = DiagnosticsReporter(self, self._health, hardware_id=f"{robot.name} {p.camera}")
        self.get_logger().info(f"ready to capture '{p.kind}' of camera '{p.camera}' into {Path(p.folder).absolute()}")

    def _on_image(self, message: Image) -> None:
        self._images += 1
        stamp = stamp_seconds(message.header.stamp)
        if not self._stamped(self._image_topic, stamp):
            return
        try:
            done = self._session.add_image(stamp, rgb_from_image(message))
        except WamError as error:
            self._problem = str(error)
            self.get_logger().error(self._problem, throttle_duration_sec=5.0)
            return
        if done:
            self.get_logger().info(done)

    def _on_state(self, message: JointState) -> None:
        self._states += 1
        stamp = stamp_seconds(message.header.stamp)
        if not self._stamped(self._state_topic, stamp):
            return
        positions = dict(zip(message.name, message.position, strict=False))  # a driver may leave positions out
        self._session.add_state(stamp, positions)

    def _stamped(self, topic: str, stamp: float) -> bool:
        """Whether a message has a stamp; one that has none is left out, and a capture says why."""
        if unstamped(stamp):
            self._unstamped[topic] = f"{topic}: {UNSTAMPED}"
            self.get_logger().error(self._unstamped[topic], throttle_duration_sec=5.0)
        else:
            self._unstamped.pop(topic, None)
        return topic not in self._unstamped

    def _no_stamps(self) -> str:
        """That a stream which the capture needs has no stamps; empty while all have them."""
        needed = [self._image_topic] + ([] if self._kind == "pictures" else [self._state_topic])
        return "; ".join(self._unstamped[topic] for topic in needed if topic in self._unstamped)

    def _on_capture(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        try:
            if self._no_stamps():
                raise CalibrationError(self._no_stamps())
            response.message = self._session.capture(self.get_clock().now().nanoseconds * 1e-9)
            response.success, self._problem = True, ""
            self.get_logger().info(response.message)
        except CalibrationError as error:
            response.success, response.message = False, str(error)
            self.get_logger().warning(response.message)
        return response

    def _health(self) -> Health:
        level, message = OK, "recording" if self._session.recording else f"ready, {self._session.count} samples"
        if not self._images:
            level, message = WARN, "no picture has come yet: start the camera's node"
        elif not self._states and self._kind != "pictures":
            level, message = WARN, "no joint states have come yet: start the arm's node"
        if self._problem or self._no_stamps():
            level, message = WARN, self._problem or self._no_stamps()
        values = {"samples": self._session.count, "images": self._images, "states": self._states, "kind": self._kind}
        return Health(level=level, message=message, values=values)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the node."""
    spinning.run(CalibrationNode, argv)


if __name__ == "__main__":
    main()
