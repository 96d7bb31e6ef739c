"""Latents of a video autoencoder ↔ video tokens: square patches of latents, row by row, all cameras side by side.

A token's values are its patch's places, row by row, with all channels of a place together: the order of Wan's output
layer. Wan's input layer is a convolution over (channel, row, column) and is turned to this order once, when loaded.

Shape legend: B batch, C latent channels, L latent frames, N tokens of one latent frame, Z = p·p·C values of a token.
"""

from jaxtyping import Float
from torch import Tensor

from wam.model_config import ModelConfig

__all__ = ["latents_to_tokens", "tokens_to_latents"]


def latents_to_tokens(latents: Float[Tensor, "B C L h w"], config: ModelConfig) -> Float[Tensor, "B LN Z"]:
    """Cuts latents into tokens, latent frame by latent frame."""
    side = config.token_patch
    grid = latents.unflatten(3, (-1, side)).unflatten(5, (-1, side))  # (B, C, L, rows, side, columns, side)
    return grid.permute(0, 2, 3, 5, 4, 6, 1).flatten(4).flatten(1, 3)  # (B, L·rows·columns, side·side·C)


def tokens_to_latents(tokens: Float[Tensor, "B LN Z"], config: ModelConfig) -> Float[Tensor, "B C L h w"]:
    """Puts tokens back into latents."""
    (rows, columns), side = config.grid, config.token_patch
    grid = tokens.unflatten(-1, (side, side, -1)).unflatten(1, (-1, rows, columns * config.n_cameras))
    return grid.permute(0, 6, 1, 2, 4, 3, 5).flatten(5).flatten(3, 4)  # (B, C, L, rows·side, columns·side)
