"""Inverse-dynamics head: clean latents of now and later → the actions between.

A light network beside the experts, trained on its own with everything else frozen (``wam train --stage inverse``). It
sees two instants and nothing else, so it labels video that has no actions (``wam label``), turns imagined video into
actions, and tells at run time how far what happened is from what was commanded (``consistency``).

Shape legend: B batch, K cameras, N tokens of one instant, Z values of a token, D width, O actions between, A action
width.
"""

import math

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from wam.batches import Batch
from wam.errors import ConfigError
from wam.model_config import ModelConfig

__all__ = ["InverseDynamicsHead", "actions_between", "consistency", "inverse_losses"]

HEADS = 4
LAYERS = 2


class InverseDynamicsHead(nn.Module):
    """Two instants → normalised actions between them.

    Args:
        config: Geometry; ``inverse_head`` is the width D.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.inverse_head
        self.embed = nn.Linear(3 * config.token_dim, width)
        self.places = nn.Parameter(torch.randn(config.tokens_per_frame, width) / math.sqrt(width))
        self.steps = nn.Parameter(torch.randn(config.future_offset, width) / math.sqrt(width))
        options = {"dim_feedforward": 2 * width, "dropout": 0.0, "batch_first": True, "norm_first": True}
        self.encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(width, HEADS, **options), LAYERS, enable_nested_tensor=False
        )
        self.decoder = nn.TransformerDecoderLayer(width, HEADS, **options)
        self.out = nn.Linear(width, config.action_dim)

    def forward(self, now: Float[Tensor, "*B N Z"], later: Float[Tensor, "*B N Z"]) -> Float[Tensor, "*B O A"]:
        """Reads both instants and what changed between them; without a batch axis too, as exported graphs do."""
        tokens = self.embed(torch.cat((now, later, later - now), dim=-1)) + self.places  # (B, N, D)
        steps = self.steps if now.ndim == 2 else self.steps.expand(len(now), -1, -1)  # (B, O, D)
        return self.out(self.decoder(steps, self.encoder(tokens)))


def actions_between(
    model: nn.Module, now: UInt8[Tensor, "B K height width 3"], later: UInt8[Tensor, "B K height width 3"]
) -> Float[Tensor, "B O A"]:
    """Normalised actions that lead from one instant to the one ``future_offset`` control steps later.

    Args:
        model: A world-action model with an inverse-dynamics head.
        now: Images of the first instant.
        later: Images of the second.

    Raises:
        ConfigError: The model has no such head.
    """
    if getattr(model, "inverse", None) is None:
        raise ConfigError(
            "this model has no inverse-dynamics head: train one with `wam train --stage inverse --init RUN`."
        )
    return model.inverse(model.tokenizer.encode(now), model.tokenizer.encode(later))


@torch.no_grad()
def consistency(
    model: nn.Module,
    now: UInt8[Tensor, "B K height width 3"],
    later: UInt8[Tensor, "B K height width 3"],
    commanded: Float[Tensor, "B O A"],
) -> Float[Tensor, " B"]:
    """How far what happened is from what was commanded: mean absolute difference of actions, normalised units.

    A large value on a robot means that the arm did not do as it was told, or that something else moved the scene.

    Args:
        model: A world-action model with an inverse-dynamics head.
        now: Images when the commands began.
        later: Images ``future_offset`` control steps later.
        commanded: The normalised actions that were executed between.
    """
    return (actions_between(model, now, later) - commanded).abs().mean((1, 2))


def inverse_losses(
    model: nn.Module, teacher: nn.Module | None, batch: Batch, config: object, generator: torch.Generator
) -> dict[str, Tensor]:
    """Losses of the stage: mean squared error of the actions between, where the later instant is in the episode."""
    del teacher, config, generator
    found = actions_between(model, batch.images, batch.future_images[:, -1])
    error = (found - batch.actions[:, : found.shape[1]]).pow(2).mean((1, 2))  # (B,)
    keep = ~batch.future_is_pad[:, -1]
    loss = (error * keep).sum() / keep.sum().clamp_min(1)
    return {"action": loss, "loss": loss}
