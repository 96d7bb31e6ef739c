"""The limiter: no limit is ever broken, the arm is never past where a time-optimal brake ends, and it arrives."""

import dataclasses
import itertools

import numpy as np
import pytest
import ruckig
from hypothesis import given
from hypothesis import strategies as st

from policy.limiter import AxisLimits, Limiter, brake_step, limit_step, stopping_speed
from wam.robot import load_robot

ROBOT = load_robot("sim6")
DT = 1 / ROBOT.safety.guard_rate_hz


def one_axis(velocity: float = 2.5, acceleration: float = 15.0, upper: float = 1.0) -> AxisLimits:
    return AxisLimits(
        lower=np.array([-upper]),
        upper=np.array([upper]),
        velocity=np.array([velocity]),
        acceleration=np.array([acceleration]),
    )


def violations(positions: np.ndarray, dts: np.ndarray, start_velocity: np.ndarray, robot=ROBOT) -> dict[str, int]:
    """Counts broken limits of the robot file in commanded positions (T + 1, ..., A), by finite differences."""
    spans = np.array([axis.position for axis in robot.axes])
    fastest = np.array([axis.max_velocity for axis in robot.axes])
    hardest = np.array([axis.max_acceleration for axis in robot.axes])
    shape = (-1,) + (1,) * (positions.ndim - 1)
    velocities = np.diff(positions, axis=0) / dts.reshape(shape)
    velocities = np.concatenate([start_velocity[None], velocities])
    accelerations = np.diff(velocities, axis=0) / dts.reshape(shape)
    return {
        "position": int(((positions < spans[:, 0]) | (positions > spans[:, 1])).sum()),
        "velocity": int((np.abs(velocities) > fastest).sum()),
        "acceleration": int((np.abs(accelerations) > hardest).sum()),
    }


def random_chunks(rng: np.random.Generator, count: int, horizon: int = 4) -> np.ndarray:
    """(horizon, count, A) targets of every bad kind: smooth, jumping, far outside, on a limit, alternating."""
    low, high = ROBOT.lower.astype(float), ROBOT.upper.astype(float)
    width = len(low)
    uniform = rng.uniform(low - 1, high + 1, (horizon, count, width))
    walk = rng.uniform(low, high, (count, width)) + rng.normal(0, 0.2, (horizon, count, width)).cumsum(axis=0)
    edges = np.where(rng.random((horizon, count, width)) < 0.5, low, high)
    wild = 1e3 * rng.standard_normal((horizon, count, width))
    kind = rng.integers(0, 4, (count, 1))
    return np.choose(kind, [uniform, walk, edges, wild])


def play_random_chunks(chunks: int, lanes: int, seed: int, *, jitter: bool) -> dict[str, int]:
    """Plays random chunks one after the other on many arms at once and counts broken limits."""
    rng = np.random.default_rng(seed)
    limits = AxisLimits.of(ROBOT)
    position = rng.uniform(limits.lower, limits.upper, (lanes, len(limits.lower)))
    velocity = np.zeros_like(position)
    total = dict.fromkeys(("position", "velocity", "acceleration"), 0)
    for _ in range(chunks // lanes):
        track, dts, start = [position], [], velocity
        for target in random_chunks(rng, lanes):
            drift = rng.normal(0, 1, position.shape) * rng.integers(0, 2)
            for _ in range(3):
                dt = DT * (rng.choice([0.05, 0.5, 1.0, 3.0]) if jitter else 1.0)
                position, velocity = limit_step(limits, position, velocity, target, drift, dt)
                track.append(position)
                dts.append(dt)
        found = violations(np.array(track), np.array(dts), start)
        total = {name: total[name] + found[name] for name in total}
    return total


@pytest.mark.parametrize("jitter", [False, True], ids=["steady", "jittering"])
def test_no_limit_is_broken_in_twenty_thousand_random_chunks(jitter):
    assert play_random_chunks(20_000, 1000, seed=0, jitter=jitter) == {"position": 0, "velocity": 0, "acceleration": 0}


@pytest.mark.slow
@pytest.mark.parametrize("jitter", [False, True], ids=["steady", "jittering"])
def test_no_limit_is_broken_in_a_million_random_chunks(jitter):
    found = play_random_chunks(1_000_000, 5000, seed=1, jitter=jitter)
    assert found == {"position": 0, "velocity": 0, "acceleration": 0}


numbers = st.floats(-1e6, 1e6)


@given(
    start=st.floats(-1, 1),
    ticks=st.lists(st.tuples(numbers, numbers, st.floats(0, 0.1)), min_size=1, max_size=60),
    velocity=st.floats(0.01, 10),
    acceleration=st.floats(0.01, 100),
)
def test_any_targets_and_any_ticks_keep_the_limits(start, ticks, velocity, acceleration):
    limits = one_axis(velocity, acceleration)
    limiter = Limiter(limits)
    limiter.rebase(np.array([start]))
    for target, drift, dt in ticks:
        before = limiter.velocity[0]
        limiter.towards(np.array([target]), np.array([drift]), dt)
        assert abs(limiter.position[0]) <= 1 + 1e-12
        assert abs(limiter.velocity[0]) <= velocity * (1 + 1e-12)
        assert abs(limiter.velocity[0] - before) <= acceleration * dt * (1 + 1e-9) + 1e-12
        assert np.abs(limiter.braking_end[0]) <= 1 + 1e-9


def overshoot(speed, dts: list[float], acceleration: float = 15.0) -> float:
    """How far past a limit at 1 an axis gets that keeps its acceleration and bounds its speed by ``speed(d, dt)``."""
    position = velocity = worst = 0.0
    for dt in dts:
        change = acceleration * dt
        velocity = float(np.clip(min(speed(1.0 - position, dt), 2.5), velocity - change, velocity + change))
        position += velocity * dt
        worst = max(worst, position - 1.0)
    return worst


def test_why_the_limiter_uses_its_own_form_of_the_braking_bound():
    """The textbook bound, the one for equal ticks, and ours; see the module's docstring."""

    def textbook(d: float, dt: float) -> float:
        return np.sqrt(2 * 15 * max(d, 0))

    def equal_ticks(d: float, dt: float) -> float:
        return -15 * dt / 2 + np.sqrt((15 * dt / 2) ** 2 + 2 * 15 * max(d, 0))

    def ours(d: float, dt: float) -> float:
        return float(stopping_speed(np.array(d), np.array(15.0), dt))

    even, uneven = [0.02] * 200, [0.06] * 7 + [0.002] * 600
    assert overshoot(textbook, even) > 0.02
    assert 0 < overshoot(equal_ticks, even) <= 15 * 0.02**2 / 8
    assert overshoot(equal_ticks, uneven) > 0.05  # three and a half degrees past the limit
    assert max(overshoot(ours, even), overshoot(ours, uneven)) <= 1e-12


@given(
    position=st.floats(-0.9, 0.9),
    velocity=st.floats(-2.5, 2.5),
    dts=st.lists(st.floats(1e-3, 0.06), min_size=1, max_size=9),
)
def test_brake_ends_before_the_time_optimal_stop(position, velocity, dts):
    limits = one_axis()
    state = np.array([position]), np.array([velocity])
    best = oracle_stop(position, velocity, 2.5, 15.0)
    for dt in itertools.cycle(dts):
        state = brake_step(limits, *state, dt)
        if not state[1].any():
            break
    assert abs(state[0][0] - position) <= abs(best - position) + 1e-9


@given(target=st.floats(-0.99, 0.99), position=st.floats(-0.99, 0.99), speed=st.floats(-1, 1))
def test_arrives_in_about_the_time_optimal_time(target, position, speed):
    """At 50 Hz never more than 1.25 times ruckig's time plus four ticks, to 1 mrad; and never past its brake."""
    velocity = speed * np.sqrt(2 * 15 * (1 - abs(position))) * 0.95  # from here the arm can stop before the limit
    velocity = float(np.clip(velocity, -2.5, 2.5))
    best = oracle(position, velocity, 2.5, 15.0, target)
    limiter = Limiter(one_axis())
    limiter.position, limiter.velocity = np.array([position]), np.array([velocity])
    ticks, reached = 0, [position]
    while abs(limiter.position[0] - target) > 1e-3 or abs(limiter.velocity[0]) > 0.1:
        limiter.towards(np.array([target]), np.zeros(1), DT)
        reached.append(limiter.position[0])
        ticks += 1
        assert ticks < 500
    assert ticks * DT <= 1.25 * best.duration + 4 * DT
    ends = (position, target, oracle_stop(position, velocity, 2.5, 15.0))
    assert min(ends) - 1e-9 <= min(reached)
    assert max(reached) <= max(ends) + 1e-9


def oracle(position: float, velocity: float, fastest: float, hardest: float, target: float) -> ruckig.Trajectory:
    """Time-optimal trajectory to rest at a target, without a jerk limit."""
    given_ = ruckig.InputParameter(1)
    given_.current_position, given_.current_velocity, given_.current_acceleration = [position], [velocity], [0.0]
    given_.target_position, given_.target_velocity, given_.target_acceleration = [target], [0.0], [0.0]
    given_.max_velocity, given_.max_acceleration, given_.max_jerk = [fastest], [hardest], [float("inf")]
    trajectory = ruckig.Trajectory(1)
    result = ruckig.Ruckig(1).calculate(given_, trajectory)
    assert result in {ruckig.Result.Working, ruckig.Result.Finished}
    return trajectory


def oracle_stop(position: float, velocity: float, fastest: float, hardest: float) -> float:
    """Where a time-optimal brake ends."""
    given_ = ruckig.InputParameter(1)
    given_.control_interface = ruckig.ControlInterface.Velocity
    given_.current_position, given_.current_velocity, given_.current_acceleration = [position], [velocity], [0.0]
    given_.target_velocity, given_.target_acceleration = [0.0], [0.0]
    given_.max_velocity, given_.max_acceleration, given_.max_jerk = [fastest], [hardest], [float("inf")]
    trajectory = ruckig.Trajectory(1)
    assert ruckig.Ruckig(1).calculate(given_, trajectory) in {ruckig.Result.Working, ruckig.Result.Finished}
    return trajectory.at_time(trajectory.duration)[0][0]


def test_follows_a_moving_target_without_lag():
    limits = one_axis(upper=10.0)
    limiter = Limiter(limits)
    for tick in range(1, 200):
        target = 1.5 * tick * DT
        limiter.towards(np.array([target]), np.array([1.5]), DT)
    assert limiter.position[0] == pytest.approx(target, abs=1e-6)
    assert limiter.velocity[0] == pytest.approx(1.5, abs=1e-6)


@pytest.mark.parametrize(("start", "inside"), [(1.3, 1.0), (-2.0, -1.0)])
def test_a_start_outside_the_limits_comes_back_and_never_goes_further(start, inside):
    limiter = Limiter(one_axis())
    limiter.rebase(np.array([start]))
    track = [start]
    for _ in range(200):
        limiter.towards(np.array([2 * start]), np.zeros(1), DT)  # further out
        track.append(limiter.position[0])
    assert np.all(np.diff(np.abs(track)) <= 0)
    assert track[-1] == pytest.approx(inside, abs=1e-6)
    assert np.abs(np.diff(track, 2)).max() <= 15 * DT**2 * (1 + 1e-6)


def test_no_time_no_motion():
    limiter = Limiter(one_axis())
    limiter.velocity = np.array([1.0])
    limiter.towards(np.array([1.0]), np.zeros(1), 0.0)
    limiter.brake(0.0)
    assert (limiter.position[0], limiter.velocity[0]) == (0.0, 1.0)


def test_stopping_speed_is_the_stated_bound():
    distance, acceleration = np.array([0.0, 1e-9, 0.01, 1.0]), np.array([15.0])
    exact = -acceleration * DT + np.sqrt((acceleration * DT) ** 2 + 2 * acceleration * distance)
    np.testing.assert_allclose(stopping_speed(distance, acceleration, DT), exact, atol=1e-9)
    assert stopping_speed(np.array([-1.0]), acceleration, DT) == 0.0


def test_limits_come_from_the_robot_file_less_the_margin():
    limits = AxisLimits.of(dataclasses.replace(ROBOT, safety=dataclasses.replace(ROBOT.safety, position_margin=0.1)))
    np.testing.assert_allclose(limits.upper, ROBOT.upper - 0.1, atol=1e-6)
    np.testing.assert_allclose(limits.lower, ROBOT.lower + 0.1, atol=1e-6)
    assert (limits.velocity <= [axis.max_velocity for axis in ROBOT.axes]).all()
