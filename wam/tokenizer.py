"""Images ↔ latents: which tokenizers there are, and the two that nothing has to be trained for.

| name | a latent is |
|---|---|
| ``patches`` | an 8×8 patch on its first principal components, fitted to the training images in closed form |
| ``pixels`` | the patch itself: all of its pixels, centred and scaled |
| ``autoencoder`` | what a small causal video autoencoder of our own makes of it (``wam.autoencoder``) |
| ``vae`` | what Wan's frozen video autoencoder makes of it (``wam.vae``) |

All have the same methods. Each component of ``patches`` is divided by the square root of its standard deviation
(half-whitened: strong components stay stronger, weak ones are not noise). Fitting is one eigendecomposition, under a
second; there is nothing to train and nothing that can lose colour.

Shape legend: B batch, K cameras, T future frames, C latent channels, N tokens of one instant, Z = 4·C token values.
"""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from wam.autoencoder import AutoencoderTokenizer
from wam.closed_form import ClosedForm
from wam.model_config import ModelConfig
from wam.patches import grid_to_tokens, patches_to_pixels, pixels_to_images, to_patches, tokens_to_grid
from wam.vae import VaeTokenizer

__all__ = ["PatchTokenizer", "PixelTokenizer", "Tokenizer", "make_tokenizer"]


class _FrameByFrame(nn.Module):
    """What tokenizers share that see every frame for itself: ``encode`` and ``decode`` are all they add."""

    config: ModelConfig

    def encode_future(
        self, images: UInt8[Tensor, "B K height width 3"], future: UInt8[Tensor, "B T K height width 3"]
    ) -> Float[Tensor, "B TN Z"]:
        """Turns the frames that follow an observation into video tokens, frame by frame."""
        del images  # every frame stands for itself
        return self.encode(future.flatten(0, 1)).unflatten(0, future.shape[:2]).flatten(1, 2)

    def decode_future(
        self, tokens: Float[Tensor, "B N Z"], future: Float[Tensor, "B TN Z"]
    ) -> UInt8[Tensor, "B T K height width 3"]:
        """Turns future tokens back into frames."""
        frames = future.unflatten(1, (-1, tokens.shape[1]))  # (B, T, N, Z)
        return self.decode(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])

    def future_condition(self, images: UInt8[Tensor, "B K height width 3"]) -> None:
        """Nothing stands beside imagined tokens."""
        del images

    def image_tokens(self, images: UInt8[Tensor, "B K height width 3"]) -> None:
        """There is no image encoder."""
        del images


class PatchTokenizer(ClosedForm, _FrameByFrame):
    """Principal-component patches; encoder and decoder share three buffers."""

    def encode(self, images: UInt8[Tensor, "B K height width 3"]) -> Float[Tensor, "B N Z"]:
        """Turns images of one instant into video tokens: row by row, cameras side by side within a row."""
        return grid_to_tokens(self.project(to_patches(images, self.config.patch_px)), self.config)

    def decode(self, tokens: Float[Tensor, "B N Z"]) -> UInt8[Tensor, "B K height width 3"]:
        """Turns video tokens back into images; values outside [0, 1] are clipped."""
        return pixels_to_images(self.pixels(tokens_to_grid(tokens, self.config)))


class PixelTokenizer(_FrameByFrame):
    """All pixels of a patch, with one centre and one scale for all: nothing is lost, and nothing is left out."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("mean", torch.tensor(0.5))
        self.register_buffer("std", torch.tensor(0.25))

    @torch.no_grad()
    def fit(self, images: UInt8[Tensor, "M K height width 3"]) -> float:
        """Takes centre and scale from sample images; all of the variance is kept."""
        pixels = images.double() / 255.0
        self.mean.copy_(pixels.mean())
        self.std.copy_(pixels.std().clamp_min(1.0 / 255.0))
        return 1.0

    def encode(self, images: UInt8[Tensor, "B K height width 3"]) -> Float[Tensor, "B N Z"]:
        """Turns images of one instant into video tokens: row by row, cameras side by side within a row."""
        return grid_to_tokens((to_patches(images, self.config.patch_px) - self.mean) / self.std, self.config)

    def decode(self, tokens: Float[Tensor, "B N Z"]) -> UInt8[Tensor, "B K height width 3"]:
        """Turns video tokens back into images; values outside [0, 1] are clipped."""
        patches = tokens_to_grid(tokens, self.config) * self.std + self.mean
        return pixels_to_images(patches_to_pixels(patches, self.config))


Tokenizer = PatchTokenizer | PixelTokenizer | AutoencoderTokenizer | VaeTokenizer

_CLASSES = {
    "patches": PatchTokenizer,
    "pixels": PixelTokenizer,
    "autoencoder": AutoencoderTokenizer,
    "vae": VaeTokenizer,
}


def make_tokenizer(config: ModelConfig) -> Tokenizer:
    """Returns the tokenizer that a configuration names; all have the same methods."""
    return _CLASSES[config.tokenizer](config)
