"""Somebody else's driver behind the arm node's backend protocol: a bridge to any ros2_control arm.

It is needed where the driver's words differ from the contract's: a forward controller that takes joints by *order*, a
gripper in metres or radians, or one with a topic of its own. Joint states are read by name, gripper values become an
opening in [0, 1], and commands go out in the order and units the controller wants. With a trajectory controller, which
takes joints by name, and a gripper that is an opening already, no arm node is needed: the guard's command topic is the
controller's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

from policy.joint_states import JointStates
from policy.wire import new_source, positions_by_name, stamp_seconds
from ros_nodes import qos
from ros_nodes.arm_backend import ArmState
from ros_nodes.arm_parameters import ArmParameters
from ros_nodes.command_watch import CommandWatch
from ros_nodes.diagnostics import ERROR, OK, WARN, Health
from ros_nodes.errors import NodeError
from ros_nodes.messages import forward_command, single_point, to_duration, to_time
from wam.errors import ValueContractError, unknown_name
from wam.robot import RobotSpec

__all__ = ["DriverUnits", "ExternalArm", "command_groups", "driver_units", "open_arm"]


def open_arm(node: Node, robot: RobotSpec, parameters: ArmParameters) -> "ExternalArm":
    """Makes the backend."""
    return ExternalArm(node, robot, parameters)


@dataclass(frozen=True, kw_only=True)
class DriverUnits:
    """The driver's words for the robot file's axes."""

    axes: tuple[str, ...]  # (A,) names of the robot file
    names: tuple[str, ...]  # (A,) the same axes as the driver calls them
    gripper: int | None  # place of the gripper; None without one
    closed: float  # the driver's gripper value when closed
    opened: float  # the same when open

    def from_driver(self, names: Sequence[str], values: Sequence[float]) -> np.ndarray:
        """(A,) float32 positions [rad, opening] from a joint state.

        Raises:
            ValueContractError: A joint is missing, twice there, or not finite.
        """
        positions = positions_by_name(names, values, self.names, "the driver's joint state")
        if self.gripper is not None:
            opening = (positions[self.gripper] - self.closed) / (self.opened - self.closed)
            positions[self.gripper] = np.clip(opening, 0.0, 1.0)  # fingers press a little past closed
        return positions

    def to_driver(self, positions: np.ndarray) -> dict[str, float]:
        """Driver's joint name -> driver's value, from (A,) positions [rad, opening]."""
        values = np.array(positions, dtype=np.float64)
        if self.gripper is not None:
            values[self.gripper] = self.closed + values[self.gripper] * (self.opened - self.closed)
        return dict(zip(self.names, values.tolist(), strict=True))


def driver_units(robot: RobotSpec, parameters: ArmParameters) -> DriverUnits:
    """Checks the driver's names and the parameters of the gripper against the robot.

    Raises:
        NodeError: A name is not of the robot or given twice, the robot has no gripper but one is described, or its two
            ends are the same.
    """
    p, name = parameters, parameters.external_gripper_joint
    joints = _driver_names(robot, p.external_joint_names)
    if robot.gripper is None:
        if name:
            raise NodeError(f"external_gripper_joint is '{name}' but robot '{robot.name}' has no gripper.")
        return DriverUnits(axes=robot.action_names, names=joints, gripper=None, closed=0.0, opened=1.0)
    if p.external_gripper_open == p.external_gripper_closed:
        raise NodeError(
            f"external_gripper_closed and external_gripper_open are both {p.external_gripper_open:g}: give the "
            "driver's joint value of the closed and of the open gripper."
        )
    names = (*joints, name or robot.gripper.name)
    if len(set(names)) != len(names):
        raise NodeError(f"two axes have one name at the driver: {', '.join(names)}. Give each joint its own.")
    return DriverUnits(
        axes=robot.action_names,
        names=names,
        gripper=len(joints),
        closed=p.external_gripper_closed,
        opened=p.external_gripper_open,
    )


def _driver_names(robot: RobotSpec, text: str) -> tuple[str, ...]:
    """The joints as the driver calls them, from ``ours=theirs, ...``; a joint that is not named keeps its name.

    Raises:
        NodeError: A part of the text is no pair, or names a joint that the robot has not, or one name twice.
    """
    ours = tuple(joint.name for joint in robot.joints)
    theirs: dict[str, str] = {}
    for pair in filter(None, (part.strip() for part in text.split(","))):
        name, _, other = (word.strip() for word in pair.partition("="))
        if not other or "=" in other:
            raise NodeError(
                f"external_joint_names has '{pair}', which is no pair: write joint of the robot file = joint of the "
                f"driver, such as '{ours[0]}=joint_1'."
            )
        if name not in ours:
            raise NodeError(unknown_name("joint in external_joint_names", name, ours))
        if name in theirs:
            raise NodeError(f"external_joint_names gives '{name}' twice, '{theirs[name]}' and '{other}': leave one.")
        theirs[name] = other
    names = tuple(theirs.get(name, name) for name in ours)
    if len(set(names)) != len(names):
        raise NodeError(f"external_joint_names gives two joints one name: {', '.join(names)}. Give each its own.")
    return names


def command_groups(units: DriverUnits, parameters: ArmParameters) -> dict[str, tuple[str, ...]]:
    """Topic -> driver's joint names in the order the controller on it takes them.

    Raises:
        NodeError: No command topic, a forward controller without an order, or an order that is not of these joints.
    """
    p = parameters
    if not p.external_command_topic:
        raise NodeError(
            "external_command_topic is empty: give the controller's topic, such as "
            "/forward_position_controller/commands or /joint_trajectory_controller/joint_trajectory."
        )
    own_gripper = bool(p.external_gripper_topic) and units.gripper is not None
    wanted = units.names[:-1] if own_gripper else units.names
    order = tuple(name.strip() for name in p.external_joint_order.split(",") if name.strip())
    if not order and p.external_interface == "forward":
        raise NodeError(
            "external_joint_order is empty, and a forward controller takes values by order alone: list the joints as "
            f"the controller's own parameter 'joints' does, here some order of {', '.join(wanted)}."
        )
    order = order or wanted
    for name in order:
        if name not in wanted:
            raise NodeError(unknown_name("joint in external_joint_order", name, wanted))
    if len(order) != len(wanted) or len(set(order)) != len(order):
        missing = [name for name in wanted if name not in order]
        raise NodeError(
            f"external_joint_order lists {', '.join(order)} but the controller needs each of {', '.join(wanted)} once"
            + (f": {', '.join(missing)} is missing." if missing else ".")
        )
    groups = {p.external_command_topic: order}
    if own_gripper:
        groups[p.external_gripper_topic] = units.names[-1:]
    return groups


def _check_apart(node: Node, robot: RobotSpec, parameters: ArmParameters) -> None:
    """The driver's topics may have any name but those that are ours.

    Raises:
        NodeError: A topic would be both.
    """
    both_publish, both_command = "driver and arm node would both publish there", "guard and arm node would both command"
    for option, ours, line, why in (
        ("external_state_topic", "state_topic", "wam/joint_states", both_publish),
        ("external_command_topic", "command_topic", "wam/command", both_command),
        ("external_gripper_topic", "command_topic", "wam/command", both_command),
    ):
        theirs = getattr(parameters, option)
        if theirs and node.resolve_topic_name(theirs) == node.resolve_topic_name(getattr(robot, ours)):
            raise NodeError(
                f"{option} and the robot's {ours} are both {node.resolve_topic_name(theirs)}: {why}. Write "
                f"`{ours}: {line}` in the robot file, or name the driver's topic as `ros2 topic list` shows it."
            )


class ExternalArm:
    """See ``ArmBackend``."""

    def __init__(self, node: Node, robot: RobotSpec, parameters: ArmParameters) -> None:
        p = parameters
        self._node, self._period = node, 1.0 / robot.safety.guard_rate_hz
        self._interface = p.external_interface
        self._units = driver_units(robot, p)
        self._joints = JointStates(self._units.names, robot.safety.state_age_s, "the driver's joint state")
        groups = command_groups(self._units, p)
        _check_apart(node, robot, p)
        kind: Any = Float64MultiArray if self._interface == "forward" else JointTrajectory
        self._outputs = {node.create_publisher(kind, topic, qos.COMMAND): order for topic, order in groups.items()}
        self._source = new_source("arm")
        self._others = [CommandWatch(node, kind, topic, self._source) for topic in groups]
        self._subscription = node.create_subscription(JointState, p.external_state_topic, self._on_state, qos.STATE)
        self._newest: ArmState | None = None
        self._refusal = ""
        self._states = self._refused = 0

    def connect(self) -> None:
        """Nothing to open: topics connect by themselves, and the guard waits for joint states."""

    def step(self, now: float) -> ArmState | None:
        """Returns the driver's newest measurement, once, with the driver's own stamp."""
        newest, self._newest = self._newest, None
        return newest

    def command(self, positions: np.ndarray, now: float) -> None:
        """Sends a setpoint to the controllers."""
        values = self._units.to_driver(positions)
        for publisher, order in self._outputs.items():
            targets = np.array([values[name] for name in order])
            if self._interface == "forward":
                publisher.publish(forward_command(order, targets, self._source))
            else:
                message = single_point(order, targets, to_time(0.0))  # stamp 0: begin at once
                message.header.frame_id = self._source
                message.points[0].time_from_start = to_duration(self._period)
                publisher.publish(message)

    def health(self) -> Health:
        """Whether driver and controllers are there and are understood."""
        silent = [publisher.topic_name for publisher in self._outputs if publisher.get_subscription_count() == 0]
        level, message = OK, "ok"
        if self._states == 0:
            level, message = WARN, "the driver has published no joint states yet"
        if silent:
            level, message = ERROR, f"no controller listens on {', '.join(silent)}: is it loaded and active?"
        if self._refusal:
            level, message = ERROR, self._refusal
        for others in self._others:
            level, message = others.judged(level, message)
        return Health(level=level, message=message, values={"states": self._states, "states_refused": self._refused})

    def close(self) -> None:
        """Nothing to close: the controllers hold the last setpoint."""

    def _on_state(self, message: JointState) -> None:
        self._states += 1
        try:
            state = self._joints.add(message.name, message.position, stamp_seconds(message.header.stamp))
        except ValueContractError as error:
            self._refused, self._refusal = self._refused + 1, str(error)
            return
        self._refusal = ""
        if state is not None:
            positions = self._units.from_driver(self._units.names, state[1].tolist())
            self._newest = ArmState(positions=positions, stamp=state[0])
