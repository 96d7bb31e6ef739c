"""The teleoperation node as a process: joystick, keyboard in a pseudo-terminal, leader arm on a simulated bus."""

import json
import os
import pty
import select
import subprocess
import sys
import termios
import time

import numpy as np
import pytest

pytest.importorskip("rclpy")

from sensor_msgs.msg import JointState, Joy
from std_msgs.msg import Bool
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from ros_nodes import messages, qos
from tests import feetech_servos as fake
from tests.feetech_servos import CALIBRATION
from tests.ros_graph import PATIENCE, Graph
from wam.robot import load_robot

pytestmark = pytest.mark.ros
SIM, SO101 = load_robot("sim6"), load_robot("so101")


class Arm:
    """Joint states of an arm that stands still, and what teleoperation tells it."""

    def __init__(self, graph: Graph, robot) -> None:
        self.graph, self.robot = graph, robot
        self.positions = np.zeros(robot.action_dim)
        self.on = True  # says where it is
        self._states = graph.node.create_publisher(JointState, robot.state_topic, qos.STATE_OFFERED)
        self._timer = graph.node.create_timer(0.02, self._publish)
        self.commands = graph.hear(JointTrajectory, "teleop/command", qos.CHUNK)
        self.stops = graph.hear(Bool, "e_stop", qos.LATCHED)

    def _publish(self) -> None:
        if not self.on:
            return
        stamp = self.graph.node.get_clock().now().to_msg()
        self._states.publish(messages.joint_state(self.robot.action_names, self.positions, stamp))


def test_a_joystick_commands_while_held_and_stops_the_arm(tmp_path):
    with Graph(tmp_path) as graph:
        arm = Arm(graph, SIM)
        graph.start("teleop", "robot:=sim6", "source:=joy", "heartbeat:=true")
        pad = graph.node.create_publisher(Joy, "joy", qos.STATE_OFFERED)
        held, stopping = [0], [0]

        def press() -> None:
            buttons = [0] * 11
            buttons[4], buttons[6] = held[0], stopping[0]
            pad.publish(Joy(axes=[1.0] + [0.0] * 7, buttons=buttons))

        timer = graph.node.create_timer(0.05, press)
        graph.until(lambda: pad.get_subscription_count() > 0, "the node hears the joystick")
        pressed = [0]
        graph.node.create_subscription(Joy, "joy", lambda _: pressed.append(1), qos.STATE)
        graph.until(lambda: len(pressed) > 10, "the joystick speaks")
        assert len(arm.commands) == 0  # nobody holds the dead-man
        held[0] = 1

        def leading() -> bool:  # not where it begins, and begins again when the machine has not run the joystick
            return len(arm.commands) > 20 and arm.commands.last.points[0].positions[0] > 0

        graph.until(leading, "commands arrive")
        command = arm.commands.last
        assert tuple(command.joint_names) == SIM.action_names
        assert 0 < command.points[0].positions[0] <= 0.1 + 1e-6
        held[0] = 0
        graph.until(lambda: not arm.commands.since(time.monotonic() - 0.3), "the node falls silent")
        stopping[0] = 1
        graph.until(lambda: len(arm.stops) > 0, "the e-stop arrives")
        assert arm.stops.last.data
        graph.node.destroy_timer(timer)

        def cleared() -> bool:  # presses that still wait in the node's queue stop it again
            return graph.call("teleop/clear_e_stop").success and not arm.stops.last.data

        graph.until(cleared, "the e-stop is cleared")


@pytest.mark.slow
def test_a_keyboard_in_a_terminal_moves_stops_calls_and_quits(tmp_path):
    master, slave = pty.openpty()
    before = termios.tcgetattr(slave)
    with Graph(tmp_path) as graph:
        arm = Arm(graph, SIM)
        called: list[int] = []

        def record(_: Trigger.Request, answer: Trigger.Response) -> Trigger.Response:
            called.append(1)
            answer.success, answer.message = True, "recording episode_000000"
            return answer

        def engage(_: Trigger.Request, answer: Trigger.Response) -> Trigger.Response:
            engaged.append(len(arm.commands))
            answer.success, answer.message = len(engaged) > 1, "engaged" if len(engaged) > 1 else "too far"
            return answer

        engaged: list[int] = []  # commands heard before each call
        graph.node.create_service(Trigger, "recorder/start", record)
        graph.node.create_service(Trigger, "guard/engage", engage)
        command = [sys.executable, "-m", "ros_nodes.teleop_node", "--ros-args", "-p", "robot:=sim6"]
        with subprocess.Popen(
            [*command, "-p", "source:=keyboard"], env=graph.environment, stdin=slave, stdout=slave, stderr=slave
        ) as process:
            try:
                shown = b""
                while b"escape quit" not in shown:
                    shown += os.read(master, 4096)

                def type_until(keys: bytes, done) -> None:
                    def typed() -> bool:
                        os.write(master, keys)
                        graph.spin(0.1)
                        return done()

                    graph.until(typed, f"{keys!r} has its effect")

                # The guard engages for somebody who commands, so key g holds the arm where it is. The answers differ.
                type_until(b"g", lambda: len(engaged) > 2)
                assert engaged[0] > 0
                np.testing.assert_allclose(arm.commands.items[0][1].points[0].positions, arm.positions, atol=1e-6)
                type_until(b"2", lambda: len(arm.commands) > 3 and arm.commands.last.points[0].positions[1] > 0)
                assert arm.commands.last.points[0].positions[1] > 0
                type_until(b"s", lambda: bool(called))
                arm.on = False
                graph.until(lambda: not arm.commands.since(time.monotonic() - 1.0), "it misses the joint states")

                def said(words: bytes) -> bool:
                    nonlocal shown
                    while select.select([master], [], [], 0)[0]:
                        shown += os.read(master, 4096)
                    return words in shown

                type_until(b"g", lambda: said(b"not asked for: no joint states"))
                type_until(b" ", lambda: len(arm.stops) > 0 and arm.stops.last.data)  # without them, too
                asked, heard, arm.on = len(engaged), len(arm.commands), True
                type_until(b"2", lambda: len(arm.commands) > heard + 20)
                assert len(engaged) == asked  # what was typed without joint states is not done later
                os.write(master, b"\x1b")
                graph.until(lambda: process.poll() is not None, "it quits")
                assert process.returncode == 0
            finally:
                process.kill()
    assert termios.tcgetattr(slave)[3] == before[3]  # echo and line mode are back
    os.close(master)
    os.close(slave)


@pytest.mark.slow  # lerobot takes seconds to import
def test_a_leader_arm_is_followed_by_name(tmp_path):
    servos = fake.FakeBus(tmp_path)
    (tmp_path / "leader.json").write_text(json.dumps(CALIBRATION))
    servos.servos[2].set(fake.PRESENT, 2200)
    servos.servos[6].set(fake.PRESENT, 3000)
    try:
        with Graph(tmp_path) as graph:
            arm = Arm(graph, SO101)
            options = {
                "robot": "so101",
                "source": "leader",
                "dead_man": "none",
                "leader_port": servos.path,
                "leader_calibration": tmp_path / "leader.json",
            }
            graph.start_with_servos("teleop", *(f"{name}:={value}" for name, value in options.items()))
            graph.until(lambda: len(arm.commands) > 10, "commands arrive")
            expected = [0, 200 * 2 * np.pi / 4095, 0, 0, 0, 1.0]
            np.testing.assert_allclose(arm.commands.last.points[0].positions, expected, atol=1e-5)
            servos.mute = {1, 2, 3, 4, 5, 6}
            silent = lambda: not arm.commands.since(time.monotonic() - 0.5)  # noqa: E731
            graph.until(silent, "a leader that is not heard commands nothing")
            assert not any(servo.registers[fake.TORQUE] for servo in servos.servos.values())
    finally:
        servos.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["source:=keyboard"], "the keyboard can only be read in a terminal"),
        pytest.param(["source:=leader", "dead_man:=none"], "a leader arm needs leader_port", marks=pytest.mark.slow),
        pytest.param(
            ["source:=replay", "dead_man:=none"],
            "parameter 'replay_file' of node 'teleop' is empty",
            marks=pytest.mark.slow,
        ),
        pytest.param(["source:=joy", "joy_map:=wrist=axis0"], "unknown joint in joy_map", marks=pytest.mark.slow),
    ],
)
def test_settings_that_cannot_work_end_the_node_with_one_message(tmp_path, options, message):
    with Graph(tmp_path) as graph:
        teleop = graph.start("teleop", "robot:=sim6", *options)
        assert teleop.popen.wait(timeout=PATIENCE) == 2
        assert message in teleop.output()
        assert "Traceback" not in teleop.output()
