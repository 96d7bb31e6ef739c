"""What a training sample is asked, and how noisy its video and its actions are: visibility and noise as data.

Per sample one of the four questions is drawn (``wam.visibility``), then two noise levels. A level is a uniform or Beta
number u in [0, 1] put through the shift of its stream (``wam.sigmas``). Coupled noise gives both streams one u, as in
DreamZero's base training; independent noise two; ``flash`` draws the video's from Beta(7, 1), near pure noise, and the
action's uniformly: the action expert then learns to act while the imagined video is still noise.

Source: Fast-WAM (arXiv 2603.16666), DreamZero and DreamZero-Flash (arXiv 2602.15922).

Shape legend: B batch.
"""

import dataclasses
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from wam.errors import ConfigError, unknown_name
from wam.flow import bell_weight
from wam.loss_config import NOISE_MODES, WEIGHTINGS, QuestionMix
from wam.sigmas import shift_sigma
from wam.visibility import Question

__all__ = [
    "ASKED",
    "NOISE_MODES",
    "WEIGHTINGS",
    "NoiseLevels",
    "QuestionMix",
    "action_levels",
    "draw_questions",
    "noise_levels",
    "sigma_weight",
    "video_levels",
]

FLASH_ALPHA = 7.0  # the video's u is drawn from Beta(7, 1): mean 0.875
ASKED = tuple(Question)  # index of a question in drawn tensors


@dataclass(frozen=True, kw_only=True)
class NoiseLevels:
    """Flow noise levels of a batch."""

    video: Float[Tensor, " B"]
    actions: Float[Tensor, " B"]


def draw_questions(mix: QuestionMix, has_future: Bool[Tensor, " B"], generator: torch.Generator) -> Int64[Tensor, " B"]:
    """Draws one question per sample.

    Args:
        mix: How often each is asked.
        has_future: Samples whose future frame lies inside their episode; the others are always asked for the policy,
            because what they would be shown, or judged by, never happened.
        generator: Source of randomness, on the CPU; not touched when only the policy is asked.

    Returns:
        Index into ``ASKED`` per sample, on the CPU.
    """
    policy = ASKED.index(Question.POLICY)
    count = len(has_future)
    if mix.only_policy:
        return torch.full((count,), policy)
    shares = torch.tensor(dataclasses.astuple(mix))
    drawn = torch.multinomial(shares / shares.sum(), count, replacement=True, generator=generator)
    return torch.where(has_future.cpu(), drawn, torch.full_like(drawn, policy))


def noise_levels(
    mode: str, count: int, *, video_shift: float, action_shift: float, generator: torch.Generator
) -> NoiseLevels:
    """Draws the noise levels of both streams of the same samples.

    Args:
        mode: One of ``NOISE_MODES``.
        count: Samples B.
        video_shift: Shift S of the video's levels.
        action_shift: Shift S of the actions' levels.
        generator: Source of randomness, on the CPU.

    Raises:
        ConfigError: No such mode.
    """
    if mode not in NOISE_MODES:
        raise ConfigError(unknown_name("noise mode", mode, NOISE_MODES))
    actions = torch.rand(count, generator=generator)
    video = actions if mode == "coupled" else _video_u(mode, count, generator)
    return NoiseLevels(video=shift_sigma(video, video_shift), actions=shift_sigma(actions, action_shift))


def video_levels(mode: str, count: int, shift: float, generator: torch.Generator) -> Float[Tensor, " B"]:
    """Draws noise levels for video that no action is denoised with; arguments as ``noise_levels``."""
    return shift_sigma(_video_u(mode, count, generator), shift)


def action_levels(count: int, shift: float, generator: torch.Generator) -> Float[Tensor, " B"]:
    """Draws noise levels for actions that no video is denoised with; the same in every mode."""
    return shift_sigma(torch.rand(count, generator=generator), shift)


def sigma_weight(sigma: Float[Tensor, " B"], weighting: str, floor: float) -> Float[Tensor, " B"]:
    """Loss weight by noise level: mean 1 over uniform sigma, and at least ``floor`` everywhere.

    Args:
        sigma: Noise levels in [0, 1].
        weighting: "flat": 1 everywhere; "bell": most in the middle, and 0 at both ends but for the floor.
        floor: Share f of a flat weight that is mixed in: (1 − f)·bell + f. A sampler of one step evaluates the network
            at sigma 1, where the bell alone gives no weight at all.

    Raises:
        ConfigError: No such weighting.
    """
    if weighting not in WEIGHTINGS:
        raise ConfigError(unknown_name("loss weighting", weighting, WEIGHTINGS))
    if weighting == "flat":
        return torch.ones_like(sigma)
    return bell_weight(sigma) if floor == 0 else (1.0 - floor) * bell_weight(sigma) + floor


def _video_u(mode: str, count: int, generator: torch.Generator) -> Tensor:
    u = torch.rand(count, generator=generator)
    # Beta(a, 1) has the distribution function u^a, so a power of a uniform number has it: one generator is enough
    return u ** (1.0 / FLASH_ALPHA) if mode == "flash" else u
