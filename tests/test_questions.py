"""The four questions: what is cached equals what is not, token for token, and training asks them as configured."""

import dataclasses

import pytest
import torch

from wam.batches import Batch
from wam.caches import ContextCache
from wam.config import ModelConfig, preset
from wam.losses import LossConfig, training_losses
from wam.model import WorldActionModel
from wam.noise import QuestionMix
from wam.question_losses import Asked, QuestionLosses
from wam.questions import see_actions, see_future
from wam.robot import load_robot
from wam.visibility import Group, Question

EXACT = {"atol": 5e-6, "rtol": 1e-5}  # float32 rounding: cached and uncached products add up in another order


@pytest.fixture(scope="module", params=["micro", "two frames", "velocity", "register", "register with image"])
def model(request: pytest.FixtureRequest) -> WorldActionModel:
    config = preset("micro", load_robot("sim6"))
    register = {"action_register": True, "action_width": config.video_width, "action_head": "linear"}
    changes = {
        "two frames": {"future_frames": 2, "learned_positions": False},
        "velocity": {"action_prediction": "velocity", "text_projection": True, "action_head": "linear"},
        "register": register,
        "register with image": register | {"image_width": 10, "image_tokens": 3, "condition_channels": 12},
    }
    torch.manual_seed(0)
    return WorldActionModel(dataclasses.replace(config, **changes.get(request.param, {}))).eval()


@dataclasses.dataclass(frozen=True)
class Inputs:
    tokens: torch.Tensor
    proprio: torch.Tensor
    ids: torch.Tensor
    video: torch.Tensor
    actions: torch.Tensor
    sigma_video: torch.Tensor
    sigma: torch.Tensor  # per action token, with a clean prefix
    image: torch.Tensor | None
    condition: torch.Tensor | None


def inputs(config: ModelConfig, size: int = 3) -> Inputs:
    generator = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(size, *shape, generator=generator)

    sigma = torch.rand(size, 1, generator=generator).expand(-1, config.chunk_length).clone()
    sigma[0, :3] = 0.0
    return Inputs(
        tokens=normal(config.tokens_per_frame, config.token_dim),
        proprio=normal(config.state_dim),
        ids=torch.randint(0, 4096, (size, config.prompt_length), generator=generator),
        video=normal(config.future_tokens, config.token_dim),
        actions=normal(config.chunk_length, config.action_dim),
        sigma_video=0.1 + 0.9 * torch.rand(size, generator=generator),
        sigma=sigma,
        image=normal(config.image_tokens, config.image_width) if config.image_width else None,
        condition=normal(config.future_tokens, config.condition_dim) if config.condition_channels else None,
    )


def observe(model: WorldActionModel, x: Inputs) -> tuple[ContextCache, dict]:
    cross = model.cross_kv(x.proprio, model.encode_prompt(x.ids), x.image)
    return model.encode_context_tokens(x.tokens, cross), cross


def uncached(model: WorldActionModel, x: Inputs, question: str, video_sigma: torch.Tensor, sigma: torch.Tensor):
    return model(
        x.tokens,
        x.proprio,
        model.encode_prompt(x.ids),
        question,
        video=(x.video, video_sigma, x.condition),
        actions=(x.actions, sigma),
        image=x.image,
    )


@torch.no_grad()
def test_policy_cached_equals_uncached(model: WorldActionModel):
    x = inputs(model.config)
    context, cross = observe(model, x)
    whole = uncached(model, x, "policy", x.sigma_video, x.sigma)
    torch.testing.assert_close(model.predict_actions(x.actions, x.sigma, context), whole.raw_actions, **EXACT)
    velocity = model.video_velocity(x.video, x.sigma_video, context, cross, x.condition)
    torch.testing.assert_close(velocity, whole.video, **EXACT)


@torch.no_grad()
def test_joint_cached_equals_uncached(model: WorldActionModel):
    x = inputs(model.config)
    context, cross = observe(model, x)
    cached = model.predict(
        "joint",
        {Group.FRAME: context.frame},
        cross,
        video=(x.video, x.sigma_video, x.condition),
        actions=(x.actions, x.sigma),
    )
    whole = uncached(model, x, "joint", x.sigma_video, x.sigma)
    torch.testing.assert_close(cached.raw_actions, whole.raw_actions, **EXACT)
    torch.testing.assert_close(cached.video, whole.video, **EXACT)


@torch.no_grad()
def test_inverse_cached_equals_uncached(model: WorldActionModel):
    """The clean future joins the context, and the very function of the fast question answers."""
    x = inputs(model.config)
    context, cross = observe(model, x)
    seen = see_future(model, context, cross, x.video, x.condition)
    whole = uncached(model, x, "inverse", torch.zeros(3), x.sigma)
    torch.testing.assert_close(model.predict_actions(x.actions, x.sigma, seen), whole.raw_actions, **EXACT)
    assert not torch.allclose(model.predict_actions(x.actions, x.sigma, context), whole.raw_actions, atol=1e-3)


@torch.no_grad()
def test_forward_cached_equals_uncached(model: WorldActionModel):
    x = inputs(model.config)
    context, cross = observe(model, x)
    cached = see_actions(model, context, cross, x.actions)
    answer = model.predict("forward", cached, cross, video=(x.video, x.sigma_video, x.condition))
    whole = uncached(model, x, "forward", x.sigma_video, torch.zeros_like(x.sigma))
    torch.testing.assert_close(answer.video, whole.video, **EXACT)


@pytest.mark.parametrize("question", list(Question))
def test_the_observation_sees_neither_future_nor_actions(question: Question):
    """Keys and values of F are the same whatever stands beside it, token for token, in every question."""
    torch.manual_seed(0)
    model = WorldActionModel(preset("micro", load_robot("sim6"))).eval()
    x = inputs(model.config)
    clean = model.clean_modulation(torch.zeros(3))
    cross = model.cross_kv(x.proprio, model.encode_prompt(x.ids))
    groups = {Group.FRAME: model._enter_frame(x.tokens, clean)}
    beside = groups | model._enter_noisy((x.video, x.sigma_video), (x.actions, x.sigma))
    with torch.no_grad():
        alone = model._run(groups, {}, cross, question, silent=groups).kv[Group.FRAME]
        among = model._run(beside, {}, cross, question, silent=(Group.FRAME,)).kv[Group.FRAME]
    for mine, theirs in zip(alone, among, strict=True):
        torch.testing.assert_close(mine.keys, theirs.keys, **EXACT)
        torch.testing.assert_close(mine.values, theirs.values, **EXACT)


def batch(config: ModelConfig, size: int = 8) -> Batch:
    generator = torch.Generator().manual_seed(0)
    shape = (size, config.n_cameras, *config.image_size_px, 3)
    future = torch.randint(0, 256, (size, config.future_frames, *shape[1:]), generator=generator, dtype=torch.uint8)
    return Batch(
        images=torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8),
        future_images=future,
        future_is_pad=torch.zeros(size, config.future_latents, dtype=torch.bool),
        proprio=torch.randn(size, config.action_dim, generator=generator),
        actions=torch.randn(size, config.chunk_length, config.action_dim, generator=generator),
        action_is_pad=torch.zeros(size, config.chunk_length, dtype=torch.bool),
        token_ids=torch.ones(size, config.prompt_length, dtype=torch.int64),
    )


def micro(**changes) -> WorldActionModel:
    torch.manual_seed(0)
    return WorldActionModel(dataclasses.replace(preset("micro", load_robot("sim6")), **changes))


def losses(model: WorldActionModel, data: Batch, seed: int = 0, **options) -> dict[str, torch.Tensor]:
    return training_losses(model, data, LossConfig(**options), torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("question", "judged"),
    [("policy", {"action", "video"}), ("joint", {"action", "video"}), ("inverse", {"action"}), ("forward", {"video"})],
)
def test_each_question_judges_what_it_asks(question: str, judged: set[str]):
    model = micro()
    mix = QuestionMix(**{"policy": 0.0, question: 1.0})
    found = losses(model, batch(model.config), questions=mix)
    assert {name for name in ("action", "video") if float(found[name].detach()) > 0} == judged
    found["loss"].backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)
    if question == "forward":  # clean actions are read through the action expert's keys and values, so it learns too
        assert bool(model.experts["action"].embed.weight.grad.any())
    if question == "inverse":
        assert bool(model.experts["video"].embed.weight.grad.any())


def test_a_mixture_asks_every_question_of_some_samples(monkeypatch):
    model, asked = micro(), []
    original = QuestionLosses.about

    def note(self, question, part):
        asked.append((question, len(part.batch.proprio)))
        return original(self, question, part)

    monkeypatch.setattr(QuestionLosses, "about", note)
    found = losses(
        model, batch(model.config, 32), questions=QuestionMix(policy=1.0, joint=1.0, inverse=1.0, forward=1.0)
    )
    assert [question for question, _ in asked] == list(Question)
    assert sum(count for _, count in asked) == 32
    assert all(float(found[name].detach()) > 0 for name in ("action", "video", "loss"))


def test_a_mixture_of_one_equals_that_question_alone():
    """Questions are data: a batch whose draws all fall on the policy gives the loss of a policy-only run."""
    model = micro()
    data = batch(model.config)
    data = dataclasses.replace(data, future_is_pad=torch.ones_like(data.future_is_pad))
    mixed = losses(model, data, questions=QuestionMix(joint=1.0))
    assert float(mixed["video"].detach()) == 0.0  # without a real future only the policy is asked
    assert float(mixed["action"].detach()) > 0


def test_a_mixture_repeats_with_its_seed():
    model = micro()
    data = batch(model.config)
    first, again, other = (
        float(losses(model, data, seed, questions=QuestionMix(joint=1.0, inverse=1.0))["loss"].detach())
        for seed in (3, 3, 4)
    )
    assert first == again
    assert first != other


def test_padded_actions_do_not_count_in_any_question():
    model = micro()
    data = batch(model.config)
    data.action_is_pad[:, 4:] = True
    changed = dataclasses.replace(data, actions=data.actions.clone())
    changed.actions[:, 4:] = 7.0
    for name in ("joint", "inverse"):
        mix = QuestionMix(**{"policy": 0.0, name: 1.0})
        errors = [
            QuestionLosses(model, LossConfig(questions=mix), torch.Generator().manual_seed(0))._judge(
                torch.zeros_like(d.actions), d, torch.zeros_like(d.actions), torch.ones(8), None
            )
            for d in (data, changed)
        ]
        assert torch.equal(*(e.values[e.keep] for e in errors))


def test_a_clean_prefix_is_seen_clean_and_not_judged(monkeypatch):
    model = micro(max_prefix=4)
    data, seen = batch(model.config, 64), {}
    predict = model.predict_actions

    def note(noisy, sigma, context):
        seen["noisy"], seen["sigma"] = noisy, sigma
        return predict(noisy, sigma, context)

    monkeypatch.setattr(model, "predict_actions", note)
    ask = QuestionLosses(model, LossConfig(noise_draws=1, video_weight=0.0), torch.Generator().manual_seed(0))
    cross = model.cross_kv(data.proprio, model.encode_prompt(data.token_ids))
    context = model.encode_context_tokens(model.tokenizer.encode(data.images), cross)
    errors, _ = ask.about(Question.POLICY, Asked(data, context, cross))
    clean = seen["sigma"] == 0.0
    lengths = clean.sum(1)
    assert set(lengths.tolist()) == {0, 1, 2, 3, 4}
    assert torch.equal(clean, torch.arange(16) < lengths[:, None])  # a prefix, nothing in the middle
    assert torch.equal(seen["noisy"][clean], data.actions[clean])
    assert torch.equal(errors.keep, ~clean)
    share = float((lengths > 0).float().mean())
    assert 0.2 < share < 0.6  # half of the samples, of which a fifth draws length 0


@torch.no_grad()
def test_a_model_without_prefix_training_never_sees_one():
    ask = QuestionLosses(micro(), LossConfig(), torch.Generator())
    level = torch.rand(4)
    assert ask._with_prefix(level) == (level, None)
