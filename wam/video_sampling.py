"""Imagined video: solver, step cache and guidance, over any velocity the network can give.

Euler or UniPC of order 2 (diffusers' scheduler) on the shifted schedule. Guidance pushes the velocity away from that of
an empty instruction, for video only: actions are never guided. The step cache looks at the last two computed
velocities: when they point the same way, the next steps reuse the last one (cosine above 0.95 skips four, above 0.93
two). Noise comes from a seed, so a seed decides the outcome.

Source: UniPC (arXiv 2302.04867); step cache and guidance as in DreamZero (arXiv 2602.15922).

Shape legend: B batch, I instants of an observation (absent if one), K cameras, T frames of the future, H chunk, A
action width, P proprio width, M tokens of the future, Z values of a video token.
"""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from wam.caches import ContextCache, PromptCache
from wam.errors import ConfigError, unknown_name
from wam.expert import LayersKV
from wam.flow import euler_step
from wam.instants import present
from wam.model import WorldActionModel
from wam.questions import see_actions
from wam.sigmas import sigma_schedule
from wam.visibility import Group, Question

__all__ = ["SOLVERS", "StepCache", "VideoSampling", "imagine_future", "integrate"]

SOLVERS = ("euler", "unipc")
SKIPS = ((0.95, 4), (0.93, 2))  # cosine of the last two velocities above which so many steps reuse the last

Velocity = Callable[[Tensor, Tensor], Tensor]  # (x, (B,) sigma) -> velocity


@dataclass(frozen=True, kw_only=True)
class VideoSampling:
    """How imagined video is denoised."""

    n_steps: int = 10  # steps of the solver
    solver: str = "euler"  # euler, or unipc (order 2): fewer steps for the same error on smooth flows
    guidance: float = 1.0  # 1: none; above: velocities are pushed away from those of an empty instruction
    step_cache: bool = False  # reuse a velocity while it hardly turns

    def __post_init__(self) -> None:
        if self.solver not in SOLVERS:
            raise ConfigError(unknown_name("solver", self.solver, SOLVERS))
        if self.n_steps < 1:
            raise ConfigError(f"n_steps is {self.n_steps} but a sampler needs at least 1.")


class StepCache:
    """Reuses velocities that hardly change.

    Args:
        velocity: What is evaluated otherwise.
    """

    def __init__(self, velocity: Velocity) -> None:
        self._velocity = velocity
        self._last: Tensor | None = None
        self._skip = 0
        self.computed = 0  # network evaluations so far

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        """As the velocity it wraps."""
        if self._skip > 0 and self._last is not None:
            self._skip -= 1
            return self._last
        fresh = self._velocity(x, sigma)
        self.computed += 1
        if self._last is not None:
            self._skip = _skips(self._last, fresh)
        self._last = fresh
        return fresh


def integrate(
    velocity: Velocity, noise: Float[Tensor, "B M Z"], shift: float, options: VideoSampling
) -> Float[Tensor, "B M Z"]:
    """Follows a velocity field from noise to data.

    Args:
        velocity: The field.
        noise: Where to start.
        shift: Flow shift S of the schedule.
        options: Solver, number of steps and step cache.
    """
    field = StepCache(velocity) if options.step_cache else velocity
    return (_unipc if options.solver == "unipc" else _euler)(field, noise, shift, options.n_steps)


@torch.no_grad()
def imagine_future(
    model: WorldActionModel,
    images: UInt8[Tensor, "B *I K height width 3"],
    proprio: Float[Tensor, "B *I P"],
    prompt: PromptCache,
    options: VideoSampling,
    *,
    actions: Float[Tensor, "B H A"] | None = None,
    empty_prompt: PromptCache | None = None,
    seed: int = 0,
) -> UInt8[Tensor, "B T K height width 3"]:
    """What the model expects to see, alone or under given actions.

    Args:
        model: The network.
        images: The observation; an axis of instants where the model looks back.
        proprio: Normalised, with the same axis.
        prompt: Keys and values of the instruction.
        options: Sampling.
        actions: Normalised chunk that will be executed (forward dynamics); None imagines without one.
        empty_prompt: Keys and values of an empty instruction; needed for guidance.
        seed: Of the noise.

    Raises:
        ConfigError: Guidance was asked for without an empty instruction.
    """
    clean, images = model.frame_tokens(images), present(images, model.config)
    tokens, condition = clean[:, -model.config.tokens_per_frame :], model.tokenizer.future_condition(images)
    seen = _observe(model, images, clean, proprio, prompt)
    velocity = _field(model, seen, condition, actions)
    if options.guidance != 1.0:
        if empty_prompt is None:
            raise ConfigError(f"guidance {options.guidance} needs the keys and values of an empty instruction.")
        plain = _field(model, _observe(model, images, clean, proprio, empty_prompt), condition, actions)
        velocity = _guided(velocity, plain, options.guidance)
    generator = torch.Generator().manual_seed(seed)
    shape = (len(tokens), model.config.future_tokens, model.config.token_dim)
    noise = torch.randn(shape, generator=generator).to(tokens)
    future = integrate(velocity, noise, model.config.video_shift, options)
    return model.tokenizer.decode_future(tokens, future)


class _Seen(NamedTuple):
    context: ContextCache
    cross: Mapping[str, LayersKV]


def _observe(model: WorldActionModel, images: Tensor, tokens: Tensor, proprio: Tensor, prompt: PromptCache) -> _Seen:
    cross = model.observation_kv(proprio, prompt, model.tokenizer.image_tokens(images))
    return _Seen(model.encode_context_tokens(tokens, cross), cross)


def _field(model: WorldActionModel, seen: _Seen, condition: Tensor | None, actions: Tensor | None) -> Velocity:
    question = Question.POLICY if actions is None else Question.FORWARD
    cached = {Group.FRAME: seen.context.frame}
    if actions is not None:
        cached = see_actions(model, seen.context, seen.cross, actions)
    return lambda x, sigma: model.predict(question, cached, seen.cross, video=(x, sigma, condition)).video


def _guided(velocity: Velocity, plain: Velocity, scale: float) -> Velocity:
    def guided(x: Tensor, sigma: Tensor) -> Tensor:
        away = plain(x, sigma)
        return away + scale * (velocity(x, sigma) - away)

    return guided


def _euler(velocity: Velocity, noise: Tensor, shift: float, n_steps: int) -> Tensor:
    x = noise
    levels = noise.new_tensor(sigma_schedule(n_steps, shift))[:, None].expand(-1, len(noise))  # (n_steps + 1, B)
    for sigma, sigma_next in itertools.pairwise(levels):
        x = euler_step(x, velocity(x, sigma), sigma, sigma_next)
    return x


def _unipc(velocity: Velocity, noise: Tensor, shift: float, n_steps: int) -> Tensor:
    from diffusers import UniPCMultistepScheduler  # an extra of its own, needed here only

    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift, solver_order=2
    )
    scheduler.set_timesteps(n_steps, device=noise.device)
    x = noise
    for index, timestep in enumerate(scheduler.timesteps):
        # The network takes the exact level; the scheduler's timesteps are rounded to whole thousandths
        sigma = scheduler.sigmas[index].to(noise).expand(len(noise))
        x = scheduler.step(velocity(x, sigma), timestep, x).prev_sample
    return x


def _skips(last: Tensor, fresh: Tensor) -> int:
    cosine = torch.nn.functional.cosine_similarity(last.flatten(1), fresh.flatten(1), dim=1).min()
    return next((steps for threshold, steps in SKIPS if cosine > threshold), 0)
