"""Principal components of image patches, fitted in closed form: a linear autoencoder that needs no training.

Shape legend: B batch, K cameras, r rows and c columns of patches, V values of a patch, C latent channels.
"""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from wam.model_config import ModelConfig
from wam.patches import patches_to_pixels, to_patches

__all__ = ["ClosedForm"]

SMALLEST_STD = 1e-3  # of [0, 1] intensities; keeps a component without variance from being blown up


class ClosedForm(nn.Module):
    """Projection of patches on their first principal components, half-whitened, and back."""

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
        patches = to_patches(images, self.config.patch_px).flatten(0, -2).double()  # (M·K·rows·columns, values)
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

    def project(self, patches: Float[Tensor, "B K r c V"]) -> Float[Tensor, "B K r c C"]:
        """Patches → latents."""
        return (patches - self.mean) @ self.encoder

    def pixels(self, latents: Float[Tensor, "B K r c C"]) -> Float[Tensor, "B K height width 3"]:
        """Latents → intensities, not yet bounded."""
        return patches_to_pixels(latents @ self.decoder + self.mean, self.config)
