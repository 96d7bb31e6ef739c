"""Arm and gripper in two joint states on one topic: guard and policy inputs know where the whole arm is."""

from pathlib import Path

import pytest

pytestmark = [pytest.mark.ros, pytest.mark.slow]
pytest.importorskip("rclpy")

from diagnostic_msgs.msg import DiagnosticArray  # noqa: E402

from ros_nodes import qos  # noqa: E402
from ros_nodes.diagnostics import values_of  # noqa: E402
from tests.ros_fakes import FakeRobot, patient_robot  # noqa: E402
from tests.ros_graph import Graph, Heard  # noqa: E402
from tests.ros_guard_watch import GuardWatch  # noqa: E402


def bad_state(reports: Heard) -> str:
    """What the guard says of joint states that it cannot use."""
    found = [status for _, message in reports.items for status in message.status if status.name == "guard"]
    return next((s.message for s in reversed(found) if int(values_of(s).get("bad_states", 0))), "")


def test_two_messages_are_one_state_and_half_of_it_is_named(tmp_path: Path) -> None:
    with Graph(tmp_path) as graph:
        robot_file, live = patient_robot(tmp_path), tmp_path / "live.jsonl"
        robot = FakeRobot(graph, cameras=True)
        robot.two_messages = True
        graph.start("guard", f"robot:={robot_file}")
        graph.start("tests/live_aligner.py", f"robot:={robot_file}", f"out:={live}")
        watch = GuardWatch(graph)
        reports = graph.hear(DiagnosticArray, "/diagnostics", qos.DIAGNOSTICS)
        graph.until(lambda: watch.values.get("state") == "HOLD", "the guard holds the arm where it is measured")
        graph.until(lambda: live.is_file() and bool(live.read_text()), "the policy's inputs make an observation")
        robot.names = robot.names[:-1] + ["finger"]
        graph.until(lambda: "lacks gripper" in bad_state(reports), "the guard says which axis it misses")
