"""Training losses of one batch: denoise action chunks and, beside them, one future frame.

The observation is encoded once; two noise draws per sample share it for the actions, and a share of the batch also
predicts the future frame. Video and actions carry independent noise levels. The clean frame has no loss of its own;
padded actions and padded frames are masked.

Shape legend: B batch, R noise draws, H chunk, A action width, N tokens, Z values of a video token.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from wam.batches import Batch
from wam.blocks import KeysValues
from wam.flow import add_noise, bell_weight, velocity_target
from wam.model import ContextCache, LayersKV, WorldActionModel
from wam.sigmas import shift_sigma

__all__ = ["LossConfig", "masked_mean", "training_losses"]


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights and noise levels of the training loss."""

    video_weight: float = 0.5  # weight of the future-frame loss; 0 trains the policy alone and skips that pass
    video_share: float = 0.5  # share of a batch that predicts the future frame; half costs half and learned as much
    noise_draws: int = 2  # action noise draws per encoded observation; the context is the dear part
    action_shift: float = 3.0  # shift of the action noise level; above 1 leans to noise, where the decision is made
    video_shift: float = 5.0  # shift of the video noise level, as Wan


def training_losses(
    model: WorldActionModel, batch: Batch, config: LossConfig, generator: torch.Generator
) -> dict[str, Tensor]:
    """Returns scalar losses "action", "video" (0 where switched off) and their weighted sum "loss"."""
    cross = model.cross_kv(batch.proprio, model.encode_prompt(batch.token_ids))
    context = model.encode_context_tokens(model.tokenizer.encode(batch.images), cross)
    losses = {"action": _action_loss(model, batch, context, config, generator), "video": batch.proprio.new_zeros(())}
    if config.video_weight > 0:
        losses["video"] = _video_loss(model, batch, context, cross["video"], config, generator)
    losses["loss"] = losses["action"] + config.video_weight * losses["video"]
    return losses


def masked_mean(values: Float[Tensor, "*S"], keep: Bool[Tensor, "*S"]) -> Float[Tensor, ""]:
    """Mean over kept entries only; 0 where nothing is kept."""
    return (values * keep).sum() / keep.sum().clamp_min(1)


def _action_loss(
    model: WorldActionModel, batch: Batch, context: ContextCache, config: LossConfig, generator: torch.Generator
) -> Tensor:
    draws = config.noise_draws
    clean = batch.actions.repeat(draws, 1, 1)  # (R·B, H, A)
    repeated = context.map(lambda kv: kv.repeat(draws, 1, 1, 1))
    noise = _normal(clean, generator)
    sigma = _levels(len(clean), config.action_shift, generator, clean)
    raw = model.predict_actions(add_noise(clean, noise, sigma), sigma, repeated)
    target = clean if model.config.action_prediction == "x" else velocity_target(clean, noise)
    error = (raw - target).pow(2).mean(-1)  # (R·B, H)
    return masked_mean(error, ~batch.action_is_pad.repeat(draws, 1))


def _video_loss(
    model: WorldActionModel,
    batch: Batch,
    context: ContextCache,
    video_cross: LayersKV,
    config: LossConfig,
    generator: torch.Generator,
) -> Tensor:
    share = max(1, round(len(batch.proprio) * config.video_share))
    part = context.map(lambda kv: kv[:share])
    part_cross = tuple(KeysValues(*(kv[:share] for kv in layer)) for layer in video_cross)
    clean = model.tokenizer.encode(batch.future_images[:share])  # (B', N, Z)
    noise = _normal(clean, generator)
    sigma = _levels(share, config.video_shift, generator, clean)
    velocity = model.video_velocity(add_noise(clean, noise, sigma), sigma, part, part_cross)
    error = (velocity - velocity_target(clean, noise)).pow(2).mean((1, 2)) * bell_weight(sigma)  # (B',)
    return masked_mean(error, ~batch.future_is_pad[:share])


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator).to(like)


def _levels(count: int, shift: float, generator: torch.Generator, like: Tensor) -> Tensor:
    u = torch.rand(count, generator=generator)
    return shift_sigma(u, shift).to(like)
