"""`wam train` on a real recorded dataset: it learns, resumes bit for bit, survives Ctrl-C and refuses bad input."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from wam.batches import make_batch
from wam.checkpoint import load_checkpoint
from wam.dataset import load_episodes
from wam.errors import CheckpointError, ConfigError, DatasetError
from wam.losses import LossConfig
from wam.robot import load_robot
from wam.spec import ACTION, OBS_STATE, image_key
from wam.train import INTERRUPTED, learning_rate, main, train
from wam.train_config import TrainConfig
from wam.training_data import prepare


def config(dataset: Path, out: Path, **changes) -> TrainConfig:
    options = {"preset": "micro", "steps": 8, "batch_size": 4, "warmup_steps": 2, "save_every": 4, "validate_every": 8}
    return TrainConfig(dataset=(dataset,), out=out, threads=1, **{**options, **changes})


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(sorted((out / "checkpoints").glob("step_*"))[-1] / "model.safetensors")


def steps_in_metrics(out: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_frames_and_numbers_are_the_datasets(reach_dataset: Path, tmp_path: Path):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    robot = load_robot("sim6")
    episodes = load_episodes(reach_dataset, robot, (96, 96), cache=tmp_path / "frames.u8")
    theirs = LeRobotDataset("local/reach", root=reach_dataset, video_backend="pyav", return_uint8=True)
    assert len(theirs) == len(episodes.proprio) == episodes.length.sum()
    for frame in (0, int(episodes.start[1]) - 1, int(episodes.start[1]), len(theirs) - 1):
        item = theirs[frame]
        assert np.array_equal(item[OBS_STATE].numpy(), episodes.proprio[frame])
        assert np.array_equal(item[ACTION].numpy(), episodes.action[frame])
        assert item["task"] == episodes.tasks[episodes.task_index[frame]]
        for k, camera in enumerate(robot.camera_names):
            assert np.array_equal(item[image_key(camera)].permute(1, 2, 0).numpy(), episodes.frames[frame, k])


def test_decoded_frames_are_reused_and_half_a_cache_is_not(reach_dataset: Path, tmp_path: Path):
    cache, robot = tmp_path / "frames.u8", load_robot("sim6")
    first = np.array(load_episodes(reach_dataset, robot, (32, 32), cache=cache).frames)
    written = cache.stat().st_mtime_ns
    load_episodes(reach_dataset, robot, (32, 32), cache=cache)
    assert cache.stat().st_mtime_ns == written
    cache.write_bytes(cache.read_bytes()[:-10])
    assert np.array_equal(load_episodes(reach_dataset, robot, (32, 32), cache=cache).frames, first)


def test_held_out_episodes_are_never_trained_on(reach_dataset: Path, tmp_path: Path):
    data = prepare(config(reach_dataset, tmp_path))
    trained = {int(e) for step in range(50) for e in data.episodes.episode_of_frame[data.training.draw(step, 32)]}
    held_out = {int(e) for e in data.episodes.episode_of_frame[data.validation.spread(1000)]}
    assert trained
    assert held_out
    assert not trained & held_out


def test_relative_actions_reach_the_model_relative(reach_dataset: Path, tmp_path: Path):
    data = prepare(config(reach_dataset, tmp_path, action_space="relative"))
    frames = data.training.draw(0, 16)
    batch = make_batch(data.episodes, frames, data.model_config, data.transforms)
    decoded = data.transforms.decode_actions(batch.actions.numpy(), data.episodes.proprio[frames])
    expected, is_pad = data.episodes.chunks(frames, data.model_config.chunk_length)
    assert np.allclose(decoded[~is_pad], expected[~is_pad], atol=1e-4)


@pytest.mark.parametrize("video_weight", [0.5, 0.0])
def test_it_learns(reach_dataset: Path, tmp_path: Path, video_weight: float):
    loss = LossConfig(video_weight=video_weight)
    assert train(config(reach_dataset, tmp_path, steps=60, batch_size=8, loss=loss)) == 0
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert np.mean([r["action"] for r in records[-10:]]) < 0.6 * np.mean([r["action"] for r in records[:5]])
    assert records[-1]["val_joint_error_rad"] > 0
    assert list((tmp_path / "tensorboard").glob("events.*"))


def test_interrupted_training_continues_bit_for_bit(reach_dataset: Path, tmp_path: Path, monkeypatch):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert train(config(reach_dataset, whole)) == 0
    from wam.train import _Loop

    step = _Loop._step

    def interrupt_at_five(self):
        record = step(self)
        if self.run.step == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return record

    monkeypatch.setattr(_Loop, "_step", interrupt_at_five)
    assert train(config(reach_dataset, parts)) == INTERRUPTED
    monkeypatch.undo()
    assert steps_in_metrics(parts) == [1, 2, 3, 4, 5]
    assert train(config(reach_dataset, parts)) == 0
    first, second = weights(whole), weights(parts)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert steps_in_metrics(parts) == list(range(1, 9))


def test_killed_training_goes_on_from_its_last_checkpoint(reach_dataset: Path, tmp_path: Path):
    """SIGKILL leaves no chance to tidy up: the newest whole checkpoint decides, and no step stands twice."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert train(config(reach_dataset, whole)) == 0
    train(config(reach_dataset, killed))
    for folder in (killed / "checkpoints").glob("step_00000008"):
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    (killed / "checkpoints" / ".partial_1").mkdir()
    with (killed / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "lo')
    assert train(config(reach_dataset, killed)) == 0
    assert steps_in_metrics(killed) == list(range(1, 9))
    assert all(torch.equal(value, weights(killed)[name]) for name, value in weights(whole).items())


@pytest.mark.slow
def test_ctrl_c_on_the_command_saves_and_says_how_to_go_on(reach_dataset: Path, tmp_path: Path):
    options = {"dataset": reach_dataset, "out": tmp_path / "run", "preset": "micro", "steps": 100000, "batch-size": 4}
    command = [sys.executable, "-m", "wam.train", *(str(x) for k, v in options.items() for x in (f"--{k}", v))]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 120
    while not (tmp_path / "run" / "metrics.jsonl").is_file() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == INTERRUPTED, output
    assert "The same command goes on from there" in output
    assert list((tmp_path / "run" / "checkpoints").glob("step_*/checkpoint.json"))


def test_another_seed_gives_another_model(reach_dataset: Path, tmp_path: Path):
    for seed in (0, 1):
        train(config(reach_dataset, tmp_path / str(seed), seed=seed, steps=2))
    name = "experts.action.head.linear.weight"
    assert not torch.equal(weights(tmp_path / "0")[name], weights(tmp_path / "1")[name])


def test_a_run_with_other_settings_is_not_continued(reach_dataset: Path, tmp_path: Path):
    train(config(reach_dataset, tmp_path, steps=2))
    with pytest.raises(ConfigError, match=r"other settings \(learning_rate was 0\.003, now 0\.001\).*another --out"):
        train(config(reach_dataset, tmp_path, steps=2, learning_rate=1e-3))


def test_a_run_from_before_an_option_existed_goes_on(reach_dataset: Path, tmp_path: Path):
    now = config(reach_dataset, tmp_path)
    before = now.to_dict()
    del before["shares"]
    now.check_same_run(before)
    with pytest.raises(ConfigError, match=r"other settings \(shares was \[\], now \[2\.0\]\)"):
        config(reach_dataset, tmp_path, shares=(2.0,)).check_same_run(before)


def test_shares_must_fit_the_datasets(reach_dataset: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match=r"shares are 1, 2 for 1 dataset\(s\): give one positive number per dataset"):
        config(reach_dataset, tmp_path, shares=(1.0, 2.0))
    with pytest.raises(ConfigError, match="shares are 0 for 1"):
        config(reach_dataset, tmp_path, shares=(0.0,))


def test_diverging_training_stops_with_advice(reach_dataset: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("wam.losses.masked_mean", lambda values, keep: values.sum() * float("nan"))
    with pytest.raises(ConfigError, match="training diverged. Lower --learning-rate"):
        train(config(reach_dataset, tmp_path))


def test_learning_rate_warms_up_and_falls_to_zero(tmp_path: Path):
    run = config(tmp_path, tmp_path, steps=100, warmup_steps=10)
    rates = [learning_rate(step, run) for step in range(101)]
    assert rates[0] == pytest.approx(run.learning_rate / 10)
    assert max(rates) == pytest.approx(run.learning_rate)
    assert rates[100] == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"preset": "tinny"}, ConfigError, r"unknown preset 'tinny' \(did you mean 'tiny'\?\)"),
        ({"robot": "sim7"}, Exception, r"unknown robot 'sim7' \(did you mean 'sim6'\?\)"),
        ({"dataset": Path("/nonexistent/reach")}, DatasetError, r"no dataset at /nonexistent/reach: .*wam collect"),
        ({"device": "tpu9"}, ConfigError, "device 'tpu9' is unknown to torch: use cpu, cuda or auto"),
    ],
)
def test_bad_arguments(reach_dataset: Path, tmp_path: Path, options: dict, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        train(config(**{"dataset": reach_dataset, "out": tmp_path, **options}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps is 0 but must be at least 1"),
        ({"validation_share": 1.0}, r"validation_share is 1\.0 but must lie in \[0, 1\)"),
        ({"action_space": "delta"}, "unknown action space 'delta'"),
        ({"normalisation": "minmax"}, "unknown normalisation 'minmax'"),
        ({"ema_decay": 1.0}, r"ema_decay 1\.0 lie in \(0, 1\)"),
    ],
)
def test_impossible_settings(tmp_path: Path, options: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        config(tmp_path, tmp_path, **options)


def test_truncated_checkpoint_is_not_silently_started_over(reach_dataset: Path, tmp_path: Path):
    train(config(reach_dataset, tmp_path, steps=4))
    path = next((tmp_path / "checkpoints").glob("step_*")) / "training.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="missing or cut short"):
        train(config(reach_dataset, tmp_path, steps=4))


def test_command_prints_where_it_wrote(reach_dataset: Path, tmp_path: Path, capsys):
    arguments = ["--dataset", str(reach_dataset), "--out", str(tmp_path), "--preset", "micro", "--steps", "1"]
    assert main([*arguments, "--batch-size", "2"]) == 0
    output = capsys.readouterr().out
    assert f"checkpoint: {tmp_path / 'checkpoints' / 'step_00000001'}" in output
    assert str(tmp_path / "metrics.jsonl") in output


def test_a_mixture_of_questions_trains_and_resumes(reach_dataset: Path, tmp_path: Path, capsys):
    """From the command line: four questions, Flash's noise, a clean prefix; a second call goes on."""
    arguments = ["--dataset", str(reach_dataset), "--out", str(tmp_path), "--preset", "micro", "--batch-size", "8"]
    arguments += ["--loss.questions.joint", "1", "--loss.questions.inverse", "1", "--loss.questions.forward", "1"]
    arguments += ["--loss.noise", "flash", "--loss.weight-floor", "0.1", "--max-prefix", "4", "--steps", "3"]
    assert main(arguments) == 0
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(record["loss"]) for record in records)
    assert any(record["video"] > 0 for record in records)
    assert load_checkpoint(tmp_path).config.max_prefix == 4
    capsys.readouterr()
    assert main(arguments) == 0
    assert "step_00000003" in capsys.readouterr().out
