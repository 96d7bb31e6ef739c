"""Observations that look back: masked attention token for token, a rolling cache, and what must not touch it."""

import dataclasses

import pytest
import torch
from torch.nn import functional as F

from wam.batches import Batch
from wam.blocks import KeysValues
from wam.caches import ContextCache
from wam.config import ModelConfig, preset
from wam.errors import ConfigError
from wam.flow import euler_step
from wam.instants import frame_tables, instant_times
from wam.losses import LossConfig, training_losses
from wam.model import WorldActionModel
from wam.noise import QuestionMix
from wam.questions import see_actions, see_future
from wam.robot import load_robot
from wam.rope import apply_rope, video_tables
from wam.streaming import RollingCache, see_instant, start_stream
from wam.visibility import Band, Group, Question, attention_mask

EXACT = {"atol": 5e-6, "rtol": 1e-5}  # float32 rounding: sums in another order, keys turned in two steps
WINDOW, LAYERS = 3, 2
ROBOT = load_robot("sim6")


def make(**changes) -> WorldActionModel:
    torch.manual_seed(0)
    config = dataclasses.replace(preset("micro", ROBOT), n_obs_steps=WINDOW, **changes)
    return WorldActionModel(config).eval()


@pytest.fixture(scope="module", params=["plain", "bare", "register", "two frames"])
def causal(request: pytest.FixtureRequest) -> WorldActionModel:
    width = preset("micro", ROBOT).video_width
    changes = {
        "bare": {"learned_positions": False, "qk_norm": False, "action_prediction": "velocity"},
        "register": {"action_register": True, "action_width": width, "action_head": "linear"},
        "two frames": {"future_frames": 2, "obs_stride": 3},
    }
    return make(obs_attention="causal", **changes.get(request.param, {}))


@dataclasses.dataclass(frozen=True)
class Stream:
    """A stream of observations and what is asked after the last one."""

    tokens: torch.Tensor  # (B, I, N, Z)
    proprio: torch.Tensor  # (B, I, P)
    ids: torch.Tensor
    actions: torch.Tensor
    video: torch.Tensor
    sigma: torch.Tensor


def stream(config: ModelConfig, instants: int, size: int = 2) -> Stream:
    generator = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(size, *shape, generator=generator)

    return Stream(
        tokens=normal(instants, config.tokens_per_frame, config.token_dim),
        proprio=normal(instants, config.state_dim),
        ids=torch.randint(0, 4096, (size, config.prompt_length), generator=generator),
        actions=normal(config.chunk_length, config.action_dim),
        video=normal(config.future_tokens, config.token_dim),
        sigma=0.2 + 0.8 * torch.rand(size, generator=generator),
    )


def rolled(model: WorldActionModel, x: Stream) -> tuple[RollingCache, ContextCache, dict]:
    """The stream, instant by instant."""
    cache, prompt = start_stream(model), model.encode_prompt(x.ids)
    for instant in range(x.tokens.shape[1]):
        cross = model.cross_kv(x.proprio[:, instant], prompt)
        cache, context = see_instant(model, cache, x.tokens[:, instant], cross)
    return cache, context, cross


def dense(model: WorldActionModel, x: Stream, question: Question) -> tuple[torch.Tensor, torch.Tensor]:
    """Independent reference: all instants, video and actions at once, under the expanded mask of ``attention_mask``."""
    config, instants = model.config, x.tokens.shape[1]
    prompt = model.encode_prompt(x.ids)
    own = [model.cross_kv(x.proprio[:, instant], prompt) for instant in range(instants)]
    positions = model.video_positions if config.learned_positions else 0.0
    embedded = model.experts["video"].embed(x.tokens) + positions  # (B, I, N, D)
    clean = model.clean_modulation(torch.zeros(len(x.tokens)))
    streams = {"frame": (embedded.flatten(1, 2), clean, frame_tables(config, instants))}
    streams |= {
        name: (entered.x, entered.modulation, entered.rope)
        for name, entered in (
            ("video", model._enter_video(x.video, x.sigma)),
            ("action", model._enter_actions(x.actions, x.sigma)),
        )
    }
    hidden = {name: values[0] for name, values in streams.items()}
    lengths = dict(zip(Group, (value.shape[1] for value in hidden.values()), strict=True))
    mask = attention_mask(question, lengths, Band(instants, config.n_obs_steps, config.obs_attention == "causal"))
    for layer in range(config.num_layers):
        blocks = {name: model.experts["action" if name == "action" else "video"].blocks[layer] for name in streams}
        projected = [blocks[n].project(hidden[n], s[1].blocks[layer], s[2]) for n, s in streams.items()]
        q, k, v = (torch.cat(parts, dim=2) for parts in zip(*((q, *kv) for q, kv in projected), strict=True))
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).split(list(lengths.values()), dim=2)
        for (name, values), part in zip(streams.items(), attended, strict=True):
            block, modulation = blocks[name], values[1].blocks[layer]
            if name == "frame":  # each instant by itself, with the words and its own proprio
                pieces = zip(hidden[name].chunk(instants, 1), part.chunk(instants, 2), own, strict=True)
                merged = [block.merge(h, p, modulation, cross["video"][layer]) for h, p, cross in pieces]
                hidden[name] = torch.cat(merged, dim=1)
            else:
                hidden[name] = block.merge(hidden[name], part, modulation, own[-1][name][layer])
    return tuple(model.experts[name].head(hidden[name], streams[name][1].head) for name in ("video", "action"))


@torch.no_grad()
@pytest.mark.parametrize("instants", [1, 2, WINDOW, WINDOW + 1, 2 * WINDOW + 1])
def test_the_rolling_cache_is_the_uncached_forward_under_the_banded_mask(causal: WorldActionModel, instants: int):
    """Token for token, over fewer and over more observations than the window holds."""
    x = stream(causal.config, instants)
    video, raw = dense(causal, x, Question.POLICY)
    _, context, cross = rolled(causal, x)
    torch.testing.assert_close(causal.predict_actions(x.actions, x.sigma, context), raw, **EXACT)
    torch.testing.assert_close(causal.video_velocity(x.video, x.sigma, context, cross), video, **EXACT)
    cached = causal.predict(
        "joint", {Group.FRAME: context.frame}, cross, video=(x.video, x.sigma), actions=(x.actions, x.sigma)
    )
    video, raw = dense(causal, x, Question.JOINT)
    torch.testing.assert_close(cached.raw_actions, raw, **EXACT)
    torch.testing.assert_close(cached.video, video, **EXACT)


@torch.no_grad()
@pytest.mark.parametrize("attention", ["whole", "causal"])
@pytest.mark.parametrize("question", list(Question))
def test_groups_of_instants_equal_dense_masked_attention(attention: str, question: Question):
    """The mask-free forward of a model's own number of instants, in every question."""
    model = make(obs_attention=attention)
    x = stream(model.config, WINDOW)
    ours = model(
        x.tokens.flatten(1, 2),
        x.proprio,
        model.encode_prompt(x.ids),
        question,
        video=(x.video, x.sigma),
        actions=(x.actions, x.sigma),
    )
    video, raw = dense(model, x, question)
    torch.testing.assert_close(ours.video, video, **EXACT)
    torch.testing.assert_close(ours.raw_actions, raw, **EXACT)


@torch.no_grad()
def test_an_observation_with_all_that_leads_up_to_it_is_the_stream_itself():
    """With the full lead a stateless observation gives what a stream of any length gives: training sees no other."""
    model = make(obs_attention="causal", obs_lead=(LAYERS - 1) * (WINDOW - 1))
    assert model.config.obs_lead == model.config.full_lead
    x = stream(model.config, 9)
    last = model.config.n_instants
    cross = model.observation_kv(x.proprio[:, -last:], model.encode_prompt(x.ids))
    alone = model.encode_context_tokens(x.tokens[:, -last:].flatten(1, 2), cross)
    _, context, _ = rolled(model, x)
    for stateless, streamed in zip(alone.frame, context.frame, strict=True):
        assert stateless.keys.shape == streamed.keys.shape
        torch.testing.assert_close(stateless.keys, streamed.keys, **EXACT)
        torch.testing.assert_close(stateless.values, streamed.values, **EXACT)
    shorter = dataclasses.replace(model.config, obs_lead=0)
    less = WorldActionModel(shorter).eval()
    less.load_state_dict(model.state_dict())
    cut = less.encode_context_tokens(
        x.tokens[:, -WINDOW:].flatten(1, 2), less.observation_kv(x.proprio[:, -WINDOW:], less.encode_prompt(x.ids))
    )
    assert not torch.allclose(cut.frame[-1].keys, context.frame[-1].keys, atol=1e-3)  # the lead matters


@torch.no_grad()
def test_what_is_predicted_never_enters_the_cache(causal: WorldActionModel):
    """Denoising actions, imagining and answering other questions leave every tensor as it was, bit for bit."""
    x = stream(causal.config, WINDOW + 1)
    cache, context, cross = rolled(causal, x)
    before = [part.clone() for layers in cache.instants for kv in layers for part in kv]
    video = x.video
    for sigma, sigma_next in ((1.0, 0.5), (0.5, 0.0)):
        levels = [torch.full((2,), level) for level in (sigma, sigma_next)]
        video = euler_step(video, causal.video_velocity(video, levels[0], context, cross), *levels)
        causal.denoise_step(x.actions, levels[0], levels[1], context)
    see_future(causal, context, cross, video)
    see_actions(causal, context, cross, x.actions)
    after = [part for layers in cache.instants for kv in layers for part in kv]
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))
    again, _ = see_instant(causal, cache, x.tokens[:, 0], cross)
    kept = [part for layers in again.instants[:-1] for kv in layers for part in kv]
    moved = [part for layers in cache.instants[1:] for kv in layers for part in kv]
    assert all(old is new for old, new in zip(moved, kept, strict=True))  # kept as they are, the oldest gone
    assert len(again.instants) == WINDOW


@torch.no_grad()
def test_an_instant_never_changes_when_later_ones_come(causal: WorldActionModel):
    x = stream(causal.config, 5)
    short = dataclasses.replace(x, tokens=x.tokens[:, :4], proprio=x.proprio[:, :4])
    older, newer = rolled(causal, short)[0], rolled(causal, x)[0]
    for early, late in zip(older.instants[1:], newer.instants[:-1], strict=True):
        for mine, theirs in zip(early, late, strict=True):
            assert torch.equal(mine.keys, theirs.keys)


def test_keys_are_turned_by_a_difference_of_times():
    config = preset("micro", ROBOT)
    generator = torch.Generator().manual_seed(0)
    count = config.tokens_per_frame
    keys = torch.randn(1, config.num_heads, count, config.head_dim, generator=generator)
    rows, columns = config.grid
    now, then = (
        video_tables(torch.tensor([t]), rows, columns * config.n_cameras, config.head_dim) for t in (0.0, -1.25)
    )
    back = video_tables(torch.tensor([-1.25]), 1, 1, config.head_dim)
    torch.testing.assert_close(apply_rope(apply_rope(keys, now), back), apply_rope(keys, then), atol=1e-6, rtol=1e-6)


def test_the_present_lies_at_zero_and_the_past_at_its_distance():
    config = dataclasses.replace(preset("micro", ROBOT), n_obs_steps=3, obs_stride=4)
    assert instant_times(config, 3).tolist() == [-1.0, -0.5, 0.0]  # the imagined frame, 8 steps ahead, lies at 1


@pytest.mark.parametrize("attention", ["whole", "causal"])
def test_gradients_reach_exactly_the_instants_that_are_seen(attention: str):
    model = make(obs_attention=attention)
    x = stream(model.config, WINDOW)
    tokens = x.tokens.flatten(1, 2).requires_grad_()
    cross = model.observation_kv(x.proprio, model.encode_prompt(x.ids))
    frame = model.frame_kv(tokens, cross)
    size = model.config.tokens_per_frame
    oldest = torch.autograd.grad(frame[-1].keys[..., :size, :].sum(), tokens)[0]
    seen = [bool(oldest[:, i * size : (i + 1) * size].any()) for i in range(WINDOW)]
    assert seen == ([True, False, False] if attention == "causal" else [True] * WINDOW)


def test_proprio_belongs_to_its_own_instant():
    """The proprio of an earlier instant reaches a causal one only through the frames it sees."""
    model = make(obs_attention="causal", num_layers=3)
    x = stream(model.config, WINDOW)
    moved = x.proprio.clone()
    moved[:, 1] += 1.0
    frames = []
    for proprio in (x.proprio, moved):
        with torch.no_grad():
            cross = model.observation_kv(proprio, model.encode_prompt(x.ids))
            frames.append(model.frame_kv(x.tokens.flatten(1, 2), cross)[-1].keys)
    size = model.config.tokens_per_frame
    changed = [not torch.equal(*(keys[..., i * size : (i + 1) * size, :] for keys in frames)) for i in range(WINDOW)]
    assert changed == [False, True, True]


def batch(config: ModelConfig, size: int = 8) -> Batch:
    generator = torch.Generator().manual_seed(0)
    shape = (config.n_cameras, *config.image_size_px, 3)

    def images(*front: int) -> torch.Tensor:
        return torch.randint(0, 256, (size, *front, *shape), generator=generator, dtype=torch.uint8)

    past = config.n_instants - 1
    return Batch(
        images=images(),
        future_images=images(config.future_frames),
        future_is_pad=torch.zeros(size, config.future_latents, dtype=torch.bool),
        proprio=torch.randn(size, config.action_dim, generator=generator),
        actions=torch.randn(size, config.chunk_length, config.action_dim, generator=generator),
        action_is_pad=torch.zeros(size, config.chunk_length, dtype=torch.bool),
        token_ids=torch.ones(size, config.prompt_length, dtype=torch.int64),
        past_images=images(past),
        past_proprio=torch.randn(size, past, config.action_dim, generator=generator),
    )


@pytest.mark.parametrize("attention", ["whole", "causal"])
def test_every_question_trains_on_several_instants(attention: str):
    model = make(obs_attention=attention, obs_lead=2 if attention == "causal" else 0)
    data = batch(model.config)
    mix = QuestionMix(policy=1.0, joint=1.0, inverse=1.0, forward=1.0)
    loss = training_losses(model, data, LossConfig(questions=mix), torch.Generator().manual_seed(0))["loss"]
    loss.backward()
    assert bool(loss.isfinite())
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)
    blind = dataclasses.replace(data, past_images=255 - data.past_images)
    other = training_losses(model, blind, LossConfig(questions=mix), torch.Generator().manual_seed(0))["loss"]
    assert float(loss.detach()) != float(other.detach())  # the past is read


def test_a_model_that_does_not_look_back_has_the_weights_of_one_that_does():
    """So a checkpoint can be given a past, or lose it, without any weight of another shape."""
    one = preset("micro", ROBOT)
    torch.manual_seed(0)
    alone = WorldActionModel(one).state_dict()
    several = make(obs_attention="causal", obs_lead=2).state_dict()
    assert {name: value.shape for name, value in alone.items()} == {n: v.shape for n, v in several.items()}
    assert all(torch.equal(alone[name], several[name]) for name in alone)


def test_a_model_whose_instants_see_later_ones_cannot_stream():
    with pytest.raises(
        ConfigError, match="an instant changes when later ones come: train with .* --obs-attention causal"
    ):
        start_stream(make())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"obs_lead": 1}, "obs_lead is 1 but obs_attention is 'whole'"),
        ({"obs_attention": "causal", "n_obs_steps": 1}, "orders the instants .* but n_obs_steps is 1"),
        ({"obs_attention": "casual"}, r"unknown observation attention 'casual' \(did you mean 'causal'\?\)"),
        ({"image_width": 10, "image_tokens": 3}, "attends to the tokens of an image encoder"),
        ({"n_obs_steps": 0}, "n_obs_steps is 0 but must be a whole number of at least 1"),
    ],
)
def test_impossible_histories_are_refused(changes: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(preset("micro", ROBOT), **{"n_obs_steps": 2, **changes})


def test_the_band_is_a_window_that_slides():
    causal, whole = Band(5, 2, True), Band(3, 3, False)
    assert [list(causal.visible(i)) for i in range(5)] == [[0], [0, 1], [1, 2], [2, 3], [3, 4]]
    assert list(causal.used) == [3, 4]
    assert [list(whole.visible(i)) for i in range(3)] == [[0, 1, 2]] * 3
    mask = attention_mask("joint", {Group.FRAME: 10, Group.VIDEO: 1, Group.ACTION: 1}, causal)
    assert mask[4].tolist() == [False, False, True, True, True, True] + [False] * 6
    assert mask[10:].tolist() == [[False] * 6 + [True] * 6] * 2


def test_keys_that_lead_up_to_others_are_left_out_of_a_context():
    model = make(obs_attention="causal", obs_lead=2)
    x = stream(model.config, WINDOW + 2)
    cross = model.observation_kv(x.proprio, model.encode_prompt(x.ids))
    context = model.encode_context_tokens(x.tokens.flatten(1, 2), cross)
    assert all(isinstance(kv, KeysValues) for kv in context.frame)
    assert {kv.keys.shape[-2] for kv in context.frame} == {WINDOW * model.config.tokens_per_frame}
