"""Arm, guard and policy as three processes, and what happens when one of them dies, hangs or is asked to end.

Gates are those of the robot; see ``tests/ros_guard_watch.py`` for what a busy machine gets on top.
"""

import signal
import time
from collections.abc import Iterator

import numpy as np
import pytest

pytestmark = pytest.mark.ros
pytest.importorskip("rclpy")

from sensor_msgs.msg import JointState  # noqa: E402

from policy.wire import positions_by_name  # noqa: E402
from ros_nodes import qos  # noqa: E402
from tests.ros_fake_policy import ROBOT  # noqa: E402
from tests.ros_graph import REPOSITORY, Graph, Heard  # noqa: E402
from tests.ros_guard_watch import GuardWatch  # noqa: E402

POLICY_LOST_S, STATES_LOST_S = 0.40, 0.17  # gates: from the last sign of life to the hold
FAKE_POLICY = str(REPOSITORY / "tests/ros_fake_policy.py")


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Graph]:
    folder = tmp_path_factory.mktemp("graph")
    with Graph(folder) as graph:
        graph.start("arm", "robot:=sim6")
        graph.start("guard", "robot:=sim6")
        graph.start(FAKE_POLICY)
        yield graph


@pytest.fixture(scope="module")
def watch(graph: Graph) -> GuardWatch:
    return GuardWatch(graph)


@pytest.fixture(scope="module")
def states(graph: Graph) -> Heard:
    return graph.hear(JointState, ROBOT.state_topic, qos.STATE)


@pytest.fixture
def running(graph: Graph, watch: GuardWatch, states: Heard) -> GuardWatch:
    """A guard that plays the fake policy's chunks, on an arm that moves."""
    for name, script in (("arm", "arm"), ("guard", "guard"), ("ros_fake_policy", FAKE_POLICY)):
        process = graph.processes[name]
        if process.popen.poll() is not None:
            graph.start(script, *([] if script == FAKE_POLICY else ["robot:=sim6"]))
    graph.until(lambda: watch.values.get("state") in {"HOLD", "FAULT", "RUN_POLICY"}, "the guard has joint states")
    graph.until(lambda: len(states) > 0, "this process hears joint states as well")
    watch.run()
    begun = time.monotonic()
    graph.until(lambda: np.ptp(watch.path(begun)[:, 0]) > 0.05 if watch.path(begun).size else False, "the arm moves")
    return watch


def measured(states: Heard) -> np.ndarray:
    return positions_by_name(states.last.name, states.last.position, ROBOT.action_names, "joint states")


def test_a_killed_policy_is_a_hold_and_its_successor_takes_over(
    graph: Graph, running: GuardWatch, states: Heard
) -> None:
    killed = graph.processes["ros_fake_policy"].kill()
    running.until("HOLD", reason="no chunk for")
    seconds, allowance = running.reaction(killed, "HOLD")
    assert seconds <= POLICY_LOST_S + allowance
    graph.spin(0.5)  # the fastest joint brakes in 0.17 s
    held = running.check_at_rest()
    np.testing.assert_allclose(measured(states), held, atol=0.03)  # a held arm does not sag
    running.check_limits(killed - 0.5)
    graph.start(FAKE_POLICY)
    running.until("RUN_POLICY")  # nothing was latched: a person need not engage again
    running.check_limits(killed - 0.5)


def test_a_hung_policy_is_a_hold_and_goes_on_when_it_wakes(graph: Graph, running: GuardWatch) -> None:
    stopped = graph.processes["ros_fake_policy"].send(signal.SIGSTOP)
    running.until("HOLD", reason="no chunk for")
    seconds, allowance = running.reaction(stopped, "HOLD")
    assert seconds <= POLICY_LOST_S + allowance
    graph.spin(0.5)
    running.check_at_rest()
    graph.processes["ros_fake_policy"].send(signal.SIGCONT)
    running.until("RUN_POLICY")
    running.check_limits(stopped - 0.5)


def test_lost_joint_states_are_a_hold_and_after_a_second_a_fault(graph: Graph, running: GuardWatch) -> None:
    stopped = graph.processes["arm"].send(signal.SIGSTOP)
    running.until("HOLD", reason="joint states are")
    seconds, allowance = running.reaction(stopped, "HOLD")
    assert seconds <= STATES_LOST_S + allowance
    running.until("FAULT", reason="no joint states for 1 s")
    running.check_limits(stopped - 0.5)
    graph.processes["arm"].send(signal.SIGCONT)
    graph.spin(0.5)
    assert running.values["state"] == "FAULT"  # latched: a person decides
    assert not graph.call("guard/engage").success
    assert graph.call("guard/reset").success
    running.until("HOLD", reason="not engaged")
    running.run()


def test_a_short_gap_in_joint_states_latches_nothing(graph: Graph, running: GuardWatch) -> None:
    graph.processes["arm"].send(signal.SIGSTOP)
    running.until("HOLD", reason="joint states are")
    graph.processes["arm"].send(signal.SIGCONT)
    running.until("RUN_POLICY")


def test_a_guard_that_is_asked_to_end_brakes_holds_and_leaves(graph: Graph, running: GuardWatch) -> None:
    asked = graph.processes["guard"].send(signal.SIGTERM)
    graph.until(lambda: graph.processes["guard"].popen.poll() is not None, "the guard has left")
    graph.spin(0.2)
    assert graph.processes["guard"].popen.returncode == 0
    path = running.path(asked)
    np.testing.assert_array_equal(path[-4:], np.tile(path[-1], (4, 1)))  # the hold, four times
    steps = np.diff(path, axis=0) / (1 / ROBOT.safety.guard_rate_hz)  # (T - 1, A) velocities, if no tick was late
    assert np.abs(steps[0]).max() > 0.02  # it was moving
    running.check_limits(asked - 0.5)
    graph.start("guard", "robot:=sim6")
    running.until("HOLD", reason="not engaged")  # a new guard holds where the arm is, and waits for a person


def test_a_killed_guard_leaves_the_arm_where_it_was_told_last(graph: Graph, running: GuardWatch, states: Heard) -> None:
    graph.processes["guard"].kill()
    graph.spin(0.5)
    held = running.path(0.0)[-1]
    np.testing.assert_allclose(measured(states), held, atol=0.03)
    graph.start("guard", "robot:=sim6")
    running.until("HOLD", reason="not engaged")
    np.testing.assert_allclose(running.path(0.0)[-1], held, atol=0.03)


def test_the_guard_needs_neither_network_nor_camera_libraries(graph: Graph, running: GuardWatch) -> None:
    maps = graph.processes["guard"].mapped_files()
    assert "numpy" in maps
    for library in ("torch", "onnxruntime", "tensorrt", "cv2", "mujoco"):
        assert f"/{library}" not in maps, library
