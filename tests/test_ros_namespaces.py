"""Two robots on one graph, each in a namespace of its own: nothing of one reaches the other."""

from pathlib import Path

import numpy as np
import pytest
import yaml

pytestmark = pytest.mark.ros
pytest.importorskip("rclpy")

from diagnostic_msgs.msg import DiagnosticArray  # noqa: E402
from sensor_msgs.msg import Image, JointState  # noqa: E402
from std_msgs.msg import Float64MultiArray  # noqa: E402

from policy.wire import command_source, positions_by_name  # noqa: E402
from ros_nodes import qos  # noqa: E402
from ros_nodes.diagnostics import values_of  # noqa: E402
from tests.ros_fake_policy import ROBOT  # noqa: E402
from tests.ros_fakes import patient_robot  # noqa: E402
from tests.ros_graph import PATIENCE, REPOSITORY, Graph  # noqa: E402
from tests.ros_guard_watch import GuardWatch  # noqa: E402
from wam.robot import load_robot  # noqa: E402

SIDES = ("left", "right")
NODES = sorted(path.stem for path in (REPOSITORY / "config").glob("*.yaml"))  # every node there is


def start(graph: Graph, side: str, script: list[str], name: str, *parameters: str) -> None:
    flags = [word for value in parameters for word in ("-p", value)]
    graph.run(f"{side}_{name}", [*script, "--ros-args", "-r", f"__ns:=/{side}", *flags])


class Side:
    """What is heard of one robot."""

    def __init__(self, graph: Graph, side: str) -> None:
        self.graph, self.watch = graph, GuardWatch(graph, f"{side}/")
        self.states = graph.hear(JointState, f"/{side}/joint_states", qos.STATE)
        self.images = graph.hear(Image, f"/{side}/front/image_raw", qos.SENSOR)

    def place(self) -> np.ndarray:
        message = self.states.last
        return positions_by_name(message.name, message.position, ROBOT.action_names, "joint states")

    def sources(self) -> set[str]:
        return {command_source(message) for _, message in self.watch.commands.items}


def test_engaging_and_moving_one_robot_never_reaches_the_other(tmp_path: Path) -> None:
    robot = patient_robot(tmp_path)
    with Graph(tmp_path) as graph:
        sides = {side: Side(graph, side) for side in SIDES}
        shared = (
            graph.hear(Float64MultiArray, "/command", qos.STATE),
            graph.hear(JointState, "/joint_states", qos.STATE),
        )
        reports = graph.hear(DiagnosticArray, "/diagnostics", qos.DIAGNOSTICS)
        for side, seed in zip(SIDES, (3, 4), strict=True):  # two scenes: the arms stand in two places
            start(graph, side, ["-m", "ros_nodes.arm_node"], "arm", "robot:=sim6", f"first_seed:={seed}")
            start(graph, side, ["-m", "ros_nodes.guard_node"], "guard", f"robot:={robot}")
            start(graph, side, [str(REPOSITORY / "tests/ros_fake_policy.py")], "policy")
        left, right = sides["left"], sides["right"]
        for side in sides.values():
            graph.until(lambda side=side: side.states and side.images, "the arm shows where it is")
            graph.until(lambda side=side: side.watch.values.get("state") == "HOLD", "its guard holds it")
        apart = np.abs(left.place() - right.place()).max()
        assert apart > 0.03, "the scenes do not tell the arms apart"
        for side in sides.values():
            np.testing.assert_allclose(side.watch.commanded(), side.place(), atol=apart / 3)
        held, heard = right.place(), len(right.states)
        left.watch.run()
        left.watch.moves(0.1)
        start_of_left = left.place()
        graph.until(lambda: abs(left.place()[0] - start_of_left[0]) > 0.1, "the left arm moves")
        graph.until(lambda: len(right.states) > heard + 50, "the right one goes on saying where it is")
        others = [positions_by_name(m.name, m.position, ROBOT.action_names, "") for _, m in right.states.items[heard:]]
        assert np.abs(np.array(others) - held).max() < 0.02
        assert {values_of(status)["engaged"] for _, status in right.watch.states.items} == {"false"}
        assert left.sources() == {left.watch.values["source"]}
        assert right.sources() == {right.watch.values["source"]}

        def of_arms() -> dict[str, dict[str, str]]:
            last = {m.status[0].name: m.status[0] for _, m in reports.items}
            return {name: values_of(status) for name, status in last.items() if name.endswith("/arm")}

        guards = {f"{side}/arm": sides[side].watch.values["source"] for side in SIDES}

        def of_guards() -> dict[str, str]:
            return {name: values["guard"] for name, values in of_arms().items() if values["guard"] != "none yet"}

        graph.until(lambda: set(of_guards()) == set(guards), "both arms report whose commands they take")
        assert of_guards() == guards
        assert {values["commands_of_others"] for values in of_arms().values()} == {"0"}
        assert not any(shared), "something is said outside of the namespaces"
        words = ["top", "--once", "--wait-s", str(PATIENCE), "--namespace", "/left"]
        top = graph.run("top", ["-m", "wam.cli", *words])
        top.signalled = True  # its end is expected
        graph.until(lambda: top.popen.poll() is not None, "wam top prints its frame")
        assert "left/arm" in top.output(), top.output()
        assert "/left/joint_states" in top.output()
        assert "right/" not in top.output()


@pytest.mark.parametrize("node", [pytest.param(n, marks=[] if n == "guard" else pytest.mark.slow) for n in NODES])
def test_absolute_topics_in_a_namespace_are_refused_with_the_lines_to_change(node: str, tmp_path: Path) -> None:
    data = {name: value for name, value in load_robot("sim6").to_dict().items() if value is not None}
    data |= {"state_topic": "/joint_states", "command_topic": "/left/command"}  # the second one lies in it
    data["cameras"][0]["topic"] = "/front/image_raw"
    path = tmp_path / "sim6.yaml"
    path.write_text(yaml.safe_dump(data))
    more = {
        "camera": ["camera:=front", "device:=none.mp4"],
        "calibration": ["camera:=front", f"folder:={tmp_path / 'c'}"],
        "recorder": [f"folder:={tmp_path / 'r'}"],
        "policy": ["bundle:=none", "autostart:=true"],
        "teleop": ["source:=joy"],
    }
    with Graph(tmp_path) as graph:
        start(graph, "left", ["-m", f"ros_nodes.{node}_node"], node, f"robot:={path}", *more.get(node, []))
        process = graph.processes[f"left_{node}"]
        words = (
            f"runs in namespace '/left', but robot file {path} names topics outside of it (/joint_states, "
            "/front/image_raw), which the graph's other robots would share: write `state_topic: joint_states`, `topic: "
            "front/image_raw` (camera 'front') in that file, or start without a namespace."
        )
        if node == "policy":  # a lifecycle node stays there, unconfigured
            graph.until(lambda: words in process.output(), "the policy says why it does not configure")
        else:
            assert process.popen.wait(timeout=PATIENCE) == 2
            assert words in process.output()
