"""The bridge to somebody else's driver: joints by name, the gripper in its units, orders that are checked."""

import time
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("rclpy")

from diagnostic_msgs.msg import DiagnosticArray
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

from policy.wire import new_source
from ros_nodes import messages, qos
from ros_nodes.arm_external import command_groups, driver_units
from ros_nodes.arm_parameters import ArmParameters
from ros_nodes.errors import NodeError
from tests.ros_graph import PATIENCE, Graph
from wam.errors import ValueContractError
from wam.robot import load_robot

pytestmark = pytest.mark.ros
ROBOT = load_robot("so101")
GUARD = new_source("guard")
JOINTS = tuple(joint.name for joint in ROBOT.joints)


def parameters(**options) -> ArmParameters:
    defaults = {"external_command_topic": "/arm_controller/commands", "external_gripper_joint": "finger"}
    return ArmParameters(robot="so101", backend="external", **(defaults | options))


@given(
    order=st.permutations([*JOINTS, "finger", "extra"]),
    ends=st.sampled_from([(0.0, 0.04), (0.8, 0.0), (-0.17, 1.75)]),
    opening=st.floats(0.0, 1.0),
)
def test_units_go_there_and_back_whatever_the_order(order, ends, opening):
    units = driver_units(ROBOT, parameters(external_gripper_closed=ends[0], external_gripper_open=ends[1]))
    positions = np.array([0.1, -0.2, 0.3, -0.4, 0.5, opening])
    values = units.to_driver(positions) | {"extra": np.nan}
    assert values["finger"] == pytest.approx(ends[0] + opening * (ends[1] - ends[0]))
    back = units.from_driver(order, [values[name] for name in order])
    np.testing.assert_allclose(back, positions, atol=1e-5)


def test_fingers_that_press_past_closed_are_closed():
    units = driver_units(ROBOT, parameters(external_gripper_closed=0.0, external_gripper_open=0.04))
    assert units.from_driver([*JOINTS, "finger"], [0, 0, 0, 0, 0, -0.002])[-1] == 0.0
    with pytest.raises(ValueContractError, match="the driver's joint state lacks finger"):
        units.from_driver(JOINTS, [0, 0, 0, 0, 0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"external_command_topic": ""}, "external_command_topic is empty"),
        ({"external_interface": "forward"}, "takes values by order alone: list the joints"),
        ({"external_joint_order": "shoulder_pan, yaw"}, "unknown joint in external_joint_order 'yaw'"),
        ({"external_joint_order": ",".join(JOINTS)}, "finger is missing"),
        ({"external_joint_order": ",".join([*JOINTS, "finger", "finger"])}, "each of .* once"),
        ({"external_gripper_open": 0.0}, "are both 0"),
        ({"external_joint_names": "shoulder_pan"}, "'shoulder_pan', which is no pair: .* 'shoulder_pan=joint_1'"),
        ({"external_joint_names": "shoulder_pam=joint_1"}, "unknown joint .* 'shoulder_pam'.*shoulder_pan"),
        ({"external_joint_names": "wrist_roll=a, wrist_roll=b"}, "gives 'wrist_roll' twice, 'a' and 'b'"),
        ({"external_joint_names": "shoulder_pan=wrist_roll"}, "two joints one name"),
        ({"external_joint_names": "shoulder_pan=finger"}, "two axes have one name at the driver"),
    ],
)
def test_orders_and_grippers_that_cannot_work_are_refused(options, message):
    p = parameters(**options)
    with pytest.raises(NodeError, match=message):
        command_groups(driver_units(ROBOT, p), p)


def test_joints_may_have_other_names_at_the_driver():
    p = parameters(external_joint_names="shoulder_pan = joint_1, wrist_roll=joint_5", external_gripper_open=0.04)
    units = driver_units(ROBOT, p)
    theirs = ("joint_1", *JOINTS[1:4], "joint_5", "finger")
    assert command_groups(units, p) == {"/arm_controller/commands": theirs}
    assert units.to_driver(np.array([0.1, 0, 0, 0, 0.5, 1.0]))["joint_5"] == pytest.approx(0.5)
    back = units.from_driver(theirs[::-1], [0.02, 0.5, 0, 0, 0, 0.1])
    np.testing.assert_allclose(back, [0.1, 0, 0, 0, 0.5, 0.5], atol=1e-6)
    with pytest.raises(ValueContractError, match="the driver's joint state lacks joint_1"):
        units.from_driver([*JOINTS, "finger"], [0.0] * 6)


def test_a_gripper_may_have_a_controller_of_its_own():
    order = ",".join(JOINTS[::-1])
    p = parameters(external_gripper_topic="/gripper/commands", external_joint_order=order, external_interface="forward")
    assert command_groups(driver_units(ROBOT, p), p) == {
        "/arm_controller/commands": JOINTS[::-1],
        "/gripper/commands": ("finger",),
    }


def test_a_gripper_of_a_robot_without_one_is_refused():
    robot = SimpleNamespace(gripper=None, name="six", joints=ROBOT.joints, action_names=JOINTS)
    with pytest.raises(NodeError, match="'finger' but robot 'six' has no gripper"):
        driver_units(robot, parameters())


def test_the_bridge_between_guard_topics_and_a_controller(tmp_path, repository):
    robot = (repository / "config/robots/so101.yaml").read_text()
    file = tmp_path / "so101.yaml"
    file.write_text(robot.replace("state_topic: joint_states", "state_topic: wam/joint_states"))
    theirs = ("joint_1", *JOINTS[1:])
    order = [*theirs[::-1], "finger"]
    options = {
        "backend": "external",
        "robot": file,
        "external_interface": "forward",
        "external_command_topic": "/controller/commands",
        "external_joint_names": "shoulder_pan=joint_1",
        "external_joint_order": ",".join(order),
        "external_gripper_joint": "finger",
        "external_gripper_open": 0.04,
    }
    with Graph(tmp_path) as graph:
        graph.start("arm", *(f"{name}:={value}" for name, value in options.items()))
        states = graph.hear(JointState, "/wam/joint_states", qos.STATE)
        commands = graph.hear(Float64MultiArray, "/controller/commands", qos.COMMAND)
        driver = graph.node.create_publisher(JointState, "/joint_states", qos.STATE_OFFERED)
        guard = graph.node.create_publisher(Float64MultiArray, ROBOT.command_topic, qos.COMMAND)
        stamp = messages.to_time(1234.5)

        def talk() -> bool:
            driver.publish(messages.joint_state(["finger", *theirs], np.array([0.01, 1, 2, 3, 4, 5.0]), stamp))
            target = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.5])
            guard.publish(messages.forward_command(ROBOT.action_names, target, GUARD))
            return len(states) > 0 and len(commands) > 0

        graph.until(talk, "both directions work")
    assert list(states.last.name) == list(ROBOT.action_names)
    np.testing.assert_allclose(states.last.position, [1, 2, 3, 4, 5, 0.25], atol=1e-6)
    assert (states.last.header.stamp.sec, states.last.header.stamp.nanosec) == (1234, 500_000_000)
    np.testing.assert_allclose(commands.last.data, [0.5, 0.4, 0.3, 0.2, 0.1, 0.02], atol=1e-6)
    assert commands.last.layout.dim[0].label == ",".join(order)


@pytest.mark.slow
def test_the_bridge_speaks_trajectories_by_name(tmp_path, repository):
    file = tmp_path / "so101.yaml"
    text = (repository / "config/robots/so101.yaml").read_text()
    file.write_text(text.replace("state_topic: joint_states", "state_topic: wam/joint_states"))
    topic = "/controller/joint_trajectory"
    with Graph(tmp_path) as graph:
        graph.start("arm", "backend:=external", f"robot:={file}", f"external_command_topic:={topic}")
        commands = graph.hear(JointTrajectory, topic, qos.COMMAND)
        guard = graph.node.create_publisher(Float64MultiArray, ROBOT.command_topic, qos.COMMAND)

        def talk() -> bool:
            guard.publish(messages.forward_command(ROBOT.action_names[::-1], np.arange(6) / 10, GUARD))
            return len(commands) > 0

        graph.until(talk, "the controller hears a trajectory")
    command = commands.last
    assert list(command.joint_names) == list(ROBOT.action_names)
    np.testing.assert_allclose(command.points[0].positions, np.arange(6)[::-1] / 10, atol=1e-6)
    assert command.points[0].time_from_start.nanosec == 20_000_000
    assert (command.header.stamp.sec, command.header.stamp.nanosec) == (0, 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("topics", "message"),
    [
        (("external_command_topic:=/c",), "external_state_topic and the robot's state_topic are both /joint_states"),
        (
            ("external_state_topic:=/driver/states", "external_command_topic:=command"),
            "external_command_topic and the robot's command_topic are both /command: guard and arm node would both",
        ),
    ],
)
def test_one_topic_for_both_is_refused_with_the_line_to_write(tmp_path, topics, message):
    with Graph(tmp_path) as graph:
        arm = graph.start("arm", "backend:=external", "robot:=so101", *topics)
        assert arm.popen.wait(timeout=PATIENCE) == 2
        assert message in arm.output()
        assert "_topic: wam/" in arm.output()


def test_another_publisher_on_the_controllers_topic_is_named(tmp_path, repository):
    file = tmp_path / "so101.yaml"
    text = (repository / "config/robots/so101.yaml").read_text()
    file.write_text(text.replace("state_topic: joint_states", "state_topic: wam/joint_states"))
    topic = "/controller/joint_trajectory"
    with Graph(tmp_path) as graph:
        graph.start("arm", "backend:=external", f"robot:={file}", f"external_command_topic:={topic}")
        controller = graph.hear(JointTrajectory, topic, qos.COMMAND)
        reports = graph.hear(DiagnosticArray, "/diagnostics", qos.DIAGNOSTICS)
        driver = graph.node.create_publisher(JointState, "/joint_states", qos.STATE_OFFERED)
        guard = graph.node.create_publisher(Float64MultiArray, ROBOT.command_topic, qos.COMMAND)
        says = lambda words: any(words in m.status[0].message for _, m in reports.items)  # noqa: E731

        def talk(words: str) -> bool:
            driver.publish(messages.joint_state([*JOINTS, "gripper"], np.zeros(6), messages.to_time(time.time())))
            guard.publish(messages.forward_command(ROBOT.action_names, np.zeros(6), GUARD))
            return says(words)

        graph.until(lambda: talk("ok") and len(controller) > 5, "the bridge works and its own commands are no rival")
        rogue = graph.node.create_publisher(JointTrajectory, topic, qos.COMMAND)
        graph.until(lambda: talk(f"'/listener' is listed as publisher of {topic} and silent"), "it is listed")
        assert not says("as well")

        def shout() -> bool:
            rogue.publish(messages.single_point(JOINTS, np.ones(5), messages.to_time(0.0)))
            return talk(f"'/listener' commands on {topic} as well: stop it")

        graph.until(shout, "it is heard and named")


@pytest.mark.slow
def test_an_external_arm_leaves_the_clock_to_its_simulator(tmp_path, repository):
    """With use_sim_time it stamps by it; there is one clock, and this node publishes none."""
    file = tmp_path / "so101.yaml"
    text = (repository / "config/robots/so101.yaml").read_text()
    file.write_text(text.replace("state_topic: joint_states", "state_topic: wam/joint_states"))
    with Graph(tmp_path) as graph:
        graph.start("arm", "backend:=external", f"robot:={file}", "external_command_topic:=/c", "use_sim_time:=true")
        reports = graph.hear(DiagnosticArray, "/diagnostics", qos.DIAGNOSTICS)
        clock = graph.node.create_publisher(Clock, "/clock", qos.STATE_OFFERED)

        def told() -> bool:
            clock.publish(Clock(clock=messages.to_time(77.0)))
            return any(message.header.stamp.sec == 77 for _, message in reports.items)

        graph.until(told, "the arm node lives on the simulator's time")
        assert graph.node.count_publishers("/clock") == 1
