"""Stages of training: distillation moves the action expert alone, and one step comes to where many steps go."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from wam.batches import make_batch
from wam.checkpoint import load_checkpoint
from wam.distill import distillation_losses, flow_end_point
from wam.errors import CheckpointError, ConfigError
from wam.losses import LossConfig
from wam.sampling import sample_actions
from wam.train import train
from wam.train_config import TrainConfig
from wam.training_data import prepare

SMALL = {"preset": "micro", "batch_size": 8, "warmup_steps": 2, "threads": 1}


@pytest.fixture(scope="module")
def base(reach_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model after a few full steps."""
    out = tmp_path_factory.mktemp("base")
    assert (
        train(TrainConfig(dataset=(reach_dataset,), out=out, steps=60, save_every=60, validate_every=60, **SMALL)) == 0
    )
    return out


def distil(dataset: Path, base: Path, out: Path, **changes) -> TrainConfig:
    options = {"steps": 60, "save_every": 60, "validate_every": 60, "learning_rate": 1e-3} | SMALL | changes
    return TrainConfig(dataset=(dataset,), out=out, stage="distill", init=base, **options)


def step_gap(run: Path, teacher: Path, dataset: Path, tmp_path: Path) -> float:
    """Mean distance of one step of a model from many steps of its teacher, same noise."""
    student, goal = load_checkpoint(run).model, load_checkpoint(teacher).model
    data = prepare(TrainConfig(dataset=(dataset,), out=tmp_path / "data", **SMALL))
    batch = make_batch(data.episodes, data.training.spread(32), data.model_config, data.transforms)
    noise = torch.randn(batch.actions.shape, generator=torch.Generator().manual_seed(5))
    chunks = []
    for model, n_steps in ((student, 1), (goal, 16)):
        context = model.encode_context(batch.images, batch.proprio, model.encode_prompt(batch.token_ids))
        chunks.append(sample_actions(model, context, noise, n_steps))
    return float((chunks[0] - chunks[1]).abs().mean())


def test_one_step_comes_nearer_to_where_many_steps_go(reach_dataset: Path, base: Path, tmp_path: Path):
    before = step_gap(base, base, reach_dataset, tmp_path)
    assert train(distil(reach_dataset, base, tmp_path / "student")) == 0
    assert step_gap(tmp_path / "student", base, reach_dataset, tmp_path) < 0.8 * before


def test_only_the_action_expert_changes(reach_dataset: Path, base: Path, tmp_path: Path):
    assert train(distil(reach_dataset, base, tmp_path, steps=2)) == 0
    old, new = (load_file(load_checkpoint(run).path / "model.safetensors") for run in (base, tmp_path))
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    assert changed
    assert all(name.startswith("experts.action.") or name == "action_positions" for name in changed)


def test_interrupted_distillation_has_its_teacher_again(reach_dataset: Path, base: Path, tmp_path: Path):
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    assert train(distil(reach_dataset, base, whole, steps=4, save_every=2)) == 0
    assert train(distil(reach_dataset, base, halves, steps=4, save_every=2)) == 0
    last = sorted((halves / "checkpoints").glob("step_*"))[-1]
    for file in last.iterdir():
        file.unlink()
    last.rmdir()
    assert train(distil(reach_dataset, base, halves, steps=4, save_every=2)) == 0
    ours, theirs = (load_file(load_checkpoint(run).path / "model.safetensors") for run in (whole, halves))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_run_started_from_a_checkpoint_keeps_its_normalisation_and_tokenizer(
    reach_dataset: Path, base: Path, tmp_path: Path
):
    config = TrainConfig(dataset=(reach_dataset,), out=tmp_path, init=base, seed=9, steps=1, **SMALL)
    assert train(config) == 0
    old, new = load_checkpoint(base), load_checkpoint(tmp_path)
    assert new.transforms == old.transforms
    assert torch.equal(new.model.tokenizer.encoder, old.model.tokenizer.encoder)
    assert not torch.equal(new.model.experts["video"].embed.weight, old.model.experts["video"].embed.weight)


def test_end_point_from_pure_noise_is_what_the_sampler_gives(reach_dataset: Path, base: Path, tmp_path: Path):
    model = load_checkpoint(base).model
    data = prepare(TrainConfig(dataset=(reach_dataset,), out=tmp_path, **SMALL))
    batch = make_batch(data.episodes, data.training.spread(3), data.model_config, data.transforms)
    context = model.encode_context(batch.images, batch.proprio, model.encode_prompt(batch.token_ids))
    noise = torch.randn(batch.actions.shape)
    assert model.config.action_shift == 1.0
    expected = sample_actions(model, context, noise, 4)
    assert torch.allclose(flow_end_point(model, noise, torch.ones(len(noise)), context, 4), expected, atol=1e-5)
    with pytest.raises(ValueError, match="needs a teacher"):
        distillation_losses(model, None, batch, LossConfig(), torch.Generator())


def test_bad_starts(reach_dataset: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match="stage 'distill' goes on from a trained model: name its run or checkpoint"):
        TrainConfig(dataset=(reach_dataset,), out=tmp_path, stage="distill")
    with pytest.raises(ConfigError, match=r"unknown stage 'distil' \(did you mean 'distill'\?\)"):
        TrainConfig(dataset=(reach_dataset,), out=tmp_path, stage="distil")
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        train(distil(reach_dataset, tmp_path / "nothing", tmp_path / "out"))
