"""The guard under anything: a state machine that sends it good, bad and absurd input in any order."""

import math

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from policy.guard import GuardState
from tests.guard_rig import DT, HOME, MALFORMED, ROBOT, WIDTH, Rig

numbers = st.floats(allow_nan=True, allow_infinity=True, width=64)
targets = st.lists(st.floats(-1e3, 1e3), min_size=WIDTH, max_size=WIDTH).map(np.array)
FASTEST = np.array([axis.max_velocity for axis in ROBOT.axes])
HARDEST = np.array([axis.max_acceleration for axis in ROBOT.axes])


class AnyInput(RuleBasedStateMachine):
    """What may never happen, whatever does."""

    @initialize()
    def begin(self) -> None:
        self.rig = Rig()
        self.speed = np.zeros(WIDTH)
        self.was_reset = True  # since the last tick
        self.may_rebase = True  # the command may be placed anew, at rest, at the measured position

    @rule(count=st.integers(1, 12))
    def ticks(self, count: int) -> None:
        for _ in range(count):
            self._tick(DT)

    @rule(dt=st.floats(0, 2.0))
    def odd_tick(self, dt: float) -> None:
        self._tick(dt)

    @rule(goal=targets)
    def chunk(self, goal) -> None:
        self.rig.send(goal)

    @rule(offset=st.floats(0.0, 0.3))
    def near_chunk(self, offset: float) -> None:
        self.rig.send(np.clip(self.rig.arm + offset, ROBOT.lower, ROBOT.upper))

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
        self.rig.send()
        self.rig.guard.engage(self.rig.now)

    @rule()
    def reset(self) -> None:
        done, _ = self.rig.guard.reset(self.rig.now)
        if done:
            self.was_reset = self.may_rebase = True

    @rule()
    def go(self) -> None:
        """All that is needed to move: most sequences of the other rules end in FAULT."""
        self.rig.states = self.rig.follows = True
        self.rig.guard.on_e_stop(False, self.rig.now)
        self.rig.guard.on_heartbeat(self.rig.now)
        self.ticks(3)
        self.reset()
        self._tick(DT)
        self.engage()
        self.near_chunk(0.3)
        self.ticks(5)

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


AnyInput.TestCase.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
TestAnyInput = AnyInput.TestCase


def test_random_chunks_through_the_whole_guard_break_no_limit():
    """As the limiter's test, but with seams, cross-fades, holds and re-basing in between."""
    rng = np.random.default_rng(0)
    rig = Rig().engaged()
    low, high = ROBOT.lower.astype(float), ROBOT.upper.astype(float)
    for _ in range(400):
        kind = rng.integers(0, 3)
        spread = (high - low) * [0.05, 0.3, 2.0][kind]
        positions = rig.arm + rng.normal(0, 1, (16, WIDTH)) * spread
        if kind == 2:
            positions = rng.uniform(low - 1, high + 1, (16, WIDTH))
        rig.send(positions=positions, stamp=rig.robot_now - rng.uniform(0, 0.3))
        rig.tick(int(rng.choice([1, 3, 7, 7, 7, 25])))
    assert rig.state in {GuardState.RUN_POLICY, GuardState.HOLD}
    assert int(rig.guard.status()["chunks_accepted"]) == 401
    assert rig.violations() == []
    assert (rig.arm >= low).all()
    assert (rig.arm <= high).all()
    assert math.isfinite(rig.command.velocities.sum())
    assert np.abs(rig.arm - HOME).max() > 0.1
