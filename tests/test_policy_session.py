"""The inference thread: one observation at a time, numbered results, modes, and nothing that can kill it."""

import dataclasses
import threading

import numpy as np
import pytest

from policy.errors import ScheduleError
from policy.rtc import Continuation
from policy.session import ChunkResult, PolicySession
from wam.robot import load_robot
from wam.spec import ActionChunk, Observation

ROBOT = load_robot("sim6")
PATIENT = dataclasses.replace(ROBOT, safety=dataclasses.replace(ROBOT.safety, chunk_age_s=9.0))
H, WIDTH, DT = 8, ROBOT.action_dim, ROBOT.control_dt
LIMIT_S = 120.0  # a test that waits this long has failed


class FakePolicy:
    """Plans 100 k + j; waits for permission when it is told to, and fails when it is told to."""

    chunk_length, control_dt, max_prefix = H, DT, 0

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)
        self.error: Exception | None = None
        self.continuations: list[Continuation | None] = []
        self.seeds: list[int | None] = []
        self.resets = 0

    def reset(self) -> None:
        self.resets += 1

    def infer(self, observation, *, noise_seed=None, continuation=None):
        self.continuations.append(continuation)
        self.seeds.append(noise_seed)
        self.entered.release()
        assert self.gate.wait(LIMIT_S)
        if self.error is not None:
            raise self.error
        actions = 100.0 * len(self.continuations) + np.arange(H, dtype=np.float32)[:, None].repeat(WIDTH, axis=1)
        return ActionChunk(
            actions=actions.astype(np.float32), stamp=observation.stamp, control_dt=DT, anchor=observation.proprio
        )


class Bench:
    """A session whose results are waited for, on a clock that the test turns."""

    def __init__(self, mode: str = "asynchronous", robot=PATIENT, policy=None, **options) -> None:
        self.policy = FakePolicy() if policy is None else policy
        self.time = 0.0
        self.arrived = threading.Semaphore(0)
        self.results: list[ChunkResult] = []
        options = {"on_result": self._take} | options
        self.session = PolicySession(self.policy, robot, mode, clock=lambda: self.time, **options)

    def _take(self, result: ChunkResult) -> None:
        self.results.append(result)
        self.arrived.release()

    def infer(self, stamp: float) -> ChunkResult:
        """Submits an observation and waits for its result."""
        assert self.session.submit(observation(stamp))
        assert self.arrived.acquire(timeout=LIMIT_S)
        return self.results[-1]

    def __enter__(self) -> "Bench":
        return self

    def __exit__(self, *_: object) -> None:
        self.policy.gate.set()
        self.session.close()


def _until(condition) -> bool:
    waiting = threading.Event()
    for _ in range(int(LIMIT_S / 0.001)):
        if condition():
            return True
        waiting.wait(0.001)
    return False


def observation(stamp: float) -> Observation:
    return Observation(images={}, proprio=np.zeros(WIDTH, dtype=np.float32), task="lift", stamp=stamp)


def test_observations_come_back_as_numbered_chunks():
    with Bench(epoch=7) as bench:
        first, second = bench.infer(1.0), bench.infer(1.1)
    assert [(r.epoch, r.sequence, r.chunk.stamp, r.error) for r in (first, second)] == [
        (7, 0, 1.0, ""),
        (7, 1, 1.1, ""),
    ]


def test_a_busy_session_takes_nothing_and_measures_its_latency():
    with Bench() as bench:
        bench.policy.gate.clear()
        assert bench.session.submit(observation(1.0))
        assert bench.policy.entered.acquire(timeout=LIMIT_S)
        assert bench.session.busy
        assert not bench.session.submit(observation(1.1))
        bench.time = 0.25
        bench.policy.gate.set()
        assert bench.arrived.acquire(timeout=LIMIT_S)
        assert bench.results[0].latency_s == 0.25
        assert bench.session.status()["latency_p50_ms"] == "250.0"
        assert bench.session.submit(observation(1.2))


def test_results_can_be_polled():
    policy = FakePolicy()
    with Bench(policy=policy, on_result=None) as bench:
        assert bench.session.poll() is None
        bench.session.submit(observation(3.0))
        found: list[ChunkResult] = []
        assert _until(lambda: bool(found.append(bench.session.poll()) or found[-1]))
        assert found[-1].chunk.stamp == 3.0
        assert bench.session.poll() is None


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), ValueError("nan"), MemoryError()])
def test_nothing_a_policy_raises_ends_the_thread(error):
    with Bench() as bench:
        bench.policy.error = error
        failed = bench.infer(1.0)
        assert failed.chunk is None
        assert failed.error == f"{type(error).__name__}: {error}"
        bench.policy.error = None
        good = bench.infer(1.1)
        assert (good.error, good.sequence) == ("", 1)
        assert (bench.session.status()["inferred"], bench.session.status()["failed"]) == ("1", "1")


def test_a_receiver_that_raises_does_not_end_the_thread_either():
    arrived = threading.Semaphore(0)

    def broken(result: ChunkResult) -> None:
        arrived.release()
        raise OSError("the publisher is gone")

    with Bench(on_result=broken) as bench:
        for stamp in (1.0, 1.1):
            assert bench.session.submit(observation(stamp))
            assert arrived.acquire(timeout=LIMIT_S)


def test_a_reset_throws_away_what_is_on_its_way_and_counts_anew():
    with Bench(epoch=3) as bench:
        bench.infer(1.0)
        bench.policy.gate.clear()
        bench.session.submit(observation(1.1))
        while len(bench.policy.continuations) < 2:
            assert bench.policy.entered.acquire(timeout=LIMIT_S)
        bench.session.reset()
        bench.policy.gate.set()
        assert _until(lambda: not bench.session.busy)
        after = bench.infer(1.2)
        assert (after.epoch, after.sequence) == (4, 0)
        assert len(bench.results) == 2
        assert bench.session.status()["thrown_away"] == "1"
        assert bench.policy.resets == 2  # noise seeds of an episode count from its start


def test_a_closed_session_takes_nothing_and_closes_twice():
    with Bench() as bench:
        bench.session.close()
        assert not bench.session.submit(observation(1.0))
        bench.session.close()


# Real-time chunking.
def test_a_chunk_continues_the_playing_one_from_the_action_that_was_consumed():
    with Bench("real_time_chunking", epoch=5, execution_horizon=4) as bench:
        bench.infer(1.0)
        bench.session.on_consumed(5, 0, 0)
        bench.session.on_consumed(5, 0, 2)  # two actions on, whatever the clock says
        bench.infer(1.2)
        known = bench.policy.continuations[-1]
        np.testing.assert_allclose(known.actions[:, 0], [102, 103, 104, 105, 106, 107], atol=1e-3)
        assert (known.horizon, known.hard) == (4, False)
    assert bench.policy.continuations[0] is None


@pytest.mark.parametrize(("stamp", "first"), [(1.24, 102.4), (1.5, 103.0), (1.0, 102.0)])
def test_between_two_actions_the_clock_counts_but_never_past_what_was_consumed(stamp, first):
    with Bench("real_time_chunking", epoch=5) as bench:
        bench.infer(1.0)
        bench.session.on_consumed(5, 0, 2)
        bench.infer(stamp)
        known = bench.policy.continuations[-1].actions[:, 0]
        np.testing.assert_allclose(known, first + np.arange(len(known)), atol=1e-3)
        assert len(known) == int(107 - first) + 1


@pytest.mark.parametrize(
    ("mode", "same", "seed"),
    [
        ("asynchronous", None, 0),
        ("real_time_chunking", None, None),
        ("temporal_ensembling", None, None),
        ("asynchronous", False, None),
        ("real_time_chunking", True, 0),
    ],
)
def test_noise_is_the_same_for_every_chunk_where_nothing_else_ties_them(mode, same, seed):
    with Bench(mode, same_noise=same) as bench:
        bench.infer(1.0)
        bench.infer(1.1)
        assert bench.policy.seeds == [seed, seed]


def test_delay_is_where_chunks_begin_to_be_consumed_not_what_the_clock_says():
    with Bench("real_time_chunking", epoch=5, execution_horizon=4) as bench:
        for number in range(6):
            bench.policy.gate.clear()
            bench.session.submit(observation(1.0 + number))
            assert bench.policy.entered.acquire(timeout=LIMIT_S)
            bench.time += 5.0 if number == 0 else 0.3  # the first one pays for the warm-up
            bench.policy.gate.set()
            assert bench.arrived.acquire(timeout=LIMIT_S)
            bench.session.on_consumed(5, number, 0 if number == 0 else 2)
        assert bench.session.status()["delay_steps"] == "2"
        bench.infer(9.0)
        assert bench.policy.continuations[-1].delay == 2


def test_without_reports_the_clock_says_where_the_chunk_is():
    with Bench("real_time_chunking") as bench:
        bench.infer(1.0)
        bench.infer(1.3)
        np.testing.assert_allclose(bench.policy.continuations[-1].actions[:, 0], [103, 104, 105, 106, 107], atol=1e-3)


def test_after_a_hold_and_after_the_end_of_a_chunk_the_next_one_is_free():
    with Bench("real_time_chunking", epoch=5) as bench:
        bench.infer(1.0)
        bench.session.on_consumed(5, 0, 1)
        bench.session.on_consumed(-1, -1, -1)
        bench.infer(1.2)
        assert bench.policy.continuations[-1] is None
        bench.session.on_consumed(5, 1, 1)
        bench.session.on_consumed(4, 9, 9)  # of another session
        bench.infer(1.4)
        assert bench.policy.continuations[-1] is not None
    with Bench("real_time_chunking") as bench:
        bench.infer(1.0)
        bench.infer(9.0)
        assert bench.policy.continuations[-1] is None


def test_hard_prefix_asks_for_the_hard_form():
    policy = FakePolicy()
    policy.max_prefix = 3
    with Bench("hard_prefix", policy=policy) as bench:
        bench.infer(1.0)
        bench.infer(1.1)
    assert policy.continuations[-1].hard


# The other modes.
def test_ensembling_averages_what_overlaps():
    with Bench("temporal_ensembling") as bench:
        bench.infer(1.0)
        second = bench.infer(1.1).chunk
        share = np.exp(-0.01)
        expected = (101 + share * 200) / (1 + share)  # the first chunk planned 101 for this instant, the second 200
        assert second.actions[0, 0] == pytest.approx(expected, rel=1e-5)
        assert second.actions[-1, 0] == 207
        bench.session.reset()
        assert bench.infer(1.2).chunk.actions[0, 0] == 300


def test_hold_last_sends_what_is_played_and_waits_until_it_was():
    with Bench("hold_last", epoch=5, execution_horizon=3) as bench:
        assert len(bench.infer(1.0).chunk.actions) == 3
        assert not bench.session.submit(observation(1.01))  # the guard has not even said that it plays
        for index in (0, 1, 2):
            bench.session.on_consumed(5, 0, index)
            bench.time += DT / 2
            assert not bench.session.submit(observation(1.2))
        bench.time += DT / 2
        assert bench.session.submit(observation(1.4))  # the last action had its time


def test_hold_last_goes_on_offering_chunks_that_nobody_plays():
    with Bench("hold_last", epoch=5, execution_horizon=3) as bench:
        bench.infer(1.0)
        assert not bench.session.submit(observation(1.05))  # the guard may have it in its hands
        for number in (1, 2, 3):
            bench.session.on_consumed(-1, -1, -1)  # the guard is not engaged: it plays nothing
            offered = bench.infer(1.0 + number / 10)
            assert (offered.sequence, offered.chunk.stamp, offered.error) == (number, 1.0 + number / 10, "")
            assert len(offered.chunk.actions) == 3
        assert bench.policy.continuations == [None] * 4  # nothing was played that one could go on from
        bench.session.on_consumed(5, 3, 0)  # now it is: the next one has to wait again
        assert not bench.session.submit(observation(1.4))


@pytest.mark.parametrize(
    ("mode", "robot", "horizon", "message"),
    [
        ("frozen", ROBOT, 4, "unknown session mode 'frozen'; valid names: asynchronous"),
        ("asynchronous", ROBOT, 9, "execution_horizon is 9 but chunks have 8 actions"),
        ("hard_prefix", ROBOT, 4, "needs a model that was trained with clean prefixes"),
        (
            "hold_last",
            ROBOT,
            4,
            r"plays 4 actions \(0.4 s\) per chunk, but the guard of robot 'sim6' holds after 0.35 s",
        ),
        ("hold_last", PATIENT, 1, "needs an execution_horizon of at least 2"),
    ],
)
def test_modes_that_cannot_run_are_refused(mode, robot, horizon, message):
    with pytest.raises(ScheduleError, match=message):
        PolicySession(FakePolicy(), robot, mode, execution_horizon=horizon)
