"""Losses: masks, switches, determinism and gradients that reach what they should."""

import dataclasses

import pytest
import torch

from tests.random_batches import random_batch
from wam.batches import Batch
from wam.config import preset
from wam.losses import LossConfig, masked_mean, training_losses
from wam.model import WorldActionModel
from wam.robot import load_robot


@pytest.fixture
def model() -> WorldActionModel:
    torch.manual_seed(0)
    return WorldActionModel(preset("micro", load_robot("sim6")))


def losses(model: WorldActionModel, data: Batch, **changes) -> dict[str, torch.Tensor]:
    return training_losses(model, data, LossConfig(**changes), torch.Generator().manual_seed(5))


def test_masked_mean_ignores_what_is_masked():
    values, keep = torch.tensor([1.0, 100.0, 3.0]), torch.tensor([True, False, True])
    assert float(masked_mean(values, keep)) == 2.0
    assert float(masked_mean(values, torch.zeros(3, dtype=torch.bool))) == 0.0


def test_padded_actions_do_not_count(model: WorldActionModel, monkeypatch):
    data = random_batch(model.config)
    data.action_is_pad[:, 8:] = True
    wrong_where_padded = data.actions.clone()
    wrong_where_padded[:, 8:] += 10.0
    monkeypatch.setattr(model, "predict_actions", lambda noisy, sigma, context: wrong_where_padded.repeat(2, 1, 1))
    assert float(losses(model, data, video_weight=0.0)["action"]) == 0.0
    everything = dataclasses.replace(data, action_is_pad=torch.zeros_like(data.action_is_pad))
    assert float(losses(model, everything, video_weight=0.0)["action"]) == pytest.approx(50.0)


def test_padded_future_gives_no_video_loss(model: WorldActionModel):
    data = dataclasses.replace(random_batch(model.config), future_is_pad=torch.ones(4, 1, dtype=torch.bool))
    assert float(losses(model, data)["video"].detach()) == 0.0


def test_video_loss_can_be_switched_off(model: WorldActionModel):
    off = losses(model, random_batch(model.config), video_weight=0.0)
    assert float(off["video"]) == 0.0
    off["loss"].backward()
    assert model.experts["video"].head.linear.weight.grad is None  # the pass was skipped, not weighted by zero
    assert model.experts["video"].blocks[0].qkv.weight.grad is not None  # the context still learns from actions


def test_total_is_the_weighted_sum(model: WorldActionModel):
    found = losses(model, random_batch(model.config), video_weight=0.25)
    assert torch.isclose(found["loss"], found["action"] + 0.25 * found["video"])


def test_same_generator_state_gives_the_same_loss(model: WorldActionModel):
    data = random_batch(model.config)
    assert torch.equal(losses(model, data)["loss"], losses(model, data)["loss"])


def test_every_parameter_learns(model: WorldActionModel):
    losses(model, random_batch(model.config))["loss"].backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_a_model_that_knows_the_clean_chunk_has_no_action_loss(model: WorldActionModel, monkeypatch):
    data = random_batch(model.config)
    monkeypatch.setattr(model, "predict_actions", lambda noisy, sigma, context: data.actions.repeat(2, 1, 1))
    assert float(losses(model, data, video_weight=0.0)["action"]) == 0.0


def test_loss_at_a_fixed_seed_is_golden(model: WorldActionModel):
    """Refactors must not move numerics; regenerate with: pytest tests/test_losses.py -k golden and read the message."""
    found = losses(model, random_batch(model.config))
    assert float(found["action"].detach()) == pytest.approx(GOLDEN["action"], rel=1e-4)
    assert float(found["video"].detach()) == pytest.approx(GOLDEN["video"], rel=1e-4)


GOLDEN = {"action": 1.183434, "video": 1.723645}
