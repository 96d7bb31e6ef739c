"""The arm node around simulated servos, with the real guard: from a joint state to a goal on the bus and back."""

import json

import numpy as np
import pytest
import yaml

pytest.importorskip("rclpy")
pytest.importorskip("lerobot")

from diagnostic_msgs.msg import DiagnosticArray
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory

from ros_nodes import messages, qos
from tests import feetech_servos as fake
from tests.ros_graph import Graph
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


def _message(health, node: str) -> str:
    """What a node last said on /diagnostics."""
    found = [status.message for _, array in health.items for status in array.status if status.name == node]
    return found[-1] if found else ""
