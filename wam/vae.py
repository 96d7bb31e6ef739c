"""Wan's frozen video autoencoder as a tokenizer, with the interface of ``wam.tokenizer.PatchTokenizer``.

Cameras stand side by side in one image. The first frame of a clip becomes one latent frame, every following
``latent_stride`` frames one more; the autoencoder is causal, so the observation's latent does not depend on the future.
Latents are the deterministic mean, standardised with the autoencoder's own statistics. Wan2.1's image-to-video weights
also attend to the tokens of a CLIP image encoder, which is part of the tokenizer here.

The autoencoder and the image encoder hang on the tokenizer without being part of its weights: they are frozen, half a
gigabyte and more, and never trained, so no checkpoint holds them.

Shape legend: B batch, K cameras, T frames after the first, N tokens of one instant, Z values of a token, C condition
values, I image tokens, L latent frames.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from wam.conditions import as_condition
from wam.errors import CheckpointError, ConfigError
from wam.latents import latents_to_tokens, tokens_to_latents
from wam.model_config import ModelConfig
from wam.weight_kinds import check_folder

__all__ = ["VaeTokenizer", "random_vae"]

VAE_FOLDER, IMAGE_FOLDER = "vae", "image_encoder"  # of a diffusers folder
CLIP_SIZE_PX = 224
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class VaeTokenizer(nn.Module):
    """Images ↔ latents of a frozen ``AutoencoderKLWan``."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        # Plain attributes, so that they are in no state dictionary
        object.__setattr__(self, "vae", None)
        object.__setattr__(self, "image_encoder", None)

    def attach(self, vae: nn.Module, image_encoder: nn.Module | None = None) -> "VaeTokenizer":
        """Gives the tokenizer its frozen networks.

        Args:
            vae: diffusers' ``AutoencoderKLWan``.
            image_encoder: transformers' ``CLIPVisionModel``, for image-to-video weights.

        Raises:
            CheckpointError: They are not of the geometry that the model expects.
        """
        found = (vae.config.z_dim, vae.config.scale_factor_spatial, vae.config.scale_factor_temporal)
        expected = (self.config.latent_channels, self.config.patch_px, self.config.latent_stride)
        if found != expected:
            raise CheckpointError(
                f"autoencoder has {found[0]} channels, stride {found[1]} px and {found[2]} frames, but preset "
                f"'{self.config.preset}' expects {expected[0]}, {expected[1]} px and {expected[2]}: take the one that "
                "belongs to the preset's Wan weights."
            )
        object.__setattr__(self, "vae", vae.requires_grad_(False).eval())
        if image_encoder is not None:
            object.__setattr__(self, "image_encoder", image_encoder.requires_grad_(False).eval())
        return self

    def load(self, folder: Path, dtype: torch.dtype = torch.float32) -> "VaeTokenizer":
        """Attaches the autoencoder, and the image encoder where one is needed, of a diffusers folder.

        Raises:
            CheckpointError: They are not there, cannot be read, or are of another geometry.
        """
        from diffusers import AutoencoderKLWan  # only Wan presets need it

        check_folder(folder / VAE_FOLDER)  # diffusers would take float8 for plain values
        vae = _from_folder(AutoencoderKLWan.from_pretrained, folder / VAE_FOLDER, dtype)
        if not self.config.image_width:
            return self.attach(vae)
        from transformers import CLIPVisionModel

        check_folder(folder / IMAGE_FOLDER)
        return self.attach(vae, _from_folder(CLIPVisionModel.from_pretrained, folder / IMAGE_FOLDER, dtype))

    def save(self, folder: Path) -> None:
        """Writes the frozen networks beside a run, in diffusers' form, so that ``load`` finds them."""
        self._vae().save_pretrained(folder / VAE_FOLDER)
        if self.image_encoder is not None:
            self.image_encoder.save_pretrained(folder / IMAGE_FOLDER)

    def fit(self, images: UInt8[Tensor, "M K height width 3"]) -> float:
        """Frozen: there is nothing to fit; all of the variance counts as kept."""
        del images
        return 1.0

    @torch.no_grad()
    def encode(self, images: UInt8[Tensor, "B K height width 3"]) -> Float[Tensor, "B N Z"]:
        """Turns images of one instant into video tokens: row by row, cameras side by side within a row."""
        return latents_to_tokens(self._latents(_pixels(images[:, None])), self.config)

    @torch.no_grad()
    def encode_future(
        self, images: UInt8[Tensor, "B K height width 3"], future: UInt8[Tensor, "B T K height width 3"]
    ) -> Float[Tensor, "B LN Z"]:
        """Turns the frames that follow an observation into video tokens, latent frame by latent frame."""
        clip = torch.cat((images[:, None], future), dim=1)  # (B, 1 + T, K, height, width, 3)
        return latents_to_tokens(self._latents(_pixels(clip))[:, :, 1:], self.config)

    @torch.no_grad()
    def decode(self, tokens: Float[Tensor, "B N Z"]) -> UInt8[Tensor, "B K height width 3"]:
        """Turns the tokens of one instant back into images."""
        return self._images(tokens_to_latents(tokens, self.config))[:, 0]

    @torch.no_grad()
    def decode_future(
        self, tokens: Float[Tensor, "B N Z"], future: Float[Tensor, "B LN Z"]
    ) -> UInt8[Tensor, "B T K height width 3"]:
        """Turns future tokens into frames; the observation's tokens come first, as the autoencoder is causal."""
        return self._images(tokens_to_latents(torch.cat((tokens, future), dim=1), self.config))[:, 1:]

    @torch.no_grad()
    def future_condition(self, images: UInt8[Tensor, "B K height width 3"]) -> Float[Tensor, "B LN C"] | None:
        """Condition of an imagined future: latents of the observation followed by blank frames; None without one."""
        if not self.config.condition_channels:
            return None
        first = _pixels(images[:, None])  # (B, 3, 1, height, K·width)
        blank = torch.zeros_like(first).expand(-1, -1, self.config.future_frames, -1, -1)
        latents = self._latents(torch.cat((first, blank), dim=2))[:, :, 1:]
        return as_condition(latents_to_tokens(latents, self.config), False, self.config)

    @torch.no_grad()
    def image_tokens(self, images: UInt8[Tensor, "B K height width 3"]) -> Float[Tensor, "B I W"] | None:
        """Tokens of the image encoder, its last layer but one; None where the model attends to none."""
        if not self.config.image_width:
            return None
        if self.image_encoder is None:
            raise ConfigError(_nothing_attached("image encoder"))
        pixels = F.interpolate(
            _pixels(images[:, None])[:, :, 0], (CLIP_SIZE_PX, CLIP_SIZE_PX), mode="bicubic", align_corners=False
        )
        mean, std = (pixels.new_tensor(values)[:, None, None] for values in (CLIP_MEAN, CLIP_STD))
        kind = next(self.image_encoder.parameters())
        ready = (((pixels + 1.0) / 2.0 - mean) / std).to(kind.dtype)
        return self.image_encoder(ready, output_hidden_states=True).hidden_states[-2].float()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "VaeTokenizer":
        super()._apply(fn, recurse)
        for frozen in (self.vae, self.image_encoder):
            if frozen is not None:
                frozen._apply(fn)
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> "VaeTokenizer":
        """A copy shares the frozen networks: averaged weights do not need them twice."""
        copied = VaeTokenizer(self.config)
        memo[id(self)] = copied
        object.__setattr__(copied, "vae", self.vae)
        object.__setattr__(copied, "image_encoder", self.image_encoder)
        return copied

    def _vae(self) -> Any:
        if self.vae is None:
            raise ConfigError(_nothing_attached("video autoencoder"))
        return self.vae

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = self._vae().config.latents_mean, self._vae().config.latents_std
        return like.new_tensor(mean)[:, None, None, None], like.new_tensor(std)[:, None, None, None]

    def _latents(self, pixels: Tensor) -> Tensor:
        vae = self._vae()
        raw = vae.encode(pixels.to(next(vae.parameters()).dtype)).latent_dist.mode().float()  # (B, C, L, h, w)
        mean, std = self._statistics(raw)
        return (raw - mean) / std

    def _images(self, latents: Tensor) -> Tensor:
        vae, (mean, std) = self._vae(), self._statistics(latents)
        pixels = vae.decode((latents * std + mean).to(next(vae.parameters()).dtype)).sample.float()  # (B, 3, T, h, K·w)
        frames = pixels.unflatten(-1, (self.config.n_cameras, -1)).permute(0, 2, 4, 3, 5, 1)  # (B, T, K, h, w, 3)
        return ((frames.clamp(-1.0, 1.0) + 1.0) * 127.5).round().to(torch.uint8)


def random_vae(config: ModelConfig, *, base_dim: int | None = None) -> nn.Module:
    """Makes an untrained autoencoder with the strides of a preset, for measurements and tests.

    Args:
        config: Geometry of the model.
        base_dim: Narrower than Wan's own, for tests.
    """
    from diffusers import AutoencoderKLWan

    channels = config.latent_channels
    statistics = {"latents_mean": [0.0] * channels, "latents_std": [1.0] * channels}
    if config.patch_px == 16:  # Wan2.2: 2 x 2 pixels enter as one
        width = base_dim or 160
        decoder = base_dim or 256
        options = {"is_residual": True, "in_channels": 12, "out_channels": 12, "patch_size": 2}
        options |= {"decoder_base_dim": decoder, "scale_factor_spatial": 16}
    else:
        width, options = base_dim or 96, {}
    return AutoencoderKLWan(base_dim=width, z_dim=channels, **statistics, **options)


def _from_folder(load: Callable[..., nn.Module], folder: Path, dtype: torch.dtype) -> nn.Module:
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            f"no {folder.name} in {folder.parent}: give a folder in diffusers' form, such as a download of "
            "Wan-AI/Wan2.2-TI2V-5B-Diffusers."
        )
    try:
        return load(folder, torch_dtype=dtype, local_files_only=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{folder} cannot be read ({error}): copy it again.") from error


def _pixels(images: Tensor) -> Tensor:
    """(B, T, K, height, width, 3) uint8 -> (B, 3, T, height, K·width) in [−1, 1]."""
    return images.permute(0, 5, 1, 3, 2, 4).flatten(4).float() / 127.5 - 1.0


def _nothing_attached(what: str) -> str:
    return (
        f"this model's {what} is not loaded: it is frozen and no part of a checkpoint. Load it with "
        "model.tokenizer.load(FOLDER), the folder of its Wan weights in diffusers' form."
    )
