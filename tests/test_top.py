"""``wam top`` and ``wam call``: what a frame says, and both commands against a running guard."""

import os
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("rclpy")

from rich.console import Console
from sensor_msgs.msg import JointState

from ros_nodes import messages, qos
from ros_nodes.top_view import GuardView, NodeView, StreamView, TopState, frame
from tests.ros_fakes import robot_file_with
from tests.ros_graph import Graph, private_sockets
from wam.cli import main
from wam.robot import load_robot

GUARD = {
    "state": "HOLD",
    "engaged": "true",
    "epoch": "3",
    "sequence": "41",
    "index": "5",
    "tracking_error": "0.0123",
    "late_ticks": "2",
    "ticks_limited": "7",
    "latency_s": "0.0531",
    "last_refusal": "chunk 3/40 comes after 3/41: out of order",
}


def text(state: TopState, now: float) -> str:
    console = Console(record=True, width=140, file=open(os.devnull, "w"))  # noqa: SIM115  # closed with the process
    console.print(frame(state, now, clock="12:00:00"))
    return console.export_text()


def test_a_frame_shows_rates_ages_guard_refusal_and_recorder():
    state = TopState(robot="so101")
    state.streams["image/front"] = StreamView(topic="/front/image_raw", expected_hz=30.0)
    state.streams["task"] = StreamView(topic="/policy/task")
    for number in range(61):
        state.streams["image/front"].saw(100.0 + number / 20, 0.012)  # 20 Hz instead of 30
    state.guard = GuardView(message="no chunk for 0.412 s", values=GUARD, when=103.0)
    recorder = {"recording": "True", "episode": "episode_000004", "image/front": "600/0/3/1", "e_stop": "0/0/0/0"}
    state.nodes["recorder"] = NodeView(level="ok", message="recording", values=recorder, when=103.0)
    state.nodes["policy"] = NodeView(
        level="warn", message="x", values={"latency_p50_ms": "40.1", "latency_p95_ms": "61.2"}, when=100.0
    )
    shown = text(state, 103.1)
    for part in (
        "20.0 of 30",
        "12.0 ms",
        "never heard",
        "HOLD  no chunk for 0.412 s",
        "chunk 41 of epoch 3, action 5",
        "53 ms",
        "last refusal: chunk 3/40 comes after 3/41: out of order",
        "image/front 600/0/3/1",
        "silent for 3.1 s; last: x",
        "latency p50/p95 40.1/61.2 ms",
    ):
        assert part in shown, part
    assert "e_stop 0/0/0/0" not in shown


def test_a_frame_without_anything_says_so():
    shown = text(TopState(), 5.0)
    assert "no guard is heard" in shown
    assert "no node has reported" in shown


def test_a_silent_guard_is_shown_as_silent():
    state = TopState(guard=GuardView(message="fine", values={}, when=0.0))
    assert "silent for 9.0 s" in text(state, 9.0)


def wam(graph: Graph, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "wam.cli", *arguments]
    environment = {**graph.environment, "COLUMNS": "140"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


def start_guard(graph: Graph) -> None:
    """A guard that hears joint states of an arm at rest; they are never old, however long this process is not run."""
    robot = load_robot("sim6")
    patient = robot_file_with(graph.folder / "robots", state_age_s=60.0, state_fault_s=120.0)
    graph.start("guard", f"robot:={patient}")
    states = graph.node.create_publisher(JointState, robot.state_topic, qos.STATE_OFFERED)

    def publish() -> None:
        stamp = graph.node.get_clock().now().to_msg()
        states.publish(messages.joint_state(robot.action_names, np.zeros(7), stamp))

    graph.node.create_timer(0.02, publish)
    graph.until(lambda: states.get_subscription_count() > 0, "the guard listens")


@pytest.mark.ros
def test_top_against_a_running_guard(tmp_path):
    with Graph(tmp_path) as graph:
        start_guard(graph)
        command = [sys.executable, "-m", "wam.cli", "top", "--once", "--wait-s", "120"]
        environment = {**graph.environment, "COLUMNS": "140"}

        def shown() -> str:
            with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as top:
                graph.until(lambda: top.poll() is not None, "wam top prints its frame")
                text = top.stdout.read()
            assert top.returncode == 0, text
            return text

        # The guard says once a second which robot it is for: one frame may be too early for that.
        parts = ("robot sim6", "HOLD  not engaged", "/joint_states", "last refusal: none")
        graph.until(lambda: all(part in shown() for part in parts), "a frame shows everything")


@pytest.mark.ros
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["call", "guard/engag"], "unknown service 'guard/engag' (did you mean 'guard/engage'?)"),
        (["call", "guard/engage", "--timeout-s", "0"], "timeout_s is 0 but must be a time above 0"),
        (["call", "guard/engage", "--namespace", "left arm"], "namespace 'left arm' cannot be: "),
        (["top", "--wait-s", "-1"], "wait_s is -1 and refresh_hz 4: a time above 0"),
        (["top", "--robot", "sim7"], "did you mean 'sim6'?"),
        (["top", "--namespace", "left arm"], "namespace 'left arm' cannot be: "),
        (["up", "simm"], "unknown launch file 'simm' (did you mean 'sim'?)"),
        (["up", "sim", "robot=sim6"], "'robot=sim6' is not a launch argument: write name:=value"),
        (["up", "sim", "robt:=sim6"], "unknown launch argument 'robt' (did you mean 'robot'?)"),
    ],
)
def test_wrong_arguments_are_one_message(arguments, message, capsys):
    with private_sockets():
        assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1


@pytest.mark.ros
@pytest.mark.slow
def test_top_without_a_graph_says_what_to_check(tmp_path):
    with Graph(tmp_path) as graph:
        nothing = wam(graph, "top", "--once", "--wait-s", "0.5")
    assert nothing.returncode == 2
    assert f"nothing was heard for 0.5 s on ROS domain {graph.domain}: start the graph" in nothing.stderr


@pytest.mark.ros
@pytest.mark.slow
def test_call_against_a_running_guard(tmp_path):
    with Graph(tmp_path) as graph:
        start_guard(graph)
        stopped = wam(graph, "call", "guard/e_stop", "--timeout-s", "120")
        assert (stopped.returncode, stopped.stdout) == (0, "stopped: reset and engage to go on\n")
        refused = wam(graph, "call", "guard/engage", "--timeout-s", "120")
        assert (refused.returncode, refused.stderr.count("e-stop")) == (1, 1)
        missing = wam(graph, "call", "recorder/start", "--timeout-s", "0.3")
        assert (missing.returncode, "nobody offers /recorder/start" in missing.stderr) == (2, True)
        unknown = wam(graph, "call", "guard/engag")
        assert (unknown.returncode, "did you mean 'guard/engage'" in unknown.stderr) == (2, True)
