"""Condition channels of Wan's image-to-video weights: beside each noisy latent stand a mask and clean latents.

Wan2.1-I2V sees 36 channels per latent: 16 of the noisy video, 4 that are 1 where a frame is given and 0 elsewhere (one
per frame of a latent), and 16 of the autoencoder's latents of the given frame followed by blank ones. For the
observation itself the latter are its own latents; for the future they come from ``VaeTokenizer.future_condition``.

Shape legend: B batch (absent in exported graphs), N tokens, Z latent values of a token, C condition values of a token.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from wam.errors import ConfigError
from wam.model_config import ModelConfig

__all__ = ["MASK_CHANNELS", "as_condition", "frame_condition", "with_condition"]

MASK_CHANNELS = 4  # one per frame that a latent stands for


def as_condition(tokens: Float[Tensor, "*B N Z"], given: bool, config: ModelConfig) -> Float[Tensor, "*B N C"]:
    """Puts the mask before clean latents, within every latent of a token."""
    places = tokens.unflatten(-1, (-1, config.latent_channels))  # (B, N, p·p, latent channels)
    mask = torch.full_like(places[..., :1], float(given)).expand(*places.shape[:-1], MASK_CHANNELS)
    return torch.cat((mask, places), dim=-1).flatten(-2)


def frame_condition(tokens: Float[Tensor, "*B N Z"], config: ModelConfig) -> Float[Tensor, "*B N C"]:
    """Condition of the observation: it is given, and it is its own condition."""
    return as_condition(tokens, True, config)


def with_condition(
    tokens: Float[Tensor, "*B N Z"], condition: Float[Tensor, "*B N C"] | None, config: ModelConfig
) -> Float[Tensor, "*B N ZC"]:
    """Puts a condition beside the latents it belongs to.

    Raises:
        ConfigError: There is none.
    """
    if condition is None:
        raise ConfigError(
            f"preset '{config.preset}' has {config.condition_channels} condition channels, so imagined video needs the "
            "condition of its observation: pass what tokenizer.future_condition(images) gives."
        )
    latents = tokens.unflatten(-1, (-1, config.latent_channels))  # (B, N, p·p, latent channels)
    beside = condition.unflatten(-1, (-1, config.condition_channels))  # (B, N, p·p, condition channels)
    return torch.cat((latents, beside), dim=-1).flatten(-2)
