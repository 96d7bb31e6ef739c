"""Two who command one arm, as real processes: the arm follows its own guard, both name the other, nobody engages."""

from collections.abc import Iterator

import numpy as np
import pytest

pytestmark = pytest.mark.ros
pytest.importorskip("rclpy")

from diagnostic_msgs.msg import DiagnosticArray  # noqa: E402
from rclpy.clock import Clock  # noqa: E402
from rclpy.clock_type import ClockType  # noqa: E402
from sensor_msgs.msg import JointState  # noqa: E402
from std_msgs.msg import Float64MultiArray  # noqa: E402

from policy.wire import command_source, positions_by_name  # noqa: E402
from ros_nodes import messages, qos  # noqa: E402
from ros_nodes.diagnostics import ERROR, WARN, values_of  # noqa: E402
from tests.ros_fake_policy import ROBOT  # noqa: E402
from tests.ros_fakes import patient_robot  # noqa: E402
from tests.ros_graph import REPOSITORY, Graph, Heard  # noqa: E402
from tests.ros_guard_watch import GuardWatch  # noqa: E402

NAMES = ROBOT.action_names
STILL = 0.02  # [rad]; a held arm stays this near
BEYOND = 0.45  # [rad]; the fake policy swings the first axis by 0.3 and never comes here


class Scene:
    """An arm, its guard and a fake policy as processes; this process may play the rogue."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.robot = str(patient_robot(graph.folder))
        graph.start("arm", "robot:=sim6")
        graph.start("guard", f"robot:={self.robot}")
        graph.start(str(REPOSITORY / "tests/ros_fake_policy.py"))
        self.watch = GuardWatch(graph)
        self.states: Heard = graph.hear(JointState, ROBOT.state_topic, qos.STATE)
        self.reports: Heard = graph.hear(DiagnosticArray, "/diagnostics", qos.DIAGNOSTICS)
        graph.until(lambda: self.states and self.watch.values.get("state") == "HOLD", "the guard holds the arm")

    def place(self) -> np.ndarray:
        message = self.states.last
        return positions_by_name(message.name, message.position, NAMES, "joint states")

    def says(self, node: str, level: bytes, *words: str) -> None:
        """Waits until the diagnostics of a node, from now on, say some words at a level."""
        begun = len(self.reports)

        def said() -> bool:
            own = [m.status[0] for _, m in self.reports.items[begun:] if m.status[0].name == node]
            return any(s.level == level and all(word in s.message for word in words) for s in own)

        self.graph.until(said, f"{node} says {words}")

    def value(self, node: str, key: str) -> str:
        own = [m.status[0] for _, m in self.reports.items if m.status[0].name == node]
        return values_of(own[-1]).get(key, "") if own else ""


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with Graph(tmp_path_factory.mktemp("commanders")) as graph:
        yield Scene(graph)


class Rogue:
    """Commands the arm from this process, as long as it is told to and this process runs; gone after ``with``."""

    def __init__(self, scene: Scene, target: np.ndarray) -> None:
        self.shouts = False
        self._node, self._message = scene.graph.node, messages.forward_command(NAMES, target)
        self._publisher = self._node.create_publisher(Float64MultiArray, ROBOT.command_topic, qos.COMMAND)
        self._timer = self._node.create_timer(0.02, self._shout, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _shout(self) -> None:
        if self.shouts:
            self._publisher.publish(self._message)

    def __enter__(self) -> "Rogue":
        return self

    def __exit__(self, *_: object) -> None:
        self._node.destroy_timer(self._timer)
        self._node.destroy_publisher(self._publisher)


def test_a_foreign_publisher_moves_nothing_and_is_named_by_both(scene: Scene) -> None:
    held = scene.place()
    with Rogue(scene, held + np.array([2 * BEYOND, 0, 0, 0, 0, 0, 0])) as rogue:
        check_rogue(scene, rogue, held)
    scene.watch.run()


def check_rogue(scene: Scene, rogue: Rogue, held: np.ndarray) -> None:
    graph, heard = scene.graph, len(scene.states)
    scene.says("guard", WARN, "'/listener' is listed as publisher of /command and silent")
    rogue.shouts = True
    scene.says("arm", ERROR, "it is not of a guard", "'/guard', '/listener'")
    scene.says("guard", ERROR, "'/listener' commands on /command as well: stop it")

    def refused() -> bool:
        answer = graph.call("guard/engage").message
        if (
            "FAULT" in answer
        ):  # this process was not run for so long that the guard had forgotten the rogue, and engaged
            graph.call("guard/reset")
        return answer == "another node commands the arm: '/listener' on /command"

    graph.until(refused, "nobody may engage")
    assert int(scene.value("arm", "commands_of_others")) > 0
    rogue.shouts = False
    scene.watch.run()
    scene.watch.moves(0.1)
    begun = len(scene.watch.states)
    rogue.shouts = True

    def faulted() -> bool:
        told = [values_of(status) for _, status in scene.watch.states.items[begun:]]
        return any(v["state"] == "FAULT" and "another node commands the arm: '/listener'" in v["reason"] for v in told)

    graph.until(faulted, "an engaged guard latches")
    begun = len(scene.states)

    def rests() -> bool:
        places = [positions_by_name(m.name, m.position, NAMES, "") for _, m in scene.states.items[begun:][-50:]]
        return len(places) == 50 and float(np.ptp(places, axis=0).max()) < STILL

    graph.until(rests, "the arm stands while the other node goes on commanding")
    went = [positions_by_name(m.name, m.position, NAMES, "")[0] for _, m in scene.states.items[heard:]]
    assert max(went) < held[0] + BEYOND


def test_a_second_guard_is_refused_until_it_is_restarted_and_the_first_goes_on(scene: Scene) -> None:
    graph, first = scene.graph, scene.watch.values["source"]
    scene.watch.run()
    second = graph.run(
        "second", ["-m", "ros_nodes.guard_node", "--ros-args", "-r", "__node:=guard2", "-p", f"robot:={scene.robot}"]
    )
    scene.says("arm", ERROR, f"a second guard beside {first}", "'/guard', '/guard2'")
    scene.says("guard", ERROR, "'/guard2' commands on /command as well")
    scene.says("guard2", ERROR, "'/guard' commands on /command as well")
    scene.watch.until("FAULT", reason="another node commands the arm: '/guard2' on /command", since=0.0)
    assert scene.value("arm", "guard") == first
    second.leave()
    scene.watch.run()
    scene.watch.moves(0.1)


def test_a_guard_that_was_killed_and_started_again_is_followed(scene: Scene) -> None:
    graph, before = scene.graph, scene.watch.values["source"]
    graph.processes["guard"].kill()
    graph.start("guard", f"robot:={scene.robot}")
    graph.until(lambda: scene.watch.values["source"] != before, "the new guard speaks")
    graph.until(lambda: scene.value("arm", "guard") == scene.watch.values["source"], "the arm follows the new guard")
    graph.until(
        lambda: command_source(scene.watch.commands.last) == scene.watch.values["source"], "its commands are its own"
    )
    scene.watch.run()
    scene.watch.moves(0.1)
    start = scene.place()
    graph.until(lambda: np.abs(scene.place() - start).max() > 0.05, "the arm moves")
