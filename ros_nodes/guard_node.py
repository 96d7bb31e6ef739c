"""The guard: chunks and teleoperation in, limited commands out, at a steady rate whatever happens.

Its own process, and numpy only (but for a workspace to keep): a policy that hangs, crashes or eats the memory cannot
take it along. All judgement is ``policy.guard``; this node turns messages into numbers and ticks. Time-outs count on
the steady clock, because ROS time may jump or stand still (the core notices a jump at the next tick); on SIGTERM the
arm is braked to a stop before the process ends.
"""

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool, Empty, Float64MultiArray
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from policy.guard import NOTHING_FRESH, Guard, GuardCommand, GuardConfig
from policy.joint_states import JointStates
from policy.wire import new_source, stamp_seconds
from ros_nodes import messages, qos, spinning
from ros_nodes.command_watch import CommandWatch
from ros_nodes.diagnostics import ERROR, OK, WARN, DiagnosticsReporter, Health, status_message
from ros_nodes.errors import MessageError
from ros_nodes.graph import qos_mismatches
from ros_nodes.last_words import LastWords
from ros_nodes.parameters import declare, param
from ros_nodes.policy_report import PolicyReport
from ros_nodes.timing import ChunkClock, TickTimes, robot_and_steady_time
from ros_nodes.topics import load_robot_of
from wam.errors import ValueContractError
from wam.robot import RobotSpec, robot_file

__all__ = ["GuardNode", "GuardParameters", "main"]

CHUNK_TOPIC, TELEOP_TOPIC, STATE_TOPIC = "policy/chunk", "teleop/command", "guard/state"
E_STOP_TOPIC, HEARTBEAT_TOPIC = "e_stop", "e_stop/heartbeat"
LEVELS = {"ok": OK, "warn": WARN, "error": ERROR}


@dataclass(frozen=True, kw_only=True)
class GuardParameters:
    """What a guard is started with; limits and ages stand in the robot file."""

    robot: str = field(metadata=param("name or path of the robot file"))
    interface: str = field(
        default="",
        metadata=param("command interface; empty takes the robot file's", choices=("", "forward", "trajectory")),
    )
    require_heartbeat: bool = field(
        default=False, metadata=param("refuse to engage before an e-stop heartbeat was heard")
    )
    speed: float = field(
        default=1.0, metadata=param("robot time per wall-clock time, of a scaled simulation", low=0.05, high=4.0)
    )


class GuardNode(Node):
    """See the module."""

    def __init__(self) -> None:
        super().__init__("guard")
        p = declare(self, GuardParameters)
        self._robot = load_robot_of(self, p.robot)
        config = GuardConfig(require_heartbeat=p.require_heartbeat, time_scale=p.speed)
        self._guard = Guard(self._robot, config, forward_kinematics=_forward_kinematics(self._robot, p.robot))
        self._interface = p.interface or self._robot.command_interface
        self._period = 1.0 / self._robot.safety.guard_rate_hz
        self._times, self._chunk_clock = TickTimes(self._period), ChunkClock()
        self._bad_states, self._bad_state = 0, ""
        self._joints = JointStates(self._robot.action_names, self._robot.safety.state_age_s, self._robot.state_topic)
        self._open_topics()
        self._policy = PolicyReport(self, CHUNK_TOPIC)
        self._reporter = DiagnosticsReporter(self, self._health, hardware_id=self._robot.name)
        self.create_timer(self._period, self._tick, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self.get_logger().info(f"guard of '{self._robot.name}', {self._interface} commands, {1 / self._period:g} Hz")

    def _open_topics(self) -> None:
        robot = self._robot
        self._asked = {robot.state_topic: qos.STATE, CHUNK_TOPIC: qos.CHUNK, TELEOP_TOPIC: qos.CHUNK}
        self.create_subscription(JointState, robot.state_topic, self._on_state, qos.STATE)
        self.create_subscription(JointTrajectory, CHUNK_TOPIC, self._on_chunk, qos.CHUNK)
        self.create_subscription(JointTrajectory, TELEOP_TOPIC, self._on_teleop, qos.CHUNK)
        # An e-stop sent by hand is not latched, and somebody's button may be best effort; each must stop the arm
        for profile in (qos.LATCHED, qos.VOLATILE, qos.STATE):
            self.create_subscription(Bool, E_STOP_TOPIC, self._on_e_stop, profile)
        self.create_subscription(Empty, HEARTBEAT_TOPIC, lambda _: self._guard.on_heartbeat(_now()), qos.STATE)
        kind = Float64MultiArray if self._interface == "forward" else JointTrajectory
        self._commands = self.create_publisher(kind, robot.command_topic, qos.COMMAND)
        self._last_hold = LastWords(self._commands)
        self._source = new_source("guard")
        self._others = CommandWatch(self, kind, robot.command_topic, self._source, self._on_rival)
        self._states = self.create_publisher(DiagnosticStatus, STATE_TOPIC, qos.STATE_OFFERED)
        for name, act in (("engage", self._engage), ("reset", self._guard.reset), ("e_stop", self._e_stop)):
            self.create_service(Trigger, f"guard/{name}", functools.partial(self._serve, name, act))

    @property
    def stopped(self) -> bool:
        """See ``spinning.SoftStop``: the arm's command rests, and the arm has it."""
        return self._guard.stopped and self._last_hold.heard()

    def begin_stop(self) -> None:
        """See ``spinning.SoftStop``."""
        self.get_logger().info("asked to end: braking to a stop first")
        self._guard.begin_stop(_now())

    def _on_state(self, message: JointState) -> None:
        try:
            state = self._joints.add(message.name, message.position, stamp_seconds(message.header.stamp))
        except ValueContractError as error:
            self._bad_states, self._bad_state = self._bad_states + 1, str(error)
            self._guard.on_bad_state(str(error))
            self.get_logger().error(str(error), throttle_duration_sec=2.0)
        else:
            if state is not None:
                self._guard.on_state(*state, _now())

    def _on_chunk(self, message: JointTrajectory) -> None:
        try:
            chunk = messages.trajectory_chunk(message)
        except MessageError as error:
            refusal = self._guard.on_malformed(str(error), _now())
        else:
            robot_now, now = robot_and_steady_time(self)
            refusal = self._guard.on_chunk(chunk, now, robot_now)
            self._chunk_clock.arrived(chunk.epoch, chunk.sequence, chunk.stamp)
        if refusal:
            self.get_logger().warning(f"chunk refused: {refusal}", throttle_duration_sec=1.0)

    def _on_teleop(self, message: JointTrajectory) -> None:
        positions = np.array(message.points[0].positions if message.points else [])
        refusal = self._guard.on_teleop(message.joint_names, positions, stamp_seconds(message.header.stamp), _now())
        if refusal:
            self.get_logger().warning(f"teleoperation refused: {refusal}", throttle_duration_sec=1.0)

    def _on_e_stop(self, message: Bool) -> None:
        self._guard.on_e_stop(message.data, _now())

    def _engage(self, now: float) -> tuple[bool, str]:
        """As the core's, which does not know why nothing arrives."""
        done, answer = self._guard.engage(now)
        if answer == NOTHING_FRESH:
            answer = f"{answer}: {self._policy.why()}"
        unheard = qos_mismatches(self, self._asked) if not done else []
        return done, "; ".join((answer, *unheard))

    def _on_rival(self, name: str) -> None:
        self._guard.on_rival(name, _now())
        self.get_logger().error(f"{name} commands the arm as well: stop it", throttle_duration_sec=2.0)

    def _e_stop(self, now: float) -> tuple[bool, str]:
        self._guard.e_stop(now)
        return True, "stopped: reset and engage to go on"

    def _serve(
        self, name: str, act: Callable[[float], tuple[bool, str]], _: Trigger.Request, answer: Trigger.Response
    ) -> Trigger.Response:
        answer.success, answer.message = act(_now())
        self.get_logger().info(f"{name}: {answer.message}")
        return answer

    def _tick(self) -> None:
        robot_now, now = robot_and_steady_time(self)
        done = self._guard.stopped
        command = self._guard.tick(now, robot_now)
        if command.positions is not None and not done:
            self._commands.publish(self._command_message(command))
        self._times.tick(now)
        self._chunk_clock.consumed(*command.consumed[:2], robot_now)
        values = {**self._guard.status(), "latency_s": f"{self._chunk_clock.latency_s:.4f}", "source": self._source}
        level = LEVELS[values.pop("level")]
        self._states.publish(status_message("guard", Health(level=level, message=command.reason, values=values)))

    def _command_message(self, command: GuardCommand) -> Float64MultiArray | JointTrajectory:
        assert command.positions is not None
        if self._interface == "forward":
            return messages.forward_command(self._robot.action_names, command.positions, self._source)
        return messages.trajectory_command(
            self._robot, command.positions, command.velocities, self._period, self._source
        )

    def _health(self) -> Health:
        values = self._guard.status()
        level, message = LEVELS[values.pop("level")], f"{values['state']}: {values['reason']}"
        mismatches = qos_mismatches(self, self._asked)
        if mismatches or self._bad_state:
            level, message = max(level, WARN), mismatches[0] if mismatches else self._bad_state
        self._bad_state = ""
        level, message = self._others.judged(level, message)
        values |= {"source": self._source, "commands_of_others": str(self._others.count)}
        values |= {"bad_states": str(self._bad_states), **self._times.jitter.summary("tick_jitter")}
        return Health(level=level, message=message, values=values)


def _forward_kinematics(robot: RobotSpec, robot_file_name: str) -> Callable[[np.ndarray], np.ndarray] | None:
    """(A,) positions → (3,) tool position [m], for a robot with a workspace to keep and a model to compute it with."""
    if robot.safety.workspace is None or robot.kinematics is None:
        return None
    from calibration.kinematics import open_kinematics  # brings MuJoCo, which a guard otherwise does without

    kinematics, joints = open_kinematics(robot, robot_file(robot_file_name)), len(robot.joints)
    return lambda positions: kinematics.poses(positions[:joints])[0, :3, 3]


def _now() -> float:
    return time.monotonic()


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the node."""
    spinning.run(GuardNode, argv)


if __name__ == "__main__":
    main()
