"""Video as clean tokens rather than velocity, and demonstrations that record what was executed."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from sim.arm_sim import ArmSim
from sim.collect_config import CollectConfig
from sim.demonstrations import DemoSettings, record_demonstration
from wam.batches import Batch
from wam.config import preset
from wam.errors import ConfigError
from wam.losses import LossConfig, training_losses
from wam.model import WorldActionModel
from wam.noise import QuestionMix
from wam.questions import see_actions
from wam.robot import load_robot
from wam.text import VOCABULARY_SIZE
from wam.visibility import Question

ROBOT = load_robot("sim6")
CONFIG = preset("micro", ROBOT)


def model_of(prediction: str) -> WorldActionModel:
    torch.manual_seed(0)
    return WorldActionModel(dataclasses.replace(CONFIG, video_prediction=prediction))


def random_batch(size: int = 4) -> Batch:
    generator = torch.Generator().manual_seed(1)
    images = (CONFIG.n_cameras, *CONFIG.image_size_px, 3)
    return Batch(
        images=torch.randint(0, 256, (size, *images), generator=generator).to(torch.uint8),
        future_images=torch.randint(0, 256, (size, 1, *images), generator=generator).to(torch.uint8),
        future_is_pad=torch.zeros(size, 1, dtype=torch.bool),
        proprio=torch.randn(size, CONFIG.state_dim, generator=generator),
        actions=torch.randn(size, CONFIG.chunk_length, CONFIG.action_dim, generator=generator),
        action_is_pad=torch.zeros(size, CONFIG.chunk_length, dtype=torch.bool),
        token_ids=torch.randint(0, VOCABULARY_SIZE, (size, CONFIG.prompt_length), generator=generator),
    )


def test_the_same_output_means_clean_tokens_or_a_velocity():
    batch, sigma = random_batch(), torch.tensor([0.2, 0.5, 0.8, 1.0])
    video = torch.randn(4, CONFIG.future_tokens, CONFIG.token_dim, generator=torch.Generator().manual_seed(2))
    found = {}
    for prediction in ("x", "velocity"):
        model = model_of(prediction).eval()
        with torch.no_grad():
            cross = model.observation_kv(batch.proprio, model.encode_prompt(batch.token_ids), None)
            context = model.encode_context_tokens(model.tokenizer.encode(batch.images), cross)
            cached = see_actions(model, context, cross, batch.actions)
            found[prediction] = model.predict(Question.FORWARD, cached, cross, video=(video, sigma)).video
    clean = video - sigma[:, None, None] * found["x"]  # x_sigma = x + sigma·velocity
    torch.testing.assert_close(clean, found["velocity"], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("prediction", ["x", "velocity"])
def test_one_batch_can_be_learned_by_heart(prediction: str):
    model, batch = model_of(prediction), random_batch()
    config = LossConfig(questions=QuestionMix(policy=0.0, forward=1.0), video_weighting="flat")
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for step in range(60):
        found = training_losses(model, batch, config, torch.Generator().manual_seed(step))
        optimiser.zero_grad()
        found["loss"].backward()
        optimiser.step()
        losses.append(float(found["video"].detach()))
    assert np.isfinite(losses).all()
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:10])


def test_an_unknown_prediction_is_refused():
    with pytest.raises(ConfigError, match=r"unknown video prediction 'noise'.*velocity"):
        dataclasses.replace(CONFIG, video_prediction="noise")


def test_executed_actions_are_those_that_were_executed():
    settings = DemoSettings(task="reach", robot=ROBOT, noise_fraction=1.0, noise=0.15, distractors=0, executed=True)
    sim = ArmSim("reach", ROBOT)
    try:
        executed = record_demonstration(sim, settings, 5)
        labels = record_demonstration(sim, dataclasses.replace(settings, executed=False), 5)
        np.testing.assert_array_equal(executed.proprio, labels.proprio)  # the same episode
        assert np.abs(executed.action - labels.action).max() > 0.05
        np.testing.assert_array_equal(executed.progress, labels.progress)
        sim.reset(5)
        for proprio, action in zip(executed.proprio, executed.action, strict=True):
            np.testing.assert_array_equal(sim.proprio(), proprio)
            sim.step(action)
    finally:
        sim.close()


def test_recordings_begun_before_the_option_go_on():
    plain = CollectConfig(task="reach", out=Path("x")).settings(ROBOT)
    assert "executed" not in plain
    assert CollectConfig(task="reach", out=Path("x"), executed=True).settings(ROBOT) == {"executed": True, **plain}
