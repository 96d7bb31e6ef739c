"""A process that publishes what a robot publishes, for recorder tests: started as a script, stopped by SIGTERM.

Prints the number of messages it has published per topic when it ends. Messages are serialised once and only their
stamps change, so this costs little beside what is tested.
"""

import json
import os
import signal
import struct
import time

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.serialization import serialize_message
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Float64MultiArray, String

from ros_nodes import messages, qos
from wam.robot import load_robot

NANO = 1_000_000_000


class Traffic(Node):
    """Cameras at 30 Hz, joints at 100 Hz, guard at 50 Hz; ``silent`` names roles that are left out."""

    def __init__(self) -> None:
        super().__init__("traffic")
        self.robot = robot = load_robot(self.declare_parameter("robot", "so101").value)
        silent = self.declare_parameter("silent", "").value
        self.counts: dict[str, int] = {}
        noise = np.random.default_rng(0)
        zeros = np.zeros(robot.action_dim)
        for camera in robot.cameras if silent != "images" else ():
            pixels = noise.integers(0, 256, (camera.height_px, camera.width_px, 3), dtype=np.uint8)
            message = messages.rgb_image(pixels, messages.to_time(0.0), camera.frame_id)
            self._stream(Image, camera.topic, qos.SENSOR, message, camera.rate_hz, stamped=True)
        state = messages.joint_state(robot.action_names, zeros, messages.to_time(0.0))
        self._stream(JointState, robot.state_topic, qos.STATE_OFFERED, state, 100.0, stamped=True)
        command = messages.forward_command(robot.action_names, zeros)
        self._stream(Float64MultiArray, robot.command_topic, qos.COMMAND, command, 50.0)
        status = DiagnosticStatus(name="guard", values=[KeyValue(key="state", value="HOLD")])
        self._stream(DiagnosticStatus, "guard/state", qos.STATE_OFFERED, status, 50.0)
        task = self.create_publisher(String, "policy/task", qos.LATCHED)
        task.publish(String(data="fold the towel"))
        self._latched = task

    def _stream(self, kind, topic, profile, message, rate_hz, *, stamped=False):
        publisher = self.create_publisher(kind, topic, profile)
        data = bytearray(serialize_message(message))
        self.counts[topic] = 0

        def publish() -> None:
            if stamped:
                now = time.time_ns()
                struct.pack_into("<iI", data, 4, now // NANO, now % NANO)
            publisher.publish(bytes(data))
            self.counts[topic] += 1

        self.create_timer(1.0 / rate_hz, publish)


def main() -> None:
    """Publishes until SIGTERM."""
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    node = Traffic()
    stop: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: stop.append(number))
    try:
        while not stop:
            rclpy.spin_once(node, timeout_sec=0.1)
    except ExternalShutdownException:
        pass  # as good an end as the signal
    print(json.dumps(node.counts), flush=True)
    node.destroy_node()
    rclpy.try_shutdown()
    os._exit(0)  # nothing is left to say


if __name__ == "__main__":
    main()
