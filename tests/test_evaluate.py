"""``wam evaluate`` on the real simulation: references, workers, files, and every message for what cannot work."""

import json
import os
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from sim.arm_sim import ArmSim
from sim.crew import POLICY, Crew, Job, Setup
from sim.errors import SimError
from sim.evaluate import evaluate, main, summary
from sim.evaluate_config import EvaluateConfig
from sim.filming import choose_episodes, film
from sim.latency import latency_seconds, measure_latency, parse_latency
from sim.references import make_reference
from sim.results import episode_record, summarise_rows, write_json
from sim.rollout import Episode, LoopSettings, run_episode
from wam.cli import main as wam
from wam.errors import BundleError, ConfigError, WamError
from wam.history import Window
from wam.robot import load_robot
from wam.spec import ActionChunk, Observation

ROBOT = load_robot("sim6")


class NervousPolicy:
    """Trembles about the present pose; has what evaluation asks of ``policy.runner.Policy``."""

    chunk_length, control_dt, n_steps, backend_name = 16, ROBOT.control_dt, 4, "fake"
    manifest = SimpleNamespace(model=SimpleNamespace(future_offset=8))
    window = Window()

    def reset(self) -> None:
        pass

    def infer(self, observation: Observation, *, noise_seed: int | None = None) -> ActionChunk:
        observation.validate(ROBOT)
        steps = np.random.default_rng(noise_seed).normal(0.0, 0.02, (self.chunk_length, ROBOT.action_dim))
        actions = np.clip(observation.proprio + steps.cumsum(axis=0), ROBOT.lower, ROBOT.upper).astype(np.float32)
        return ActionChunk(
            actions=actions, stamp=observation.stamp, control_dt=self.control_dt, anchor=observation.proprio
        )

    def imagine(self, observation: Observation, *, noise_seed: int | None = None) -> dict[str, np.ndarray]:
        return {name: np.full((64, 64, 3), 128, dtype=np.uint8) for name in observation.images}


def config(out: Path, **changed: object) -> EvaluateConfig:
    given = {"bundle": Path("unused"), "task": "reach", "out": out, "robot": "sim6", "episodes": 3, "workers": 1}
    return EvaluateConfig(**{**given, **changed})


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    out = tmp_path_factory.mktemp("evaluated")
    counts = {"execution_horizon": 8, "videos": 1, "failure_videos": 1, "reference_episodes": 2}
    asked = config(out, latency_ms="50", also="frozen", **counts)
    return out, evaluate(asked, make_policy=NervousPolicy)


def test_results_file_says_what_happened_to_every_episode(evaluated: tuple[Path, dict]) -> None:
    out, results = evaluated
    assert json.loads((out / "results.json").read_text()) == results
    names = [row["name"] for row in results["rows"]]
    assert names == ["policy", "policy, frozen", "expert", "hold-still", "random"]
    assert [row["episodes"] for row in results["rows"]] == [3, 3, 2, 2, 2]
    own = [episode for episode in results["episodes"] if episode["row"] == "policy"]
    assert [episode["seed"] for episode in own] == [1_000_000, 1_000_001, 1_000_002]
    assert all(len(episode["progress_curve"]) == episode["steps"] + 1 for episode in own)
    assert results["latency_ms"]["count"] == sum(len(episode["latency_ms"]) for episode in own) > 0
    assert results["loop"] == {"mode": "async", "latency_s": 0.05, "execution_horizon": 8}
    assert {"git_commit", "gl_backend", "device", "versions", "settings", "backend"} <= set(results)
    assert "mujoco" in results["versions"]


def test_the_expert_is_the_ceiling_and_standing_still_the_floor(evaluated: tuple[Path, dict]) -> None:
    rows = {row["name"]: row for row in evaluated[1]["rows"]}
    assert (rows["expert"]["successes"], rows["hold-still"]["successes"]) == (2, 0)
    assert rows["expert"]["mcnemar"]["episodes"] == 2
    assert rows["policy"]["mcnemar"] is None


def test_videos_and_report_are_beside_the_results(evaluated: tuple[Path, dict]) -> None:
    out, results = evaluated
    assert [video["first"] for video in results["videos"]] == [True, False]
    for video in results["videos"]:
        assert (out / video["file"]).stat().st_size > 1000
        assert f'src="{video["file"]}"' in (out / "report.html").read_text()


def test_the_command_repeats_the_result(evaluated: tuple[Path, dict], tmp_path: Path) -> None:
    words = evaluated[1]["command"].split()
    assert words[:2] == ["wam", "evaluate"]
    assert words[words.index("--latency-ms") + 1] == "50"
    assert words[words.index("--mode") + 1] == "async"
    assert "--out" not in words
    again = config(tmp_path, latency_ms="50", execution_horizon=8, videos=0, failure_videos=0, references="none")
    results = evaluate(again, make_policy=NervousPolicy)
    keys = ("seed", "outcome", "steps", "progress_curve")
    for mine, theirs in zip(results["episodes"], evaluated[1]["episodes"], strict=False):
        assert [mine[key] for key in keys] == [theirs[key] for key in keys]


def test_the_summary_names_latency_and_outcomes(evaluated: tuple[Path, dict]) -> None:
    text = summary(evaluated[1])
    assert "async, 50.0 ms latency, 8 actions per chunk" in text
    assert "3 timeout" in text
    assert "p50" in text
    assert "max" in text


def test_results_are_not_overwritten_unasked(evaluated: tuple[Path, dict]) -> None:
    with pytest.raises(WamError, match="exists already: give another --out, or --overwrite"):
        evaluate(config(evaluated[0]), make_policy=NervousPolicy)


def test_the_number_of_workers_does_not_change_the_result() -> None:
    setup = Setup(make_sim=partial(ArmSim, "reach", ROBOT), make_policy=None, chunk_length=16)
    loop = LoopSettings(mode="async", latency_s=0.02, execution_horizon=8)
    jobs = [
        Job(planner=name, settings=loop, seed=seed) for seed in (1_000_000, 1_000_001) for name in ("random", "expert")
    ]

    def play(workers: int) -> list[dict]:
        with Crew(setup, workers=workers) as crew:
            return [{**asdict(episode), "latency_ms": None} for episode in crew.play(jobs)]

    assert play(2) == play(1)


def test_an_episode_does_not_depend_on_the_ones_before_it() -> None:
    loop = LoopSettings(mode="hold-last", latency_s=0.03, execution_horizon=8)
    sim = ArmSim("reach", ROBOT)

    def play(seed: int) -> tuple[float, ...]:
        return run_episode(sim, make_reference("random", ROBOT, 16), loop, seed).progress

    first = play(1_000_005)
    play(1_000_006)
    assert play(1_000_005) == first


def test_random_chunks_stay_within_the_robots_limits() -> None:
    planner = make_reference("random", ROBOT, 200)
    planner.start(SimpleNamespace(control_dt=0.1), 0)
    here = ROBOT.upper - np.float32(0.01)
    actions = planner.plan(Observation(images={}, proprio=here, task="", stamp=0.0), 5).actions
    speed = np.array([axis.max_velocity for axis in ROBOT.axes])
    assert ((actions >= ROBOT.lower) & (actions <= ROBOT.upper)).all()
    assert (np.abs(np.diff(actions, axis=0)) <= speed * 0.1 + 1e-5).all()
    assert np.ptp(actions, axis=0).min() > 0.1


def test_latency_choices() -> None:
    measured = {"p50": 4.0, "p99": 9.0}
    assert latency_seconds(parse_latency("measured-p50"), measured) == pytest.approx(0.004)
    assert latency_seconds(parse_latency("measured-p99"), measured) == pytest.approx(0.009)
    assert latency_seconds(parse_latency("12.5"), measured) == pytest.approx(0.0125)
    with pytest.raises(ConfigError, match="unknown latency 'measured-p5'.*did you mean 'measured-p50'.*number"):
        parse_latency("measured-p5")
    for text in ("-1", "nan", "inf"):
        with pytest.raises(ConfigError, match=f"latency is {text} ms but must be a finite number"):
            parse_latency(text)


def test_measured_latency_counts_only_the_policy() -> None:
    class Instant(NervousPolicy):
        calls = 0

        def infer(self, observation: Observation, *, noise_seed: int | None = None) -> ActionChunk:
            Instant.calls += 1
            return None

    sim = SimpleNamespace(reset=lambda seed: None, observation=lambda: None)
    measured = measure_latency(Instant(), sim, 0, chunks=20)
    assert measured["count"] == 20
    assert Instant.calls == 25
    assert 0 <= measured["p50"] <= measured["p99"] <= measured["max"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"task": "lif"}, "unknown task 'lif'.*did you mean 'lift'"),
        ({"mode": "asynk"}, "unknown mode 'asynk'.*did you mean 'async'"),
        ({"also": "frosen"}, "unknown mode 'frosen'.*did you mean 'frozen'"),
        ({"also": "async"}, "also holds 'async', which is the mode already"),
        ({"references": "expert,holdstill"}, "unknown reference 'holdstill'.*did you mean 'hold-still'.*Or 'none'"),
        ({"latency_ms": "fast"}, "unknown latency 'fast'"),
        ({"episodes": 0}, "episodes is 0 but must be at least 1"),
        ({"execution_horizon": 0}, "execution_horizon is 0 but must be at least 1"),
        ({"workers": -1}, "workers is -1 but must be 0 or more"),
    ],
)
def test_impossible_settings_are_refused(changed: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(WamError, match=message):
        config(tmp_path, **changed)


def test_unknown_split_and_too_many_seeds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown split 'tests'.*did you mean 'test'"):
        evaluate(config(tmp_path, split="tests"), make_policy=NervousPolicy)
    with pytest.raises(ConfigError, match="seeds of another split would leak in"):
        evaluate(config(tmp_path, split="validation", episodes=100_001), make_policy=NervousPolicy)


def test_a_horizon_beyond_the_chunk_is_refused_before_anything_is_played(tmp_path: Path) -> None:
    with pytest.raises(WamError, match="execution_horizon is 17 but chunks have 16 actions"):
        evaluate(config(tmp_path, execution_horizon=17), make_policy=NervousPolicy)


def test_hard_prefix_needs_a_policy_that_was_trained_for_it(tmp_path: Path) -> None:
    policy = NervousPolicy()
    policy.max_prefix = 0
    with pytest.raises(ConfigError, match="mode hard-prefix needs a policy that was trained to continue"):
        evaluate(config(tmp_path, also="hard-prefix", latency_ms="50"), make_policy=lambda: policy)


def test_a_policy_at_another_rate_is_refused(tmp_path: Path) -> None:
    class Faster(NervousPolicy):
        control_dt = 0.05

    with pytest.raises(ConfigError, match=r"acts every 0.05 s but the simulation of robot 'sim6' every 0.1 s"):
        evaluate(config(tmp_path), make_policy=Faster)


def test_a_missing_bundle_is_one_message_and_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BundleError, match="is not a policy bundle.*wam export"):
        main(["--bundle", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")])
    assert wam(["evaluate", "--bundle", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")]) == 2
    assert "is not a policy bundle" in capsys.readouterr().err


def test_a_crew_needs_a_worker_and_a_policy() -> None:
    setup = Setup(make_sim=partial(ArmSim, "reach", ROBOT), make_policy=None, chunk_length=16)
    with pytest.raises(ConfigError, match="workers is 0 but must be at least 1"):
        Crew(setup, workers=0)
    loop = LoopSettings(mode="frozen", latency_s=0.0, execution_horizon=8)
    with Crew(setup, workers=1) as crew, pytest.raises(ConfigError, match="no policy bundle was given"):
        crew.play([Job(planner=POLICY, settings=loop, seed=1_000_000)])
    with Crew(setup, workers=1) as crew, pytest.raises(ConfigError, match="unknown reference 'oracle'"):
        crew.play([Job(planner="oracle", settings=loop, seed=1_000_000)])


def test_a_worker_that_dies_is_one_message() -> None:
    setup = Setup(make_sim=partial(os._exit, 3), make_policy=None, chunk_length=16)
    loop = LoopSettings(mode="frozen", latency_s=0.0, execution_horizon=8)
    jobs = [Job(planner="expert", settings=loop, seed=seed) for seed in (1_000_000, 1_000_001)]
    with Crew(setup, workers=2) as crew, pytest.raises(SimError, match="process died while 2 of them.*--workers 1"):
        crew.play(jobs)


def test_an_episode_that_does_not_repeat_itself_is_noticed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Moody:
        def play(self, jobs: list[Job], done: object) -> list[Episode]:
            return [episode(job.seed, "timeout") for job in jobs]

    loop = LoopSettings(mode="frozen", latency_s=0.0, execution_horizon=8)
    played = [episode(1_000_000, "success"), episode(1_000_001, "timeout")]
    videos = film(Moody(), loop, played, config(tmp_path, videos=2))
    assert caplog.messages == ["seed 1000000 did not repeat itself for its video: some randomness has no seed"]
    assert [video["file"] for video in videos] == [None, None]


def episode(seed: int, outcome: str) -> Episode:
    done = (0.0, 1.0) if outcome == "success" else (0.0, 0.2)
    return Episode(seed=seed, outcome=outcome, steps=1, seconds=0.1, progress=done, latency_ms=(3.0,))


def test_films_are_of_the_first_episodes_and_of_failures() -> None:
    outcomes = ["success", "timeout", "success", "success", "physics", "refused", "timeout"]
    episodes = [episode(seed, outcome) for seed, outcome in enumerate(outcomes)]
    chosen = choose_episodes(episodes, first=3, failures=2)
    assert [each.seed for each in chosen] == [0, 1, 2, 4, 5]


def test_rows_are_paired_by_seed() -> None:
    policy = [episode(seed, "success" if seed < 6 else "timeout") for seed in range(10)]
    other = [episode(seed, "timeout") for seed in range(4)]
    first, second = summarise_rows({"policy": policy, "other": other})
    assert (first["successes"], first["episodes"], first["outcomes"]) == (6, 10, {"success": 6, "timeout": 4})
    assert second["mcnemar"] == {"only_first": 4, "only_second": 0, "p_value": 0.125, "episodes": 4}
    assert second["median_success_seconds"] is None


def test_json_is_written_whole_and_refuses_what_is_not_a_number(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    data = {"format": "x", "loop": {"mode": "async"}, "episodes": [episode_record("policy", episode(1, "success"))] * 3}
    write_json(path, data)
    assert json.loads(path.read_text()) == data
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"rate": float("nan")})
    assert json.loads(path.read_text()) == data
    assert [item.name for item in tmp_path.iterdir()] == ["results.json"]
