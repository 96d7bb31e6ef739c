"""Arm, guard and policy as three processes, and what happens when one of them dies, hangs or is asked to end.

Gates are those of the robot; see ``tests/ros_guard_watch.py`` for what a busy machine gets on top. The guard is
patient, because a busy machine may leave the process of the arm alone for seconds; one test starts an ordinary one.
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
from ros_nodes.diagnostics import values_of  # noqa: E402
from tests.ros_fake_policy import ROBOT  # noqa: E402
from tests.ros_fakes import patient_robot  # noqa: E402
from tests.ros_graph import REPOSITORY, Graph, Heard  # noqa: E402
from tests.ros_guard_watch import GuardWatch  # noqa: E402

POLICY_LOST_S, STATES_LOST_S = 0.40, 0.17  # gates: from the last sign of life to the hold
FAKE_POLICY = str(REPOSITORY / "tests/ros_fake_policy.py")


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Graph]:
    folder = tmp_path_factory.mktemp("graph")
    with Graph(folder) as graph:
        graph.start("arm", "robot:=sim6")
        graph.start("guard", f"robot:={patient(graph)}")
        graph.start(FAKE_POLICY)
        yield graph


def patient(graph: Graph) -> str:
    return str(patient_robot(graph.folder))


@pytest.fixture(scope="module")
def watch(graph: Graph) -> GuardWatch:
    return GuardWatch(graph)


@pytest.fixture(scope="module")
def states(graph: Graph) -> Heard:
    return graph.hear(JointState, ROBOT.state_topic, qos.STATE)


@pytest.fixture
def running(graph: Graph, watch: GuardWatch, states: Heard) -> GuardWatch:
    """A guard that plays the fake policy's chunks, on an arm that moves."""
    parameters = {"arm": ["robot:=sim6"], "guard": [f"robot:={patient(graph)}"], FAKE_POLICY: []}
    for name, script in (("arm", "arm"), ("guard", "guard"), ("ros_fake_policy", FAKE_POLICY)):
        if graph.processes[name].popen.poll() is not None:
            graph.start(script, *parameters[script])
        graph.processes[name].popen.send_signal(signal.SIGCONT)  # a test that failed may have left it stopped
    graph.until(lambda: watch.values.get("state") in {"HOLD", "FAULT", "RUN_POLICY"}, "the guard has joint states")
    graph.until(lambda: len(states) > 0, "this process hears joint states as well")
    watch.run()
    watch.moves(0.1)
    return watch


def stands_at(graph: Graph, states: Heard, held: np.ndarray) -> None:
    """The arm goes where it is held, and stays there."""

    def away() -> float:
        positions = positions_by_name(states.last.name, states.last.position, ROBOT.action_names, "joint states")
        return float(np.abs(positions - held).max())

    graph.until(lambda: away() < 0.03, f"the arm is where it is held, {held}")
    heard = len(states)
    graph.until(lambda: len(states) > heard + 30, "the arm goes on saying where it is")
    assert away() < 0.03


def test_a_killed_policy_is_a_hold_and_its_successor_moves_nothing_before_an_engage(
    graph: Graph, running: GuardWatch, states: Heard
) -> None:
    killed = graph.processes["ros_fake_policy"].kill()
    running.until("HOLD", reason="no chunk", since=killed)
    seconds, allowance = running.reaction(killed, "HOLD", reason="no chunk")
    assert seconds <= POLICY_LOST_S + allowance
    held = running.rest()
    stands_at(graph, states, held)  # a held arm does not sag
    running.check_limits(killed - 0.5)
    accepted = running.count("chunks_accepted")
    started = time.monotonic()
    graph.start(FAKE_POLICY)
    graph.until(lambda: running.count("chunks_accepted") > accepted + 10, "the guard hears the successor")
    running.until("HOLD", reason="was started after the guard was engaged: engage again", since=started)
    assert not any(values_of(state)["state"].startswith("RUN") for _, state in running.states.since(started))
    np.testing.assert_allclose(running.rest(), held, atol=1e-4)
    faults = running.count("faults")
    running.run()
    assert running.count("faults") == faults  # nothing was latched: no reset was needed
    running.check_limits(killed - 0.5)


def test_a_hung_policy_is_a_hold_and_goes_on_when_it_wakes(graph: Graph, running: GuardWatch) -> None:
    stopped = graph.processes["ros_fake_policy"].send(signal.SIGSTOP)
    running.until("HOLD", reason="no chunk", since=stopped)
    seconds, allowance = running.reaction(stopped, "HOLD", reason="no chunk")
    assert seconds <= POLICY_LOST_S + allowance
    running.rest()
    graph.processes["ros_fake_policy"].send(signal.SIGCONT)
    running.until("RUN_POLICY")
    running.check_limits(stopped - 0.5)


def test_lost_joint_states_are_a_hold_and_after_a_second_a_fault(
    graph: Graph, running: GuardWatch, states: Heard
) -> None:
    safety = ROBOT.safety
    running.replace_guard("sim6")
    running.run()
    stopped = graph.processes["arm"].send(signal.SIGSTOP)
    running.until("FAULT", reason="no joint states for 1 s", since=stopped)
    seconds, allowance = running.reaction(stopped, "FAULT")
    assert seconds <= safety.state_fault_s + 0.1 + allowance
    if allowance < safety.state_fault_s - safety.state_age_s:  # a guard that was not run so long never says it held
        seconds, allowance = running.reaction(stopped, "HOLD", reason="joint states are")
        assert seconds <= STATES_LOST_S + allowance
    running.check_limits(stopped - 0.5)
    graph.processes["arm"].send(signal.SIGCONT)
    heard = len(states)
    graph.until(lambda: len(states) > heard + 30, "the arm speaks again")
    assert running.values["state"] == "FAULT"  # latched: a person decides
    assert not graph.call("guard/engage").success
    graph.insist("guard/reset")  # which a person may as soon as the guard hears where the arm is
    running.until("HOLD", reason="not engaged")
    running.replace_guard(patient(graph))
    running.run()


def test_a_short_gap_in_joint_states_latches_nothing(graph: Graph, running: GuardWatch) -> None:
    faults, begun = running.count("faults"), time.monotonic()
    stopped = graph.processes["arm"].send(signal.SIGSTOP)
    running.until("HOLD", reason="joint states are", since=stopped)
    seconds, allowance = running.reaction(stopped, "HOLD", reason="joint states are")
    assert seconds <= STATES_LOST_S + allowance
    running.rest()
    assert running.values["engaged"] == "true"
    graph.processes["arm"].send(signal.SIGCONT)
    running.until("RUN_POLICY")  # nobody had to engage again
    running.moves(0.1)
    assert running.count("faults") == faults
    running.check_limits(begun)


def test_a_guard_that_is_asked_to_end_brakes_holds_and_leaves(graph: Graph, running: GuardWatch) -> None:
    running.moves(0.2)
    asked = graph.processes["guard"].send(signal.SIGTERM)
    graph.until(lambda: graph.processes["guard"].popen.poll() is not None, "the guard has left")
    assert graph.processes["guard"].popen.returncode == 0

    def held_four_times() -> bool:
        path = running.path(asked)
        return len(path) >= 4 and (path[-4:] == path[-1]).all()

    graph.until(held_four_times, "the hold is heard four times")
    running.check_limits(asked - 0.5)  # it was moving, and braked within its limits
    graph.start("guard", f"robot:={patient(graph)}")
    running.until("HOLD", reason="not engaged")  # a new guard holds where the arm is, and waits for a person


def test_a_killed_guard_leaves_the_arm_where_it_was_told_last(graph: Graph, running: GuardWatch, states: Heard) -> None:
    graph.processes["guard"].kill()
    heard = len(states)
    graph.until(lambda: len(states) > heard + 30, "the arm goes on without a guard")
    held = running.commanded()
    stands_at(graph, states, held)
    graph.start("guard", f"robot:={patient(graph)}")
    running.until("HOLD", reason="not engaged")
    np.testing.assert_allclose(running.commanded(since=time.monotonic()), held, atol=0.03)


def test_processes_that_are_stopped_and_killed_share_no_memory(graph: Graph, running: GuardWatch) -> None:
    maps = {name: process.mapped_files() for name, process in graph.processes.items() if process.popen.poll() is None}
    assert "guard" in maps
    assert [name for name, files in maps.items() if "/dev/shm/fast" in files] == []


def test_the_guard_needs_neither_network_nor_camera_libraries(graph: Graph, running: GuardWatch) -> None:
    maps = graph.processes["guard"].mapped_files()
    assert "numpy" in maps
    for library in ("torch", "onnxruntime", "tensorrt", "cv2", "mujoco"):
        assert f"/{library}" not in maps, library
