"""A process that sees what a policy would see, through the policy node's own inputs, and writes it down.

Started as a script with parameters ``robot`` and ``out``; one JSON line per tick, at the robot's control rate. A line
also names the messages that this process heard of since the line before, in their order: which of two messages and a
tick comes first in which process is the machine's affair, and who replays a recording of the same needs to know it.
"""

import hashlib
import json
from collections.abc import Sequence

import numpy as np
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.node import Node

from policy.alignment import ObservationBuffer
from ros_nodes import policy_inputs, spinning
from ros_nodes.policy_inputs import PolicyInputs
from wam.robot import load_robot
from wam.spec import OBS_STATE, image_key

HEARD: list[tuple[str, float]] = []  # stream and stamp [s] of what came since the last line


class NotingBuffer(ObservationBuffer):
    """Notes what it is given."""

    def add_image(self, camera: str, stamp: float, rgb_hwc_u8: np.ndarray, *, received: float | None = None) -> None:
        HEARD.append((image_key(camera), stamp))
        super().add_image(camera, stamp, rgb_hwc_u8, received=received)

    def add_joint_state(
        self, names: Sequence[str], positions: Sequence[float], stamp: float, *, received: float | None = None
    ) -> None:
        HEARD.append((OBS_STATE, stamp))
        super().add_joint_state(names, positions, stamp, received=received)


class LiveAligner(Node):
    """Ticks, aligns and notes."""

    def __init__(self) -> None:
        super().__init__("live_aligner")
        robot = load_robot(self.declare_parameter("robot", "sim6").value)
        self._out = open(self.declare_parameter("out", "").value, "w", buffering=1)  # noqa: SIM115  # for life
        policy_inputs.ObservationBuffer = NotingBuffer
        self._inputs = PolicyInputs(self, robot, "")
        self._due_ns = 0  # when the tick would have been, had the machine run this process
        self._period_ns = round(robot.control_dt * 1e9)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(robot.control_dt, self._tick, clock=steady)
        self.create_timer(0.5, self._report, clock=steady)

    def _report(self) -> None:
        for problem in self._inputs.problems():
            self.get_logger().warning(problem)

    def _tick(self) -> None:
        time_ns = self.get_clock().now().nanoseconds
        late_ns = max(0, time_ns - self._due_ns) if self._due_ns else 0
        self._due_ns = time_ns + self._period_ns
        aligned = self._inputs.align(time_ns * 1e-9)
        if aligned.observation is None:
            return
        seen = aligned.observation
        line = {
            "time_ns": time_ns,
            "late_ns": late_ns,
            "heard": HEARD.copy(),
            "stamps": dict(aligned.stamps),
            "task": seen.task,
            "proprio": seen.proprio.tolist(),
            "images": {name: hashlib.sha256(image.tobytes()).hexdigest() for name, image in seen.images.items()},
        }
        HEARD.clear()
        self._out.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    spinning.run(LiveAligner)
