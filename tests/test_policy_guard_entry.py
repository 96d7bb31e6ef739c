"""What may move the arm: every way into a run is compared with where the arm is, and another policy needs an engage."""

import numpy as np
import pytest

from policy.guard import GuardState
from tests.guard_rig import DT, FAR, HOME, ROBOT, Rig, moving, seconds_to

WAIT, HOLD, POLICY, TELEOP, FAULT = GuardState


# Whose chunks are played.
@pytest.mark.parametrize("session", [7, 99], ids=["same policy", "another policy"])
def test_one_stray_chunk_of_a_newer_epoch_does_not_end_the_running_policy(session):
    rig = moving()
    rig.send(FAR, epoch=2**40, session=session)
    rig.sequence -= 1
    for _ in range(60):
        rig.send(FAR)
        rig.tick()
    assert rig.state is POLICY
    assert rig.command.consumed[0] == 7
    assert rig.violations() == []


def test_two_policies_that_plan_at_once_are_not_engaged():
    rig = Rig()
    rig.tick(3)
    rig.send(epoch=8)
    rig.send()
    assert rig.guard.engage(rig.now) == (False, "2 policies plan at once (7, 8): stop all but one")
    rig.tick(20)
    rig.send()
    assert rig.guard.engage(rig.now)[0]


# Row: another start of the policy.
@pytest.mark.parametrize("gap_s", [0.0, 0.5, 20.0])
def test_a_restarted_policy_moves_nothing_before_somebody_engages_again(gap_s):
    rig = moving()
    rig.tick(round(gap_s / DT))
    rig.epoch, rig.sequence = 8, -1
    rig.forget_commands()
    for _ in range(150):
        rig.send(FAR)
        rig.tick()
    assert rig.state is HOLD
    assert np.abs(rig.commands[60].positions - rig.command.positions).max() < 1e-9  # it braked, and stands
    assert "engage again to let" in rig.command.reason
    assert rig.guard.status()["level"] == "warn"
    rig.send(FAR)
    assert rig.guard.engage(rig.now) == (True, "engaged")
    assert rig.tick().state is POLICY
    assert rig.command.consumed[0] == 8
    assert rig.violations() == []


def test_a_policy_that_was_reset_is_the_same_policy():
    rig = moving()
    rig.epoch, rig.sequence, rig.session = 8, -1, 7
    assert rig.send(FAR) == ""
    assert rig.tick().consumed[:2] == (8, 0)


@pytest.mark.parametrize("cause", ["policy", "camera", "person far away"])
def test_a_long_gap_needs_a_new_engage_and_a_short_one_does_not(cause):
    for gap_s, goes_on in ((ROBOT.safety.resume_s - 0.2, True), (ROBOT.safety.resume_s + 0.2, False)):
        rig = moving()
        seconds_to(rig, HOLD)
        for _ in range(round((gap_s - ROBOT.safety.chunk_age_s) / DT)):
            if cause == "person far away":
                rig.teleop(rig.arm + 1.0)  # holds the dead-man with the leader in another pose: nothing moves
            rig.tick()
        rig.tick(15)
        for _ in range(10):
            rig.send(FAR)
            rig.tick()
        assert (rig.state is POLICY) == goes_on, (gap_s, rig.command.reason)
        if not goes_on:
            assert rig.command.reason == "nothing moved the arm for 2 s: engage again to let the policy move it"
            assert rig.guard.engage(rig.now) == (True, "engaged")
            assert rig.tick().state is POLICY


def test_a_person_may_move_an_arm_that_stood_for_long_and_the_policy_may_not():
    rig = moving()
    rig.tick(500)
    assert rig.guard.engage(rig.now) == (False, "there is no fresh chunk and no fresh teleoperation command")
    for _ in range(20):
        rig.teleop(rig.arm)
        rig.tick()
    assert rig.state is TELEOP
    for _ in range(40):
        rig.send(FAR)
        rig.tick()
    assert (rig.state, rig.guard.engaged) == (HOLD, True)
    assert "engage again" in rig.command.reason


def test_a_policy_that_starts_beside_a_person_waits_for_an_engage():
    rig = Rig()
    rig.tick(3)
    rig.teleop(HOME)
    assert rig.guard.engage(rig.now) == (True, "engaged")
    rig.tick(30)
    rig.send()
    assert rig.tick().state is HOLD
    assert "the policy was started after the guard was engaged: engage again" in rig.command.reason
    assert rig.guard.engage(rig.now) == (True, "engaged")
    assert rig.tick().state is POLICY


# Row: a plan that does not follow from where the arm is.
def jump(rig: Rig, size: float = 1.2) -> np.ndarray:
    """(16, A) a plan that stands still elsewhere, within the range."""
    elsewhere = rig.arm.copy()
    elsewhere[:-1] += np.where(elsewhere[:-1] + size < ROBOT.upper[:-1], size, -size)
    return np.tile(np.clip(elsewhere, ROBOT.lower, ROBOT.upper), (16, 1))


def test_a_chunk_that_jumps_is_dropped_and_the_one_before_plays_on():
    rig = moving()
    rig.send(FAR)
    expected = (7, rig.sequence)
    for _ in range(5):
        refusal = rig.send(positions=jump(rig))
        assert "does not go on from where the arm is ('" in refusal
        assert rig.tick().consumed[:2] == expected
    assert rig.guard.status()["last_refusal"] == refusal
    for _ in range(40):
        rig.send(positions=jump(rig))
        rig.tick()
    assert rig.state is HOLD  # nothing else came, so it braked; and nothing latched
    rig.send(FAR)
    assert rig.tick().state is POLICY
    assert rig.violations() == []


def test_a_chunk_that_jumps_within_itself_is_no_plan():
    rig = moving()
    positions = np.tile(rig.arm, (16, 1))
    positions[9:] = jump(rig)[9:]
    assert "is no plan that an arm can follow: '" in rig.send(positions=positions)
    assert "at point 9, 0.400 is allowed" in rig.guard.status()["last_refusal"]
    assert rig.tick().state is POLICY  # what played before


def by_a_person(rig: Rig) -> None:
    for _ in range(10):
        rig.teleop(rig.arm)
        rig.tick()
    rig.tick(12)


def by_a_hold(rig: Rig) -> None:
    seconds_to(rig, HOLD)


def by_lost_states(rig: Rig) -> None:
    rig.states = False
    rig.tick(20)
    rig.states = True
    rig.tick(2)


def by_a_clock_jump(rig: Rig) -> None:
    rig.robot_now += 40.0
    rig.tick(2)


def by_its_own_pause(rig: Rig) -> None:
    rig.tick(dt=0.5)
    rig.tick(2)


def by_a_reset_policy(rig: Rig) -> None:
    rig.session, rig.epoch, rig.sequence = 7, 8, -1
    rig.tick(25)


@pytest.mark.parametrize(
    "way", [by_a_person, by_a_hold, by_lost_states, by_a_clock_jump, by_its_own_pause, by_a_reset_policy]
)
def test_every_way_into_a_run_compares_the_plan_with_the_arm(way):
    rig = moving()
    way(rig)
    assert rig.state in {HOLD, TELEOP}
    held = rig.tick(15).positions  # it may still have been braking
    for _ in range(20):
        rig.send(positions=jump(rig, 0.6))
        rig.tick()
        assert rig.state is HOLD
        assert "the policy's first action is not where the arm is ('" in rig.command.reason
    np.testing.assert_allclose(rig.command.positions, held, atol=1e-9)
    rig.send(FAR)
    assert rig.tick().state is POLICY
    assert rig.violations() == []


def test_an_arm_that_was_pushed_away_while_it_was_held_is_not_pulled_along():
    rig = moving()
    by_a_hold(rig)
    rig.tick(20)
    rig.follows = False
    rig.arm = rig.arm - 0.3
    rig.tick(2)
    for _ in range(5):
        rig.send(FAR)
        rig.tick()
    assert rig.state is HOLD
    assert "the arm is not where it is held ('" in rig.command.reason


def test_the_gripper_may_close_from_one_action_to_the_next():
    rig = moving()
    positions = np.tile(rig.arm, (16, 1))
    positions[2:, -1] = 0.0
    positions[:2, -1] = 1.0
    assert rig.send(positions=positions) == ""
    assert rig.tick().state is POLICY
