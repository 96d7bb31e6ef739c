"""`wam evaluate world`: scores with known answers, a probe that reads what is there, and the whole command."""

import json
from pathlib import Path

import numpy as np
import pytest

from sim.arm_sim import ArmSim
from sim.evaluate_world import WorldConfig, main
from sim.world_plans import KINDS, make_plans
from sim.world_probe import ProgressProbe, replay_frames
from sim.world_scores import ordered_pairs, picture_scores, rank_correlation, told_apart
from wam.checkpoint import Checkpoint
from wam.errors import ConfigError, DatasetError
from wam.robot import load_robot
from wam.untrained import save_untrained_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return save_untrained_checkpoint(tmp_path_factory.mktemp("world") / "run", load_robot("sim6"), preset_name="micro")


def test_ranks_of_the_same_order_agree_and_of_none_do_not():
    rng = np.random.default_rng(0)
    real = rng.random((40, 4))
    same = rank_correlation(real**3, real)
    assert same["rho"] == same["low"] == same["high"] == 1.0
    assert rank_correlation(-real, real)["rho"] == -1.0
    nothing = rank_correlation(rng.random((40, 4)), real)
    assert nothing["low"] < 0 < nothing["high"]
    assert rank_correlation(np.ones((40, 4)), real)["rho"] == 0.0


def test_the_interval_narrows_with_more_starts():
    rng = np.random.default_rng(1)
    real = rng.random((400, 4))
    judged = real + 0.3 * rng.random((400, 4))
    few, many = rank_correlation(judged[:10], real[:10]), rank_correlation(judged, real)
    assert many["high"] - many["low"] < 0.5 * (few["high"] - few["low"])
    assert many["low"] < many["rho"] < many["high"]


def test_pairs_are_of_one_start_and_ties_do_not_count():
    real = np.array([[0.0, 0.5, 1.0], [0.3, 0.3, 0.9]])
    assert ordered_pairs(real, real) == {"share": 1.0, "pairs": 5}
    assert ordered_pairs(-real, real)["share"] == 0.0
    assert ordered_pairs(real + np.array([[0.0], [5.0]]), real)["share"] == 1.0  # other starts do not matter


def test_who_ignores_the_actions_tells_nothing_apart():
    rng = np.random.default_rng(2)
    happened = rng.random((200, 4, 6))
    assert told_apart(happened + 0.01, happened) == 1.0
    deaf = np.repeat(rng.random((200, 1, 6)), 4, axis=1)
    assert told_apart(deaf, happened) == pytest.approx(0.5, abs=0.001)  # one of a pair is always the nearer


def test_pictures_are_scored_by_horizon():
    happened = np.full((2, 3, 2, 1, 16, 16, 3), 100, dtype=np.uint8)
    near = happened.copy()
    near[:, :, 1] += 10
    scores = picture_scores({"near": near}, happened, {"near": np.full((2, 3, 2), 0.25)})
    assert scores["psnr"]["near"] == pytest.approx([100.0, 10 * np.log10(255**2 / 100)], abs=1e-3)
    assert scores["ssim"]["near"][0] == 1.0 > scores["ssim"]["near"][1]
    assert scores["latent"]["near"] == [0.25, 0.25]


def test_the_probe_reads_a_nonlinear_quantity_off_held_out_points():
    rng = np.random.default_rng(3)
    points = rng.normal(size=(800, 5))
    values = np.exp(-np.abs(points[:, 0] - points[:, 1]))
    probe = ProgressProbe(points[:600], values[:600], np.arange(600) // 6)
    error = np.sqrt(np.square(probe(points[600:]) - values[600:]).mean())
    assert error < 0.5 * values.std()
    assert probe.held_out_rms == pytest.approx(error, rel=0.5)


def test_plans_start_alike_and_only_their_chunks_differ(checkpoint: Checkpoint):
    sim = ArmSim("reach", checkpoint.robot)
    try:
        plans = make_plans(checkpoint, sim, [100_000, 100_001], chunks=1, noise=0.1)
    finally:
        sim.close()
    assert [plan.kind for plan in plans] == [*KINDS, *KINDS]
    for first in (0, len(KINDS)):
        for plan in plans[first + 1 : first + len(KINDS)]:
            np.testing.assert_array_equal(plan.images, plans[first].images)
            assert not np.array_equal(plan.chunks, plans[first].chunks)
    np.testing.assert_array_equal(plans[3].chunks, plans[len(KINDS)].chunks)  # what the policy did in the other scene
    assert all(0 <= plan.progress[-1] <= 1 for plan in plans)


def test_frames_of_a_dataset_are_played_again_and_another_s_are_refused(
    checkpoint: Checkpoint, reach_dataset: Path, tmp_path: Path
):
    sim = ArmSim("reach", checkpoint.robot)
    lift = ArmSim("lift", checkpoint.robot)
    try:
        frames = replay_frames([reach_dataset], checkpoint, sim, 2)
        assert len(frames.images) == len(frames.progress) == len(frames.episode)
        assert frames.progress[0] < 0.5 < frames.progress[frames.episode == 0][-1]  # demonstrations end solved
        with pytest.raises(DatasetError, match="was not recorded by wam collect on task 'lift'"):
            replay_frames([reach_dataset], checkpoint, lift, 2)
        meta = json.loads((reach_dataset / "meta" / "wam.json").read_text())
        meta["episodes"][0]["steps"] += 1
        (tmp_path / "meta").mkdir()
        (tmp_path / "meta" / "wam.json").write_text(json.dumps(meta))
        with pytest.raises(DatasetError, match="steps but takes .* now: it was recorded with another version"):
            replay_frames([tmp_path], checkpoint, sim, 2)
    finally:
        sim.close()
        lift.close()


@pytest.mark.slow
def test_the_command_writes_results_table_plot_and_strip(
    checkpoint: Checkpoint, reach_dataset: Path, tmp_path: Path, capsys
):
    arguments = ["--checkpoint", str(checkpoint.path), "--dataset", str(reach_dataset), "--out", str(tmp_path)]
    arguments += ["--split", "validation", "--starts", "2", "--chunks", "2", "--probe-episodes", "4"]
    assert main([*arguments, "--sampling.n-steps", "1"]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["plans"] == 2 * len(KINDS)
    assert results["horizon_s"] == pytest.approx([0.8, 1.6])
    assert set(results["ranks"]) == {"imagined", "other plan's actions", "nothing moves", "real pictures"}
    assert all(-1 <= rank["rho"] <= 1 for ranks in results["ranks"].values() for rank in ranks)
    assert results["pictures"]["psnr"]["nothing moves"][0] > results["pictures"]["psnr"]["imagined"][0]  # untrained
    assert "wam evaluate world" in (tmp_path / "table.md").read_text()
    assert "| imagined |" in capsys.readouterr().out
    assert min((tmp_path / name).stat().st_size for name in ("plot.png", "strip.png")) > 5000


def test_impossible_requests(tmp_path: Path):
    options = {"checkpoint": tmp_path, "dataset": (tmp_path,)}
    with pytest.raises(ConfigError, match="starts is 1 but must be at least 2"):
        WorldConfig(**options, starts=1)
    with pytest.raises(ConfigError, match=r"unknown split 'tests' \(did you mean 'test'\?\)"):
        WorldConfig(**options, split="tests")
    with pytest.raises(ConfigError, match="chunks is 0 and probe_episodes"):
        WorldConfig(**options, chunks=0)
