"""Joystick and keyboard: what they send → joint velocities and steps, while their dead-man is held.

A joystick's dead-man is a button, and its messages must keep coming. A terminal reports no key releases, so there every
key stroke moves one step, and holding a key repeats it: letting go stops the strokes.

Shape legend: A axes.
"""

import os
import re
import select
import sys
import termios
import tty
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ros_nodes.errors import NodeError
from ros_nodes.teleop_sources import DeadMan, Jog
from wam.errors import unknown_name
from wam.robot import RobotSpec

__all__ = ["JoyMap", "JoySource", "KeyboardSource", "Terminal", "key_help"]

JOY_SILENCE_S = 0.3  # joy_node repeats at 20 Hz by default; a receiver that lost its pad says nothing
DEAD_ZONE = 0.08  # of a stick
AXES_OF_JOINTS = ("axis0", "axis1", "axis4", "axis3", "axis7", "axis6")  # sticks, then the cross, of a common game pad
GRIPPER_BUTTONS = "button1-button0"  # B opens, A closes
TERM = re.compile(r"(axis|button)(\d+)")
KEY_STEP = 0.02  # one key stroke [rad]; at the usual 30 repeats a second that is 0.6 rad/s
KEY_OPENING = 0.05  # the same for the gripper [opening]
KEY_HOLD_S = 0.6  # a held key repeats only after half a second, and the dead-man must outlast that
UP_KEYS, DOWN_KEYS = "1234567890", "qwertyuiop"  # one column of the keyboard per axis
E_STOP_KEY, QUIT_KEYS = " ", ("\x1b", "\x03")  # space; escape and Ctrl-C


@dataclass(frozen=True, kw_only=True)
class JoyMap:
    """Which stick or buttons move which axis: (sign, kind, index) terms per axis of the robot."""

    terms: tuple[tuple[tuple[float, str, int], ...], ...]  # (A,)

    @classmethod
    def parse(cls, text: str, robot: RobotSpec) -> "JoyMap":
        """Reads "yaw=axis0, elbow=-axis4, gripper=button1-button0"; empty takes the usual order.

        Raises:
            NodeError: A joint the robot has not, or a term that is neither axisN nor buttonN.
        """
        words = dict(zip((joint.name for joint in robot.joints), AXES_OF_JOINTS, strict=False))
        if robot.gripper is not None:
            words[robot.gripper.name] = GRIPPER_BUTTONS
        if text.strip():
            pairs = [part.partition("=") for part in text.split(",")]
            words = {name.strip(): terms.strip() for name, _, terms in pairs}
        for name in words:
            if name not in robot.action_names:
                raise NodeError(unknown_name("joint in joy_map", name, robot.action_names))
        return cls(terms=tuple(_terms(name, words.get(name, "")) for name in robot.action_names))

    def deflection(self, axes: Sequence[float], buttons: Sequence[int]) -> np.ndarray:
        """(A,) deflections in [-1, 1]; an index the pad does not have counts as at rest."""
        pad = {"axis": axes, "button": buttons}
        sums = [
            sum(sign * pad[kind][index] for sign, kind, index in terms if index < len(pad[kind]))
            for terms in self.terms
        ]
        values = np.clip(np.array(sums, dtype=np.float64), -1.0, 1.0)
        return np.where(np.abs(values) < DEAD_ZONE, 0.0, values)


class JoySource:
    """A game pad with a dead-man button.

    Args:
        jog: Turns deflections into targets.
        joy_map: Which stick moves what.
        dead_man_button: Index of the button to hold.
        e_stop_button: Index of the button that stops; -1 for none.
        on_e_stop: Called when it is pressed.
    """

    def __init__(
        self, jog: Jog, joy_map: JoyMap, *, dead_man_button: int, e_stop_button: int, on_e_stop: Callable[[], None]
    ) -> None:
        self._jog, self._map = jog, joy_map
        self._dead_man_button, self._e_stop_button, self._on_e_stop = dead_man_button, e_stop_button, on_e_stop
        self.dead_man = DeadMan(JOY_SILENCE_S)
        self._deflection = np.zeros(len(joy_map.terms))

    def take(self, axes: Sequence[float], buttons: Sequence[int], now: float) -> None:
        """Takes one message of the pad."""
        if 0 <= self._e_stop_button < len(buttons) and buttons[self._e_stop_button]:
            self._on_e_stop()
        if self._dead_man_button < len(buttons) and buttons[self._dead_man_button]:
            self.dead_man.sign(now)
        else:
            self.dead_man.release()
        self._deflection = self._map.deflection(axes, buttons)

    def command(self, measured: np.ndarray, now: float) -> np.ndarray | None:
        """See ``TeleopSource``."""
        if not self.dead_man.held(now):
            self._jog.release()
            return None
        return self._jog.move(self._deflection, measured, now)

    def close(self) -> None:
        """Nothing to let go of: the pad belongs to joy_node."""


class KeyboardSource:
    """A terminal's keyboard.

    Args:
        robot: Its axes get one column of keys each.
        jog: Turns steps into targets.
        read_keys: Returns what was typed since the last call.
        on_e_stop: Called for the space bar.
        on_quit: Called for escape.
        commands: Other keys and what they do.
        speed_scale: Share of the full step per key stroke, (0, 1].
    """

    def __init__(
        self,
        robot: RobotSpec,
        jog: Jog,
        read_keys: Callable[[], str],
        *,
        on_e_stop: Callable[[], None],
        on_quit: Callable[[], None],
        commands: Mapping[str, Callable[[], None]],
        speed_scale: float = 1.0,
    ) -> None:
        self._jog, self._read_keys = jog, read_keys
        self._actions = {E_STOP_KEY: on_e_stop, **dict.fromkeys(QUIT_KEYS, on_quit), **commands}
        self._steps = _key_steps(robot, speed_scale)
        self.dead_man = DeadMan(KEY_HOLD_S)

    def poll(self, now: float) -> np.ndarray:
        """Acts on what was typed; returns the (A,) steps of the axis keys [rad, opening]."""
        total = np.zeros(len(next(iter(self._steps.values()))))
        for key in self._read_keys():
            if key in self._actions:
                self._actions[key]()
            elif key in self._steps:
                total = total + self._steps[key]
                self.dead_man.sign(now)
        if not self.dead_man.held(now):
            self._jog.release()
        return total

    def command(self, measured: np.ndarray, now: float) -> np.ndarray | None:
        """See ``TeleopSource``."""
        step = self.poll(now)
        return self._jog.step(step, measured, now) if self.dead_man.held(now) else None

    def close(self) -> None:
        """Nothing to let go of: whoever made ``read_keys`` closes it."""


class Terminal:
    """The keyboard of the terminal this process was started in, key by key; a context of its own until ``close``.

    Raises:
        NodeError: There is no terminal, as under a launch file.
    """

    def __init__(self) -> None:
        if not sys.stdin.isatty():
            raise NodeError(
                "the keyboard can only be read in a terminal, and this process has none: run the node by itself (ros2 "
                "run world_action_model teleop --ros-args -p robot:=... -p source:=keyboard), not from a launch file."
            )
        self._descriptor = sys.stdin.fileno()
        self._before: list[Any] | None = termios.tcgetattr(self._descriptor)
        tty.setcbreak(self._descriptor)

    def read(self) -> str:
        """What was typed since the last call."""
        if not select.select([self._descriptor], [], [], 0)[0]:
            return ""
        return os.read(self._descriptor, 1024).decode(errors="ignore")

    def close(self) -> None:
        """Gives the terminal back as it was."""
        before, self._before = self._before, None
        if before is not None:
            termios.tcsetattr(self._descriptor, termios.TCSADRAIN, before)


def key_help(robot: RobotSpec, commands: Mapping[str, str]) -> str:
    """The keys, in words."""
    keys = zip(robot.action_names, UP_KEYS, DOWN_KEYS, strict=False)
    moves = "  ".join(f"{up}/{down} {name}" for name, up, down in keys)
    others = "  ".join(f"{key} {what}" for key, what in commands.items())
    return f"keys: {moves}  space EMERGENCY STOP  escape quit" + (f"  {others}" if others else "")


def _terms(name: str, text: str) -> tuple[tuple[float, str, int], ...]:
    compact = text.replace(" ", "")
    found = [(-1.0 if sign == "-" else 1.0, word) for sign, word in re.findall(r"([+-]?)([^+-]+)", compact)]
    terms = []
    for sign, word in found:
        term = TERM.fullmatch(word)
        if term is None:
            raise NodeError(
                f"joy_map moves '{name}' by '{text}', but '{word}' is no stick or button: write axis0 or button1, "
                "with a sign in front or between."
            )
        terms.append((sign, term.group(1), int(term.group(2))))
    return tuple(terms)


def _key_steps(robot: RobotSpec, speed_scale: float) -> dict[str, np.ndarray]:
    if robot.action_dim > len(UP_KEYS):
        raise NodeError(
            f"robot '{robot.name}' has {robot.action_dim} axes but a keyboard has {len(UP_KEYS)} columns of keys: use "
            "a joystick or a leader arm."
        )
    sizes = [KEY_STEP] * len(robot.joints) + [KEY_OPENING] * (robot.gripper is not None)
    steps = {}
    for place, size in enumerate(sizes):
        step = np.zeros(robot.action_dim)
        step[place] = size * speed_scale
        steps[UP_KEYS[place]], steps[DOWN_KEYS[place]] = step, -step
    return steps
