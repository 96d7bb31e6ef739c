"""Images ↔ latents in closed form: each patch is projected on the principal components of the training images.

A latent is one 8×8 RGB patch on its first C principal components, each divided by the square root of its standard
deviation (half-whitened: strong components stay stronger, weak ones are not noise). Fitting is one eigendecomposition,
under a second; there is nothing to train and nothing that can lose colour. Latents are then grouped 2×2 into video
tokens.

Shape legend: B batch, K cameras, T future frames, C latent channels, N tokens of one instant, Z = 4·C token values.
"""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from wam.model_config import ModelConfig
from wam.vae import VaeTokenizer

__all__ = ["PatchTokenizer", "make_tokenizer"]

SMALLEST_STD = 1e-3  # of [0, 1] intensities; keeps a component without variance from being blown up


def make_tokenizer(config: ModelConfig) -> "PatchTokenizer | VaeTokenizer":
    """Returns the tokenizer that a configuration names; both have the same methods."""
    return VaeTokenizer(config) if config.tokenizer == "vae" else PatchTokenizer(config)


class PatchTokenizer(nn.Module):
    """Principal-component patches; encoder and decoder share three buffers."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        values = 3 * config.patch_px**2
        if config.latent_channels > values:
            raise ValueError(f"latent_channels {config.latent_channels} exceed the {values} values of a patch.")
        self.register_buffer("mean", torch.full((values,), 0.5))
        self.register_buffer("encoder", torch.eye(values)[:, : config.latent_channels].contiguous())
        self.register_buffer("decoder", torch.eye(values)[: config.latent_channels].contiguous())

    @torch.no_grad()
    def fit(self, images: UInt8[Tensor, "M K height width 3"]) -> float:
        """Fits the projection to sample images.

        Returns:
            Share of the patches' variance that the latents keep, in [0, 1].
        """
        patches = self._patches(images).flatten(0, -2).double()  # (M·K·rows·columns, values)
        self.mean.copy_(patches.mean(0))
        covariance = torch.cov(patches.T)
        variances, vectors = torch.linalg.eigh(covariance)  # ascending
        keep = self.config.latent_channels
        variances, vectors = variances.flip(0).clamp_min(0.0), vectors.flip(1)[:, :keep]
        # eigh leaves signs open: the largest entry is made positive, so a fit is the same on every machine
        vectors = vectors * vectors.gather(0, vectors.abs().argmax(0, keepdim=True)).sign()
        scale = variances[:keep].sqrt().clamp_min(SMALLEST_STD).sqrt()  # half-whitening
        spread = (variances[:keep] / scale**2).mean().sqrt()  # of the latents: brought to 1
        self.encoder.copy_(vectors / (scale * spread))
        self.decoder.copy_((vectors * (scale * spread)).T)
        return float(variances[:keep].sum() / variances.sum().clamp_min(1e-12))

    def encode(self, images: UInt8[Tensor, "B K height width 3"]) -> Float[Tensor, "B N Z"]:
        """Turns images of one instant into video tokens: row by row, cameras side by side within a row."""
        latents = (self._patches(images) - self.mean) @ self.encoder  # (B, K, rows, columns, C)
        batch, cameras = latents.shape[:2]
        (rows, columns), side, channels = self.config.grid, self.config.token_patch, self.config.latent_channels
        grid = latents.reshape(batch, cameras, rows, side, columns, side, channels)
        grid = grid.permute(0, 2, 1, 4, 3, 5, 6)  # (B, rows, K, columns, side, side, C)
        return grid.reshape(batch, rows * cameras * columns, self.config.token_dim)

    def decode(self, tokens: Float[Tensor, "B N Z"]) -> UInt8[Tensor, "B K height width 3"]:
        """Turns video tokens back into images; values outside [0, 1] are clipped."""
        batch, cameras = tokens.shape[0], self.config.n_cameras
        (rows, columns), side, channels = self.config.grid, self.config.token_patch, self.config.latent_channels
        grid = tokens.reshape(batch, rows, cameras, columns, side, side, channels)
        grid = grid.permute(0, 2, 1, 4, 3, 5, 6)  # (B, K, rows, side, columns, side, C)
        patches = grid.reshape(batch, cameras, rows * side, columns * side, channels) @ self.decoder + self.mean
        px = self.config.patch_px
        pixels = patches.unflatten(-1, (px, px, 3)).permute(0, 1, 2, 4, 3, 5, 6)  # (B, K, rows, px, columns, px, 3)
        height, width = self.config.image_size_px
        images = pixels.reshape(batch, cameras, height, width, 3)
        return (images.clamp(0.0, 1.0) * 255.0).round().to(torch.uint8)

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

    def _patches(self, images: Tensor) -> Tensor:
        px = self.config.patch_px
        batch, cameras, height, width, _ = images.shape
        grid = images.float().div(255.0).reshape(batch, cameras, height // px, px, width // px, px, 3)
        return grid.permute(0, 1, 2, 4, 3, 5, 6).flatten(-3)  # (B, K, rows, columns, px·px·3)
