"""``python -m ros_nodes.bench_source``: publishes what a robot with two cameras publishes, to measure the recorder.

Images of the robot file's size and rate, joint states at 100 Hz, commands and guard states at 50 Hz. Messages are
serialised once and only their stamps change, so that this process costs little beside the one that is measured. When it
is told to end it prints, as JSON, the stamps of every image and joint state it has sent.
"""

import json
import signal
import struct
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.node import Node
from rclpy.serialization import serialize_message
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

from ros_nodes import messages, qos, spinning
from ros_nodes.diagnostics import Health, status_message
from ros_nodes.parameters import declare, param
from ros_nodes.topics import load_robot_of

__all__ = ["BenchSource", "SourceParameters", "main"]

STATE_RATE_HZ, COMMAND_RATE_HZ = 100.0, 50.0
STAMP_OFFSET = 4  # of a header's stamp: behind the four bytes of encapsulation
NANO = 1_000_000_000


@dataclass(frozen=True, kw_only=True)
class SourceParameters:
    """What the source is started with."""

    robot: str = field(default="so101", metadata=param("robot file: its cameras are imitated"))


class BenchSource(Node):
    """See the module."""

    def __init__(self) -> None:
        super().__init__("bench_source")
        robot = load_robot_of(self, declare(self, SourceParameters).robot)
        self.sent: dict[str, list[int]] = {}
        zeros, zero_time = np.zeros(robot.action_dim), messages.to_time(0.0)
        rows = np.arange(256, dtype=np.uint8)[:, None]
        for camera in robot.cameras:
            # A gradient: images of a real size that a compressed recording keeps small.
            pixels = np.resize(rows, (camera.height_px, camera.width_px, 3))
            image = messages.rgb_image(pixels, zero_time, camera.frame_id)
            self._stamped(Image, camera.topic, qos.SENSOR, image, camera.rate_hz)
        state = messages.joint_state(robot.action_names, zeros, zero_time)
        self._stamped(JointState, robot.state_topic, qos.STATE_OFFERED, state, STATE_RATE_HZ)
        command: Any = messages.forward_command(robot.action_names, zeros)
        kind: type = Float64MultiArray
        if robot.command_interface == "trajectory":
            kind = JointTrajectory
            command = messages.trajectory_command(robot, zeros, zeros, 1 / COMMAND_RATE_HZ)
        self._plain(kind, robot.command_topic, qos.COMMAND, command)
        guard = status_message("guard", Health(values={"state": "HOLD", "reason": "a measurement"}))
        self._plain(DiagnosticStatus, "guard/state", qos.STATE_OFFERED, guard)

    def _stamped(self, kind: type, topic: str, profile: Any, message: Any, rate_hz: float) -> None:
        publisher = self.create_publisher(kind, topic, profile)
        data = bytearray(serialize_message(message))
        stamps = self.sent.setdefault(publisher.topic_name, [])  # as recordings name it

        def publish() -> None:
            now = time.time_ns()
            struct.pack_into("<iI", data, STAMP_OFFSET, now // NANO, now % NANO)
            publisher.publish(bytes(data))
            stamps.append(now)

        self.create_timer(1.0 / rate_hz, publish)

    def _plain(self, kind: type, topic: str, profile: Any, message: Any) -> None:
        publisher = self.create_publisher(kind, topic, profile)
        data = serialize_message(message)
        self.create_timer(1.0 / COMMAND_RATE_HZ, lambda: publisher.publish(data))

    def destroy_node(self) -> None:
        """Says what was sent."""
        print(json.dumps(self.sent), flush=True)
        self.sent = {}
        super().destroy_node()


def main(argv: Sequence[str] | None = None) -> None:
    """Publishes until a signal."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    spinning.run(BenchSource, sys.argv if argv is None else argv)


if __name__ == "__main__":
    main()
