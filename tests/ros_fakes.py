"""A robot and a policy inside the test's own process, for faults that no well-behaved node can be made to show.

Both publish from timers of the graph's listening node, so they live only while the test spins.
"""

import time
from pathlib import Path

import numpy as np
import yaml
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rosgraph_msgs.msg import Clock as ClockMessage
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

from policy.wire import command_by_name
from ros_nodes import messages, qos
from ros_nodes.bench_measures import silence_s
from tests.ros_fake_policy import ROBOT, swinging_chunk
from tests.ros_graph import Graph
from wam.robot import load_robot

NAMES = ROBOT.action_names
STATE_PERIOD = 0.01  # [s]
# Ages that a machine can keep that draws two cameras beside other tests [s]. With the robot's own, one that cannot
# shows a guard that holds, as it should, and no loop.
AGES_OF_A_BUSY_MACHINE = {"image_age_s": 0.5, "state_age_s": 0.3, "stream_spread_s": 0.4}
HOME = np.array([0.0, 0.289, 1.475, 0.0, 1.378, 0.0, 1.0], dtype=np.float32)


def robot_file_with(folder: Path, **safety: float) -> Path:
    """Robot file of sim6 with other values under ``safety``."""
    data = load_robot("sim6").to_dict()
    data["safety"] |= safety
    folder.mkdir(exist_ok=True)
    path = folder / "sim6.yaml"
    path.write_text(yaml.safe_dump({name: value for name, value in data.items() if value is not None}))
    return path


def patient_robot(folder: Path, **safety: float) -> Path:
    """The same, with a guard that neither latches nor lapses while the machine leaves processes alone for seconds."""
    return robot_file_with(folder, **({"state_fault_s": 60.0, "resume_s": 60.0} | safety))


class FakeRobot:
    """Publishes joint states at 100 Hz and both cameras at 30 Hz; goes where it is told at once.

    Attributes are switches: change them while the test runs.
    """

    def __init__(self, graph: Graph, *, cameras: bool = False, clock: bool = False) -> None:
        self.graph = graph
        self.positions = HOME.copy()
        self.offset = np.zeros_like(HOME)  # what the encoders add to where the arm is
        self.names = list(NAMES)  # in the order they are published; unknown ones are 0
        self.states_on = True
        self.two_messages = False  # the last axis comes in a message of its own
        self.obeys = True  # goes where it is told
        self.sent: list[float] = []  # steady times of its joint states [s]
        self.clock_shift = 0.0  # robot time minus system time [s]; only with ``clock`` does anybody notice
        self.camera_delay = dict.fromkeys(ROBOT.camera_names, 0.0)  # stamps this much in the past [s]
        self.camera_on = dict.fromkeys(ROBOT.camera_names, True)
        self.frozen_stamp: dict[str, float | None] = dict.fromkeys(ROBOT.camera_names)
        self.frozen_pixels = dict.fromkeys(ROBOT.camera_names, False)
        self._frame = 0
        node, steady = graph.node, Clock(clock_type=ClockType.STEADY_TIME)
        self._states = node.create_publisher(JointState, ROBOT.state_topic, qos.STATE_OFFERED)
        self._clock = node.create_publisher(ClockMessage, "/clock", qos.STATE_OFFERED) if clock else None
        node.create_subscription(Float64MultiArray, ROBOT.command_topic, self._on_command, qos.COMMAND)
        node.create_timer(STATE_PERIOD, self._publish_state, clock=steady)
        if cameras:
            self._images = {c.name: node.create_publisher(Image, c.topic, qos.SENSOR) for c in ROBOT.cameras}
            node.create_timer(1 / 30, self._publish_images, clock=steady)

    def now(self) -> float:
        """Robot time [s]."""
        return time.time() + self.clock_shift

    def late(self, since: float) -> float:
        """How long it was silent beyond its period since a time, because this process was not run [s]."""
        return silence_s([when for when in self.sent if when > since - 0.1], STATE_PERIOD)

    def go_home(self) -> None:
        """Puts the arm where the fake policy swings, and mends its encoders."""
        self.positions = HOME.copy()
        self.offset[:] = 0
        self.names = list(NAMES)

    def _on_command(self, message: Float64MultiArray) -> None:
        if self.obeys:
            self.positions = command_by_name(message, NAMES)

    def _publish_state(self) -> None:
        now = self.now()
        if self._clock is not None:
            self._clock.publish(ClockMessage(clock=messages.to_time(now)))
        if self.states_on:
            measured = dict(zip(NAMES, self.positions + self.offset, strict=True))
            for names in (self.names[:-1], self.names[-1:]) if self.two_messages else (self.names,):
                values = np.array([measured.get(name, 0.0) for name in names])
                self._states.publish(messages.joint_state(names, values, messages.to_time(now)))
            self.sent.append(time.monotonic())

    def _publish_images(self) -> None:
        self._frame += 1
        for camera in ROBOT.cameras:
            if not self.camera_on[camera.name]:
                continue
            frozen = self.frozen_stamp[camera.name]
            stamp = self.now() - self.camera_delay[camera.name] if frozen is None else frozen
            shade = 7 if self.frozen_pixels[camera.name] else self._frame % 256
            rgb = np.full((camera.height_px, camera.width_px, 3), shade, dtype=np.uint8)
            image = messages.rgb_image(rgb, messages.to_time(stamp), camera.frame_id)
            self._images[camera.name].publish(image)


class FakePolicyTimer:
    """Publishes swinging chunks at 10 Hz; ``spoil`` may change every message before it leaves."""

    def __init__(self, graph: Graph, robot: FakeRobot) -> None:
        self.robot = robot
        self.epoch, self.sequence = time.time_ns() // 1_000_000, 0
        self.on = True
        self.delay_s = 0.0  # how far its clock is behind the robot's
        self.spoil = lambda message: None
        self._since = robot.now()
        self._chunks = graph.node.create_publisher(JointTrajectory, "policy/chunk", qos.CHUNK)
        graph.node.create_timer(0.1, self.publish, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def publish(self) -> None:
        """Publishes one chunk, unless switched off."""
        if self.on:
            chunk = swinging_chunk(HOME, self.robot.now() - self.delay_s, since=self._since)
            message = messages.chunk_trajectory(chunk, NAMES, self.epoch, self.sequence)
            self.spoil(message)
            self._chunks.publish(message)
            self.sequence += 1
