"""The chunk schedule: which action is commanded when, in the three modes, at any latency."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.errors import ScheduleError
from policy.schedule import CONTINUING, MODES, ChunkSchedule, ScheduleCounts
from wam.spec import ActionChunk

LENGTH, HORIZON, DT = 6, 3, 0.1
PLAY_ON = ("asynchronous", "temporal_ensembling", *CONTINUING)


def make_schedule(mode: str, *, length: int = LENGTH, horizon: int = HORIZON) -> ChunkSchedule:
    return ChunkSchedule(mode, chunk_length=length, execution_horizon=horizon, control_dt=DT)


def make_chunk(stamp: float, *, length: int = LENGTH, first: float = 0.0) -> ActionChunk:
    """A chunk whose j-th action is ``first + j`` in both dimensions and whose anchor is its stamp."""
    actions = first + np.arange(length, dtype=np.float32)[:, None].repeat(2, axis=1)
    anchor = np.full(2, stamp, dtype=np.float32)
    return ActionChunk(actions=actions, stamp=stamp, control_dt=DT, anchor=anchor)


def drive(mode: str, latency_steps: int, n_steps: int, *, length: int, horizon: int, start: float = 0.0):
    """Runs a control loop; chunk k holds actions 100·k, 100·k + 1, … Returns the schedule and one entry per step."""
    schedule = make_schedule(mode, length=length, horizon=horizon)
    waiting: list[tuple[int, ActionChunk]] = []
    log = []
    for step in range(n_steps):
        now = start + step * DT
        if waiting and waiting[0][0] == step:
            schedule.deliver(waiting.pop()[1], now)
        if schedule.wants_chunk(now):
            schedule.request(now)
            waiting.append((step + latency_steps, make_chunk(now, length=length, first=100.0 * len(log))))
            if latency_steps == 0:
                schedule.deliver(waiting.pop()[1], now)
        log.append(schedule.action(now))
    return schedule, log


loops = {
    "latency_steps": st.integers(0, 9),
    "length": st.integers(1, 12),
    "share": st.floats(0, 1),
    "start": st.sampled_from([0.0, 12.3, 1.7e9]),  # 1.7e9: Unix time, where float64 resolves 0.24 µs
}


def horizon_of(length: int, share: float) -> int:
    return 1 + round(share * (length - 1))


@given(mode=st.sampled_from(MODES), **loops)
def test_every_action_comes_from_its_chunk_and_in_order(mode, latency_steps, length, share, start):
    latency_steps = 0 if mode == "frozen" else latency_steps
    horizon = horizon_of(length, share)
    schedule, log = drive(mode, latency_steps, 40, length=length, horizon=horizon, start=start)
    commanded = [entry for entry in log if entry is not None]
    for entry in commanded:
        np.testing.assert_array_equal(entry.action, entry.chunk.actions[entry.index])
        np.testing.assert_array_equal(entry.chunk.anchor, np.float32(entry.chunk.stamp))
    for before, after in itertools.pairwise(commanded):
        assert after.chunk.stamp >= before.chunk.stamp
        if after.chunk is before.chunk:
            assert after.index == before.index + 1 or (after.held and after.index == before.index)
    fresh = {(id(entry.chunk), entry.index) for entry in commanded}
    assert schedule.counts.consumed == len(fresh)
    assert schedule.counts.held == sum(entry.held for entry in commanded)
    assert schedule.counts.consumed + schedule.counts.skipped <= length * schedule.counts.chunks
    always_late = mode in PLAY_ON and latency_steps >= length  # every chunk is over before it is there
    assert log.count(None) == (40 if always_late else latency_steps)


@given(**{name: loops[name] for name in ("length", "share", "start")})
def test_frozen_plays_exactly_the_horizon_of_every_chunk(length, share, start):
    horizon = horizon_of(length, share)
    schedule, log = drive("frozen", 0, 40, length=length, horizon=horizon, start=start)
    assert [entry.index for entry in log] == [step % horizon for step in range(40)]
    assert schedule.counts == ScheduleCounts(chunks=math.ceil(40 / horizon), consumed=40)


@given(**loops)
def test_hold_last_skips_nothing_and_holds_for_the_latency(latency_steps, length, share, start):
    horizon = horizon_of(length, share)
    schedule, log = drive("hold_last", latency_steps, 40, length=length, horizon=horizon, start=start)
    cycle = [*range(horizon), *[horizon - 1] * latency_steps]  # the last action is held while the next chunk is made
    expected = [None] * latency_steps + cycle * 40
    assert [None if entry is None else entry.index for entry in log] == expected[:40]
    assert schedule.counts.skipped == 0


@given(**loops)
def test_asynchronous_always_commands_the_action_whose_time_it_is(latency_steps, length, share, start):
    horizon = horizon_of(length, share)
    _, log = drive("asynchronous", latency_steps, 40, length=length, horizon=horizon, start=start)
    for step, entry in enumerate(log):
        if entry is not None and not entry.held:
            assert entry.index == round((start + step * DT - entry.chunk.stamp) / DT)


def test_asynchronous_bridges_a_latency_that_fits_into_the_chunk():
    _, log = drive("asynchronous", 2, 14, length=6, horizon=3)
    # observations at 0, 3, 6, …; each chunk is there 2 steps later and takes over at its index 2
    indices = [None if entry is None else entry.index for entry in log]
    assert indices == [None, None, 2, 3, 4, 2, 3, 4, 2, 3, 4, 2, 3, 4]
    assert not any(entry.held for entry in log[2:])


@pytest.mark.parametrize("mode", CONTINUING)
@given(**loops)
def test_modes_that_continue_play_like_asynchronous(mode, latency_steps, length, share, start):
    horizon = horizon_of(length, share)
    plain, log = drive("asynchronous", latency_steps, 40, length=length, horizon=horizon, start=start)
    other, again = drive(mode, latency_steps, 40, length=length, horizon=horizon, start=start)
    assert other.counts == plain.counts
    for one, two in zip(log, again, strict=True):
        assert (one is None) == (two is None)
        assert one is None or (one.index, one.held) == (two.index, two.held)


def test_a_continuation_is_what_lies_ahead_and_the_delay_that_was_consumed():
    schedule = make_schedule("real_time_chunking", length=8, horizon=3)
    assert schedule.continuation(0.0) is None  # nothing to agree with
    schedule.request(0.0)
    schedule.deliver(make_chunk(0.0, length=8), 0.2)
    for now in (0.2, 0.3):
        schedule.action(now)
    first = schedule.continuation(0.3)  # nothing was consumed before the first chunk: its time is the guess
    assert (first.delay, first.horizon, first.hard) == (2, 3, False)
    np.testing.assert_array_equal(first.actions[:, 0], [3, 4, 5, 6, 7])  # action 3 is due now
    schedule.request(0.3)
    schedule.action(0.4)
    schedule.deliver(make_chunk(0.3, length=8, first=100.0), 0.45)
    schedule.action(0.5)
    assert schedule.continuation(0.5).delay == 1  # one action was consumed meanwhile, whatever the clock says
    assert make_schedule("asynchronous").continuation(0.0) is None


def test_hard_prefix_asks_for_the_hard_form_and_an_exhausted_chunk_for_nothing():
    schedule = make_schedule("hard_prefix")
    schedule.deliver(make_chunk(0.0), 0.0)
    assert schedule.continuation(0.1).hard
    assert schedule.continuation(LENGTH * DT) is None


def test_ensembling_commands_the_mean_of_every_plan_for_the_instant():
    schedule = make_schedule("temporal_ensembling", horizon=1)
    for step in range(4):  # chunk k plans 10 k for every instant
        actions = np.full((LENGTH, 2), 10.0 * step, dtype=np.float32)
        chunk = ActionChunk(actions=actions, stamp=step * DT, control_dt=DT, anchor=np.zeros(2, dtype=np.float32))
        schedule.deliver(chunk, step * DT)
        weights = np.exp(-0.01 * np.arange(step + 1))
        expected = 10.0 * (weights * np.arange(step + 1)).sum() / weights.sum()
        assert schedule.action(step * DT).action[0] == pytest.approx(expected, rel=1e-6)
    schedule.reset()
    schedule.deliver(make_chunk(0.0, first=5.0), 0.0)
    assert schedule.action(0.0).action[0] == 5.0  # nothing of the episode before


def test_an_asynchronous_chunk_that_comes_too_late_is_dropped_and_the_last_action_held():
    schedule = make_schedule("asynchronous")
    schedule.deliver(make_chunk(0.0), 0.0)
    assert schedule.deliver(make_chunk(0.1), 0.1 + LENGTH * DT).status == "expired"
    entry = schedule.action(0.1 + LENGTH * DT)
    assert (entry.chunk.stamp, entry.index, entry.held) == (0.0, LENGTH - 1, True)
    assert schedule.counts.dropped == 1


def test_a_chunk_older_than_the_playing_one_changes_nothing():
    schedule = make_schedule("asynchronous")
    schedule.deliver(make_chunk(0.2), 0.3)
    assert schedule.deliver(make_chunk(0.1), 0.3).status == "out_of_order"
    assert schedule.action(0.3).chunk.stamp == 0.2
    assert schedule.counts.dropped == 1


def test_delay_is_counted_in_actions_consumed_not_in_time():
    schedule = make_schedule("asynchronous")
    schedule.deliver(make_chunk(0.0), 0.0)
    schedule.request(0.0)
    for now in (0.0, 0.02, 0.05, 0.1):  # a fast loop asks again within one step: two actions, not four
        schedule.action(now)
    assert schedule.deliver(make_chunk(0.05), 0.15).delay_steps == 2


def test_late_calls_skip_and_count_the_actions_that_were_missed():
    schedule = make_schedule("asynchronous")
    schedule.deliver(make_chunk(0.0), 0.0)
    assert [schedule.action(now).index for now in (0.0, 0.3, 0.4)] == [0, 3, 4]
    assert (schedule.counts.consumed, schedule.counts.skipped) == (3, 2)


def test_nothing_is_commanded_before_the_first_chunk():
    schedule = make_schedule("hold_last")
    assert schedule.wants_chunk(0.0)
    schedule.request(0.0)
    assert schedule.pending
    assert not schedule.wants_chunk(5.0)
    assert schedule.action(5.0) is None


def test_cancelled_request_can_be_repeated():
    schedule = make_schedule("hold_last")
    schedule.request(0.0)
    schedule.cancel()
    assert schedule.wants_chunk(0.1)


def test_reset_forgets_everything_even_time():
    schedule = make_schedule("asynchronous")
    schedule.request(5.0)
    schedule.deliver(make_chunk(5.0), 5.1)
    schedule.action(5.1)
    schedule.reset()
    assert schedule.chunk is None
    assert not schedule.pending
    assert schedule.counts == ScheduleCounts()
    assert schedule.action(0.0) is None


@pytest.mark.parametrize(
    ("mode", "length", "horizon", "dt", "message"),
    [
        ("hold-last", 6, 3, 0.1, r"unknown schedule mode 'hold-last' \(did you mean 'hold_last'\?\)"),
        ("frozen", 6, 7, 0.1, "execution_horizon is 7 but chunks have 6 actions"),
        ("frozen", 6, 0, 0.1, "asked for after 1 to 6 of them"),
        ("frozen", 6, 3, 0.0, r"control_dt is 0\.0 s but must be a positive"),
        ("frozen", 6, 3, math.nan, "control_dt is nan s"),
    ],
)
def test_impossible_schedules_are_refused(mode, length, horizon, dt, message):
    with pytest.raises(ScheduleError, match=message):
        ChunkSchedule(mode, chunk_length=length, execution_horizon=horizon, control_dt=dt)


def test_a_second_request_is_refused():
    schedule = make_schedule("asynchronous")
    schedule.request(0.0)
    with pytest.raises(ScheduleError, match="a chunk is already being inferred"):
        schedule.request(0.1)


@pytest.mark.parametrize("now", [0.9, -3.0, math.nan])
def test_time_must_not_run_backwards(now):
    schedule = make_schedule("asynchronous")
    schedule.action(1.0)
    with pytest.raises(ScheduleError, match=r"robot time went from 1\.0 s to .* call reset\(\)"):
        schedule.action(now)


def test_a_chunk_from_the_future_is_refused():
    with pytest.raises(ScheduleError, match=r"stamped 2\.0 s but arrived at 1\.0 s"):
        make_schedule("asynchronous").deliver(make_chunk(2.0), 1.0)


def test_frozen_mode_refuses_a_world_that_moved_on():
    with pytest.raises(ScheduleError, match="time did not stand still during inference"):
        make_schedule("frozen").deliver(make_chunk(1.0), 1.05)


def test_a_chunk_of_another_length_is_refused():
    with pytest.raises(ScheduleError, match=r"chunk has 5 actions every 0\.1 s but the schedule was made for 6"):
        make_schedule("frozen").deliver(make_chunk(0.0, length=5), 0.0)
