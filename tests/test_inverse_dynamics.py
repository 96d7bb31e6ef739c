"""The inverse-dynamics head: learned beside frozen experts, labels video, and notices what was not commanded."""

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sim.video import write_mp4
from wam.checkpoint import Checkpoint, load_checkpoint
from wam.config import preset
from wam.dataset import load_episodes
from wam.errors import ConfigError, DatasetError
from wam.inverse_dynamics import actions_between, consistency
from wam.label import LabelConfig, label_frames, main, read_videos
from wam.model import WorldActionModel
from wam.robot import load_robot
from wam.train import train
from wam.train_config import TrainConfig


@pytest.fixture(scope="module")
def base(reach_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("inverse") / "base"
    options = {"preset": "micro", "steps": 2, "batch_size": 4, "validate_every": 2, "threads": 1}
    assert train(TrainConfig(dataset=(reach_dataset,), out=out, **options)) == 0
    return out


@pytest.fixture(scope="module")
def run(reach_dataset: Path, base: Path) -> Path:
    out = base.parent / "head"
    options = {"stage": "inverse", "init": base, "steps": 150, "batch_size": 8, "validate_every": 150, "threads": 1}
    assert train(TrainConfig(dataset=(reach_dataset,), out=out, ema_decay=0.9, **options)) == 0
    return out


@pytest.fixture(scope="module")
def checkpoint(run: Path) -> Checkpoint:
    return load_checkpoint(run)


def test_only_the_head_learns(run: Path, base: Path, checkpoint: Checkpoint):
    before = load_file(load_checkpoint(base).path / "model.safetensors")
    after = load_file(checkpoint.path / "model.safetensors")
    assert all(torch.equal(after[name], before[name]) for name in before)
    new = set(after) - set(before)
    assert new
    assert all(name.startswith("inverse.") for name in new)
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert np.mean([r["action"] for r in records[-20:]]) < 0.3 * np.mean([r["action"] for r in records[:3]])


def test_labels_come_close_to_the_recorded_actions(
    checkpoint: Checkpoint, run: Path, reach_dataset: Path, tmp_path: Path, capsys
):
    arguments = ["--checkpoint", str(run), "--dataset", str(reach_dataset), "--out", str(tmp_path)]
    assert main(arguments) == 0
    assert "mean absolute difference from the recorded actions" in capsys.readouterr().out
    episodes = load_episodes(reach_dataset, checkpoint.robot, checkpoint.config.image_size_px, cache=tmp_path / "f.u8")
    files = sorted(tmp_path.glob("episode_*.csv"))
    assert files
    differences, spread = [], []
    for path in files:
        first, count = (int(values[int(path.stem[-6:])]) for values in (episodes.start, episodes.length))
        rows = list(csv.reader(path.open()))
        assert rows[0] == ["time_s", *checkpoint.robot.action_names]
        labels = np.array(rows[1:], dtype=float)[:, 1:]
        recorded = episodes.action[first : first + count - 1]
        assert labels.shape == recorded.shape
        differences.append(np.abs(labels - recorded).mean())
        spread.append(np.abs(recorded - episodes.action.mean(axis=0)).mean())
    assert np.mean(differences) < 0.7 * np.mean(spread)  # better than always naming the mean, five of six were learned


def test_videos_are_labelled_at_the_control_rate(checkpoint: Checkpoint, run: Path, tmp_path: Path):
    dt = checkpoint.robot.control_dt
    clips = []
    for index, camera in enumerate(checkpoint.robot.camera_names):
        frames = [np.full((64, 64, 3), 10 * i + index, dtype=np.uint8) for i in range(24)]
        clips.append(tmp_path / f"{camera}.mp4")
        write_mp4(clips[-1], frames, rate_hz=2.0 / dt)  # twice the control rate: every other frame counts
    frames = read_videos(clips, checkpoint)
    assert frames.shape[:2] == (12, len(clips))
    assert abs(int(frames[3, 0].mean()) - 60) < 4
    arguments = ["--checkpoint", str(run), "--out", str(tmp_path)]
    assert main([*arguments, "--videos", *map(str, clips)]) == 0
    rows = list(csv.reader((tmp_path / "labels.csv").open()))
    assert len(rows) == 12
    assert float(rows[2][0]) == pytest.approx(dt)


def test_consistency_is_low_for_what_was_commanded_and_high_for_something_else(
    checkpoint: Checkpoint, reach_dataset: Path, tmp_path: Path
):
    config = checkpoint.config
    episodes = load_episodes(reach_dataset, checkpoint.robot, config.image_size_px, cache=tmp_path / "f.u8")
    starts = np.array([a for a, n in zip(episodes.start, episodes.length, strict=True) if n > config.future_offset])
    now, later = (torch.from_numpy(np.asarray(episodes.frames[f])) for f in (starts, starts + config.future_offset))
    chunk = episodes.chunks(starts, config.future_offset)[0]
    commanded = torch.from_numpy(checkpoint.transforms.encode_actions(chunk, episodes.proprio[starts]))
    found = consistency(checkpoint.model, now, later, commanded)
    other = consistency(checkpoint.model, now, later, commanded + 2.0)
    assert found.shape == (len(starts),)
    assert bool((found < other).all())


def test_without_a_head_the_message_says_how_to_get_one():
    config = preset("micro", load_robot("sim6"))
    images = torch.zeros(1, config.n_cameras, *config.image_size_px, 3, dtype=torch.uint8)
    with pytest.raises(ConfigError, match="no inverse-dynamics head.*wam train --stage inverse"):
        actions_between(WorldActionModel(config), images, images)


def test_what_cannot_be_labelled_is_refused(checkpoint: Checkpoint, tmp_path: Path):
    frames = np.zeros((3, checkpoint.config.n_cameras, *checkpoint.config.image_size_px, 3), dtype=np.uint8)
    with pytest.raises(ConfigError, match="the clip has 3 frames but the head looks 8 steps ahead"):
        label_frames(checkpoint, frames)
    relative = dataclasses.replace(
        checkpoint, transforms=dataclasses.replace(checkpoint.transforms, action_space="relative")
    )
    with pytest.raises(ConfigError, match="relative to proprio, which video does not have"):
        label_frames(relative, frames)
    with pytest.raises(DatasetError, match=r"1 video\(s\) given but robot 'sim6' has the cameras front, wrist"):
        read_videos([tmp_path / "a.mp4"], checkpoint)
    with pytest.raises(DatasetError, match="cannot be decoded"):
        read_videos([tmp_path / "a.mp4"] * 2, checkpoint)
    with pytest.raises(ConfigError, match="either --videos, one per camera, or --dataset"):
        LabelConfig(checkpoint=tmp_path)
