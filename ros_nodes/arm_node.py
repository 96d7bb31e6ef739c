"""The arm: joint states out, setpoints in, whichever arm it is.

One node for every arm; ``backend`` chooses what speaks to it. It takes commands by either interface and by joint name,
holds the last setpoint when commands stop, and limits nothing: that is the guard's work. A simulated arm publishes its
cameras, its episodes and, when asked, ``/clock`` as well.

Asked to end, it outlives a guard that brakes, because ``ros2 launch`` asks all nodes at once: it goes on until commands
rest or nobody sends any more.
"""

import importlib
import time
from collections.abc import Sequence

import numpy as np
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.node import Node
from rosgraph_msgs.msg import Clock as ClockMessage
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

from policy.wire import command_by_name
from ros_nodes import messages, qos, spinning
from ros_nodes.arm_backend import ArmBackend, SimulatedArm
from ros_nodes.arm_parameters import ArmParameters
from ros_nodes.arm_simulated import SimulatedTopics
from ros_nodes.diagnostics import OK, WARN, DiagnosticsReporter, Health
from ros_nodes.errors import ParameterError
from ros_nodes.parameters import declare
from wam.errors import ValueContractError
from wam.robot import load_robot

__all__ = ["ArmNode", "main"]

COMMANDS = {"forward": Float64MultiArray, "trajectory": JointTrajectory}
REST_COMMANDS = 8  # as many equal ones are a hold: twice as many as a guard sends before it ends
GONE_S = 0.1  # silence after which nothing is on its way any more, once the last publisher of commands is gone [s]
SILENT_S = 1.0  # silence of a publisher that is still there, as one that hangs or was not run [s]


class ArmNode(Node):
    """See the module."""

    def __init__(self) -> None:
        super().__init__("arm")
        self._p = p = declare(self, ArmParameters)
        if p.speed != 1.0 and not p.publish_clock:
            raise ParameterError(
                f"parameter 'speed' of node 'arm' is {p.speed:g}, so robot time differs from the wall clock and every "
                "other node must be told it: set publish_clock, and use_sim_time in the other nodes."
            )
        self._robot = load_robot(p.robot)
        self._started, self._origin = time.monotonic(), time.time()
        self._arm: ArmBackend = importlib.import_module(f"ros_nodes.arm_{p.backend}").open_arm(self, self._robot, p)
        self._arm.connect()
        self._states = self.create_publisher(JointState, self._robot.state_topic, qos.STATE_OFFERED)
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        kind = COMMANDS[p.interface or self._robot.command_interface]
        self._subscription = self.create_subscription(kind, self._robot.command_topic, self._on_command, qos.COMMAND)
        self._commands, self._refused, self._refusal, self._last_command = 0, 0, "", -1e9
        self._setpoint, self._same = np.empty(0), 0  # the newest command, and how many before it were the same
        self._clock_out = self.create_publisher(ClockMessage, "/clock", qos.STATE_OFFERED) if p.publish_clock else None
        if isinstance(self._arm, SimulatedArm):
            self._simulated = SimulatedTopics(self, self._arm, self._robot, announce_task=p.announce_task)
        self.create_timer(1.0 / (p.state_rate_hz * p.speed), self._step, clock=self._steady)
        self._reporter = DiagnosticsReporter(self, self._health, hardware_id=self._robot.name)
        self.get_logger().info(
            f"arm '{self._robot.name}', backend {p.backend}, commands on {self._robot.command_topic}"
        )

    def destroy_node(self) -> None:
        """Lets go of the arm first."""
        if hasattr(self, "_arm"):
            self._arm.close()
        super().destroy_node()

    def begin_stop(self) -> None:
        """See ``spinning.SoftStop``."""
        if not self.stopped:
            self.get_logger().info("asked to end: first until commands rest")

    @property
    def stopped(self) -> bool:
        """See ``spinning.SoftStop``; true as well where nothing commands the arm."""
        silence = time.monotonic() - self._last_command
        patience = SILENT_S if self._subscription.get_publisher_count() else GONE_S
        return self._same >= REST_COMMANDS or silence > patience

    def robot_now(self) -> float:
        """Robot time [s]: the node's clock, or, where this node publishes ``/clock``, what it will publish."""
        if self._p.publish_clock:
            return self._origin + self._p.speed * (time.monotonic() - self._started)
        return self.get_clock().now().nanoseconds * 1e-9

    def _step(self) -> None:
        now = self.robot_now()
        state = self._arm.step(now)
        if self._clock_out is not None:
            self._clock_out.publish(ClockMessage(clock=messages.to_time(now)))
        if state is not None:
            stamp = messages.to_time(now if state.stamp is None else state.stamp)
            self._states.publish(messages.joint_state(self._robot.action_names, state.positions, stamp))

    def _on_command(self, message: Float64MultiArray | JointTrajectory) -> None:
        try:
            positions = command_by_name(message, self._robot.action_names)
        except ValueContractError as error:
            self._refused, self._refusal = self._refused + 1, str(error)
            self.get_logger().error(str(error), throttle_duration_sec=1.0)
            return
        self._commands, self._last_command = self._commands + 1, time.monotonic()
        self._same = self._same + 1 if np.array_equal(positions, self._setpoint) else 0
        self._setpoint = positions
        self._arm.command(positions, self.robot_now())

    def _health(self) -> Health:
        health = self._arm.health()
        silence = time.monotonic() - self._last_command
        level, message = health.level, health.message
        if level == OK and self._refusal:
            level, message = WARN, self._refusal
        if level == OK and silence > self._p.command_timeout_s:
            level, message = WARN, "no commands: holding the last setpoint"
        values = {"commands": self._commands, "commands_refused": self._refused, **health.values}
        self._refusal = ""
        return Health(level=level, message=message, values=values)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the node."""
    spinning.run(ArmNode, argv)


if __name__ == "__main__":
    main()
