"""``wam bench guard``: episodes through inference thread and guard in simulated time, whatever the machine does."""

import dataclasses
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from policy.errors import ScheduleError
from sim.arm_sim import ArmSim
from sim.bench import main as bench
from sim.bench_guard import BenchGuardConfig, run_bench_guard
from sim.bench_guard_config import ROWS
from sim.errors import SimError
from sim.experts import ScriptedExpert
from sim.guarded import GuardedSettings, play_guarded
from wam.errors import ConfigError
from wam.robot import load_robot
from wam.spec import ActionChunk, Observation

ROBOT = load_robot("sim6")
SEED, H = 7, 16
DT = 1 / ROBOT.safety.guard_rate_hz
BLIND = Observation(images={}, proprio=np.zeros(ROBOT.action_dim, dtype=np.float32), task="reach", stamp=0.0)


class Rehearsed:
    """Plays what the scripted expert did in one scene, by where the arm is in it; counts what it was asked."""

    chunk_length, control_dt, max_prefix = H, ROBOT.control_dt, 0

    def __init__(self, actions: np.ndarray) -> None:
        self.actions = actions  # (T, A)
        self.stamps: list[float] = []
        self.pause = threading.Event()
        self.pause_s = 0.0  # wall time that an inference takes
        self.error: Exception | None = None
        self.offset = np.zeros(ROBOT.action_dim)  # [rad] between where the arm is and where chunks begin

    def reset(self) -> None:
        self.stamps = []

    def infer(self, observation, *, noise_seed=None, continuation=None) -> ActionChunk:
        self.stamps.append(observation.stamp)
        self.pause.wait(self.pause_s)
        if self.error is not None:
            raise self.error
        begin = int(np.abs(self.actions - observation.proprio)[:, :-1].sum(axis=1).argmin()) + 1
        places = np.minimum(begin + np.arange(H), len(self.actions) - 1)
        actions = (self.actions[places] + self.offset).astype(np.float32)
        return ActionChunk(
            actions=actions, stamp=observation.stamp, control_dt=ROBOT.control_dt, anchor=observation.proprio
        )


@pytest.fixture(scope="module")
def rehearsed() -> np.ndarray:
    sim = ArmSim("reach", ROBOT)
    sim.reset(SEED)
    expert, actions = ScriptedExpert(sim, np.random.default_rng(0)), []
    while not sim.finished:
        actions.append(expert.act())
        sim.step(actions[-1])
    sim.close()
    return np.array(actions)


@pytest.fixture(scope="module")
def sim() -> Iterator[ArmSim]:
    sim = ArmSim("reach", ROBOT, control_rate_hz=ROBOT.safety.guard_rate_hz)
    sim.observation = lambda: dataclasses.replace(BLIND, proprio=sim.proprio(), stamp=sim.time)  # nobody looks
    yield sim
    sim.close()


def settings(**changes) -> GuardedSettings:
    return GuardedSettings(**({"mode": "async", "latency_s": 0.06, "rate_hz": 10.0} | changes))


@pytest.mark.parametrize("mode", ["async", "real-time-chunking", "temporal-ensembling"])
def test_a_policy_that_knows_the_way_solves_its_scene_through_the_guard(sim, rehearsed, mode):
    episode = play_guarded(sim, Rehearsed(rehearsed), settings(mode=mode), SEED)
    assert (episode.outcome, episode.success, episode.message) == ("success", True, "")
    assert episode.ticks == round(episode.seconds / DT)
    assert episode.ticks_held == 0


def test_hold_last_waits_for_every_chunk(sim, rehearsed):
    episode = play_guarded(sim, Rehearsed(rehearsed), settings(mode="hold-last", execution_horizon=3), SEED)
    assert episode.success
    assert episode.chunks < play_guarded(sim, Rehearsed(rehearsed), settings(), SEED).chunks
    assert episode.ticks_held > 0  # three actions are 0.3 s; the next chunk may come after the guard's patience


def test_wall_time_does_not_count(sim, rehearsed):
    quick, slow = Rehearsed(rehearsed), Rehearsed(rehearsed)
    slow.pause_s = 0.02
    assert play_guarded(sim, quick, settings(), SEED) == play_guarded(sim, slow, settings(), SEED)
    assert quick.stamps == slow.stamps


@pytest.mark.parametrize(("latency_s", "rate_hz"), [(0.0, 10.0), (0.06, 20.0), (0.15, 10.0)])
def test_observations_come_at_their_rate_or_as_fast_as_chunks_do(sim, rehearsed, latency_s, rate_hz):
    policy = Rehearsed(rehearsed)
    assert play_guarded(sim, policy, settings(latency_s=latency_s, rate_hz=rate_hz), SEED).success
    periods = np.diff(policy.stamps)
    assert periods.min() >= latency_s - 1e-9
    busy = np.ceil((latency_s + DT) * rate_hz - 1e-6)  # a chunk is on its way at that many of the policy's ticks
    assert np.mean(periods) == pytest.approx(max(1.0, busy) / rate_hz, abs=DT)


def test_late_chunks_are_held_through(sim, rehearsed):
    late = play_guarded(sim, Rehearsed(rehearsed), settings(latency_s=0.45), SEED)
    assert late.ticks_held > 0  # the guard waits 0.35 s for a chunk
    assert late.seconds > play_guarded(sim, Rehearsed(rehearsed), settings(), SEED).seconds


def test_a_policy_that_begins_elsewhere_is_never_engaged(sim, rehearsed):
    policy = Rehearsed(rehearsed)
    policy.offset[0] = 1.2
    episode = play_guarded(sim, policy, settings(), SEED)
    assert episode.outcome == "timeout"
    assert "the policy's first action is not where the arm is" in episode.message
    assert episode.ticks_held == episode.ticks_limited == 0


def test_a_policy_that_fails_ends_the_episode_and_says_why(sim, rehearsed):
    policy = Rehearsed(rehearsed)
    policy.error = ValueError("nan in the output")
    episode = play_guarded(sim, policy, settings(), SEED)
    assert (episode.outcome, episode.message) == ("refused", "ValueError: nan in the output")
    policy.error = None
    assert play_guarded(sim, policy, settings(), SEED).success  # nothing of it is left


def test_what_cannot_be_played_is_refused(sim, rehearsed, tmp_path):
    with pytest.raises(ConfigError, match="unknown mode 'frozen'; valid names: async, hard-prefix, hold-last"):
        settings(mode="frozen")
    with pytest.raises(ConfigError, match="latency is -1 s and rate_hz 10.0: finite, and not negative and positive"):
        settings(latency_s=-1)
    with pytest.raises(ScheduleError, match="needs a model that was trained with clean prefixes"):
        play_guarded(sim, Rehearsed(rehearsed), settings(mode="hard-prefix"), SEED)
    with pytest.raises(ConfigError, match="unknown row 'asinc' .did you mean 'async'.*Or 'all'"):
        BenchGuardConfig(bundle=tmp_path, rows="asinc")
    with pytest.raises(ConfigError, match="episodes is 0, workers 0 and n_steps 0"):
        BenchGuardConfig(bundle=tmp_path, episodes=0)
    assert BenchGuardConfig(bundle=tmp_path).row_names == tuple(ROWS)


def test_the_command_plays_every_row_on_the_same_scenes_and_repeats_itself(micro_bundle: Path, tmp_path: Path, capsys):
    options = ["--bundle", str(micro_bundle), "--task", "reach", "--episodes", "2", "--rows", "async,rtc-2"]
    for name, workers in (("one", "1"), ("two", "2")):
        assert bench(["guard", *options, "--out", str(tmp_path / name), "--workers", workers]) == 0
    printed = capsys.readouterr().out
    assert "async: the newest chunk takes over" in printed
    assert f"results: {tmp_path / 'two' / 'results.json'}" in printed
    one, two = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("one", "two"))
    assert one["rows"] == two["rows"]
    assert one["episodes"] == two["episodes"]
    assert one["command"] == two["command"]
    assert one["command"].startswith(f"wam bench guard --bundle {micro_bundle} --task reach --episodes 2 ")
    assert [(e["row"], e["seed"]) for e in one["episodes"]] == [
        (row, seed) for row in ("async", "rtc-2") for seed in (100_000, 100_001)
    ]
    assert [row["mcnemar"] is None for row in one["rows"]] == [True, False]
    with pytest.raises(SimError, match="exists already: give another --out, or --overwrite"):
        run_bench_guard(BenchGuardConfig(bundle=micro_bundle, out=tmp_path / "one"))
