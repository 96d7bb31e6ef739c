"""Images ↔ square patches of pixels, and grids of latents ↔ video tokens, each camera for itself.

Tokens of one instant stand row by row, cameras side by side within a row; a token's values are its square of latents,
row by row, with all channels of a place together.

Shape legend: B batch, K cameras, r rows and c columns of patches, V values of a patch, C latent channels, N tokens of
one instant, Z values of a token.
"""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from wam.model_config import ModelConfig

__all__ = ["grid_to_tokens", "patches_to_pixels", "pixels_to_images", "to_patches", "tokens_to_grid"]


def to_patches(
    images: UInt8[Tensor, "B K height width 3"] | Float[Tensor, "B K height width 3"], px: int
) -> Float[Tensor, "B K r c V"]:
    """Cuts images, 0 to 255, into patches of px × px pixels, intensities in [0, 1]."""
    batch, cameras, height, width, _ = images.shape
    grid = images.float().div(255.0).reshape(batch, cameras, height // px, px, width // px, px, 3)
    return grid.permute(0, 1, 2, 4, 3, 5, 6).flatten(-3)  # (B, K, r, c, px·px·3)


def patches_to_pixels(patches: Float[Tensor, "B K r c V"], config: ModelConfig) -> Float[Tensor, "B K height width 3"]:
    """The inverse of ``to_patches``, without a bound on the intensities."""
    px = config.patch_px
    batch, cameras = patches.shape[:2]
    pixels = patches.unflatten(-1, (px, px, 3)).permute(0, 1, 2, 4, 3, 5, 6)  # (B, K, r, px, c, px, 3)
    height, width = config.image_size_px
    return pixels.reshape(batch, cameras, height, width, 3)


def pixels_to_images(pixels: Float[Tensor, "*S"]) -> UInt8[Tensor, "*S"]:
    """Intensities → bytes; values outside [0, 1] are clipped."""
    return (pixels.clamp(0.0, 1.0) * 255.0).round().to(torch.uint8)


def grid_to_tokens(latents: Float[Tensor, "B K r c C"], config: ModelConfig) -> Float[Tensor, "B N Z"]:
    """Groups latents into video tokens."""
    batch, cameras = latents.shape[:2]
    (rows, columns), side, channels = config.grid, config.token_patch, config.latent_channels
    grid = latents.reshape(batch, cameras, rows, side, columns, side, channels)
    grid = grid.permute(0, 2, 1, 4, 3, 5, 6)  # (B, rows, K, columns, side, side, C)
    return grid.reshape(batch, rows * cameras * columns, config.token_dim)


def tokens_to_grid(tokens: Float[Tensor, "B N Z"], config: ModelConfig) -> Float[Tensor, "B K r c C"]:
    """Puts video tokens back into latents."""
    batch, cameras = tokens.shape[0], config.n_cameras
    (rows, columns), side, channels = config.grid, config.token_patch, config.latent_channels
    grid = tokens.reshape(batch, rows, cameras, columns, side, side, channels)
    grid = grid.permute(0, 2, 1, 4, 3, 5, 6)  # (B, K, rows, side, columns, side, C)
    return grid.reshape(batch, cameras, rows * side, columns * side, channels)
