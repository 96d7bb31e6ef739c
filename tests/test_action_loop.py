"""Inference mode computes with fewer operators: the same keys, values, velocities and chunks as the plain network."""

import dataclasses

import pytest
import torch

from wam import fused
from wam.action_loop import ActionLoop
from wam.config import preset
from wam.model import WorldActionModel
from wam.precision import lower_matmuls
from wam.robot import load_robot
from wam.sampling import denoise_chunk
from wam.visibility import Question

ROUNDING = {"atol": 2e-5, "rtol": 1e-5}  # float32 through two layers of weights that are larger than trained ones
SIGMAS = (1.0, 0.8, 0.45, 0.0)
VARIANTS = {
    "x, modulated head": {},
    "velocity, linear head": {"action_prediction": "velocity", "action_head": "linear"},
    "no norm of queries and keys": {"qk_norm": False},
    "no learned positions": {"learned_positions": False},
    "text projection": {"text_projection": True, "gate_init": 0.0},
    "one expert": {"action_register": True, "action_width": 32},
}


def make_model(**changes) -> WorldActionModel:
    """Every part of it matters: norms, tables and biases are away from where they start."""
    torch.manual_seed(0)
    model = WorldActionModel(dataclasses.replace(preset("micro", load_robot("sim6")), **changes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    return model.eval().requires_grad_(False)


def make_context(model: WorldActionModel, batch: int = 2):
    generator = torch.Generator().manual_seed(1)
    config = model.config
    images = torch.randint(0, 256, (batch, config.n_cameras, *config.image_size_px, 3), generator=generator)
    words = torch.randint(0, 100, (batch, config.prompt_length), generator=generator)
    proprio = torch.randn(batch, config.state_dim, generator=generator)
    return model.encode_context(images.to(torch.uint8), proprio, model.encode_prompt(words))


def noise_of(model: WorldActionModel, batch: int = 2) -> torch.Tensor:
    shape = (batch, model.config.chunk_length, model.config.action_dim)
    return torch.randn(shape, generator=torch.Generator().manual_seed(2))


def tensors_of(context) -> list[torch.Tensor]:
    return [tensor for layers in context for kv in layers for tensor in kv]


def test_only_eager_inference_is_fused():
    assert not fused.active()
    with torch.no_grad():
        assert not fused.active()
    with torch.inference_mode():
        assert fused.active()


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS.keys())
def test_chunks_and_contexts_are_those_of_the_plain_network(changes):
    model = make_model(**changes)
    with torch.no_grad():
        expected_context = make_context(model)
        expected = denoise_chunk(model, expected_context, noise_of(model), SIGMAS)
    with torch.inference_mode():
        context = make_context(model)
        found = denoise_chunk(model, context, noise_of(model), SIGMAS)
    for one, other in zip(tensors_of(context), tensors_of(expected_context), strict=True):
        torch.testing.assert_close(one, other, **ROUNDING)
    torch.testing.assert_close(found, expected, **ROUNDING)
    assert not torch.equal(found, expected)  # another order of operations: were it equal, nothing was compared
    moved = denoise_chunk(model, context, noise_of(model) + 1.0, SIGMAS)
    assert float((moved - found).abs().max()) > 1e-2


def test_a_chunk_leaves_its_observation_as_it_was():
    model = make_model()
    with torch.inference_mode():
        context = make_context(model)
        before = [tensor.clone() for tensor in tensors_of(context)]
        noise = noise_of(model)
        first = denoise_chunk(model, context, noise, SIGMAS)
        assert torch.equal(denoise_chunk(model, context, noise, SIGMAS), first)
    assert torch.equal(noise, noise_of(model))
    assert all(map(torch.equal, tensors_of(context), before))


def test_each_token_may_have_its_own_level():
    model = make_model()
    sigma = torch.linspace(0.0, 1.0, model.config.chunk_length).expand(2, -1)
    tables = [model.step_tables(sigma, 0.5 * sigma), model.step_tables(0.5 * sigma, 0.0 * sigma)]
    with torch.no_grad():
        context = make_context(model)
        expected = noise_of(model)
        for table in tables:
            expected = model.denoise(expected, table, context)
    found = ActionLoop(model, context, model.config.chunk_length).run(noise_of(model), tables)
    torch.testing.assert_close(found, expected, **ROUNDING)
    assert torch.equal(found[:, 0], noise_of(model)[:, 0])  # level 0 all along: untouched


def test_the_future_is_the_same_too():
    model = make_model()
    config = model.config
    video = torch.randn(2, config.future_tokens, config.token_dim, generator=torch.Generator().manual_seed(3))
    sigma = torch.tensor([0.3, 0.9])

    def predict():
        tokens = torch.randn(2, config.tokens_per_frame, config.token_dim, generator=torch.Generator().manual_seed(4))
        prompt = model.encode_prompt(torch.arange(2 * config.prompt_length).view(2, -1) % 50)
        proprio = torch.ones(2, config.state_dim)
        return model(tokens, proprio, prompt, Question.JOINT, video=(video, sigma), actions=(noise_of(model), sigma))

    with torch.no_grad():
        expected = predict()
    with torch.inference_mode():
        found = predict()
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, **ROUNDING)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_rounded_no_more_than_before(dtype):
    exact, half = make_model(), lower_matmuls(make_model(), dtype)
    with torch.no_grad():
        reference = denoise_chunk(exact, make_context(exact), noise_of(exact), SIGMAS)
        plain = denoise_chunk(half, make_context(half), noise_of(half), SIGMAS)
    with torch.inference_mode():
        found = denoise_chunk(half, make_context(half), noise_of(half), SIGMAS)
    assert found.dtype == torch.float32
    assert float((found - reference).abs().mean()) <= 1.5 * float((plain - reference).abs().mean())
