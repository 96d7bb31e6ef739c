"""Samplers: noise → action chunk, noise → imagined frame.

Euler steps over a shifted schedule (``wam.flow``). Noise is always passed in, so that a seed decides the outcome and
the same noise can be given to two backends.

Shape legend: B batch, T instants of an observation (absent if one), K cameras, H chunk, A action width, N tokens, Z
values of a video token.
"""

import itertools
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from wam import fused
from wam.action_loop import ActionLoop
from wam.caches import split_steps
from wam.flow import euler_step
from wam.instants import present
from wam.model import ContextCache, LayersKV, PromptCache, WorldActionModel
from wam.sigmas import sigma_schedule

__all__ = ["denoise_chunk", "imagine_frame", "sample_actions", "sample_video"]


def sample_actions(
    model: WorldActionModel, context: ContextCache, noise: Float[Tensor, "B H A"], n_steps: int
) -> Float[Tensor, "B H A"]:
    """Denoises an action chunk in the fast question.

    Args:
        model: The network.
        context: Cached observation.
        noise: Standard normal noise.
        n_steps: Network evaluations.

    Returns:
        Normalised clean chunk.
    """
    return denoise_chunk(model, context, noise, sigma_schedule(n_steps, model.config.action_shift))


def denoise_chunk(
    model: WorldActionModel, context: ContextCache, noise: Float[Tensor, "B H A"], sigmas: Sequence[float]
) -> Float[Tensor, "B H A"]:
    """As ``sample_actions`` over given noise levels, from 1 down to 0.

    In inference mode the steps run through ``wam.action_loop``, which gives the same numbers up to rounding.
    """
    levels = noise.new_tensor(list(sigmas))[None]  # (1, n_steps + 1)
    steps = split_steps(model.step_tables(levels[:, :-1], levels[:, 1:]))
    if fused.active() and ActionLoop.fits(model):
        return ActionLoop(model, context, noise.shape[1]).run(noise, steps)
    actions = noise
    for tables in steps:
        actions = model.denoise(actions, tables, context)
    return actions


def sample_video(
    model: WorldActionModel,
    context: ContextCache,
    cross: Mapping[str, LayersKV],
    noise: Float[Tensor, "B N Z"],
    n_steps: int,
    condition: Tensor | None = None,
) -> Float[Tensor, "B N Z"]:
    """Denoises the future's video tokens, isolated from actions."""
    video = noise
    sigmas = sigma_schedule(n_steps, model.config.video_shift)
    for sigma, sigma_next in itertools.pairwise(sigmas):
        levels = noise.new_tensor([sigma, sigma_next])[:, None].expand(-1, noise.shape[0])  # (2, B)
        velocity = model.video_velocity(video, levels[0], context, cross, condition)
        video = euler_step(video, velocity, levels[0], levels[1])
    return video


@torch.no_grad()
def imagine_frame(
    model: WorldActionModel,
    images: UInt8[Tensor, "B *T K height width 3"],
    proprio: Float[Tensor, "B *T A"],
    prompt: PromptCache,
    *,
    n_steps: int = 10,
    seed: int = 0,
) -> UInt8[Tensor, "B K height width 3"]:
    """What the model expects every camera to see ``future_offset`` control steps from now."""
    seen, images = model.frame_tokens(images), present(images, model.config)
    cross = model.observation_kv(proprio, prompt, model.tokenizer.image_tokens(images))
    context = model.encode_context_tokens(seen, cross)
    tokens = seen[:, -model.config.tokens_per_frame :]
    generator = torch.Generator().manual_seed(seed)
    shape = (len(tokens), model.config.future_tokens, model.config.token_dim)
    noise = torch.randn(shape, generator=generator).to(tokens)
    condition = model.tokenizer.future_condition(images)
    future = sample_video(model, context, cross, noise, n_steps, condition)
    return model.tokenizer.decode_future(tokens, future)[:, -1]
