"""A guard as a process: the edge of its workspace, a loop that was not run for a while, and a person who lets go."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

pytestmark = [pytest.mark.ros, pytest.mark.slow]
pytest.importorskip("rclpy")

from trajectory_msgs.msg import JointTrajectory  # noqa: E402

from calibration.kinematics import open_kinematics  # noqa: E402
from ros_nodes import messages, qos  # noqa: E402
from ros_nodes.diagnostics import ERROR, values_of  # noqa: E402
from tests.ros_fake_policy import ROBOT  # noqa: E402
from tests.ros_fakes import HOME, FakePolicyTimer, FakeRobot, patient_robot  # noqa: E402
from tests.ros_graph import Graph  # noqa: E402
from tests.ros_guard_watch import PERIOD, GuardWatch  # noqa: E402
from wam.robot import robot_file  # noqa: E402

KINEMATICS = open_kinematics(ROBOT, robot_file("sim6"))
HALF_WIDTH = 0.05  # [m]; the fake policy swings the tool farther to both sides


def tool(positions: np.ndarray) -> np.ndarray:
    """(T, A) positions → (T, 3) where the tool is [m]."""
    return KINEMATICS.poses(positions[:, : len(ROBOT.joints)])[:, :3, 3]


def with_workspace(folder: Path) -> Path:
    """Robot file of a patient guard that keeps the tool near the plane through home."""
    x, y, z = tool(HOME[None])[0].tolist()
    path = patient_robot(folder, workspace=[[x - 1, x + 1], [y - HALF_WIDTH, y + HALF_WIDTH], [z - 1, z + 1]])
    data = yaml.safe_load(path.read_text())
    data["kinematics"]["file"] = str(robot_file("sim6").parent / data["kinematics"]["file"])
    path.write_text(yaml.safe_dump(data))
    return path


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Graph]:
    with Graph(tmp_path_factory.mktemp("limits")) as graph:
        yield graph


@pytest.fixture(scope="module")
def policy(graph: Graph) -> FakePolicyTimer:
    return FakePolicyTimer(graph, FakeRobot(graph))


@pytest.fixture(scope="module")
def watch(graph: Graph, policy: FakePolicyTimer) -> GuardWatch:
    return GuardWatch(graph)


def test_the_tool_stays_in_the_workspace_and_comes_back_from_its_edge(graph: Graph, watch: GuardWatch) -> None:
    graph.start("guard", f"robot:={with_workspace(graph.folder / 'box')}")
    watch.run()
    begun, sideways = time.monotonic(), tool(HOME[None])[0, 1]

    def both_edges() -> bool:
        path = watch.path(begun)
        beyond = tool(path)[:, 1] - sideways if len(path) else np.zeros(1)
        return watch.count("ticks_at_workspace") > 0 and beyond.min() < -0.03 and beyond.max() > 0.03

    graph.until(both_edges, "the arm was stopped at an edge, and was near the other one too")
    assert np.abs(tool(watch.path(begun))[:, 1] - sideways).max() <= HALF_WIDTH + 1e-3
    watch.until("RUN_POLICY")  # an edge latches nothing: nobody has to engage again
    watch.check_limits(begun)


def test_a_guard_that_was_not_run_says_so_and_keeps_the_limits(graph: Graph, watch: GuardWatch) -> None:
    graph.start("guard", f"robot:={patient_robot(graph.folder / 'plain')}")
    watch.until("HOLD", reason="not engaged")
    watch.run()
    watch.moves(0.2)
    late, begun = watch.count("late_ticks"), time.monotonic()
    guard = graph.processes["guard"]
    guard.send(signal.SIGSTOP)
    graph.spin(10 * PERIOD)
    guard.send(signal.SIGCONT)
    guard.signalled = False  # from here on, an end of it would be its own
    graph.until(
        lambda: watch.count("late_ticks") > late and float(watch.values["longest_period_ms"]) >= 1e3 * 8 * PERIOD,
        "the guard counts that it was late, and how much",
    )
    told = [(m.level, values_of(m)) for when, m in watch.states.items if when > begun]
    assert any(level == ERROR and int(values["late_ticks"]) > late for level, values in told)
    watch.until("RUN_POLICY")
    watch.moves(0.1)
    assert watch.values["engaged"] == "true"  # nothing was latched
    watch.check_limits(begun)


def test_a_person_who_lets_go_leaves_the_arm_held_and_then_to_the_policy(
    graph: Graph, watch: GuardWatch, policy: FakePolicyTimer
) -> None:
    policy.on = False  # before the guard starts: it must engage for the person and not for a chunk
    policy.robot.go_home()  # where the policy swings: from one end the other would be too far to engage
    policy.robot.obeys = False  # until the guard of before is gone
    graph.start("guard", f"robot:={patient_robot(graph.folder / 'plain')}")
    watch.until("HOLD", reason="not engaged")
    policy.robot.obeys = True
    publisher = graph.node.create_publisher(JointTrajectory, "teleop/command", qos.CHUNK)
    target = watch.commanded(since=time.monotonic())
    target[1] += 0.1  # near enough to take over

    def command() -> None:
        publisher.publish(messages.single_point(ROBOT.action_names, target, graph.node.get_clock().now().to_msg()))

    hand = graph.node.create_timer(0.02, command)
    begun = time.monotonic()
    graph.until(lambda: graph.call("guard/engage").success, "the guard engages for a person")
    watch.until("RUN_TELEOP", since=begun)
    graph.until(lambda: abs(watch.commanded(begun)[1] - target[1]) < 0.01, "the arm follows the person")
    hand.cancel()
    let_go = time.monotonic()
    watch.until("HOLD", since=let_go)
    seconds, allowance = watch.reaction(let_go, "HOLD")
    assert seconds <= ROBOT.safety.teleop_age_s + 0.1 + allowance  # the last command may still be on its way
    np.testing.assert_allclose(watch.rest()[1], target[1], atol=0.02)
    policy.on = True
    watch.until("HOLD", reason="engage again")  # it was engaged for the person alone
    assert graph.call("guard/engage").success
    watch.until("RUN_POLICY")
    watch.check_limits(begun)
    graph.node.destroy_timer(hand)
    graph.node.destroy_publisher(publisher)
