"""Checkpoints: round trip, atomicity, and one clear refusal for each way to be wrong."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from wam.checkpoint import find_checkpoint, load_checkpoint, save_checkpoint
from wam.config import preset
from wam.errors import CheckpointError
from wam.model import WorldActionModel
from wam.normalise import Normaliser
from wam.robot import RobotSpec, load_robot
from wam.transforms import Transforms

IDENTITY = Normaliser(offset=(0.0,) * 7, scale=(1.0,) * 7)


@pytest.fixture(scope="module")
def model() -> WorldActionModel:
    torch.manual_seed(0)
    return WorldActionModel(preset("micro", load_robot("sim6")))


def save(run: Path, model: WorldActionModel, step: int = 1) -> Path:
    return save_checkpoint(
        run,
        step,
        averaged=model.state_dict(),
        training={"model.x": torch.zeros(1)},
        config=model.config,
        transforms=Transforms(image_size_px=(32, 32), proprio=IDENTITY, action=IDENTITY),
        robot=load_robot("sim6"),
        meta={"training": {"seed": 0}},
    )


def other_robot() -> RobotSpec:
    robot = load_robot("sim6")
    return dataclasses.replace(robot, name="other", joints=robot.joints[:-1])


def test_round_trip(tmp_path: Path, model: WorldActionModel):
    loaded = load_checkpoint(save(tmp_path, model), robot=load_robot("sim6"))
    assert loaded.config == model.config
    assert loaded.robot == load_robot("sim6")
    assert not loaded.model.training
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], value), name
    assert loaded.meta["step"] == 1
    assert len(loaded.sha256()) == 64


def test_run_folder_checkpoints_folder_and_last_all_resolve_to_the_newest(tmp_path: Path, model: WorldActionModel):
    for step in (1, 2, 3):
        newest = save(tmp_path, model, step)
    for path in (tmp_path, tmp_path / "checkpoints", tmp_path / "checkpoints" / "last", newest):
        assert find_checkpoint(path) == newest
    assert [p.name for p in sorted((tmp_path / "checkpoints").iterdir())] == ["step_00000002", "step_00000003"]


def test_another_robot_is_refused_with_both_named(tmp_path: Path, model: WorldActionModel):
    folder = save(tmp_path, model)
    with pytest.raises(CheckpointError, match=r"trained for robot 'sim6'.*but robot 'other'.*choose the robot file"):
        load_checkpoint(folder, robot=other_robot())


def test_limits_and_topics_may_change_after_training(tmp_path: Path, model: WorldActionModel):
    robot = load_robot("sim6")
    slow = dataclasses.replace(robot.joints[0], max_velocity=1.0)
    changed = dataclasses.replace(robot, joints=(slow, *robot.joints[1:]), state_topic="/of/before")
    assert load_checkpoint(save(tmp_path, model), robot=changed).robot == robot


def test_truncated_weights_are_refused(tmp_path: Path, model: WorldActionModel):
    weights = save(tmp_path, model) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read .* missing or cut short"):
        load_checkpoint(tmp_path)


def edit(folder: Path, **changes) -> None:
    path = folder / "checkpoint.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_newer_format_is_refused(tmp_path: Path, model: WorldActionModel):
    edit(save(tmp_path, model), format=99)
    with pytest.raises(CheckpointError, match="has format 99 but this version reads 1"):
        load_checkpoint(tmp_path)


def test_weights_of_another_model_are_listed(tmp_path: Path, model: WorldActionModel):
    folder = save(tmp_path, model)
    edit(folder, model={**model.config.to_dict(), "num_layers": 3, "ffn_ratio": 4})
    with pytest.raises(CheckpointError, match=r"do not fit its own.*: missing .*blocks\.2\..* is \(64, 32\)"):
        load_checkpoint(folder)


def test_half_a_description_is_refused(tmp_path: Path, model: WorldActionModel):
    folder = save(tmp_path, model)
    (folder / "checkpoint.json").write_text('{"format": 1, "ste')
    with pytest.raises(CheckpointError, match=r"no readable checkpoint\.json"):
        load_checkpoint(folder)
    (folder / "checkpoint.json").write_text('{"format": 1}')
    with pytest.raises(CheckpointError, match="description that cannot be read"):
        load_checkpoint(folder)


def test_nothing_there_says_what_to_give(tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"no checkpoint at .*give a run folder of `wam train --out`"):
        load_checkpoint(tmp_path)


def test_full_disk_keeps_the_checkpoint_before(tmp_path: Path, model: WorldActionModel, monkeypatch):
    before = save(tmp_path, model, 1)

    def full(tensors, path):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("wam.checkpoint.save_file", full)
    with pytest.raises(CheckpointError, match="No space left on device.*free some disk space"):
        save(tmp_path, model, 2)
    assert list((tmp_path / "checkpoints").iterdir()) == [before]
    load_checkpoint(tmp_path)
