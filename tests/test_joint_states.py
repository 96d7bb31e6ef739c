"""Joint states in parts: put together by name, never from parts that are too far apart, and missed when absent."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("mcap_ros2")

from policy.joint_states import PATIENCE, JointStates
from tests import wire_messages as wire
from tests.recorded_scenes import Event, replay, scene, stamp_ns, write
from wam.errors import ValueContractError
from wam.robot import load_robot

NAMES = ("yaw", "elbow", "gripper")
ARM, GRIPPER = ["elbow", "yaw"], ["gripper"]
LONGEST_S = 0.1


@pytest.fixture
def states() -> JointStates:
    return JointStates(NAMES, LONGEST_S, "/joint_states")


def test_a_whole_message_is_taken_as_it_is(states):
    stamp, values = states.add(["gripper", "yaw", "wheel", "elbow"], [1.0, 0.5, np.nan, -0.25], 3.0)
    assert (stamp, values.tolist(), values.dtype) == (3.0, [0.5, -0.25, 1.0], np.float32)


def test_arm_and_gripper_in_two_messages_are_one_state(states):
    assert states.add(ARM, [-0.25, 0.5], 3.00) is None
    stamp, values = states.add(GRIPPER, [1.0], 3.01)
    assert (stamp, values.tolist()) == (3.00, [0.5, -0.25, 1.0])  # as old as its oldest part
    assert states.add(ARM, [-0.3, 0.6], 3.02) is None  # the gripper has not been heard of again
    assert states.add(ARM, [-0.4, 0.7], 3.04) is None
    stamp, values = states.add(GRIPPER, [0.9], 3.05)
    assert (stamp, values.tolist()) == (3.04, pytest.approx([0.7, -0.4, 0.9]))


def test_parts_that_are_too_far_apart_make_no_state(states):
    states.add(ARM, [0.0, 0.0], 3.0)
    with pytest.raises(ValueContractError, match="/joint_states lacks yaw, elbow; it has gripper but the robot file"):
        states.add(GRIPPER, [1.0], 3.2)
    stamp, _ = states.add(ARM, [0.0, 0.0], 3.21)
    assert stamp == 3.2


def test_an_axis_that_nobody_names_is_missed_after_a_while(states):
    for k in range(10):
        assert states.add(ARM, [0.0, 0.0], 3.0 + k / 100) is None
    with pytest.raises(
        ValueContractError, match="lacks gripper; it has elbow, yaw but the robot file wants yaw, elbow"
    ):
        states.add(ARM, [0.0, 0.0], 3.2)
    silent = JointStates(NAMES, LONGEST_S, "/joint_states")
    for _ in range(PATIENCE):
        assert silent.add(["wheel"], [0.0], 3.0) is None  # a clock that stands still hides nothing
    with pytest.raises(ValueContractError, match="lacks yaw, elbow, gripper; it has wheel"):
        silent.add(["wheel"], [0.0], 3.0)


def test_an_axis_that_falls_silent_is_missed(states):
    for k in range(5):
        states.add(ARM, [0.0, 0.0], 3.0 + k / 100)
        states.add(GRIPPER, [0.0], 3.0 + k / 100)
    for k in range(5, 13):
        assert states.add(ARM, [0.0, 0.0], 3.0 + k / 100) is None
    with pytest.raises(ValueContractError, match="lacks gripper"):
        states.add(ARM, [0.0, 0.0], 3.15)


def test_a_clock_that_was_set_back_begins_anew(states):
    states.add(ARM, [0.0, 0.0], 1e9)
    states.add(ARM, [0.1, 0.1], 3.0)
    stamp, values = states.add(GRIPPER, [1.0], 3.01)
    assert (stamp, values.tolist()) == (3.0, pytest.approx([0.1, 0.1, 1.0]))


@pytest.mark.parametrize(
    ("names", "positions", "message"),
    [
        (ARM, [0.0], "2 names .* for 1 positions"),
        (["yaw", "yaw"], [0.0, 0.0], "names yaw twice"),
        (ARM, [np.nan, 0.0], "not finite for elbow"),
    ],
)
def test_a_part_that_cannot_be_read_is_refused(states, names, positions, message):
    with pytest.raises(ValueContractError, match=message):
        states.add(names, positions, 3.0)


@given(st.lists(st.tuples(st.booleans(), st.floats(0.001, 0.15)), max_size=60))
def test_whatever_comes_a_state_is_made_of_parts_that_belong_together(messages):
    states, now, last = JointStates(NAMES, LONGEST_S, "/joint_states"), 3.0, -1.0
    for arm, step in messages:
        now += step
        try:
            state = states.add(ARM if arm else GRIPPER, [now, now] if arm else [now], now)
        except ValueContractError as error:
            assert "lacks" in str(error)  # noqa: PT017  # either may happen
            continue
        if state is not None:
            stamp, values = state
            assert last < stamp
            assert stamp == pytest.approx(values.min(), abs=1e-5)
            assert values.max() - values.min() <= LONGEST_S + 1e-5
            last = stamp


def test_a_recording_of_two_broadcasters_gives_what_one_of_both_gives(tmp_path):
    robot = load_robot("sim6")
    joints, gripper = robot.action_names[:-1], robot.action_names[-1:]

    def parted(event: Event, number: int) -> list[Event]:
        if event.role != "state":
            return [event]
        ms = event.at_ms - 1
        arm = wire.joint_state(stamp_ns(ms), joints, [ms / 1e3] + [0.0] * 5)
        grip = wire.joint_state(stamp_ns(ms), gripper, [0.5])
        return [Event(event.at_ms, "state", arm)] + ([Event(event.at_ms + 0.1, "state", grip)] if number % 2 else [])

    events = [part for number, event in enumerate(scene(1.0)) for part in parted(event, number)]
    found = [tick for tick in replay(write(tmp_path / "episode_000000.mcap", events)) if not tick.reason]
    assert len(found) == 8
    for tick in found:
        ms = (tick.stamps["observation.state"] * 1e9 - stamp_ns(0)) / 1e6
        assert tick.observation.proprio[0] == pytest.approx(ms / 1e3, abs=0.011)
        assert tick.observation.proprio[-1] == 0.5
