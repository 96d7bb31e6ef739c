"""Closed-loop semantics on a moving target: when latency matters, when it cannot, and that nothing else does."""

import math
import time

import numpy as np
import pytest

from policy.rtc import Continuation
from sim.errors import SimError
from sim.rollout import LoopSettings, episode_noise_seed, run_episode
from wam.errors import ConfigError, ValueContractError
from wam.spec import ActionChunk, Observation

CONTROL_DT, PHYSICS_DT, WIDTH, CHUNK = 0.1, 0.004, 7, 16


class TargetSim:
    """A point that goes straight to its setpoint, and a target that moves away at a constant speed [1/s].

    Solved when the point has stayed within ``tolerance`` of the target for the last ``window_s``.
    """

    control_dt, physics_dt, max_steps, instruction = CONTROL_DT, PHYSICS_DT, 40, "follow"

    def __init__(self, speed: float = 0.0, tolerance: float = 0.03, window_s: float = 2.0) -> None:
        self.speed, self.tolerance, self.window_s = speed, tolerance, window_s
        self.commands: list[tuple[int, float]] = []  # (tick, setpoint)
        self.breaks_at: float | None = None

    def reset(self, seed: int) -> None:
        self.start = 0.001 * (seed % 7)
        self.tick, self.failed, self.position = 0, False, self.start
        self.origin = self.goal = self.start
        self.commanded, self.near_since = 0, 0
        self.commands.clear()

    @property
    def time(self) -> float:
        return self.tick * self.physics_dt

    @property
    def target(self) -> float:
        return self.start + self.speed * self.time

    @property
    def finished(self) -> bool:
        return (self.tick - self.near_since) * self.physics_dt >= self.window_s - 1e-9

    def proprio(self) -> np.ndarray:
        return np.full(WIDTH, self.position, dtype=np.float32)

    def observation(self) -> Observation:
        return Observation(images={}, proprio=self.proprio(), task=self.instruction, stamp=self.time)

    def command(self, target: np.ndarray) -> None:
        if not np.isfinite(target).all():
            raise SimError("command refused: not finite")
        self.origin, self.goal, self.commanded = self.position, float(target[0]), self.tick
        self.commands.append((self.tick, self.goal))

    def advance(self, seconds: float) -> None:
        ticks = seconds / self.physics_dt
        assert abs(ticks - round(ticks)) < 1e-6
        for _ in range(round(ticks)):
            self.tick += 1
            share = min(1.0, (self.tick - self.commanded) * self.physics_dt / self.control_dt)
            self.position = self.origin + share * (self.goal - self.origin)
            if abs(self.position - self.target) > self.tolerance:
                self.near_since = self.tick
        self.failed = self.breaks_at is not None and self.time >= self.breaks_at

    def progress(self) -> float:
        return min(1.0, self.time / 4)


class Follower:
    """Sees where the target is and sends the point there; it does not extrapolate, as an image policy could not."""

    chunk_length, uses_images, closed_loop = CHUNK, True, False

    def __init__(self, wall_seconds: float = 0.0) -> None:
        self.noise_seeds: list[int] = []
        self.wall_seconds = wall_seconds

    def start(self, sim: TargetSim, seed: int) -> None:
        self.sim = sim

    def plan(self, observation: Observation, noise_seed: int) -> ActionChunk:
        self.noise_seeds.append(noise_seed)
        time.sleep(self.wall_seconds)
        return chunk_of(np.full(CHUNK, self.sim.target), observation)


class Continuing(Follower):
    """Notes what it is to agree with, and plans 100 n + j."""

    def start(self, sim: TargetSim, seed: int) -> None:
        super().start(sim, seed)
        self.requests: list[tuple[int, Continuation | None]] = []  # (tick, what plays meanwhile)

    def plan(self, observation: Observation, noise_seed: int, continuation: Continuation | None = None) -> ActionChunk:
        self.requests.append((self.sim.tick, continuation))
        return chunk_of(100 * len(self.requests) + np.arange(CHUNK), observation)


class Counter(Follower):
    """Plans 100 n + j: which chunk and which of its actions a command came from can be read off."""

    def plan(self, observation: Observation, noise_seed: int) -> ActionChunk:
        self.noise_seeds.append(noise_seed)
        return chunk_of(100 * len(self.noise_seeds) + np.arange(CHUNK), observation)


def chunk_of(values: np.ndarray, observation: Observation) -> ActionChunk:
    actions = np.repeat(values[:, None], WIDTH, axis=1).astype(np.float32)
    return ActionChunk(actions=actions, stamp=observation.stamp, control_dt=CONTROL_DT, anchor=observation.proprio)


def settings(mode: str, latency_s: float = 0.0, horizon: int = 1) -> LoopSettings:
    return LoopSettings(mode=mode, latency_s=latency_s, execution_horizon=horizon)


@pytest.mark.parametrize("latency_s", [0.0, 0.1, 0.3])
def test_frozen_evaluation_cannot_see_latency(latency_s: float) -> None:
    episode = run_episode(TargetSim(speed=0.1), Follower(), settings("frozen", latency_s), seed=0)
    assert episode.success


@pytest.mark.parametrize("mode", ["hold-last", "async"])
def test_latency_makes_a_tracker_fall_behind(mode: str) -> None:
    def outcome(latency_s: float) -> str:
        return run_episode(TargetSim(speed=0.1), Follower(), settings(mode, latency_s), seed=0).outcome

    assert [outcome(0.0), outcome(0.05), outcome(0.4)] == ["success", "success", "timeout"]


@pytest.mark.parametrize("mode", ["hold-last", "async"])
def test_without_latency_all_modes_are_the_same(mode: str) -> None:
    played = []
    for each in ("frozen", mode):
        sim, planner = TargetSim(), Counter()
        run_episode(sim, planner, settings(each, horizon=8), seed=3)
        played.append(list(sim.commands))
    assert played[0] == played[1]
    assert [value for _, value in played[0][:10]] == [*range(100, 108), 200, 201]


def test_hold_last_waits_and_then_plays_from_the_first_action() -> None:
    sim = TargetSim()
    run_episode(sim, Counter(), settings("hold-last", latency_s=0.25, horizon=4), seed=0)
    ticks, values = zip(*sim.commands[:6], strict=True)
    assert values == (100, 101, 102, 103, 200, 201)
    # 0.25 s is 62.5 physics steps: a chunk never exists earlier than it was measured to.
    assert ticks == (63, 88, 113, 138, 63 + 100 + 63, 63 + 100 + 63 + 25)


def test_async_plays_the_old_chunk_on_and_takes_over_at_the_action_whose_time_it_is() -> None:
    sim = TargetSim()
    run_episode(sim, Counter(), settings("async", latency_s=0.248, horizon=4), seed=0)
    ticks, values = zip(*sim.commands[:9], strict=True)
    # The first chunk was asked for at 0 and exists at 62: its third action (time 0.2 s) is due. The second was asked
    # for when the fourth action had its time (tick 112) and exists at 174: action 2 of 112 + 62.
    assert values[:4] == (102, 103, 104, 105)
    assert ticks[:4] == (62, 87, 112, 137)
    assert values[4:7] == (106, 203, 204)


def test_async_holds_when_the_old_chunk_runs_out() -> None:
    sim = TargetSim()
    episode = run_episode(sim, Counter(), settings("async", latency_s=1.4, horizon=8), seed=0)
    gaps = np.diff([tick for tick, _ in sim.commands])
    assert gaps.max() > 25  # the robot stood still for a while
    assert episode.outcome == "timeout"


@pytest.mark.parametrize("mode", ["real-time-chunking", "hard-prefix"])
@pytest.mark.parametrize("latency_s", [0.0, 0.06, 0.1, 0.25, 0.33])
def test_what_a_chunk_continues_is_what_was_really_commanded_meanwhile(mode: str, latency_s: float) -> None:
    sim, planner = TargetSim(), Continuing()
    run_episode(sim, planner, settings(mode, latency_s, horizon=4), seed=0)
    assert len(planner.requests) > 4
    for number, (tick, known) in enumerate(planner.requests[:-2], start=1):
        if number == 1:
            assert known is None  # there was nothing to continue
            continue
        given = [value for at, value in sim.commands if at >= tick]
        assert known.delay == math.ceil(latency_s / CONTROL_DT - 1e-9)
        np.testing.assert_array_equal(known.actions[: known.delay, 0], given[: known.delay])
        assert given[known.delay] == 100 * number + known.delay  # and from then on the new chunk commands
        assert known.hard == (mode == "hard-prefix")


def test_chunking_in_real_time_without_latency_is_async_on_a_planner_that_does_not_listen() -> None:
    outcomes = []
    for mode in ("async", "real-time-chunking"):
        sim = TargetSim(speed=0.1)
        outcomes.append((run_episode(sim, Continuing(), settings(mode, 0.1, 4), seed=0).progress, tuple(sim.commands)))
    assert outcomes[0] == outcomes[1]


def test_ensembling_commands_means_of_overlapping_chunks() -> None:
    sim = TargetSim()
    run_episode(sim, Counter(), settings("temporal-ensembling", 0.0, horizon=1), seed=0)
    share = np.exp(-0.01)
    expected = (101 + share * 200) / (1 + share)  # the first chunk's second action and the second chunk's first
    assert [value for _, value in sim.commands[:2]] == pytest.approx([100, expected])


def test_outcomes_do_not_depend_on_the_machines_speed() -> None:
    fast, slow = Follower(), Follower(wall_seconds=0.005)
    first = run_episode(TargetSim(speed=0.1), fast, settings("async", 0.05, horizon=2), seed=1)
    second = run_episode(TargetSim(speed=0.1), slow, settings("async", 0.05, horizon=2), seed=1)
    assert (first.outcome, first.progress, first.steps) == (second.outcome, second.progress, second.steps)
    assert fast.noise_seeds == slow.noise_seeds
    assert min(second.latency_ms) >= 5.0


def test_noise_seeds_differ_between_chunks_and_episodes_and_repeat() -> None:
    seeds = {episode_noise_seed(seed, replan) for seed in range(20) for replan in range(20)}
    assert len(seeds) == 400
    assert episode_noise_seed(7, 3) == episode_noise_seed(7, 3)


def test_a_planner_with_ground_truth_replans_every_step_without_latency() -> None:
    planner = Counter()
    planner.closed_loop = True
    sim = TargetSim()
    run_episode(sim, planner, settings("hold-last", latency_s=0.5, horizon=8), seed=0)
    assert [value for _, value in sim.commands[:3]] == [100, 200, 300]


def test_a_refused_chunk_fails_the_episode_and_says_why() -> None:
    class Broken(Follower):
        def plan(self, observation: Observation, noise_seed: int) -> ActionChunk:
            raise ValueContractError("action chunk holds nan at step 0")

    episode = run_episode(TargetSim(), Broken(), settings("async"), seed=0)
    assert (episode.outcome, episode.message, episode.success) == ("refused", "action chunk holds nan at step 0", False)


def test_a_command_that_is_not_finite_fails_the_episode() -> None:
    class Broken(Follower):
        def plan(self, observation: Observation, noise_seed: int) -> ActionChunk:
            return chunk_of(np.full(CHUNK, np.nan), observation)

    episode = run_episode(TargetSim(), Broken(), settings("frozen"), seed=0)
    assert (episode.outcome, episode.message) == ("refused", "command refused: not finite")


def test_failed_physics_fails_the_episode() -> None:
    sim = TargetSim()
    sim.breaks_at = 0.5
    episode = run_episode(sim, Follower(), settings("frozen"), seed=0)
    assert episode.outcome == "physics"
    assert episode.steps == 5


def test_progress_is_sampled_every_control_step_whatever_the_commands_do() -> None:
    sim = TargetSim(window_s=100)
    episode = run_episode(sim, Counter(), settings("hold-last", latency_s=0.137, horizon=3), seed=0)
    assert len(episode.progress) == sim.max_steps + 1
    assert episode.seconds == pytest.approx(4.0)


def test_watchers_see_every_control_step() -> None:
    class Watch:
        def __init__(self) -> None:
            self.times: list[float] = []

        def sampled(self, sim: TargetSim) -> None:
            self.times.append(sim.time)

    watch = Watch()
    episode = run_episode(TargetSim(window_s=1.0), Follower(), settings("async", 0.006, horizon=8), 0, watch)
    assert episode.success
    assert watch.times == pytest.approx(np.arange(episode.steps + 1) * CONTROL_DT)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"mode": "hold_last"}, "unknown mode 'hold_last'.*did you mean 'hold-last'"),
        ({"latency_s": -0.1}, "latency is -0.1 s but must be a finite time"),
        ({"latency_s": float("nan")}, "latency is nan s"),
    ],
)
def test_impossible_loops_are_refused(changed: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LoopSettings(**{"mode": "frozen", "latency_s": 0.0, "execution_horizon": 8, **changed})
