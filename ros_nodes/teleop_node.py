"""The node ``teleop``: a person's wishes on ``teleop/command``, only while the dead-man is held.

Devices: a leader arm, a joystick, the keyboard, or recorded targets. When the person lets go, this node falls silent
and the guard brakes. The space bar, or a button, is an emergency stop.
"""

import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.node import Node
from sensor_msgs.msg import JointState, Joy
from std_msgs.msg import Bool, Empty
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from policy.joint_states import JointStates
from policy.wire import stamp_seconds
from ros_nodes import qos
from ros_nodes.diagnostics import WARN, DiagnosticsReporter, Health
from ros_nodes.errors import ParameterError
from ros_nodes.messages import single_point
from ros_nodes.parameters import declare
from ros_nodes.so101_bus import ServoSettings, So101Bus, read_calibration
from ros_nodes.so101_link import So101Link
from ros_nodes.spinning import run
from ros_nodes.teleop_devices import JoyMap, JoySource, KeyboardSource, Terminal, key_help
from ros_nodes.teleop_parameters import TeleopParameters
from ros_nodes.teleop_sources import DeadMan, Jog, LeaderSource, Replay, ReplaySource, TeleopSource
from ros_nodes.topics import load_robot_of
from wam.errors import ValueContractError

__all__ = ["TeleopNode", "TeleopParameters", "main"]

ENGAGE = "guard/engage"
ENGAGE_COMMANDS = 5  # commands before key g asks the guard to engage: it follows nothing that it has not heard
KEY_SERVICES = {
    "g": ENGAGE,
    "z": "guard/reset",
    "s": "recorder/start",
    "d": "recorder/stop",
    "x": "recorder/discard",
}
STATE_PATIENCE_S = 0.5  # jogging starts from the measured pose, which must not be older


class TeleopNode(Node):
    """See the module docstring."""

    def __init__(self, **options: Any) -> None:
        super().__init__("teleop", **options)
        self._p = p = declare(self, TeleopParameters)
        self._robot = load_robot_of(self, p.robot)
        self._terminal: Terminal | None = None
        self._source: TeleopSource | None = None
        self._keyboard: KeyboardSource | None = None
        self._joy: JoySource | None = None
        self._measured: tuple[np.ndarray, float] | None = None
        robot = self._robot
        self._joints = JointStates(robot.action_names, robot.safety.state_age_s, robot.state_topic)
        self._sent = 0
        self._engage_at = 0  # of the commands sent, the one after which the guard is to engage; 0: none
        self._problem = ""
        self._waiting: dict[str, Any] = {}  # service calls under way
        self._commands = self.create_publisher(JointTrajectory, "teleop/command", qos.CHUNK)
        self._e_stop = self.create_publisher(Bool, "e_stop", qos.LATCHED)
        self._heart = self.create_publisher(Empty, "e_stop/heartbeat", qos.CHUNK) if p.heartbeat else None
        self._make_source()
        self.create_subscription(JointState, self._robot.state_topic, self._on_state, qos.STATE)
        self.create_service(Trigger, "teleop/clear_e_stop", self._clear)
        self._diagnostics = DiagnosticsReporter(self, self._health, hardware_id=self._robot.name)
        self._tick_timer = self.create_timer(1.0 / p.rate_hz, self._tick, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def destroy_node(self) -> None:
        """Lets go of devices; the terminal is as it was."""
        for device in (getattr(self, "_source", None), getattr(self, "_terminal", None)):
            if device is not None:
                device.close()
        super().destroy_node()

    def _make_source(self) -> None:
        p = self._p
        jog = Jog(self._robot, p.speed_scale)
        uses_dead_man = p.source in ("leader", "replay")
        if p.source == "keyboard" or (uses_dead_man and p.dead_man == "keyboard"):
            self._keyboard = self._make_keyboard(jog)
        if p.source == "joy" or (uses_dead_man and p.dead_man == "joy"):
            joy_map = JoyMap.parse(p.joy_map, self._robot)
            self._joy = JoySource(
                jog,
                joy_map,
                dead_man_button=p.joy_dead_man_button,
                e_stop_button=p.joy_e_stop_button,
                on_e_stop=self._stop_arm,
            )
            self.create_subscription(Joy, p.joy_topic, self._on_joy, qos.STATE)
        device = self._joy or self._keyboard
        dead_man = device.dead_man if device is not None else None
        self._source = self._join_source(jog, dead_man)

    def _join_source(self, jog: Jog, dead_man: DeadMan | None) -> TeleopSource:
        p = self._p
        if p.source == "leader":
            return LeaderSource(self._robot, self._open_leader(), dead_man)
        if p.source == "replay":
            if not p.replay_file:
                raise ParameterError(
                    "parameter 'replay_file' of node 'teleop' is empty: say what is to be played again."
                )
            return ReplaySource(self._robot, Replay.load(p.replay_file, self._robot), jog, dead_man)
        source = self._joy if p.source == "joy" else self._keyboard
        assert source is not None
        return source

    def _make_keyboard(self, jog: Jog) -> KeyboardSource:
        self._terminal = terminal = Terminal()
        commands: dict[str, Callable[[], None]] = {
            key: functools.partial(self._call, service) for key, service in KEY_SERVICES.items()
        }
        commands |= {"g": self._engage, "c": self._clear_e_stop}
        self.get_logger().info(key_help(self._robot, {**KEY_SERVICES, "c": "clear e-stop"}))
        return KeyboardSource(
            self._robot,
            jog,
            terminal.read,
            on_e_stop=self._stop_arm,
            on_quit=self._quit,
            commands=commands,
        )

    def _open_leader(self) -> So101Link:
        p = self._p
        if not p.leader_port or not p.leader_calibration:
            raise ParameterError(
                "a leader arm needs leader_port:=DEVICE, such as /dev/ttyACM1, and leader_calibration:=FILE, which "
                "lerobot-calibrate writes to ~/.cache/huggingface/lerobot/calibration/teleoperators/so_leader/ID.json."
            )
        bus = So101Bus(p.leader_port, self._robot, read_calibration(Path(p.leader_calibration).expanduser()))
        link = So101Link(bus, ServoSettings(hold=False), rate_hz=2 * p.rate_hz)
        link.start()
        return link

    def _tick(self) -> None:
        now = time.monotonic()
        if self._heart is not None:
            self._heart.publish(Empty())
        lost = self._measured is None or now - self._measured[1] > STATE_PATIENCE_S
        if self._keyboard is not None and (lost or self._keyboard is not self._source):
            self._keyboard.poll(now)  # stop and quit work without joint states, and no key is obeyed later
        self._problem = ""
        if self._measured is None or lost:
            self._problem = f"no joint states on {self._robot.state_topic}, so where the arm is is not known"
            self._forget_engage()
            return
        assert self._source is not None
        target = self._source.command(self._measured[0], now)
        if target is None:
            self._problem = self._why_silent()
            self._forget_engage()
            return
        stamp = self.get_clock().now().to_msg()
        self._commands.publish(single_point(self._robot.action_names, target, stamp))
        self._sent += 1
        if self._engage_at and self._sent >= self._engage_at:
            self._engage_at = 0
            self._call(ENGAGE)

    def _why_silent(self) -> str:
        if isinstance(self._source, ReplaySource) and self._source.finished:
            self.get_logger().info("the replay is over", once=True)
            return "the replay is over"
        if self._joy is not None and self.count_publishers(self._p.joy_topic) == 0:
            return f"nobody publishes {self._p.joy_topic}: start joy_node (ros2 run joy joy_node)"
        if isinstance(self._source, LeaderSource) and self._p.dead_man == "none":
            return "the leader arm does not answer"
        return "nobody holds the dead-man"

    def _on_state(self, message: JointState) -> None:
        try:
            state = self._joints.add(message.name, message.position, stamp_seconds(message.header.stamp))
        except ValueContractError as error:
            self.get_logger().error(str(error), throttle_duration_sec=5.0)
            return
        if state is not None:
            self._measured = (state[1], time.monotonic())

    def _on_joy(self, message: Joy) -> None:
        assert self._joy is not None
        self._joy.take(message.axes, message.buttons, time.monotonic())

    def _stop_arm(self) -> None:
        self._forget_engage()
        self._e_stop.publish(Bool(data=True))
        self.get_logger().error("EMERGENCY STOP; clear it (key c, or service teleop/clear_e_stop), then guard/reset")

    def _clear_e_stop(self) -> None:
        self._e_stop.publish(Bool(data=False))
        self.get_logger().info("e-stop cleared: reset the guard to go on")

    def _clear(self, _: Trigger.Request, answer: Trigger.Response) -> Trigger.Response:
        self._clear_e_stop()
        answer.success, answer.message = True, "cleared: reset the guard to go on"
        return answer

    def _quit(self) -> None:
        raise KeyboardInterrupt  # as Ctrl-C would; the guard holds the arm

    def _engage(self) -> None:
        """The guard engages for a person who commands: keys hold the arm where it is, and it hears that first."""
        if self._keyboard is not None and self._source is self._keyboard:
            self._keyboard.dead_man.sign(time.monotonic())
            self._engage_at = self._engage_at or self._sent + ENGAGE_COMMANDS  # a held key does not put it off
        else:
            self._call(ENGAGE)

    def _forget_engage(self) -> None:
        """An engage that nobody could be asked for now must not come when nobody expects it any more."""
        if self._engage_at:
            self._engage_at = 0
            self.get_logger().warning(f"{ENGAGE}: not asked for: {self._problem or 'the arm is stopped'}")

    def _call(self, service: str) -> None:
        """Calls a Trigger service without waiting; the answer is logged."""
        client = self._waiting.get(service) or self.create_client(Trigger, service)
        self._waiting[service] = client
        if not client.service_is_ready():
            self.get_logger().warning(f"{service}: that node is not running")
            return
        client.call_async(Trigger.Request()).add_done_callback(functools.partial(self._answered, service))

    def _answered(self, service: str, future: Any) -> None:
        answer = future.result()
        if answer.success:  # two lines, because rclpy refuses another severity from a line that has logged before
            self.get_logger().info(f"{service}: {answer.message}")
        else:
            self.get_logger().warning(f"{service}: {answer.message}")

    def _health(self) -> Health:
        values = {"source": self._p.source, "commands": self._sent}
        if isinstance(self._source, LeaderSource):
            values |= {"dead_man": self._p.dead_man}
        if self._problem:
            return Health(level=WARN, message=self._problem, values=values)
        return Health(message="a person commands", values=values)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the node until a signal."""
    run(TeleopNode, argv)


if __name__ == "__main__":
    main()
