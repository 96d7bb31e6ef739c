"""Who may move the arm and from where: engaging, resetting, a person, what was consumed, the workspace."""

import dataclasses
import math

import numpy as np
import pytest

from policy.guard import NOTHING_CONSUMED, Guard, GuardConfig, GuardState
from tests.guard_rig import DT, FAR, HOME, ROBOT, WIDTH, Rig, brakes, moving, seconds_to
from wam.errors import ConfigError

WAIT, HOLD, POLICY, TELEOP, FAULT = GuardState
NAMES = ROBOT.action_names


# Engaging.
def test_engaging_needs_fresh_inputs():
    rig = Rig()
    rig.states = False
    rig.tick()
    assert rig.guard.engage(rig.now) == (False, "the guard is in WAIT: waiting for joint states")
    rig.states = True
    rig.tick()
    assert rig.guard.engage(rig.now) == (False, "there is no fresh chunk and no fresh teleoperation command")
    rig.send()
    rig.tick(30)
    assert rig.guard.engage(rig.now) == (False, "there is no fresh chunk and no fresh teleoperation command")
    rig.send()
    assert rig.guard.engage(rig.now)[0]
    assert rig.guard.engage(rig.now) == (True, "already engaged")


def test_engaging_needs_the_arm_where_it_is_held():
    rig = Rig()
    rig.tick(2)
    rig.follows = False
    rig.arm = HOME.copy()
    rig.arm[1] += 0.4  # pushed away by hand
    rig.tick()
    rig.send()
    done, why = rig.guard.engage(rig.now)
    assert not done
    assert why == (
        "the arm is not where it is held ('shoulder' differs by 0.400, 0.150 is allowed): reset to hold it where it is"
    )
    assert rig.guard.reset(rig.now)[0]
    rig.forget_commands()
    np.testing.assert_allclose(rig.tick().positions, rig.arm, atol=1e-6)
    rig.send()
    assert rig.guard.engage(rig.now)[0]


def test_engaging_needs_a_first_action_near_the_arm():
    rig = Rig()
    rig.tick()
    rig.send(positions=np.tile(HOME + 0.6, (16, 1)))
    done, why = rig.guard.engage(rig.now)
    assert not done
    assert "the policy's first action is not where the arm is ('yaw' differs by 0.600, 0.400 is allowed)" in why


def test_a_reset_ends_a_run_and_holds_where_the_arm_is():
    rig = moving()
    assert rig.guard.reset(rig.now) == (True, "reset: braking, then holding where the arm is")
    assert rig.tick().state is HOLD
    rig.send()
    assert rig.guard.engage(rig.now) == (False, "the arm is still braking")
    assert rig.violations() == []
    while np.abs(rig.command.velocities).max() > 1e-5:
        rig.tick()
    rig.follows = False
    rig.arm = HOME.copy()  # a simulated arm begins the next episode at home
    rig.guard.reset(rig.now)
    rig.tick()
    assert rig.guard.reset(rig.now)[0]
    np.testing.assert_allclose(rig.tick().positions, HOME, atol=1e-6)
    rig.send()
    assert rig.guard.engage(rig.now)[0]


# What joint states that do not count are said to be.
def waiting(stamp: float, proprio: np.ndarray) -> str:
    rig = Rig()
    rig.states = False
    rig.guard.on_state(stamp, proprio, rig.now)
    rig.tick()
    assert (rig.state, rig.guard.status()["level"]) == (WAIT, "warn")
    assert rig.guard.engage(rig.now) == (False, f"the guard is in WAIT: {rig.command.reason}")
    return rig.command.reason


@pytest.mark.parametrize(
    ("stamp", "changed", "words"),
    [
        (0.0, {}, "they are not stamped (header.stamp is 0): the driver must stamp its joint states"),
        (5000.0, {2: 45.0}, "'elbow' is measured at 45.00, far outside its range: another unit (degrees, ticks"),
        (5000.0, {6: 57.0}, "'gripper' is measured at 57.00, far outside its range"),
        (5000.0, {1: math.nan}, "'shoulder' is measured at nan"),
    ],
)
def test_joint_states_that_do_not_count_are_named(stamp, changed, words):
    proprio = HOME.copy()
    for place, value in changed.items():
        proprio[place] = value
    assert waiting(stamp, proprio).startswith("waiting for joint states: ")
    assert words in waiting(stamp, proprio)


def test_a_message_that_could_not_be_read_is_the_reason_that_engage_gives():
    rig = moving()
    rig.states = False
    rig.tick(3)
    rig.guard.on_bad_state("joint_states lacks elbow; it has elbow_joint")
    rig.tick(5)
    assert rig.state is HOLD
    assert rig.command.reason.endswith("(joint_states lacks elbow; it has elbow_joint)")
    rig.tick(60)
    assert rig.state is FAULT
    assert rig.command.reason == "no joint states for 1 s: joint_states lacks elbow; it has elbow_joint"


def test_a_guard_that_was_not_run_says_so_and_latches_nothing():
    rig = moving()
    rig.states = False
    rig.tick(dt=1.5)  # suspended; what was sent meanwhile waits
    assert rig.state is HOLD
    assert rig.command.reason.startswith("the guard itself was not run for 1.48 s")
    rig.states = True
    rig.tick(2)
    rig.send(FAR)
    assert rig.tick().state is POLICY
    rig.states = False
    rig.tick(60)
    assert rig.state is FAULT  # the arm's own silence latches as before
    assert rig.command.reason == "no joint states for 1 s"


def test_a_guard_that_was_not_run_for_long_needs_a_new_engage():
    rig = moving()
    rig.tick(dt=20.0)
    for _ in range(10):
        rig.send(FAR)
        rig.tick()
    assert rig.state is HOLD
    assert "engage again" in rig.command.reason


# A person.
def test_a_person_outranks_the_policy_which_goes_on_from_a_fresh_chunk():
    rig = moving()
    for _ in range(20):
        rig.send(FAR)
        assert rig.teleop(rig.command.positions + 0.01) == ""
        rig.tick()
        assert rig.state is TELEOP
    assert rig.command.consumed == NOTHING_CONSUMED
    rig.tick(15)
    assert rig.state is HOLD
    assert rig.command.reason == "no chunk from the policy"
    rig.send(FAR)
    assert rig.tick().state is POLICY
    rig.run_policy(FAR, ticks=20)
    assert rig.violations() == []


def test_a_leader_arm_in_another_pose_has_to_come_to_the_arm():
    rig = moving()
    rig.teleop(rig.arm + 1.0)
    assert rig.tick().state is HOLD  # a person wants something: the policy stops, but nothing sweeps across
    assert "teleoperation is not where the arm is ('yaw' differs by" in rig.command.reason
    brakes_from = rig.command.positions
    for _ in range(10):
        rig.teleop(rig.arm + 1.0)
        rig.tick()
    assert np.abs(rig.command.positions - brakes_from).max() < 0.3
    for left in np.linspace(0.9, 0.0, 10):  # no leader gets there at once
        assert rig.teleop(rig.arm + left) == ""
        rig.tick()
    assert rig.state is TELEOP


def test_a_leader_whose_reading_jumps_is_not_followed():
    rig = Rig()
    rig.tick()
    rig.teleop(HOME)
    assert rig.guard.engage(rig.now)[0]
    for _ in range(10):
        rig.teleop(HOME)
        rig.tick()
    before = rig.command.positions
    for _ in range(3):
        assert "the command jumps ('yaw' differs by 1.300" in rig.teleop(HOME + 1.3)
        rig.tick()
    np.testing.assert_allclose(rig.command.positions, before, atol=1e-9)
    assert rig.teleop(HOME) == ""
    assert rig.tick().state is TELEOP


def test_a_command_of_a_person_without_a_stamp_says_so():
    rig = moving()
    assert "is not stamped (header.stamp is 0)" in rig.guard.on_teleop(NAMES, rig.arm, 0.0, rig.now)


def test_a_silent_person_is_braked():
    rig = Rig()
    rig.tick()
    rig.teleop(HOME)
    assert rig.guard.engage(rig.now)[0]
    for step in range(20):
        rig.teleop(HOME + 0.02 * step)
        rig.tick()
    assert rig.state is TELEOP
    assert np.abs(rig.command.velocities).max() > 0.3
    assert seconds_to(rig, HOLD) <= ROBOT.safety.teleop_age_s + 2 * DT
    brakes(rig)


def test_teleoperation_follows_without_much_lag():
    rig = Rig()
    rig.tick()
    rig.teleop(HOME)
    assert rig.guard.engage(rig.now)[0]
    for step in range(60):
        rig.teleop(HOME + 0.01 * step)  # 0.5 rad/s, opening/s
        rig.tick()
    assert np.abs(HOME + 0.01 * step - rig.command.positions).max() < 0.021


@pytest.mark.parametrize(
    ("positions", "names", "refusal"),
    [
        (np.full(WIDTH, np.nan), None, "command holds nan for 'yaw'"),
        (np.zeros(WIDTH - 1), None, "has 7 names for 6 columns"),
        (np.zeros(WIDTH), ("jaw", *NAMES[1:]), "lacks yaw"),
        (np.zeros((2, WIDTH)), None, "must be one number per joint"),
    ],
)
def test_a_malformed_command_of_a_person_is_dropped(positions, names, refusal):
    rig = moving()
    assert refusal in rig.teleop(positions, names)
    assert rig.tick().state is POLICY


def test_an_old_command_of_a_person_is_dropped():
    rig = moving()
    rig.teleop(rig.arm)
    assert "is not newer than the last one's" in rig.teleop(rig.arm)


def test_permuted_names_of_a_person_are_put_in_order():
    rig = Rig()
    rig.tick()
    assert rig.teleop(HOME[::-1] + np.arange(WIDTH)[::-1] * 0.01, NAMES[::-1]) == ""
    assert rig.guard.engage(rig.now)[0]
    for _ in range(60):
        rig.teleop(HOME[::-1] + np.arange(WIDTH)[::-1] * 0.01, NAMES[::-1])
        rig.tick()
    np.testing.assert_allclose(rig.command.positions, HOME + np.arange(WIDTH) * 0.01, atol=1e-4)


# Counting what was consumed.
def test_after_a_hold_a_chunk_starts_at_its_first_action():
    rig = moving()
    seconds_to(rig, HOLD)
    rig.tick(30)
    assert rig.send(FAR, stamp=rig.robot_now - 0.3) == ""  # three control steps old, of which none was executed
    assert rig.tick().consumed[2] == 0


def test_while_running_a_chunk_goes_on_where_its_observation_was_left():
    rig = Rig().engaged(FAR)
    stamp = rig.robot_now
    rig.tick(13)  # 0.26 s on the clock and in action
    assert rig.send(FAR, stamp=stamp) == ""
    assert rig.tick().consumed == (7, 1, 2)


def test_a_late_loop_does_not_skip_actions():
    rig = Rig().engaged(FAR)
    stamp = rig.robot_now
    rig.tick(dt=0.4)  # counts for three periods only
    rig.send(FAR, stamp=stamp)
    assert rig.tick().consumed[2] == 0


def test_a_chunk_that_is_over_rests_at_its_last_action():
    robot = dataclasses.replace(ROBOT, safety=dataclasses.replace(ROBOT.safety, chunk_age_s=9.0))
    rig = Rig(robot)
    rig.tick()
    rig.send(HOME + 0.05, points=4)
    assert rig.guard.engage(rig.now)[0]
    rig.tick(100)
    assert rig.command.consumed == (7, 0, 3)
    assert not rig.command.velocities.any()
    np.testing.assert_allclose(rig.command.positions, HOME + 0.05, atol=1e-4)
    assert rig.violations() == []


# Workspace.
def reach(positions: np.ndarray) -> np.ndarray:
    return np.array([positions[0], 0.0, 0.0])


def boxed() -> dataclasses.dataclass:
    safety = dataclasses.replace(ROBOT.safety, workspace=((-0.2, 0.2), (-1.0, 1.0), (-1.0, 1.0)))
    return dataclasses.replace(ROBOT, safety=safety)


def test_a_workspace_stops_the_tool_at_its_edge_and_lets_it_back():
    rig = Rig(boxed(), forward_kinematics=reach).engaged(HOME + 0.1)
    for _ in range(60):
        rig.rush(np.append(HOME[:-1] + 1.0, 0.5))
        rig.tick()
        assert rig.command.positions[0] <= 0.2 + 1e-9
    assert rig.state is POLICY
    assert rig.command.positions[0] > 0.1
    assert "at the edge of the workspace" in rig.command.reason
    assert int(rig.guard.status()["ticks_at_workspace"]) > 0
    for _ in range(60):
        rig.rush(HOME)
        rig.tick()
    assert abs(rig.command.positions[0]) < 0.05
    assert rig.violations() == []


def test_a_workspace_without_kinematics_is_refused():
    with pytest.raises(ConfigError, match="has a safety.workspace but the guard was given no forward kinematics"):
        Guard(boxed())


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("fade_steps", 0.0, "fade_steps is 0.0 but must be a finite number of at least 0.5"),
        ("faults_after", 0, "faults_after is 0"),
        ("time_scale", math.nan, "time_scale is nan"),
        ("reach_steps", 2.0, "reach_steps is 2.0 but an action is reached within its step"),
    ],
)
def test_impossible_settings_are_refused(field, value, message):
    with pytest.raises(ConfigError, match=message):
        GuardConfig(**{field: value})


def test_status_is_words_and_complete():
    status = moving().guard.status()
    assert all(isinstance(value, str) for value in status.values())
    assert {"state", "reason", "level", "epoch", "sequence", "index", "last_refusal", "chunks_accepted"} <= set(status)
    assert (status["state"], status["level"], status["engaged"]) == ("RUN_POLICY", "ok", "true")
