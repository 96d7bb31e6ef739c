"""The simulated arm as a process: rates, stamps, cameras, commands by name, episodes, the clock."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.ros
pytest.importorskip("rclpy")

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus  # noqa: E402
from rosgraph_msgs.msg import Clock  # noqa: E402
from sensor_msgs.msg import CameraInfo, Image, JointState  # noqa: E402
from std_msgs.msg import Float64MultiArray, String  # noqa: E402

from policy.wire import new_source, positions_by_name, rgb_from_image, stamp_seconds  # noqa: E402
from ros_nodes import messages, qos  # noqa: E402
from ros_nodes.diagnostics import values_of  # noqa: E402
from tests.ros_graph import PATIENCE, Graph, Heard  # noqa: E402
from wam.robot import load_robot  # noqa: E402

ROBOT = load_robot("sim6")
NAMES = ROBOT.action_names
GUARD = new_source("guard")  # whom the arm follows here


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Graph]:
    with Graph(tmp_path_factory.mktemp("arm")) as graph:
        graph.start("arm", "robot:=sim6", "task:=lift", "first_seed:=5", "announce_task:=true")
        yield graph


@pytest.fixture(scope="module")
def states(graph: Graph) -> Heard:
    states = graph.hear(JointState, ROBOT.state_topic, qos.STATE)
    graph.until(lambda: len(states) > 20, "the arm publishes joint states")
    return states


def place(states: Heard) -> np.ndarray:
    return positions_by_name(states.last.name, states.last.position, NAMES, "joint states")


def test_joint_states_come_at_their_rate_in_order_and_in_time(graph: Graph, states: Heard) -> None:
    begun_here = time.time() - 1.0
    first = len(states)

    def stamped() -> np.ndarray:
        return np.array([stamp_seconds(message.header.stamp) for _, message in states.items[first:]])

    # A loaded machine skips timer periods; it must not add any. Physics steps of 4 ms carry the stamps
    graph.until(lambda: len(states) > first + 150 and np.median(np.diff(stamped()[-150:])) < 0.02, "joint states")
    heard, sent = states.items[first:], [info["publication_sequence_number"] for info in states.infos[first:]]
    stamps = np.array([stamp_seconds(message.header.stamp) for _, message in heard])
    periods = np.diff(stamps) / np.diff(sent)
    assert (periods >= 0).all()
    assert np.mean(periods) > 0.009
    assert begun_here < stamps[0] < stamps[-1] < time.time() + 0.1  # it is this machine's time
    assert all(tuple(message.name) == NAMES for _, message in heard)


def test_both_cameras_show_the_same_instants(graph: Graph, states: Heard) -> None:
    images = {camera.name: graph.hear(Image, camera.topic, qos.SENSOR_RECORDED) for camera in ROBOT.cameras}
    infos = {
        camera.name: graph.hear(CameraInfo, camera.topic.replace("image_raw", "camera_info"), qos.SENSOR_RECORDED)
        for camera in ROBOT.cameras
    }

    def stamps(name: str) -> set[float]:
        return {stamp_seconds(message.header.stamp) for _, message in images[name].items}

    def both() -> np.ndarray:
        return np.array(sorted(stamps("front") & stamps("wrist")))

    in_time = lambda: len(both()) > 20 and np.median(np.diff(both()[-20:])) * 30 < 4  # noqa: E731
    graph.until(in_time, "frames of one instant carry one stamp")
    graph.until(lambda: all(len(heard) > 5 for heard in infos.values()), "camera infos")
    frames = np.diff(both()) * 30  # a loaded machine leaves some out
    assert frames.min() > 0.5
    whole = frames[frames < 6]  # after a pause of a quarter of a second the simulation begins a new rhythm
    assert np.abs(whole - np.rint(whole)).max() < 0.15
    for camera in ROBOT.cameras:
        rgb = rgb_from_image(images[camera.name].last)
        assert rgb.shape == (camera.height_px, camera.width_px, 3)
        assert rgb.std() > 5
        assert images[camera.name].last.header.frame_id == camera.frame_id
    info = infos["front"].last
    assert (info.width, info.height) == (96, 96)
    assert info.k[0] == pytest.approx(48 / np.tan(np.deg2rad(39 / 2)))  # the front camera sees 39 degrees
    assert info.k[2] == 47.5


def test_commands_are_taken_by_name_and_bad_ones_are_told(graph: Graph, states: Heard) -> None:
    commands = graph.node.create_publisher(Float64MultiArray, ROBOT.command_topic, qos.COMMAND)
    reports = graph.hear(DiagnosticArray, "/diagnostics", qos.DIAGNOSTICS)
    graph.until(commands.get_subscription_count, "the arm listens")
    start = place(states)
    target = start + np.array([0.1, 0, 0, 0, 0, -0.1, -0.5])

    def settled() -> bool:
        commands.publish(messages.forward_command(NAMES[::-1], target[::-1], GUARD))
        return bool(np.abs(place(states) - target).max() < 0.03)

    graph.until(settled, "the arm has gone where it was told")
    for label, data, reason in (
        ("", target, "every position needs its joint's name"),
        (",".join(NAMES[:-1]), target[:-1], "the command lacks gripper"),
        (",".join(NAMES), target * np.nan, "is not finite for yaw"),
    ):
        bad = messages.forward_command(NAMES, data, GUARD)
        bad.layout.dim[0].label = label

        def told(bad: Float64MultiArray = bad, reason: str = reason) -> bool:
            commands.publish(bad)
            return bool(reports.items) and reason in reports.last.status[0].message

        graph.until(told, f"diagnostics say: {reason}")
    assert int(values_of(reports.last.status[0])["commands_refused"]) >= 3
    graph.until(lambda: "no commands" in reports.last.status[0].message, "silence is reported")
    np.testing.assert_allclose(place(states), target, atol=0.03)  # and the arm holds


def test_a_new_episode_puts_the_arm_back_and_ignores_commands_from_before(graph: Graph, states: Heard) -> None:
    commands = graph.node.create_publisher(Float64MultiArray, ROBOT.command_topic, qos.COMMAND)
    episodes = graph.hear(DiagnosticStatus, "arm/episode", qos.LATCHED)
    tasks = graph.hear(String, "policy/task", qos.LATCHED)
    graph.until(lambda: len(tasks) and len(episodes), "the episode is announced to late joiners")
    assert values_of(episodes.last)["seed"] == "5"
    assert tasks.last.data == values_of(episodes.last)["instruction"]
    answer = json.loads(graph.call("arm/next_episode").message)
    assert (answer["episode"], answer["seed"], answer["success"]) == (1, 6, False)
    graph.until(lambda: values_of(episodes.last)["seed"] == "6", "the new episode is announced")
    graph.until(lambda: len(tasks) == 2, "the new task is announced")
    announced = episodes.infos[-1]["source_timestamp"]  # older states may still be on their way
    graph.until(
        lambda: sum(info["source_timestamp"] > announced for info in states.infos) > 3,
        "joint states of the new episode",
    )
    home = place(states)
    far = home + np.array([0.6, 0, 0, 0, 0, 0, 0])
    reports = graph.hear(DiagnosticArray, "/diagnostics", qos.DIAGNOSTICS)

    def ignored() -> bool:
        commands.publish(messages.forward_command(NAMES, far, GUARD))
        return bool(reports.items) and int(values_of(reports.last.status[0])["commands_ignored"]) > 3

    graph.until(ignored, "commands from far away are ignored")
    np.testing.assert_allclose(place(states), home, atol=0.02)
    near = home + np.array([0.15, 0, 0, 0, 0, 0, 0])

    def moved() -> bool:
        commands.publish(messages.forward_command(NAMES, near, GUARD))
        return bool(abs(place(states)[0] - near[0]) < 0.02)

    graph.until(moved, "commands from near the arm are taken again")


@pytest.mark.slow
def test_a_slow_simulation_publishes_the_clock_it_stamps_with(tmp_path: Path) -> None:
    with Graph(tmp_path) as graph:
        graph.start("arm", "robot:=sim6", "speed:=0.5", "publish_clock:=true")
        states = graph.hear(JointState, ROBOT.state_topic, qos.STATE)
        clocks = graph.hear(Clock, "/clock", qos.STATE)
        graph.until(lambda: len(states) > 10 and len(clocks) > 10, "the arm and its clock")
        graph.until(lambda: len(clocks) > 120, "two seconds of the clock")
        shown = np.array([stamp_seconds(message.clock) for _, message in clocks.items])
        sent = np.array([info["source_timestamp"] * 1e-9 for info in clocks.infos])  # by the arm's process
        half = len(sent) // 2  # the median of many slopes does not mind single late messages
        assert np.median((shown[half:] - shown[:-half]) / (sent[half:] - sent[:-half])) == pytest.approx(0.5, abs=0.05)

        def together() -> bool:
            clock, state = stamp_seconds(clocks.last.clock), stamp_seconds(states.last.header.stamp)
            return clock - 0.2 < state <= clock + 0.02

        graph.until(together, "joint states carry the time of the clock")
        reports = graph.hear(DiagnosticArray, "/diagnostics", qos.DIAGNOSTICS)
        second = graph.node.create_publisher(Clock, "/clock", qos.STATE_OFFERED)
        named = lambda: any("/listener also publishes /clock" in m.status[0].message for _, m in reports.items)  # noqa: E731
        graph.until(named, "another clock is named")
        graph.node.destroy_publisher(second)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ((), "parameter 'robot' of node 'arm' is missing"),
        (("robot:=simm6",), "did you mean 'sim6'?"),
        (("robot:=sim6", "task:=lft"), "did you mean 'lift'?"),
        (("robot:=sim6", "backend:=gazebo"), "valid names: external, mujoco, so101."),
        (("robot:=sim6", "speed:=0.5"), "set publish_clock"),
        (
            ("robot:=so101", "backend:=external", "external_command_topic:=c", "publish_clock:=true"),
            "backend 'external' simulates nothing of its own: wall time on /clock would fight",
        ),
        (("robot:=so101", "backend:=so101", "publish_clock:=true"), "Leave publish_clock out"),
        (("robot:=so101", "backend:=external", "speed:=0.5"), "leave speed out here"),
        (("robot:=so101", "backend:=so101", "use_sim_time:=true"), "an arm that is not simulated"),
    ],
)
def test_a_wrong_start_is_one_clear_error(tmp_path: Path, parameters: tuple[str, ...], message: str) -> None:
    with Graph(tmp_path) as graph:
        process = graph.start("arm", *parameters)
        assert process.popen.wait(timeout=PATIENCE) == 2
        assert message in process.output()
        assert "Traceback" not in process.output()
