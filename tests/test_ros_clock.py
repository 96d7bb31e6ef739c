"""Robot time that jumps: the guard and the robot live on a /clock that the test turns."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

pytestmark = [pytest.mark.ros, pytest.mark.slow]
pytest.importorskip("rclpy")

from tests.ros_fakes import FakePolicyTimer, FakeRobot, patient_robot  # noqa: E402
from tests.ros_graph import Graph  # noqa: E402
from tests.ros_guard_watch import GuardWatch  # noqa: E402


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A graph whose time the test turns."""

    graph: Graph
    robot: FakeRobot
    policy: FakePolicyTimer
    watch: GuardWatch


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with Graph(tmp_path_factory.mktemp("clock")) as graph:
        graph.start("guard", f"robot:={patient_robot(graph.folder)}", "use_sim_time:=true")
        robot = FakeRobot(graph, clock=True)
        yield Scene(graph=graph, robot=robot, policy=FakePolicyTimer(graph, robot), watch=GuardWatch(graph))


@pytest.fixture
def running(scene: Scene) -> Scene:
    watch = scene.watch
    scene.policy.on, scene.policy.delay_s = True, 0.0  # whatever a test before this one left
    scene.graph.until(lambda: watch.values.get("state") in {"HOLD", "RUN_POLICY"}, "the guard has joint states")
    watch.run()
    return scene


@pytest.mark.parametrize("jump_s", [-50.0, 150.0])
def test_a_clock_jump_is_a_hold_until_a_fresh_chunk_and_latches_nothing(running: Scene, jump_s: float) -> None:
    graph, robot, policy, watch = running.graph, running.robot, running.policy, running.watch
    jumps = watch.count("clock_jumps")
    policy.on = False  # no chunk from after the jump, yet
    robot.clock_shift += jump_s
    jumped = time.monotonic()
    watch.until("HOLD", since=jumped)
    seconds, allowance = watch.reaction(jumped, "HOLD")
    # The clock is this process: while it is not run nothing jumps, and then time runs ahead, which is a jump as well
    assert seconds <= 0.1 + allowance + robot.late(jumped)
    graph.until(lambda: watch.count("clock_jumps") > jumps, "the guard has noticed the jump")
    watch.rest()
    assert watch.values["state"] == "HOLD"
    watch.check_limits(jumped - 0.4)
    policy.on = True
    watch.until("RUN_POLICY")  # nobody had to engage again
    watch.check_limits(jumped - 0.4)


def test_chunks_from_before_a_jump_are_refused(running: Scene) -> None:
    graph, robot, policy, watch = running.graph, running.robot, running.policy, running.watch
    robot.clock_shift += 150.0
    policy.delay_s = 150.0  # its clock has not noticed
    watch.until("HOLD")
    graph.until(lambda: "s old" in watch.values["last_refusal"], "chunks of the past are refused")
    refused = watch.count("chunks_refused")
    graph.until(lambda: watch.count("chunks_refused") > refused + 3, "and go on being refused")
    assert watch.values["state"] == "HOLD"
    policy.delay_s = 0.0
    watch.until("RUN_POLICY")
