"""The inverse-dynamics head: learned beside frozen experts, labels video, and notices what was not commanded."""

import csv
import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from safetensors.torch import load_file

from policy.consistency import ConsistencyMonitor
from policy.load import load_policy, open_backend
from policy.runner import Policy
from sim.arm_sim import ArmSim
from sim.experts import ScriptedExpert
from sim.label import LabelConfig, main
from sim.video import write_mp4
from wam.checkpoint import Checkpoint, load_checkpoint
from wam.config import preset
from wam.dataset import load_episodes
from wam.dataset_meta import read_meta
from wam.errors import BundleError, ConfigError, DatasetError
from wam.export import export_bundle
from wam.inverse_dynamics import actions_between, consistency
from wam.label import check_videos, label_frames, videos_at_rate
from wam.manifest import Manifest, read_manifest
from wam.model import WorldActionModel
from wam.robot import load_robot
from wam.spec import ActionChunk
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
    printed = capsys.readouterr().out
    assert "mean absolute difference from the recorded actions" in printed
    assert re.search(r"run-time consistency\): p50 0\.\d+, p95", printed)
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
    labelled = LeRobotDataset("local/labels", root=tmp_path / "dataset", video_backend="pyav")
    assert labelled.num_episodes == len(files)
    first = labelled[0]
    np.testing.assert_allclose(first["action"], np.loadtxt(files[0], delimiter=",", skiprows=1)[0, 1:], atol=1e-5)
    np.testing.assert_allclose(first["observation.state"], episodes.proprio[0], atol=1e-6)  # as recorded
    assert read_meta(tmp_path / "dataset").settings["proprio"] == "as recorded"
    assert first["task"] == episodes.tasks[int(episodes.task_index[0])]
    options = {"preset": "micro", "steps": 3, "batch_size": 4, "validate_every": 3, "threads": 1}
    assert train(TrainConfig(dataset=(tmp_path / "dataset",), out=tmp_path / "run", **options)) == 0


def test_videos_are_labelled_at_the_control_rate(checkpoint: Checkpoint, run: Path, tmp_path: Path, capsys):
    dt = checkpoint.robot.control_dt
    clips = []
    for index, camera in enumerate(checkpoint.robot.camera_names):
        frames = [np.full((64, 64, 3), 10 * i + index, dtype=np.uint8) for i in range(24)]
        clips.append(tmp_path / f"{camera}.mp4")
        write_mp4(clips[-1], frames, rate_hz=2.0 / dt)  # twice the control rate: every other frame counts
    front, wrist = zip(*videos_at_rate(clips, checkpoint), strict=True)
    assert len(front) == len(wrist) == 12
    assert abs(int(front[3].mean()) - 60) < 4
    arguments = ["--checkpoint", str(run), "--out", str(tmp_path), "--videos", *map(str, clips)]
    assert main(arguments) == 0
    assert "name the instruction with --task" in capsys.readouterr().out
    assert not (tmp_path / "dataset").exists()
    rows = list(csv.reader((tmp_path / "labels.csv").open()))
    assert len(rows) == 12
    assert float(rows[2][0]) == pytest.approx(dt)
    assert main([*arguments, "--task", "reach the red cube"]) == 0
    table = LeRobotDataset("local/labels", root=tmp_path / "dataset", video_backend="pyav").hf_dataset
    states, actions = (np.stack([row[key] for row in table]) for key in ("observation.state", "action"))
    assert len(actions) == 11  # the last frame has no label
    np.testing.assert_array_equal(states[1:], actions[:-1])  # the label before each frame
    with pytest.raises(ConfigError, match="exists already: choose another --out"):
        main([*arguments, "--task", "reach the red cube"])


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


@pytest.fixture(scope="module")
def bundle(checkpoint: Checkpoint, base: Path) -> Path:
    export_bundle(checkpoint, base.parent / "bundle")
    return base.parent / "bundle"


def test_the_head_is_a_graph_of_the_bundle(bundle: Path, checkpoint: Checkpoint, base: Path):
    manifest = read_manifest(bundle)
    assert manifest.has_inverse
    assert manifest.parity.graphs["inverse"] < manifest.parity.tolerance
    steps, axes = checkpoint.config.future_offset, checkpoint.config.action_dim
    assert manifest.graphs["inverse"].outputs[0].shape == (steps, axes)
    plain = base.parent / "plain"
    export_bundle(load_checkpoint(base), plain)
    assert not read_manifest(plain).has_inverse
    data = json.loads((plain / "manifest.json").read_text())
    data["graphs"]["inverse"] = data["graphs"]["prompt"]
    with pytest.raises(BundleError, match=r"its model has no inverse-dynamics head \(model.inverse_head is 0\)"):
        Manifest.from_dict(data)


def test_onnx_runtime_names_the_actions_that_torch_names(bundle: Path, checkpoint: Checkpoint):
    rng = np.random.default_rng(0)
    size = (2, checkpoint.config.n_cameras, *checkpoint.config.image_size_px, 3)
    now, later = rng.integers(0, 256, size, dtype=np.uint8)
    found = {
        name: open_backend(bundle, read_manifest(bundle), name).actions_between(now, later)
        for name in ("onnx", "torch")
    }
    np.testing.assert_allclose(found["onnx"], found["torch"], atol=1e-5)
    expected = actions_between(checkpoint.model, *(torch.from_numpy(image)[None] for image in (now, later)))[0]
    np.testing.assert_allclose(found["onnx"], expected.numpy(), atol=1e-5)


def test_a_blocked_arm_and_a_frozen_camera_show_in_the_number(bundle: Path, checkpoint: Checkpoint):
    policy = load_policy(bundle, checkpoint.robot, backend="onnx")
    normal = [numbers(policy, seed) for seed in range(3)]
    blocked = [numbers(policy, seed, blocked=True) for seed in range(3)]
    frozen = [numbers(policy, seed, frozen=True) for seed in range(3)]
    assert np.median(np.concatenate(blocked)) > 1.5 * np.median(np.concatenate(normal))
    assert np.median(np.concatenate(frozen)) > 1.5 * np.median(np.concatenate(normal))


def numbers(policy: Policy, seed: int, *, blocked: bool = False, frozen: bool = False) -> list[float]:
    """Consistency at every step of an episode of the scripted expert, through the monitor as on a robot."""
    sim = ArmSim("reach", policy.manifest.robot)
    sim.reset(seed)
    expert = ScriptedExpert(sim, np.random.default_rng(seed))
    monitor = ConsistencyMonitor(policy, rate_hz=1e6, longest_s=60.0)
    start, first, found = sim.proprio(), sim.observation(), []
    try:
        for step in range(14):
            seen = sim.observation()
            monitor.on_observation(dataclasses.replace(seen, images=first.images) if frozen else seen)
            number = monitor.judge()
            found += [] if number is None else [number]
            action = expert.act()
            actions = np.tile(action, (policy.chunk_length, 1))
            chunk = ActionChunk(actions=actions, stamp=sim.time, control_dt=policy.control_dt, anchor=seen.proprio)
            monitor.on_chunk(1, step, chunk)
            monitor.on_consumed(1, step, 0, sim.time + 0.01)
            sim.step(start if blocked else action)
    finally:
        sim.close()
    return found


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
        check_videos([tmp_path / "a.mp4"], checkpoint)
    with pytest.raises(DatasetError, match=r"a\.mp4 cannot be read"):
        check_videos([tmp_path / "a.mp4"] * 2, checkpoint)
    with pytest.raises(ConfigError, match="either --videos, one per camera, or --dataset"):
        LabelConfig(checkpoint=tmp_path)
    with pytest.raises(ConfigError, match="--task is for --videos"):
        LabelConfig(checkpoint=tmp_path, dataset=tmp_path, task="reach")
