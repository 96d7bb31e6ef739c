"""Actions from the joint and the inverse question: analytic answers, uncached against cached, and as backends."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from policy.errors import BackendError
from policy.load import load_policy
from wam.config import preset
from wam.export import export_bundle
from wam.flow import euler_step
from wam.model import WorldActionModel
from wam.question_sampling import sample_inverse, sample_joint
from wam.robot import load_robot
from wam.sigmas import sigma_schedule
from wam.spec import Observation
from wam.untrained import save_untrained_checkpoint
from wam.visibility import Group, Question

ROBOT = load_robot("sim6")


@pytest.fixture(scope="module")
def model() -> WorldActionModel:
    torch.manual_seed(0)
    return WorldActionModel(preset("micro", ROBOT)).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def given(model: WorldActionModel) -> dict:
    """A batch of two observations and everything a sampler takes."""
    config, generator = model.config, torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (2, config.n_cameras, *config.image_size_px, 3), generator=generator).to(torch.uint8)
    tokens, proprio = model.tokenizer.encode(images), torch.randn(2, config.action_dim, generator=generator)
    prompt = model.encode_prompt(torch.randint(1, 4096, (2, config.prompt_length), generator=generator))
    cross = model.cross_kv(proprio, prompt)
    return {
        "tokens": tokens,
        "proprio": proprio,
        "prompt": prompt,
        "cross": cross,
        "cached": {Group.FRAME: model.encode_context_tokens(tokens, cross).frame},
        "video": torch.randn(2, config.future_tokens, config.token_dim, generator=generator),
        "actions": torch.randn(2, config.chunk_length, config.action_dim, generator=generator),
    }


def test_joint_sampling_is_the_uncached_forward_step_by_step(model: WorldActionModel, given: dict):
    video, actions = given["video"], given["actions"]
    levels = zip(sigma_schedule(3, model.config.video_shift), sigma_schedule(3, model.config.action_shift), strict=True)
    levels = list(levels)
    for (s_v, s_a), (s_v_next, s_a_next) in itertools.pairwise(levels):
        noisy_video, noisy_actions = (video, torch.full((2,), s_v), None), (actions, torch.full((2,), s_a))
        found = model(
            given["tokens"], given["proprio"], given["prompt"], Question.JOINT, video=noisy_video, actions=noisy_actions
        )
        video = euler_step(video, found.video, torch.full((2,), s_v), torch.full((2,), s_v_next))
        actions = euler_step(actions, found.actions, torch.full((2,), s_a), torch.full((2,), s_a_next))
    sampled = sample_joint(model, given["cached"], given["cross"], given["video"], given["actions"], 3)
    assert torch.allclose(sampled[0], video, atol=1e-5)
    assert torch.allclose(sampled[1], actions, atol=1e-5)


def test_inverse_actions_depend_on_the_future_and_one_step_is_the_uncached_forward(
    model: WorldActionModel, given: dict
):
    future, cached, cross = given["video"], given["cached"], given["cross"]
    sampled = sample_inverse(model, cached, cross, future, given["actions"], 1)
    ones, zeros = torch.ones(2), torch.zeros(2)
    found = model(
        given["tokens"],
        given["proprio"],
        given["prompt"],
        Question.INVERSE,
        video=(future, zeros, None),
        actions=(given["actions"], ones),
    )
    assert torch.allclose(sampled, euler_step(given["actions"], found.actions, ones, zeros), atol=1e-5)
    other = sample_inverse(model, cached, cross, future + 1.0, given["actions"], 1)
    assert not torch.allclose(sampled, other, atol=1e-4)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("questions")
    export_bundle(save_untrained_checkpoint(folder / "run", ROBOT, preset_name="micro"), folder / "bundle")
    return folder / "bundle"


def observation() -> Observation:
    rng = np.random.default_rng(3)
    images = {c.name: rng.integers(0, 256, (c.height_px, c.width_px, 3), dtype=np.uint8) for c in ROBOT.cameras}
    middle = ((ROBOT.lower + ROBOT.upper) / 2).astype(np.float32)
    return Observation(images=images, proprio=middle, task="lift the red cube", stamp=0.0)


def test_the_three_ways_to_a_chunk_differ_and_repeat(bundle: Path):
    chunks = {}
    for name in ("torch", "torch_joint", "torch_inverse"):
        policy = load_policy(bundle, ROBOT, backend=name, threads=1)
        chunks[name] = policy.infer(observation(), noise_seed=0).actions
        assert np.array_equal(policy.infer(observation(), noise_seed=0).actions, chunks[name])
    assert not np.allclose(chunks["torch"], chunks["torch_joint"], atol=1e-4)
    assert not np.allclose(chunks["torch_joint"], chunks["torch_inverse"], atol=1e-4)


def test_single_steps_of_the_joint_question_are_refused(bundle: Path):
    policy = load_policy(bundle, ROBOT, backend="torch_joint", threads=1)
    level = np.ones(policy.chunk_length, np.float32)
    with pytest.raises(BackendError, match="'torch_joint' cannot denoise one step at a time.*use onnx, torch"):
        policy._backend.denoise_step(np.zeros((policy.chunk_length, 7), np.float32), level, level)
