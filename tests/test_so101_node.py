"""The arm node around simulated servos, with the real guard: from a joint state to a goal on the bus and back."""

import json
import signal
import time

import numpy as np
import pytest
import yaml

pytest.importorskip("rclpy")
pytest.importorskip("lerobot")

from diagnostic_msgs.msg import DiagnosticArray
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

from policy.wire import command_by_name
from ros_nodes import messages, qos
from tests import feetech_servos as fake
from tests.ros_graph import Graph
from tests.ros_guard_watch import EVERYTHING
from wam.robot import load_robot, robot_file

pytestmark = [pytest.mark.ros, pytest.mark.slow]
ROBOT = load_robot("so101")
TICK = 2 * np.pi / 4095  # [rad]


@pytest.fixture
def servos(tmp_path):
    device = fake.FakeBus(tmp_path)
    (tmp_path / "follower.json").write_text(json.dumps(fake.CALIBRATION))
    yield device
    device.close()


def test_a_person_moves_the_servos_through_the_guard(servos, tmp_path):
    # This process is the servos: a machine that does not run it for a second must not latch a fault
    data = yaml.safe_load(robot_file("so101").read_text())
    data["safety"] = {**(data.get("safety") or {}), "state_fault_s": 60.0}
    patient = tmp_path / "so101.yaml"
    patient.write_text(yaml.safe_dump(data))
    with Graph(tmp_path) as graph:
        graph.start_with_servos(
            "arm",
            "robot:=so101",
            "backend:=so101",
            f"so101_port:={servos.path}",
            f"so101_calibration:={tmp_path / 'follower.json'}",
        )
        graph.start("guard", f"robot:={patient}")
        states = graph.hear(JointState, ROBOT.state_topic, qos.STATE)
        health = graph.hear(DiagnosticArray, "/diagnostics", qos.DIAGNOSTICS)
        graph.until(lambda: len(states) > 50, "joint states arrive")
        assert tuple(states.last.name) == ROBOT.action_names
        np.testing.assert_allclose(states.last.position, [0, 0, 0, 0, 0, 0.5], atol=1e-6)

        teleop = graph.node.create_publisher(JointTrajectory, "teleop/command", qos.CHUNK)
        target = np.array([0.1, -0.1, 0.05, 0.0, 0.0, 0.9])

        def push() -> None:
            stamp = graph.node.get_clock().now().to_msg()
            teleop.publish(messages.single_point(ROBOT.action_names, target, stamp))

        graph.node.create_timer(0.02, push)
        graph.until(lambda: graph.call("guard/engage").success, "the guard engages")
        graph.until(lambda: abs(servos.servos[1].get(fake.GOAL) - (2000 + 0.1 / TICK)) < 1.5, "servo 1 is there")
        graph.until(lambda: servos.servos[6].get(fake.GOAL) > 2790, "the gripper opens")
        graph.until(lambda: abs(states.last.position[1] + 0.1) < 2 * TICK, "the measurement follows")

        servos.unplug()
        graph.until(lambda: "ttyARM" in _message(health, "arm"), "the lost bus is on /diagnostics")
        assert 0 not in [value for _, value in servos.torque_log]


def test_the_servos_get_the_guards_last_hold_when_all_end_at_once(servos, tmp_path):
    data = yaml.safe_load(robot_file("so101").read_text())
    data["safety"] = {**(data.get("safety") or {}), "state_fault_s": 60.0}
    patient = tmp_path / "so101.yaml"
    patient.write_text(yaml.safe_dump(data))
    with Graph(tmp_path) as graph:
        calibration = f"so101_calibration:={tmp_path / 'follower.json'}"
        arm = graph.start_with_servos(
            "arm", "robot:=so101", "backend:=so101", f"so101_port:={servos.path}", calibration
        )
        guard = graph.start("guard", f"robot:={patient}")
        commands = graph.hear(Float64MultiArray, ROBOT.command_topic, EVERYTHING)
        teleop = graph.node.create_publisher(JointTrajectory, "teleop/command", qos.CHUNK)
        begun = time.monotonic()
        target = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.5])
        moves = False

        def push() -> None:
            target[0] = 0.8 * np.sin(time.monotonic() - begun) if moves else 0.0
            stamp = graph.node.get_clock().now().to_msg()
            teleop.publish(messages.single_point(ROBOT.action_names, target, stamp))

        graph.node.create_timer(0.02, push)
        graph.until(lambda: graph.call("guard/engage").success, "the guard engages")
        moves, first = True, len(commands)
        graph.until(lambda: np.abs(_path(commands)[first:, 0]).max(initial=0.0) > 0.1, "the arm is on its way")
        for process in (arm, guard):
            process.send(signal.SIGINT)
        graph.until(lambda: arm.popen.poll() == 0 and guard.popen.poll() == 0, "both have ended")
        graph.spin(0.5)  # for what must not come: another command
        sent = [info["source_timestamp"] * 1e-9 for info in commands.infos[-40:]]
        if np.diff(sent).max() > 0.4:
            pytest.skip("the guard was not run for so long that an arm may give it up")
        last = _path(commands)[-1]
        assert abs(last[0]) > 0.05
        assert [servos.servos[number].get(fake.GOAL) for number in (1, 2)] == pytest.approx(
            [2000 + last[0] / TICK, 2000 + last[1] / TICK], abs=1.5
        )


def _path(commands) -> np.ndarray:
    """(T, A) commanded positions."""
    return np.array([command_by_name(message, ROBOT.action_names) for _, message in commands.items]).reshape(-1, 6)


def _message(health, node: str) -> str:
    """What a node last said on /diagnostics."""
    found = [status.message for _, array in health.items for status in array.status if status.name == node]
    return found[-1] if found else ""
