"""A policy of twenty lines as a process: it swings the first axis, and can be killed, stopped and continued."""

import sys
import time

import numpy as np
from rclpy.node import Node
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory

from policy.wire import positions_by_name
from ros_nodes import messages, qos, spinning
from wam.robot import load_robot
from wam.spec import ActionChunk

ROBOT = load_robot("sim6")
SWING, SWING_HZ, CHUNK_LENGTH = 0.3, 0.25, 16  # [rad], [Hz], actions


def swinging_chunk(centre: np.ndarray, stamp: float, *, since: float) -> ActionChunk:
    """A chunk that swings the first axis about ``centre``, starting there at time ``since``."""
    t = stamp - since + ROBOT.control_dt * np.arange(CHUNK_LENGTH)
    actions = np.tile(centre.astype(np.float32), (CHUNK_LENGTH, 1))
    actions[:, 0] += (SWING * np.sin(2 * np.pi * SWING_HZ * t)).astype(np.float32)
    return ActionChunk(actions=actions, stamp=stamp, control_dt=ROBOT.control_dt, anchor=actions[0])


class FakePolicy(Node):
    """Publishes swinging chunks at 10 Hz from the first joint state on."""

    def __init__(self) -> None:
        super().__init__("policy")
        self.centre: np.ndarray | None = None
        self.since, self.epoch, self.sequence = 0.0, time.time_ns() // 1_000_000, 0
        self.chunks = self.create_publisher(JointTrajectory, "policy/chunk", qos.CHUNK)
        self.create_subscription(JointState, ROBOT.state_topic, self.look, qos.STATE)
        self.create_timer(0.1, self.plan)

    def look(self, message: JointState) -> None:
        if self.centre is None:
            self.since = self.get_clock().now().nanoseconds * 1e-9
            self.centre = positions_by_name(message.name, message.position, ROBOT.action_names, "joint states")

    def plan(self) -> None:
        if self.centre is not None:
            chunk = swinging_chunk(self.centre, self.get_clock().now().nanoseconds * 1e-9, since=self.since)
            message = messages.chunk_trajectory(chunk, ROBOT.action_names, self.epoch, self.sequence)
            self.chunks.publish(message)
            self.sequence += 1


if __name__ == "__main__":
    spinning.run(FakePolicy, sys.argv)
