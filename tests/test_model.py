"""The network: cached = uncached token for token, and nobody sees what the rule hides."""

import dataclasses

import pytest
import torch
from torch.nn import functional as F

from wam.config import ModelConfig, preset
from wam.flow import euler_step, velocity_from_x
from wam.model import ContextCache, PromptCache, WorldActionModel
from wam.robot import load_robot
from wam.sampling import imagine_frame, sample_actions
from wam.visibility import Group, Question, attention_mask

EXACT = {"atol": 2e-6, "rtol": 1e-5}  # float32 rounding: batched and cached matmuls add up in another order


@pytest.fixture(params=["tiny", "micro", "bare", "velocity"])
def model(request: pytest.FixtureRequest) -> WorldActionModel:
    torch.manual_seed(0)
    config = preset("tiny" if request.param == "tiny" else "micro", load_robot("sim6"))
    changes = {"bare": {"qk_norm": False, "learned_positions": False}, "velocity": {"action_prediction": "velocity"}}
    return WorldActionModel(dataclasses.replace(config, **changes.get(request.param, {}))).eval()


def inputs(config: ModelConfig, batch: int = 3) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    height, width = config.image_size_px
    shape = (batch, config.n_cameras, height, width, 3)
    return {
        "images": torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8),
        "proprio": torch.randn(batch, config.action_dim, generator=generator),
        "ids": torch.randint(0, 4096, (batch, config.prompt_length), generator=generator),
        "actions": torch.randn(batch, config.chunk_length, config.action_dim, generator=generator),
        "video": torch.randn(batch, config.tokens_per_frame, config.token_dim, generator=generator),
        "sigma": torch.rand(batch, generator=generator),
    }


@torch.no_grad()
def test_cached_inference_equals_the_uncached_forward(model: WorldActionModel):
    x = inputs(model.config)
    prompt = model.encode_prompt(x["ids"])
    context = model.encode_context(x["images"], x["proprio"], prompt)
    tokens, cross = model.tokenizer.encode(x["images"]), model.cross_kv(x["proprio"], prompt)
    whole = model(
        tokens, x["proprio"], prompt, "policy", video=(x["video"], x["sigma"]), actions=(x["actions"], x["sigma"])
    )
    torch.testing.assert_close(model.action_velocity(x["actions"], x["sigma"], context), whole.actions, **EXACT)
    torch.testing.assert_close(model.video_velocity(x["video"], x["sigma"], context, cross), whole.video, **EXACT)


@torch.no_grad()
@pytest.mark.parametrize("question", list(Question))
def test_group_attention_equals_dense_masked_attention(question: Question):
    """The mask-free forward against one SDPA per layer over all tokens with the expanded mask."""
    torch.manual_seed(0)
    model = WorldActionModel(preset("micro", load_robot("sim6"))).eval()
    x = inputs(model.config)
    prompt = model.encode_prompt(x["ids"])
    tokens = model.tokenizer.encode(x["images"])
    ours = model(
        tokens, x["proprio"], prompt, question, video=(x["video"], x["sigma"]), actions=(x["actions"], x["sigma"])
    )
    dense_video, dense_actions = dense_forward(model, tokens, x, prompt, question)
    torch.testing.assert_close(ours.video, dense_video, **EXACT)
    dense_velocity = velocity_from_x(x["actions"], dense_actions, x["sigma"])
    torch.testing.assert_close(ours.actions, dense_velocity, atol=2e-5, rtol=1e-4)


def dense_forward(
    model: WorldActionModel, tokens: torch.Tensor, x: dict[str, torch.Tensor], prompt: PromptCache, question: Question
) -> tuple[torch.Tensor, torch.Tensor]:
    """Independent reference: concatenates all groups and masks."""
    cross = model.cross_kv(x["proprio"], prompt)
    streams = {
        Group.FRAME: model._enter_frame(tokens, model.clean_modulation(torch.zeros(len(tokens)))),
        Group.VIDEO: model._enter_video(x["video"], x["sigma"]),
        Group.ACTION: model._enter_actions(x["actions"], x["sigma"]),
    }
    expert = {Group.FRAME: "video", Group.VIDEO: "video", Group.ACTION: "action"}
    hidden = {group: stream.x for group, stream in streams.items()}
    lengths = {group: value.shape[1] for group, value in hidden.items()}
    mask = attention_mask(question, lengths)
    for layer in range(model.config.num_layers):
        blocks = {group: model.experts[expert[group]].blocks[layer] for group in streams}
        projected = [blocks[g].project(hidden[g], s.modulation.blocks[layer], s.rope) for g, s in streams.items()]
        q, k, v = (torch.cat(parts, dim=2) for parts in zip(*((q, *kv) for q, kv in projected), strict=True))
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).split(list(lengths.values()), dim=2)
        for (group, stream), part in zip(streams.items(), attended, strict=True):
            modulation, text = stream.modulation.blocks[layer], cross[expert[group]][layer]
            hidden[group] = blocks[group].merge(hidden[group], part, modulation, text)
    video, action = streams[Group.VIDEO], streams[Group.ACTION]
    return (
        model.experts["video"].head(hidden[Group.VIDEO], video.modulation.head),
        model.experts["action"].head(hidden[Group.ACTION], action.modulation.head),
    )


@pytest.mark.parametrize("question", list(Question))
def test_hidden_groups_have_no_influence(question: Question):
    """Gradients of every output reach exactly the groups that the rule lets it see."""
    torch.manual_seed(0)
    model = WorldActionModel(preset("micro", load_robot("sim6")))
    x = inputs(model.config)
    video, actions = x["video"].requires_grad_(), x["actions"].requires_grad_()
    out = model(
        model.tokenizer.encode(x["images"]),
        x["proprio"],
        model.encode_prompt(x["ids"]),
        question,
        video=(video, x["sigma"]),
        actions=(actions, x["sigma"]),
    )
    to_actions = torch.autograd.grad(out.video.sum(), actions, retain_graph=True, allow_unused=True)[0]
    to_video = torch.autograd.grad(out.actions.sum(), video, allow_unused=True)[0]
    assert (to_actions is not None and bool(to_actions.any())) is (question in ("joint", "forward"))
    assert (to_video is not None and bool(to_video.any())) is (question in ("joint", "inverse"))


def encoded(model: WorldActionModel, x: dict[str, torch.Tensor]) -> ContextCache:
    return model.encode_context(x["images"], x["proprio"], model.encode_prompt(x["ids"]))


@torch.no_grad()
def test_one_level_per_token_equals_one_per_sample_where_they_are_the_same(model: WorldActionModel):
    x = inputs(model.config)
    context, sigma = encoded(model, x), x["sigma"].clamp_min(0.1)  # a velocity divides by it
    per_token = sigma[:, None].expand(-1, model.config.chunk_length)
    one, many = (model.action_velocity(x["actions"], level, context) for level in (sigma, per_token))
    torch.testing.assert_close(one, many, **EXACT)
    one, many = (model.denoise_step(x["actions"], level, level * 0.5, context) for level in (sigma, per_token))
    torch.testing.assert_close(one, many, **EXACT)


@torch.no_grad()
def test_denoise_step_is_an_euler_step_of_the_velocity(model: WorldActionModel):
    x = inputs(model.config)
    context, sigma, actions = encoded(model, x), x["sigma"].clamp_min(0.1), x["actions"]
    stepped = euler_step(actions, model.action_velocity(actions, sigma, context), sigma, 0.25 * sigma)
    torch.testing.assert_close(model.denoise_step(actions, sigma, 0.25 * sigma, context), stepped, **EXACT)


@torch.no_grad()
def test_tokens_whose_level_does_not_change_stay_and_still_inform_the_others(model: WorldActionModel):
    x = inputs(model.config)
    context, actions = encoded(model, x), x["actions"]
    sigma = torch.full(actions.shape[:2], 0.75)
    sigma[:, :4] = 0.0  # a committed prefix
    sigma_next = 0.5 * sigma
    stepped = model.denoise_step(actions, sigma, sigma_next, context)
    assert torch.equal(stepped[:, :4], actions[:, :4])
    other = actions.clone()
    other[:, :4] += 1.0
    moved = model.denoise_step(other, sigma, sigma_next, context)[:, 4:] - stepped[:, 4:]
    assert float(moved.abs().max()) > 1e-4


@torch.no_grad()
def test_last_step_returns_the_predicted_chunk(model: WorldActionModel):
    x = inputs(model.config)
    context, actions = encoded(model, x), x["actions"]
    one, zero = torch.ones(len(actions)), torch.zeros(len(actions))
    predicted = model.predict_actions(actions, one, context)
    clean = predicted if model.config.action_prediction == "x" else actions - predicted
    torch.testing.assert_close(model.denoise_step(actions, one, zero, context), clean, **EXACT)


@torch.no_grad()
def test_observation_instruction_and_proprio_all_matter(model: WorldActionModel):
    x = inputs(model.config, batch=1)
    noise = x["actions"]

    def chunk(**changes: torch.Tensor) -> torch.Tensor:
        y = {**x, **changes}
        context = model.encode_context(y["images"], y["proprio"], model.encode_prompt(y["ids"]))
        return sample_actions(model, context, noise, 2)

    assert not torch.allclose(chunk(), chunk(images=255 - x["images"]))
    assert not torch.allclose(chunk(), chunk(proprio=x["proprio"] + 1))
    assert not torch.allclose(chunk(), chunk(ids=x["ids"].flip(1)))


@torch.no_grad()
def test_samples_of_a_batch_do_not_mix(model: WorldActionModel):
    x = inputs(model.config)
    context = model.encode_context(x["images"], x["proprio"], model.encode_prompt(x["ids"]))
    alone = model.encode_context(x["images"][:1], x["proprio"][:1], model.encode_prompt(x["ids"][:1]))
    together = sample_actions(model, context, x["actions"], 3)
    torch.testing.assert_close(together[:1], sample_actions(model, alone, x["actions"][:1], 3), atol=1e-5, rtol=1e-4)


def test_imagination_is_an_image_and_repeats_with_its_seed(model: WorldActionModel):
    x = inputs(model.config, batch=1)
    with torch.no_grad():
        prompt = model.encode_prompt(x["ids"])
    first, again, other = (
        imagine_frame(model, x["images"], x["proprio"], prompt, n_steps=2, seed=seed) for seed in (3, 3, 4)
    )
    assert first.shape == x["images"].shape
    assert first.dtype == torch.uint8
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_tiny_is_tiny():
    model = WorldActionModel(preset("tiny", load_robot("sim6")))
    assert 1_000_000 < sum(p.numel() for p in model.parameters()) < 3_000_000
