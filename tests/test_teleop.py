"""What a person wants → targets: dead-men, jogging, leader arms, replays, joysticks, keyboards. No ROS, no devices."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ros_nodes.errors import NodeError
from ros_nodes.so101_link import Pose
from ros_nodes.teleop_devices import JoyMap, JoySource, KeyboardSource, Terminal, key_help
from ros_nodes.teleop_sources import LEAD, DeadMan, Jog, LeaderSource, Replay, ReplaySource
from wam.robot import load_robot

ROBOT = load_robot("sim6")
HOME = np.array([0.1, -0.2, 0.3, 0.0, 0.0, 0.0, 0.5], dtype=np.float32)
DT = 0.02


@dataclasses.dataclass
class FakeLeader:
    """A leader arm that says what a test puts into it."""

    pose: Pose | None = None
    closed: bool = False

    def close(self) -> None:
        self.closed = True


def test_a_dead_man_needs_fresh_signs():
    dead_man = DeadMan(0.3)
    assert not dead_man.held(0.0)
    dead_man.sign(1.0)
    assert dead_man.held(1.25)
    assert not dead_man.held(1.31)
    dead_man.sign(2.0)
    dead_man.release()
    assert not dead_man.held(2.0)


@given(
    deflections=st.lists(st.lists(st.floats(-5, 5), min_size=7, max_size=7), min_size=1, max_size=40),
    pauses=st.lists(st.floats(0.001, 3.0), min_size=40, max_size=40),
)
def test_jogging_keeps_speed_lead_and_limits(deflections, pauses):
    jog, now, previous = Jog(ROBOT, 0.5), 0.0, HOME
    speed = 0.5 * np.array([axis.max_velocity for axis in ROBOT.axes])
    for deflection, pause in zip(deflections, pauses, strict=False):
        now += pause
        target = jog.move(np.array(deflection), HOME, now)
        assert (np.abs(target - previous) <= speed * min(pause, 0.1) + 1e-5).all()
        assert (np.abs(target - HOME)[:6] <= LEAD + 1e-6).all()
        assert (target >= ROBOT.lower - 1e-6).all()
        assert (target <= ROBOT.upper + 1e-6).all()
        previous = target


def test_a_jog_starts_where_the_arm_is_every_time():
    jog = Jog(ROBOT, 1.0)
    full = np.array([1.0, 0, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(jog.move(full, HOME, 0.0), HOME)
    assert jog.move(full, HOME, DT)[0] == pytest.approx(HOME[0] + 2.5 * DT, abs=1e-6)
    jog.release()
    elsewhere = HOME + np.float32(0.2)
    np.testing.assert_array_equal(jog.move(full, elsewhere, 9.0), elsewhere)


def test_a_leader_moves_the_follower_only_while_it_answers_and_somebody_holds_on():
    leader, dead_man = FakeLeader(), DeadMan(0.3)
    source = LeaderSource(ROBOT, leader, dead_man)
    assert source.command(HOME, 1.0) is None
    leader.pose = Pose(positions=HOME + 9.0, when=1.0)
    assert source.command(HOME, 1.0) is None
    dead_man.sign(1.0)
    np.testing.assert_array_equal(source.command(HOME, 1.05), ROBOT.upper)
    assert source.command(HOME, 1.2) is None  # the pose is 0.2 s old
    assert LeaderSource(ROBOT, leader, None).command(HOME, 1.0) is not None
    source.close()
    assert leader.closed


def npz(path: Path, **arrays) -> str:
    np.savez(path, **arrays)
    return str(path)


def test_a_replay_is_approached_then_played_at_its_own_speed(tmp_path):
    actions = np.linspace(HOME + np.float32(0.3), HOME - np.float32(0.2), 11, dtype=np.float32)
    replay = Replay.load(npz(tmp_path / "a.npz", action=actions, rate_hz=10.0, names=ROBOT.action_names), ROBOT)
    assert replay.seconds == 1.0
    source = ReplaySource(ROBOT, replay, Jog(ROBOT, 0.5), None)
    arm, now, commands = HOME.copy(), 0.0, []
    while not source.finished:
        target = source.command(arm, now)
        assert np.abs(target - arm)[:6].max() < 0.15
        commands.append(target)
        arm, now = target, now + DT
    assert source.command(arm, now) is None
    playing = np.array(commands[-50:])
    np.testing.assert_allclose(np.diff(playing[:, 0]), -0.5 * DT, atol=1e-4)
    np.testing.assert_allclose(playing[-1], actions[-1], atol=1e-5)
    assert len(commands) * DT < 3.5


def test_letting_go_of_a_replay_pauses_it(tmp_path):
    actions = np.tile(HOME, (51, 1)).astype(np.float32)
    replay = Replay.load(npz(tmp_path / "a.npz", action=actions, rate_hz=10.0), ROBOT)
    dead_man = DeadMan(0.1)
    source = ReplaySource(ROBOT, replay, Jog(ROBOT, 0.5), dead_man)
    assert source.command(HOME, 0.0) is None
    for step in range(100):
        dead_man.sign(step * DT)
        assert source.command(HOME, step * DT) is not None
    assert source.command(HOME, 50.0) is None
    assert not source.finished


def test_a_replay_waits_for_an_arm_that_does_not_follow(tmp_path):
    actions = np.linspace(HOME, HOME + np.float32(1.0), 11, dtype=np.float32)
    source = ReplaySource(
        ROBOT, Replay.load(npz(tmp_path / "a.npz", action=actions, rate_hz=10.0), ROBOT), Jog(ROBOT, 1.0), None
    )
    targets = [source.command(HOME, step * DT) for step in range(500)]  # the guard was not engaged
    assert 0.1 < np.abs(targets[-1] - HOME)[:6].max() < 0.9 * ROBOT.safety.engage_error
    assert not source.finished


def test_replays_are_ordered_by_name(tmp_path):
    names = ROBOT.action_names[::-1]
    replay = Replay.load(npz(tmp_path / "a.npz", action=[HOME[::-1]], rate_hz=5.0, names=names), ROBOT)
    np.testing.assert_array_equal(replay.at(3.0), HOME)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"action": [HOME]}, "rate_hz is not a file"),
        ({"action": [HOME[:3]], "rate_hz": 10.0}, r"holds actions \(1, 3\) at 10 Hz"),
        ({"action": [HOME * np.nan], "rate_hz": 10.0}, "needs finite rows of yaw, shoulder"),
        ({"action": [HOME], "rate_hz": 0.0}, "at 0 Hz"),
        ({"action": [HOME], "rate_hz": 10.0, "names": list("abcdefg")}, "for a, b, c"),
    ],
)
def test_replays_that_do_not_fit_are_refused(tmp_path, arrays, message):
    with pytest.raises(NodeError, match=message):
        Replay.load(npz(tmp_path / "a.npz", **arrays), ROBOT)
    with pytest.raises(NodeError, match="cannot be read"):
        Replay.load(str(tmp_path / "none.npz"), ROBOT)


def pad(**pressed: float) -> tuple[list[float], list[int]]:
    axes, buttons = [0.0] * 8, [0] * 11
    for name, value in pressed.items():
        (axes if name.startswith("axis") else buttons)[int(name.lstrip("axisbuton"))] = value  # type: ignore[index]
    return axes, buttons


def joystick(stops: list[int] | None = None, text: str = "") -> JoySource:
    stops = [] if stops is None else stops
    joy_map = JoyMap.parse(text, ROBOT)
    return JoySource(Jog(ROBOT, 1.0), joy_map, dead_man_button=4, e_stop_button=6, on_e_stop=lambda: stops.append(1))


def test_a_joystick_moves_joints_while_its_button_is_held():
    source = joystick()
    source.take(*pad(axis0=1.0, button1=1), 0.0)
    assert source.command(HOME, 0.0) is None
    source.take(*pad(axis0=1.0, button1=1, button4=1), 0.0)
    source.command(HOME, 0.0)
    target = source.command(HOME, DT)
    np.testing.assert_allclose(target - HOME, [2.5 * DT, 0, 0, 0, 0, 0, 4.0 * DT], atol=1e-6)
    assert source.command(HOME, 0.4) is None  # the receiver lost its pad
    source.take(*pad(axis0=1.0), 0.5)
    assert source.command(HOME, 0.5) is None


def test_the_joystick_stops_the_arm_with_or_without_the_dead_man():
    stops: list[int] = []
    source = joystick(stops)
    source.take(*pad(button6=1), 0.0)
    source.take(*pad(button6=1, button4=1), 0.1)
    source.take([], [], 0.2)  # a pad without that button
    assert len(stops) == 2


def test_a_joystick_map_says_what_moves_what():
    joy_map = JoyMap.parse("elbow = -axis2, gripper=button3 - button2", ROBOT)
    axes, buttons = pad(axis2=0.5, axis0=1.0, button2=1)
    assert joy_map.deflection(axes, buttons).tolist() == [0, 0, -0.5, 0, 0, 0, -1]
    assert JoyMap.parse("", ROBOT).deflection([0.05] + [0.0] * 7, [0] * 11).tolist() == [0.0] * 7  # a worn stick
    assert JoyMap.parse("elbow=axis30", ROBOT).deflection(axes, buttons).tolist() == [0.0] * 7


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("elbw=axis0", "unknown joint in joy_map 'elbw' .did you mean 'elbow'"),
        ("elbow=stick0", "moves 'elbow' by 'stick0', but 'stick0' is no stick or button"),
        ("elbow=axis", "'axis' is no stick or button"),
    ],
)
def test_joystick_maps_that_cannot_work_are_refused(text, message):
    with pytest.raises(NodeError, match=message):
        JoyMap.parse(text, ROBOT)


class Typist:
    """Types what a test asks for, and notes what happened."""

    def __init__(self) -> None:
        self.typed, self.heard = "", []
        self.source = KeyboardSource(
            ROBOT,
            Jog(ROBOT, 1.0),
            self._read,
            on_e_stop=lambda: self.heard.append("stop"),
            on_quit=lambda: self.heard.append("quit"),
            commands={"s": lambda: self.heard.append("record")},
        )

    def _read(self) -> str:
        typed, self.typed = self.typed, ""
        return typed


def test_key_strokes_are_steps_and_silence_lets_go():
    typist = Typist()
    assert typist.source.command(HOME, 0.0) is None
    typist.typed = "1113u"
    target = typist.source.command(HOME, 1.0)
    np.testing.assert_allclose(target - HOME, [0.06, 0, 0.02, 0, 0, 0, -0.05], atol=1e-6)
    np.testing.assert_array_equal(typist.source.command(HOME, 1.5), target)  # a held key repeats after half a second
    assert typist.source.command(HOME, 1.7) is None
    typist.typed = "q"
    assert typist.source.command(HOME, 9.0)[0] == pytest.approx(HOME[0] - 0.02, abs=1e-6)


def test_space_stops_escape_quits_and_other_keys_do_what_they_were_given():
    typist = Typist()
    typist.typed = " s\x1b\x03?"
    assert typist.source.command(HOME, 0.0) is None
    assert typist.heard == ["stop", "record", "quit", "quit"]
    assert "1/q yaw" in key_help(ROBOT, {"s": "recorder/start"})
    assert "7/u gripper" in key_help(ROBOT, {})


def test_more_axes_than_keys_are_refused():
    joints = tuple(dataclasses.replace(ROBOT.joints[0], name=f"j{number}") for number in range(11))
    with pytest.raises(NodeError, match="has 12 axes but a keyboard has 10 columns"):
        KeyboardSource(
            dataclasses.replace(ROBOT, joints=joints),
            Jog(ROBOT, 1.0),
            str,
            on_e_stop=print,
            on_quit=print,
            commands={},
        )


def test_a_process_without_a_terminal_cannot_read_keys(monkeypatch):
    monkeypatch.setattr("sys.stdin", open("/dev/null"))  # noqa: SIM115  # closed with the test
    with pytest.raises(NodeError, match="can only be read in a terminal.*not from a launch file"):
        Terminal()
