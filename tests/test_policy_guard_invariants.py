"""The guard under anything: a state machine that sends it good, bad and absurd input in any order.

Besides the limits it holds the guard to intent, by a record of its own of what was sent: whatever the history, the
policy moves the arm only along plans that began, and went on, where the arm was, in the life of the policy that
somebody engaged, and not after it stood still for long.
"""

import math

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from policy.guard import ChunkMessage, GuardState
from tests.guard_rig import DT, MALFORMED, ROBOT, WIDTH, Rig

numbers = st.floats(allow_nan=True, allow_infinity=True, width=64)
targets = st.lists(st.floats(-1e3, 1e3), min_size=WIDTH, max_size=WIDTH).map(np.array)
FASTEST = np.array([axis.max_velocity for axis in ROBOT.axes])
HARDEST = np.array([axis.max_acceleration for axis in ROBOT.axes])
STEP = (ROBOT.safety.engage_error + FASTEST * ROBOT.control_dt)[:-1]  # of a joint, from one action to the next
SPAN = ROBOT.upper - ROBOT.lower
places = st.lists(st.floats(0, 1), min_size=WIDTH, max_size=WIDTH).map(lambda share: ROBOT.lower + share * SPAN)


class Recorded(Rig):
    """Remembers every chunk that reaches the guard, by whose and which it is."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: dict[tuple[int, int], ChunkMessage] = {}

    def message(self, *args, **changes) -> ChunkMessage:
        message = super().message(*args, **changes)
        self.sent[message.epoch, message.sequence] = message
        return message


class Checked(RuleBasedStateMachine):
    """What may never happen, whatever does."""

    @initialize()
    def begin(self) -> None:
        self.rig = Recorded()
        self.engaged_for: int | None = None  # start of the policy that planned when somebody engaged
        self.moved = -math.inf  # steady time of the last tick that moved the arm, or of the engage before it
        self.speed = np.zeros(WIDTH)
        self.was_reset = True  # since the last tick
        self.may_rebase = True  # the command may be placed anew, at rest, at the measured position

    def engage_now(self) -> None:
        """Somebody engages beside a policy that would stay where the arm is."""
        refusal = self.rig.send()
        done, answer = self.rig.guard.engage(self.rig.now)
        if done and answer == "engaged":
            self.moved = self.rig.now
            self.engaged_for = None if refusal else self._session(self.rig.epoch, self.rig.sequence)

    def reset_now(self) -> None:
        """Somebody resets."""
        done, _ = self.rig.guard.reset(self.rig.now)
        if done:
            self.was_reset = self.may_rebase = True

    def go_now(self, *, rests: int = 3, at_most: int = 3) -> None:
        """All that is needed to move; ``rests`` ticks for an arm that may still brake, and more while it moves."""
        self.rig.states = self.rig.follows = True
        self.rig.guard.on_e_stop(False, self.rig.now)
        self.pass_ticks(rests)
        while rests < at_most and self.rig.command.velocities.any():
            self._tick(DT)
            rests += 1
        self.reset_now()
        self._tick(DT)
        self.engage_now()
        self.rig.send(np.clip(self.rig.arm + 0.3, ROBOT.lower, ROBOT.upper))
        self.pass_ticks(5)

    def pass_ticks(self, count: int) -> None:
        """Passes time."""
        for _ in range(count):
            self._tick(DT)

    @invariant()
    def status_is_text(self) -> None:
        if hasattr(self, "rig"):
            assert all(isinstance(value, str) for value in self.rig.guard.status().values())

    def _tick(self, dt: float) -> None:
        rig = self.rig
        before = rig.commands[-1] if rig.commands else None
        measured = rig.arm.astype(np.float32)
        faulted = before is not None and before.state is GuardState.FAULT
        rig.tick(dt=dt)
        command = rig.command
        self._check_intent(before, measured, command)
        if faulted and not self.was_reset:
            assert command.state is GuardState.FAULT, "left FAULT without a reset"
        self.was_reset = False
        if command.state is GuardState.WAIT:
            assert command.positions is None
        if command.positions is None:
            self.speed, self.may_rebase = np.zeros(WIDTH), True
            return
        assert np.isfinite(command.positions).all()
        assert np.isfinite(command.velocities).all()
        rebased = self.may_rebase and not command.velocities.any() and np.array_equal(command.positions, measured)
        if rebased or before is None or before.positions is None:
            assert not command.velocities.any()  # wherever it is placed, it rests there
            self.may_rebase = False
        else:
            self._check_limits(before.positions, command, dt)
        self.speed = command.velocities

    def _session(self, epoch: int, sequence: int) -> int:
        session = self.rig.sent[epoch, sequence].session
        return epoch if session is None else session

    def _check_intent(self, before, measured: np.ndarray, command) -> None:
        """A plan moves the arm only from where it is, for whom somebody engaged, and not long after a stand."""
        rig = self.rig
        if command.state is GuardState.RUN_TELEOP:
            self.moved = rig.now
        if command.state is not GuardState.RUN_POLICY:
            return
        epoch, sequence, index = command.consumed
        plan = np.asarray(rig.sent[epoch, sequence].positions, dtype=float)  # in the robot's order, or it is malformed
        assert self._session(epoch, sequence) == self.engaged_for
        assert rig.now - self.moved <= ROBOT.safety.resume_s + rig.dts[-1] + 1e-9
        self.moved = rig.now
        assert ((plan >= ROBOT.lower - 0.1 * SPAN - 1e-6) & (plan <= ROBOT.upper + 0.1 * SPAN + 1e-6)).all()
        assert (np.abs(np.diff(plan[:, :-1], axis=0)) <= STEP + 1e-6).all()
        assert before is not None
        assert before.positions is not None
        told = before.positions[:-1]
        if before.state is not GuardState.RUN_POLICY:
            assert index == 0
            assert (np.abs(plan[0, :-1] - told) <= STEP + 1e-6).all()
            assert (np.abs(plan[0, :-1] - measured[:-1]) <= STEP + 1e-6).all()
        elif before.consumed[:2] != command.consumed[:2]:
            near = STEP + STEP + FASTEST[:-1] * 3 * DT  # a seam, one action on the way to which the arm is, and a tick
            assert (np.abs(plan[index, :-1] - told) <= near + 1e-6).all()

    def _check_limits(self, last: np.ndarray, command, dt: float) -> None:
        moved, clamped = command.positions - last, min(dt, 3 * DT)
        assert (np.abs(command.velocities) <= FASTEST).all()
        assert (np.abs(moved) <= FASTEST * clamped + 1e-12).all()
        assert (np.abs(command.velocities - self.speed) <= HARDEST * clamped + 1e-9).all()
        if clamped > 0:
            np.testing.assert_allclose(moved, command.velocities * clamped, atol=1e-9)
        inside = (last >= ROBOT.lower) & (last <= ROBOT.upper)
        after = (command.positions >= ROBOT.lower - 1e-6) & (command.positions <= ROBOT.upper + 1e-6)
        assert (after | ~inside).all()
        if command.state is GuardState.HOLD:  # braking, and nothing else
            assert (
                np.abs(command.velocities) <= np.maximum(np.abs(self.speed) - HARDEST * clamped * 0.99, 0) + 1e-9
            ).all()


class AnyInput(Checked):
    """Good, bad and absurd input in any order."""

    @rule(count=st.integers(1, 12))
    def ticks(self, count: int) -> None:
        self.pass_ticks(count)

    @rule(dt=st.floats(0, 2.0))
    def odd_tick(self, dt: float) -> None:
        self._tick(dt)

    @rule(goal=targets)
    def chunk(self, goal) -> None:
        self.rig.send(goal)

    @rule(offset=st.floats(0.0, 0.3))
    def near_chunk(self, offset: float) -> None:
        self.rig.send(np.clip(self.rig.arm + offset, ROBOT.lower, ROBOT.upper))

    @rule(place=places)
    def quick_chunk(self, place) -> None:
        if self.rig.commands:
            self.rig.rush(place)

    @rule(place=places)
    def chunk_that_stands_elsewhere(self, place) -> None:
        self.rig.send(positions=np.tile(place, (16, 1)))

    @rule(place=places, point=st.integers(1, 15))
    def chunk_that_jumps_within(self, place, point: int) -> None:
        positions = np.tile(self.rig.arm, (16, 1))
        positions[point:] = place
        self.rig.send(positions=positions)

    @rule()
    def restarted_policy(self) -> None:
        self.rig.epoch, self.rig.sequence, self.rig.session = self.rig.epoch + 10, -1, None

    @rule()
    def reset_policy(self) -> None:
        session = self.rig.epoch if self.rig.session is None else self.rig.session
        self.rig.epoch, self.rig.sequence, self.rig.session = self.rig.epoch + 1, -1, session

    @rule(ahead=st.integers(1, 50), own=st.booleans())
    def stray_chunk(self, ahead: int, own: bool) -> None:
        epoch = self.rig.epoch + ahead
        session = (self.rig.epoch if self.rig.session is None else self.rig.session) if own else epoch
        self.rig.send(epoch=epoch, session=session)

    @rule(place=places, lets_go=st.booleans())
    def person_drives(self, place, lets_go: bool) -> None:
        for _ in range(20):
            way = np.clip(place - self.rig.arm, -0.03, 0.03)
            self.rig.teleop(self.rig.arm + way)
            self._tick(DT)
        if lets_go:
            self.pass_ticks(12)

    @rule(values=st.lists(numbers, min_size=2 * WIDTH, max_size=2 * WIDTH), stamp=numbers)
    def any_numbers(self, values, stamp) -> None:
        positions = np.array(values).reshape(2, WIDTH)
        self.rig.send(positions=positions, times_s=np.array([0.0, 0.1]), stamp=stamp)

    @rule(spoilt=st.sampled_from(sorted(MALFORMED)))
    def malformed_chunk(self, spoilt: str) -> None:
        self.rig.send(**MALFORMED[spoilt][0])

    @rule(offset=st.floats(-1, 1))
    def odd_stamp(self, offset: float) -> None:
        self.rig.send(stamp=self.rig.robot_now + offset)

    @rule(goal=targets)
    def person(self, goal) -> None:
        self.rig.teleop(goal)

    @rule(offset=st.floats(-0.1, 0.1))
    def person_near_the_arm(self, offset: float) -> None:
        self.rig.teleop(self.rig.arm + offset)

    @rule(values=st.lists(numbers, min_size=WIDTH, max_size=WIDTH), stamp=numbers)
    def any_state(self, values, stamp) -> None:
        self.rig.guard.on_state(stamp, np.array(values), self.rig.now)

    @rule(arrive=st.booleans())
    def joint_states(self, arrive: bool) -> None:
        self.rig.states = arrive

    @rule(follows=st.booleans())
    def arm_follows(self, follows: bool) -> None:
        self.rig.follows = follows

    @rule(active=st.booleans())
    def e_stop_topic(self, active: bool) -> None:
        self.rig.guard.on_e_stop(active, self.rig.now)

    @rule()
    def e_stop_service(self) -> None:
        self.rig.guard.e_stop(self.rig.now)

    @rule()
    def heartbeat(self) -> None:
        self.rig.guard.on_heartbeat(self.rig.now)

    @rule(jump=st.floats(-100, 100))
    def clock_jump(self, jump: float) -> None:
        self.rig.robot_now += jump

    @rule()
    def engage(self) -> None:
        self.engage_now()

    @rule()
    def reset(self) -> None:
        self.reset_now()

    @rule()
    def go(self) -> None:
        """Most sequences of the other rules end in FAULT."""
        self.rig.guard.on_heartbeat(self.rig.now)
        self.go_now()


CAUSES = ("none", "silence", "long silence", "person", "states", "clock", "pause", "pushed", "restart", "reset policy")
SETTLES = 200  # ticks; a pushed arm that latched a fault goes to where it is measured, from any speed
PLANS = ("near", "elsewhere", "jumps within", "outside", "stray", "out and back")


class AnyHistory(Checked):
    """A policy that moves the arm, something that comes between, and what it plans then: any of them, in any order."""

    @rule(cause=st.sampled_from(CAUSES), plan=st.sampled_from(PLANS), place=places, length=st.integers(0, 40))
    def then(self, cause: str, plan: str, place: np.ndarray, length: int) -> None:
        if not self.rig.commands or self.rig.state is not GuardState.RUN_POLICY:
            self.go_now(rests=30, at_most=SETTLES)
            assert self.rig.state is GuardState.RUN_POLICY
        self._come_between(cause, place, length)
        for _ in range(3):
            self._plan(plan, place)
            self.pass_ticks(4)

    def _come_between(self, cause: str, place: np.ndarray, length: int) -> None:
        rig = self.rig
        session = rig.epoch if rig.session is None else rig.session
        if cause in {"silence", "long silence"}:
            self.pass_ticks(20 + length if cause == "silence" else 130)
        elif cause == "person":
            for _ in range(20):
                rig.teleop(rig.arm + np.clip(place - rig.arm, -0.03, 0.03))
                self._tick(DT)
            self.pass_ticks(11)
        elif cause == "states":
            rig.states = False
            self.pass_ticks(6 + length)
            rig.states = True
            self._tick(DT)
        elif cause == "clock":
            rig.robot_now += 50.0 if length % 2 else -50.0
            self._tick(DT)
        elif cause == "pause":
            self._tick(0.1 * (1 + length))
        elif cause == "pushed":
            rig.follows = False
            rig.arm = rig.arm + np.append(np.clip(place - rig.arm, -0.3, 0.3)[:-1], 0.0)
        elif cause == "restart":
            rig.epoch, rig.sequence, rig.session = rig.epoch + 10, -1, None
        elif cause == "reset policy":
            rig.epoch, rig.sequence, rig.session = rig.epoch + 1, -1, session

    def _plan(self, plan: str, place: np.ndarray) -> None:
        rig = self.rig
        points = np.tile(rig.arm, (16, 1))
        if plan == "near":
            rig.rush(place)
        elif plan == "elsewhere":
            rig.send(positions=np.tile(place, (16, 1)))
        elif plan == "jumps within":
            points[8:] = place
            rig.send(positions=points)
        elif plan == "outside":
            way = np.append(np.full(WIDTH - 1, 0.35), 0.0) * (1 + np.arange(16))[:, None]
            rig.send(positions=rig.arm + way)
        elif plan == "stray":
            rig.send(epoch=rig.epoch + 5, session=rig.epoch + 5)
        elif plan == "out and back":
            rig.rush(place)
            self._tick(DT)
            rig.send(positions=np.tile(place, (16, 1)))


AnyInput.TestCase.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
TestAnyInput = AnyInput.TestCase
AnyHistory.TestCase.settings = settings(max_examples=40, stateful_step_count=10, deadline=None)
TestAnyHistory = AnyHistory.TestCase


def test_random_chunks_through_the_whole_guard_break_no_limit():
    """As the limiter's test, but with seams, cross-fades, holds and re-basing in between."""
    rng = np.random.default_rng(0)
    rig = Rig().engaged()
    low, high = ROBOT.lower.astype(float), ROBOT.upper.astype(float)
    refused = 0
    for _ in range(600):
        step = [0.02, 0.1, 1.0][rng.integers(0, 3)] * np.append(STEP, 1.0)
        walk = rig.command.positions + np.cumsum(rng.uniform(-1, 1, (16, WIDTH)) * step, axis=0)
        if rng.integers(0, 8) == 0:
            walk = rng.uniform(low, high, (16, WIDTH))  # not to be played
        refused += bool(rig.send(positions=np.clip(walk, low - 0.05, high + 0.05), stamp=rig.robot_now - 0.06))
        rig.tick(int(rng.choice([1, 3, 7, 7, 7, 25])))
        if rng.integers(0, 20) == 0:
            rig.tick(20)  # into a hold
    assert rig.state in {GuardState.RUN_POLICY, GuardState.HOLD}
    assert 50 < refused < 200
    assert int(rig.guard.status()["chunks_accepted"]) == 601 - refused
    assert rig.violations() == []
    assert (rig.arm >= low).all()
    assert (rig.arm <= high).all()
    assert math.isfinite(rig.command.velocities.sum())
    track = np.array([command.positions for command in rig.commands if command.positions is not None])
    assert (np.ptp(track, axis=0) > 0.3 * SPAN).all()
