"""Samplers of the questions about the future: actions denoised together with the future, or from an imagined one.

Joint: video and actions start as noise and are denoised side by side, each on the schedule of its own shift. Inverse:
the future is clean, imagined or recorded, its keys and values are computed once, and the actions between are denoised.
Noise is always passed in, so a seed decides the outcome.

Source: DreamZero (arXiv 2602.15922) for the joint form; Fast-WAM (arXiv 2603.16666) for the comparison of the three.

Shape legend: B batch, H chunk, A action width, M tokens of the imagined future, Z values of a video token.
"""

import itertools
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from wam.flow import euler_step
from wam.model import LayersKV, WorldActionModel
from wam.sigmas import sigma_schedule
from wam.visibility import Group, Question

__all__ = ["sample_inverse", "sample_joint"]


def sample_joint(
    model: WorldActionModel,
    cached: Mapping[Group, LayersKV],
    cross: Mapping[str, LayersKV],
    video_noise: Float[Tensor, "B M Z"],
    action_noise: Float[Tensor, "B H A"],
    n_steps: int,
    condition: Tensor | None = None,
) -> tuple[Float[Tensor, "B M Z"], Float[Tensor, "B H A"]]:
    """Denoises the future and the action chunk together.

    Args:
        model: The network.
        cached: Keys and values of the observation.
        cross: What ``model.cross_kv`` returned.
        video_noise: Standard normal noise.
        action_noise: Standard normal noise.
        n_steps: Network evaluations.
        condition: Condition channels of the future, where the model has any.

    Returns:
        Clean video tokens of the future, and the normalised clean chunk.
    """
    video, actions = video_noise, action_noise
    schedules = (sigma_schedule(n_steps, shift) for shift in (model.config.video_shift, model.config.action_shift))
    for (s_video, s_video_next), (s_action, s_action_next) in zip(*map(itertools.pairwise, schedules), strict=True):
        levels = [_level(value, actions) for value in (s_video, s_video_next, s_action, s_action_next)]
        noisy_video, noisy_actions = (video, levels[0], condition), (actions, levels[2])
        found = model.predict(Question.JOINT, cached, cross, video=noisy_video, actions=noisy_actions)
        video = euler_step(video, found.video, levels[0], levels[1])
        actions = euler_step(actions, found.actions, levels[2], levels[3])
    return video, actions


def sample_inverse(
    model: WorldActionModel,
    cached: Mapping[Group, LayersKV],
    cross: Mapping[str, LayersKV],
    future: Float[Tensor, "B M Z"],
    action_noise: Float[Tensor, "B H A"],
    n_steps: int,
    condition: Tensor | None = None,
) -> Float[Tensor, "B H A"]:
    """Denoises the actions that lead from the observation to a given future.

    Args:
        model: The network.
        cached: Keys and values of the observation.
        cross: What ``model.cross_kv`` returned.
        future: Clean video tokens of the future, imagined or recorded.
        action_noise: Standard normal noise.
        n_steps: Network evaluations.
        condition: Condition channels of the future, where the model has any.

    Returns:
        Normalised clean chunk.
    """
    clean = _level(0.0, action_noise)
    known = model.lend(Question.INVERSE, cached, cross, video=(future, clean, condition))
    actions = action_noise
    for sigma, sigma_next in itertools.pairwise(sigma_schedule(n_steps, model.config.action_shift)):
        here, there = _level(sigma, actions), _level(sigma_next, actions)
        found = model.predict(Question.INVERSE, known, cross, actions=(actions, here))
        actions = euler_step(actions, found.actions, here, there)
    return actions


def _level(sigma: float, like: Tensor) -> Float[Tensor, " B"]:
    return torch.full((len(like),), sigma, dtype=like.dtype, device=like.device)
