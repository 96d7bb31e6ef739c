"""The reference between chunks: a path that stays within its points, and fades without a jump."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.chunk_checks import CheckedChunk
from policy.limiter import AxisLimits, Limiter
from policy.playback import ChunkPlayer
from policy.seams import ChunkPath, Fade
from wam.robot import load_robot

DT = 0.1
LIMITS = AxisLimits.of(load_robot("sim6"))
points = st.lists(st.floats(-1, 1), min_size=2, max_size=12).map(lambda values: np.array(values)[:, None])


def path(values: np.ndarray, start: float = 0.0, reach_s: float = DT) -> ChunkPath:
    return ChunkPath(np.array([start]), np.arange(len(values)) * DT, values, reach_s)


@given(values=points, start=st.floats(-1, 1))
def test_every_action_is_reached_one_step_after_its_time(values, start):
    line = path(values, start)
    assert line.at(0.0)[0][0] == pytest.approx(start)
    for number, value in enumerate(values[:, 0]):
        assert line.at((number + 1) * DT)[0][0] == pytest.approx(value, abs=1e-9)
    np.testing.assert_array_equal(line.at(99.0)[1], 0.0)  # at rest at the end
    assert line.at(99.0)[0][0] == values[-1, 0]


@given(values=points)
def test_with_no_reach_every_action_is_met_on_time(values):
    line = path(values, reach_s=0.0)
    for number, value in enumerate(values[:, 0]):
        assert line.at(number * DT)[0][0] == pytest.approx(value, abs=1e-9)


@given(values=points, start=st.floats(-1, 1))
def test_the_path_stays_between_neighbouring_points(values, start):
    line = path(values, start)
    knots = np.append(start, values[:, 0])
    for number in range(len(values)):
        low, high = sorted(knots[number : number + 2])
        inside = [line.at((number + share) * DT)[0][0] for share in np.linspace(0, 1, 9)]
        assert low - 1e-9 <= min(inside)
        assert max(inside) <= high + 1e-9


@given(values=points, t=st.floats(0.0, 1.0))
def test_velocity_is_the_derivative_of_position(values, t):
    line, step = path(values), 1e-7
    numeric = (line.at(t + step)[0] - line.at(t - step)[0]) / (2 * step)
    if abs(t / DT - round(t / DT)) > 1e-4 and t > 1e-3:  # at a knot the second derivative jumps
        np.testing.assert_allclose(line.at(t)[1], numeric, atol=1e-3)


def test_the_action_in_effect_is_the_one_whose_time_it_is():
    line = path(np.arange(4.0)[:, None])
    assert [line.index(t) for t in (-1.0, 0.0, 0.099, 0.1, 0.25, 0.3, 9.0)] == [0, 0, 0, 1, 2, 3, 3]
    assert line.end_s == pytest.approx(0.4)


@given(
    position=st.floats(-1, 1),
    velocity=st.floats(-2.5, 2.5),
    acceleration=st.floats(5, 50),
    share=st.floats(0, 1),
)
def test_a_fade_starts_where_it_is_told_ends_at_nothing_and_accelerates_no_more_than_it_may(
    position, velocity, acceleration, share
):
    fade = Fade(
        np.array([position]), np.array([velocity]), fade_s=0.25, acceleration=np.array([acceleration]), longest_s=50.0
    )
    start, end = fade.at(0.0), fade.at(60.0)
    assert (start[0][0], start[1][0]) == (pytest.approx(position), pytest.approx(velocity))
    assert (end[0][0], end[1][0]) == (0.0, pytest.approx(0.0, abs=1e-12))
    t, step = share * 3.0, 1e-6
    numeric = (fade.at(t + step)[1] - fade.at(t)[1]) / step
    assert abs(numeric[0]) <= acceleration * (1 + 1e-3) + 1e-3


def chunk(values: np.ndarray, stamp: float, sequence: int = 0) -> CheckedChunk:
    positions = np.repeat(values[:, None], len(LIMITS.lower), axis=1)
    return CheckedChunk(
        times_s=np.arange(len(values)) * DT, positions=positions, stamp=stamp, epoch=0, sequence=sequence
    )


def player() -> ChunkPlayer:
    return ChunkPlayer(LIMITS, reach_s=DT, fade_s=0.25)


def test_a_chunk_that_agrees_with_the_last_one_is_played_as_if_there_were_no_seam():
    """A line of 0.5 rad/s, cut into chunks with a delay: position and velocity go on undisturbed."""
    play, dt, now = player(), 0.02, 10.0
    position, velocity = np.zeros(7), np.full(7, 0.5)
    line = lambda stamp: 0.5 * (stamp - 10.0 + DT * (1 + np.arange(16)))  # noqa: E731  reached a step later
    play.start(chunk(line(10.0), 10.0), position, velocity, from_rest=True)
    play.note(now)
    for tick in range(1, 60):
        now = 10.0 + tick * dt
        if tick % 7 == 0:
            stamp = now - 3 * dt
            play.start(chunk(line(stamp), stamp, tick), position, velocity, from_rest=False)
        position, velocity = play.advance(dt)
        play.note(now)
        np.testing.assert_allclose(position, 0.5 * (now - 10.0), atol=2e-3)
        np.testing.assert_allclose(velocity, 0.5, atol=0.05)


def test_time_that_was_not_played_does_not_count():
    play = player()
    position = np.zeros(7)
    play.start(chunk(np.zeros(16), 10.0), position, position, from_rest=True)
    for tick in range(1, 6):
        play.advance(0.02)
        play.note(10.0 + 0.02 * tick)
    for tick in range(6, 30):  # half a second of holding: the play clock stands still
        play.note(10.0 + 0.02 * tick)
    play.start(chunk(np.zeros(16), 10.0, 1), position, position, from_rest=False)
    play.advance(0.02)
    assert play.consumed == (0, 1, 1)  # 0.1 s were played since 10.0, not 0.6


def test_a_chunk_that_is_over_stops_the_play_clock():
    play = player()
    play.start(chunk(np.zeros(3), 10.0), np.zeros(7), np.zeros(7), from_rest=True)
    assert not play.exhausted
    for _ in range(50):
        play.advance(0.02)
    assert play.exhausted
    assert play.consumed == (0, 0, 2)


@pytest.mark.parametrize("late_ticks", [0, 1, 3, 5], ids=lambda ticks: f"{20 * ticks} ms")
def test_an_arm_that_is_off_its_plan_comes_back_however_often_it_is_replanned(late_ticks):
    """A seam that fades over several chunks must not be driven farther by each of them."""
    play, limiter, dt = player(), Limiter(LIMITS), 0.02
    limiter.rebase(np.full(7, 0.4))
    limiter.velocity = np.full(7, 2.0)  # away from the plan, which is to rest at 0
    play.start(chunk(np.zeros(16), 10.0), limiter.position, limiter.velocity, from_rest=True)
    path = []
    for tick in range(150):
        now = 10.0 + tick * dt
        if tick % 5 == late_ticks % 5 and tick >= late_ticks:
            stamp = now - late_ticks * dt
            play.start(chunk(np.zeros(16), stamp, 1 + tick), limiter.position, limiter.velocity, from_rest=False)
        limiter.towards(*play.advance(dt), dt)
        play.note(now + dt)
        path.append(limiter.position[0])
    assert max(np.abs(path)) < 0.4 + 2.0**2 / (2 * 15) + 0.2  # what stopping takes, and a little
    assert max(np.abs(path[75:])) < 0.05
    assert max(np.abs(path[100:])) < 0.01


def test_a_gripper_that_is_told_to_close_at_once_closes_while_chunks_keep_coming():
    """Opening 1 to 0 from one action to the next, which no gripper can, planned anew every 0.1 s and 60 ms late."""
    play, limiter, dt = player(), Limiter(LIMITS), 0.02
    limiter.rebase(np.ones(7))
    play.start(chunk(np.ones(16), 10.0), limiter.position, limiter.velocity, from_rest=True)
    gripper = []
    for tick in range(60):
        now = 10.0 + tick * dt
        if tick % 5 == 3:
            stamp, close = now - 3 * dt, 10.3  # when it is to be closed, in every plan
            times = stamp + DT * np.arange(16)
            plan = np.where(times < close - 1e-9, 1.0, 0.0)
            play.start(chunk(plan, stamp, 1 + tick), limiter.position, limiter.velocity, from_rest=False)
        limiter.towards(*play.advance(dt), dt)
        play.note(now + dt)
        gripper.append(limiter.position[-1])
    assert gripper[14] > 0.9  # not before it is told to
    assert max(gripper[15:]) <= 1.0 + 0.05
    assert max(gripper[45:]) < 0.05  # within 0.6 s
    assert (np.diff(gripper[20:]) < 0.01).all()  # and it does not open again on the way
