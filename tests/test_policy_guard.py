"""Every row of the guard's table: what is noticed, what the arm does, and whether it latches."""

import dataclasses

import numpy as np
import pytest

from policy.guard import GuardConfig, GuardState
from tests.guard_rig import DT, FAR, HOME, MALFORMED, ROBOT, Rig, brakes, moving, seconds_to

WAIT, HOLD, POLICY, TELEOP, FAULT = GuardState
NAMES = ROBOT.action_names
BEYOND = np.append(HOME[:-1] + 1.4, 1.0)


def test_nothing_is_commanded_before_the_first_joint_state():
    rig = Rig()
    rig.states = False
    assert rig.tick(5).positions is None
    assert (rig.state, rig.command.reason) == (WAIT, "waiting for joint states")
    rig.states = True
    np.testing.assert_allclose(rig.tick().positions, HOME, atol=1e-6)
    assert (rig.state, rig.command.reason) == (HOLD, "not engaged")


def test_chunks_do_not_move_an_arm_that_was_not_engaged():
    rig = Rig()
    rig.tick()
    rig.run_policy(FAR, ticks=30)
    assert rig.state is HOLD
    np.testing.assert_allclose(rig.command.positions, HOME, atol=1e-6)


def test_the_policy_moves_an_engaged_arm_to_where_it_wants():
    rig = Rig().engaged(FAR)
    rig.run_policy(FAR, ticks=400)
    assert rig.state is POLICY
    np.testing.assert_allclose(rig.arm[:-1], np.clip(FAR, ROBOT.lower, ROBOT.upper)[:-1], atol=0.02)
    assert rig.violations() == []


# Row: no chunk, policy dead or hung.
def test_a_silent_policy_is_braked_and_goes_on_when_it_speaks_again():
    rig = moving()
    rig.send(FAR)
    elapsed = seconds_to(rig, HOLD)
    assert ROBOT.safety.chunk_age_s - DT <= elapsed <= ROBOT.safety.chunk_age_s + 2 * DT
    assert "but safety.chunk_age_s allows 0.35 s" in rig.command.reason
    brakes(rig)
    assert rig.send(FAR) == ""
    assert rig.tick().state is POLICY  # not latched


# Row: /joint_states stale.
def test_missing_joint_states_brake_then_latch():
    rig = moving()
    rig.states = False
    elapsed = seconds_to(rig, HOLD)
    assert elapsed <= ROBOT.safety.state_age_s + 2 * DT
    assert "joint states are" in rig.send(FAR)
    brakes(rig)
    elapsed += seconds_to(rig, FAULT)
    assert "no joint states for 1 s" in rig.command.reason
    held = rig.command.positions
    rig.tick(20)
    np.testing.assert_array_equal(rig.command.positions, held)  # where the arm is, is not known
    rig.states = True
    assert rig.tick(5).state is FAULT


def test_joint_states_that_come_back_in_time_do_not_latch():
    rig = moving()
    rig.states = False
    rig.tick(20)  # 0.4 s
    rig.states = True
    assert rig.tick().state is HOLD
    assert rig.command.reason == "no chunk from the policy"  # the chunk from before is not played on
    assert rig.send(FAR) == ""
    assert rig.tick().state is POLICY


@pytest.mark.parametrize("spoil", ["frozen", "nan", "absurd", "late"])
def test_joint_states_without_news_count_as_missing(spoil):
    rig = moving()
    rig.states = False
    stamp = rig.robot_now
    for _ in range(10):
        positions = rig.arm.copy()
        positions[2] = {"nan": np.nan, "absurd": 1e300}.get(spoil, positions[2])
        when = {"frozen": stamp, "late": rig.robot_now - 0.3}.get(spoil, rig.robot_now)
        rig.guard.on_state(when, positions, rig.now)
        rig.tick()
    assert rig.state is HOLD
    assert int(rig.guard.status()["states_dropped"]) > 0


# Row: NaN, inf, wrong names, shape, time.
@pytest.mark.parametrize(("changes", "refusal"), MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_chunk_is_dropped_whole_and_the_third_in_a_row_latches(changes, refusal):
    rig = moving()
    expected = rig.guard.status()["sequence"]
    for count in range(2):
        assert refusal in rig.send(FAR, **changes)
        rig.tick()
        assert (rig.state, rig.guard.status()["sequence"]) == (POLICY, expected), count
    assert rig.send(FAR) == ""  # a good one in between
    for _ in range(2):
        rig.send(FAR, **changes)
        assert rig.tick().state is POLICY
    rig.send(FAR, **changes)
    assert rig.tick().state is FAULT
    assert "3 malformed chunks in a row, the last because" in rig.command.reason
    assert refusal in rig.command.reason
    assert rig.guard.status()["last_refusal"] == rig.command.reason.split("because ")[1]
    rig.tick(30)
    assert rig.violations() == []


def test_messages_that_are_no_numbers_count_as_malformed():
    rig = moving()
    for _ in range(2):
        assert rig.guard.on_malformed("frame_id 'x' is not wam/<epoch>/<sequence>", rig.now).startswith("frame_id 'x'")
        assert rig.tick().state is POLICY
    rig.send(FAR, names=())
    assert rig.tick().state is FAULT
    assert rig.guard.on_malformed("again", rig.now) == "again"
    assert rig.guard.status()["chunks_malformed"] == "3"


def test_permuted_names_are_put_in_order():
    plain, permuted = Rig().engaged(FAR), Rig().engaged(FAR)
    order = np.array([3, 1, 6, 0, 5, 2, 4])
    for count in range(40):
        if count % 7 == 0:
            assert plain.send(FAR) == ""
            message = permuted.message(FAR)
            names = tuple(NAMES[i] for i in order)
            message = dataclasses.replace(message, names=names, positions=message.positions[:, order])
            assert permuted.guard.on_chunk(message, permuted.now, permuted.robot_now) == ""
        np.testing.assert_array_equal(plain.tick().positions, permuted.tick().positions)


# Row: stale or out-of-order chunk.
@pytest.mark.parametrize(("epoch", "sequence"), [(7, 0), (7, -1), (6, 99)])
def test_an_old_chunk_changes_nothing_and_latches_nothing(epoch, sequence):
    rig = moving()
    for _ in range(5):
        assert "out of order" in rig.send(HOME, epoch=epoch, sequence=sequence, session=7)
        rig.sequence -= 1
    before = rig.command.velocities
    assert rig.tick().state is POLICY
    assert np.sign(rig.command.velocities[0]) == np.sign(before[0])


# Row: clock jump; stamp in the future or too old.
@pytest.mark.parametrize(("offset", "message"), [(0.2, "0.200 s in the future"), (-0.6, "0.600 s old")])
def test_a_stamp_that_cannot_be_clears_the_chunk_and_holds(offset, message):
    rig = moving()
    assert message in rig.send(FAR, stamp=rig.robot_now + offset)
    assert rig.tick().state is HOLD
    brakes(rig)
    assert rig.send(FAR) == ""
    assert rig.tick().state is POLICY  # not latched


@pytest.mark.parametrize("jump", [-50.0, 150.0])
def test_a_clock_jump_clears_the_chunk_and_holds(jump):
    rig = moving()
    rig.robot_now += jump
    assert rig.tick().state is HOLD
    assert rig.guard.status()["clock_jumps"] == "1"
    brakes(rig)
    assert rig.send(FAR) == ""
    assert rig.tick().state is POLICY
    rig.tick(5)
    assert rig.violations() == []


def test_a_clock_jump_that_somebody_else_noticed_does_the_same():
    rig = moving()
    rig.guard.on_clock_jump(rig.now)
    assert rig.tick().state is HOLD


# Row: position, velocity, acceleration limit.
def test_a_plan_at_the_ends_of_the_range_is_clamped_and_counted():
    rig = moving()
    edge = ROBOT.upper.astype(float) + 0.05
    for _ in range(25):
        assert rig.rush(edge) == ""
        rig.tick(7)
    assert rig.state is POLICY
    assert rig.violations() == []
    assert int(rig.guard.status()["ticks_limited"]) > 20
    assert (rig.arm <= ROBOT.upper.astype(float) - ROBOT.safety.position_margin + 1e-6).all()
    assert rig.arm[0] > ROBOT.upper[0] - 0.02


# Row: tracking error.
def test_a_blocked_arm_latches_and_is_held_where_it_is():
    rig = moving(BEYOND, ticks=10)
    rig.follows = False
    blocked = rig.arm.copy()
    while rig.state is not FAULT:
        rig.rush(BEYOND)
        rig.tick()
        assert rig.now < 105
    assert "from all its commands of the last 0.2 s but safety.tracking_error allows 0.500" in rig.command.reason
    assert "blocked, or the servo is off" in rig.command.reason
    rig.tick(100)
    np.testing.assert_allclose(rig.command.positions[:-1], blocked[:-1], atol=1e-3)
    assert rig.violations() == []


def test_a_gripper_that_holds_an_object_is_no_fault_and_keeps_its_grip_in_one():
    robot = dataclasses.replace(ROBOT, safety=dataclasses.replace(ROBOT.safety, tracking_error=0.1))
    rig = Rig(robot).engaged()
    closed = rig.arm.copy()
    closed[-1] = 0.05
    for _ in range(100):
        rig.send(positions=np.tile(closed, (16, 1)))
        rig.tick()
        rig.arm[-1] = max(rig.arm[-1], 0.25)  # the object is in the way
    assert rig.state is POLICY
    assert rig.command.positions[-1] == pytest.approx(0.05, abs=1e-3)
    rig.guard.e_stop(rig.now)
    for _ in range(50):
        rig.tick()
        rig.arm[-1] = 0.25
    assert rig.state is FAULT
    assert rig.command.positions[-1] == pytest.approx(0.05, abs=1e-3)


def test_a_servo_that_lags_at_full_speed_is_no_fault():
    rig = Rig().engaged()
    lag = 9  # ticks: at the top speed of 2.5 rad/s half a radian behind
    for tick in range(200):
        rig.rush(np.clip(HOME + (1.4 if (tick // 80) % 2 == 0 else -1.4), ROBOT.lower, ROBOT.upper), speed=2.5)
        rig.follows = False
        rig.tick()
        behind = rig.commands[-lag:][0].positions
        rig.arm = behind.copy()
        assert rig.state is POLICY
    track = np.array([command.positions for command in rig.commands])
    assert np.abs(track[lag:] - track[:-lag]).max() > ROBOT.safety.tracking_error - 0.1


def test_one_bad_reading_is_no_fault():
    rig = moving()
    rig.follows = False
    for wild in (1.0, 0.0, -1.0, 0.0):
        rig.arm = rig.command.positions + wild
        rig.tick(4)
        rig.send()
    assert rig.state is not FAULT


def test_a_short_lag_does_not_latch():
    rig = moving(BEYOND, ticks=10)
    rig.follows = False
    over = 0
    while over < 5:  # 0.1 s beyond the limit
        rig.rush(BEYOND)
        rig.tick()
        over += np.abs(rig.command.positions - rig.arm).max() > ROBOT.safety.tracking_error
    rig.follows = True
    rig.arm = rig.command.positions.copy()
    rig.tick(20)
    assert rig.state is not FAULT


# Row: e-stop, or its heartbeat lost.
@pytest.mark.parametrize("how", ["topic", "service"])
def test_an_e_stop_stops_and_latches_until_reset(how):
    rig = moving()
    if how == "topic":
        rig.guard.on_e_stop(True, rig.now)
    else:
        rig.guard.e_stop(rig.now)
    assert rig.tick().state is FAULT
    assert rig.command.reason == "e-stop"
    brakes(rig)
    assert "the guard is in FAULT (e-stop): reset it first" in rig.send(FAR)
    assert rig.guard.engage(rig.now) == (False, "the guard is in FAULT (e-stop): reset it first")
    if how == "topic":
        assert rig.guard.reset(rig.now) == (False, "the e-stop is pressed")
        rig.guard.on_e_stop(False, rig.now)
        assert rig.tick().state is FAULT  # releasing the button does not unlatch
    done, message = rig.guard.reset(rig.now)
    assert done
    assert "engage to go on" in message
    rig.send(FAR)
    rig.tick(3)
    assert rig.state is HOLD  # and does not engage
    assert rig.guard.engage(rig.now)[0]
    assert rig.tick().state is POLICY


def test_a_repeated_latched_e_stop_message_keeps_the_fault():
    rig = moving()
    for _ in range(3):  # a late joiner gets the latched sample, and some devices repeat it
        rig.guard.on_e_stop(True, rig.now)
        rig.tick()
    assert rig.guard.status()["faults"] == "1"


def test_an_e_stop_before_the_first_command_commands_nothing():
    rig = Rig()
    rig.states = False
    rig.guard.on_e_stop(True, rig.now)
    command = rig.tick()
    assert (command.state, command.positions) == (FAULT, None)
    rig.states = True
    assert rig.tick(3).positions is None
    rig.guard.on_e_stop(False, rig.now)
    assert rig.guard.reset(rig.now)[0]
    np.testing.assert_allclose(rig.tick().positions, HOME, atol=1e-6)


def test_a_lost_heartbeat_latches_only_after_it_was_heard():
    rig = moving()
    rig.run_policy(FAR, ticks=60)
    assert rig.state is POLICY  # never heard: never watched
    rig.guard.on_heartbeat(rig.now)
    rig.run_policy(FAR, ticks=20)
    assert rig.state is POLICY
    for _ in range(10):
        rig.send(FAR)
        rig.tick()
    assert rig.state is FAULT
    assert rig.command.reason == "no heartbeat of the e-stop for 0.5 s"
    rig.tick(30)
    assert rig.guard.reset(rig.now) == (False, "the e-stop's heartbeat is still missing")
    rig.guard.on_heartbeat(rig.now)
    assert rig.guard.reset(rig.now)[0]


def test_a_required_heartbeat_must_be_heard_before_engaging():
    rig = Rig(config=GuardConfig(require_heartbeat=True))
    rig.tick()
    rig.send()
    assert rig.guard.engage(rig.now) == (False, "no heartbeat of the e-stop was heard, and this guard requires one")
    rig.guard.on_heartbeat(rig.now)
    assert rig.guard.engage(rig.now)[0]


# Row: own loop late.
@pytest.mark.parametrize("pause", [0.08, 0.3])
def test_a_late_loop_keeps_the_limits_and_says_so(pause):
    rig = moving()
    before = rig.command.positions
    rig.tick(dt=pause)
    fastest = np.array([axis.max_velocity for axis in ROBOT.axes])
    assert (np.abs(rig.command.positions - before) <= fastest * 3 * DT + 1e-9).all()
    status = rig.guard.status()
    assert (status["level"], status["late_ticks"]) == ("error", "1")
    rig.tick()
    assert rig.guard.status()["level"] != "error"


# Row: SIGTERM.
def test_a_stop_brakes_and_repeats_the_hold_before_it_is_done():
    rig = moving()
    rig.guard.begin_stop(rig.now)
    rest = 0
    while not rig.guard.stopped:
        assert rig.tick().state is HOLD
        rest += not rig.command.velocities.any()
        assert rig.now < 105
    assert rest == 4
    assert rig.guard.engage(rig.now)[0] is False
    assert rig.violations() == []


def test_a_stop_in_fault_and_before_any_command_ends_too():
    rig = moving()
    rig.guard.e_stop(rig.now)
    rig.guard.begin_stop(rig.now)
    rig.tick(40)
    assert rig.guard.stopped
    fresh = Rig()
    fresh.guard.begin_stop(fresh.now)
    assert fresh.guard.stopped
