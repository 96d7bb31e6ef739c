"""The arm: joint states out, setpoints in, whichever arm it is.

One node for every arm; ``backend`` chooses what speaks to it. It takes the commands of one guard, by either interface
and by joint name, holds the last setpoint when they stop, and limits nothing: that is the guard's work. A simulated arm
publishes its cameras, its episodes and, when asked, ``/clock`` as well.

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

from ros_nodes import messages, qos, spinning
from ros_nodes.arm_backend import ArmBackend, SimulatedArm
from ros_nodes.arm_commands import ArmCommands
from ros_nodes.arm_parameters import ArmParameters
from ros_nodes.arm_simulated import SimulatedTopics
from ros_nodes.diagnostics import ERROR, DiagnosticsReporter, Health
from ros_nodes.errors import ParameterError
from ros_nodes.graph import other_publishers
from ros_nodes.parameters import declare
from ros_nodes.timing import with_steady_time
from ros_nodes.topics import load_robot_of

__all__ = ["ArmNode", "main"]

CLOCK_TOPIC = "/clock"  # one for all namespaces
ONE_CLOCK = "leave one clock, or give each simulation a ROS_DOMAIN_ID of its own"
SIMULATIONS = ("mujoco",)  # backends that own robot time


class ArmNode(Node):
    """See the module."""

    def __init__(self) -> None:
        super().__init__("arm")
        self._p = p = declare(self, ArmParameters)
        _check_time(p, follows_clock=bool(self.get_parameter("use_sim_time").value))
        self._robot = load_robot_of(self, p.robot)
        origin_ns, self._started = with_steady_time(time.time_ns)
        self._origin = origin_ns * 1e-9
        self._arm: ArmBackend = importlib.import_module(f"ros_nodes.arm_{p.backend}").open_arm(self, self._robot, p)
        self._arm.connect()
        self._states = self.create_publisher(JointState, self._robot.state_topic, qos.STATE_OFFERED)
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        interface = p.interface or self._robot.command_interface
        self._commands = ArmCommands(self, self._robot, interface, p.command_timeout_s, self._follow)
        self._clock_out = (
            self.create_publisher(ClockMessage, CLOCK_TOPIC, qos.STATE_OFFERED) if p.publish_clock else None
        )
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
        return self._commands.ended

    def robot_now(self) -> float:
        """Robot time [s]: the node's clock, or, where this node publishes ``/clock``, what it will publish."""
        if self._p.publish_clock:
            return self._origin + self._p.speed * (time.monotonic() - self._started)
        return self.get_clock().now().nanoseconds * 1e-9

    def _step(self) -> None:
        now = self.robot_now()
        state = self._arm.step(now)
        self._commands.tick(time.monotonic(), None if state is None else state.positions)
        if self._clock_out is not None:
            self._clock_out.publish(ClockMessage(clock=messages.to_time(now)))
        if state is not None:
            stamp = messages.to_time(now if state.stamp is None else state.stamp)
            self._states.publish(messages.joint_state(self._robot.action_names, state.positions, stamp))

    def _follow(self, positions: np.ndarray) -> None:
        self._arm.command(positions, self.robot_now())

    def _health(self) -> Health:
        health = self._arm.health()
        level, message = self._commands.judged(health.level, health.message)
        clocks = other_publishers(self, CLOCK_TOPIC) if self._clock_out is not None else []
        if clocks:
            level, message = ERROR, f"{', '.join(clocks)} also publishes /clock, so robot time jumps: {ONE_CLOCK}"
        return Health(level=level, message=message, values={**self._commands.values(), **health.values})


def _check_time(parameters: ArmParameters, *, follows_clock: bool) -> None:
    """Robot time has one owner: this node when it simulates, the simulator behind an external driver, or the machine.

    Raises:
        ParameterError: The parameters would make it two, or none.
    """
    p, backend = parameters, f"backend '{parameters.backend}'"
    if p.publish_clock and p.backend not in SIMULATIONS:
        raise ParameterError(
            f"parameter 'publish_clock' of node 'arm' is true but {backend} simulates nothing of its own: wall time on "
            "/clock would fight with the clock of whoever does. Leave publish_clock out; an arm that somebody else "
            "simulates is started with use_sim_time (clock:=true of the launch file)."
        )
    if p.speed != 1.0 and p.backend not in SIMULATIONS:
        raise ParameterError(
            f"parameter 'speed' of node 'arm' is {p.speed:g} but {backend} is no simulation of ours, whose speed this "
            "node could set: leave speed out here. The guard's own parameter 'speed' tells it how fast somebody "
            "else's simulation runs."
        )
    if p.speed != 1.0 and not p.publish_clock:
        raise ParameterError(
            f"parameter 'speed' of node 'arm' is {p.speed:g}, so robot time differs from the wall clock and every "
            "other node must be told it: set publish_clock, and use_sim_time in the other nodes."
        )
    if follows_clock and p.backend == "so101":
        raise ParameterError(
            f"use_sim_time is set for node 'arm' but {backend} drives an arm that is not simulated, and nothing would "
            "publish /clock: leave use_sim_time out (clock:=false of the launch file)."
        )


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the node."""
    spinning.run(ArmNode, argv)


if __name__ == "__main__":
    main()
