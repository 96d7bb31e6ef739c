"""Training of the causal autoencoder (``wam train --stage tokenizer``): what is learned, and how it is judged.

A run of this stage holds a tokenizer and no policy. ``wam train --tokenizer RUN`` then trains a model on its latents.

The loss is the squared error of the intensities, weighted by how saturated a pixel is: a cube is a few dozen pixels of
an image, and an average over all of them hardly notices when it turns grey. Some noise on the latents keeps the decoder
usable beside the exact latents, where imagined ones lie.

Shape legend: B batch, T frames of a clip, K cameras.
"""

import dataclasses
from pathlib import Path

import torch
from jaxtyping import UInt8
from safetensors import safe_open
from torch import Tensor, nn

from wam.autoencoder import AutoencoderTokenizer
from wam.batches import Batch
from wam.checkpoint import TOKENIZER_STAGE, CheckpointInfo, describe_checkpoint
from wam.errors import CheckpointError, ConfigError
from wam.image_metrics import colour_error, psnr, vivid
from wam.losses import LossConfig
from wam.model_config import ModelConfig
from wam.transforms import Transforms

__all__ = [
    "TokenizerModel",
    "choose_tokenizer",
    "describe_tokenizer",
    "fidelity",
    "load_tokenizer",
    "reconstruction_losses",
    "reconstruction_measures",
]

LATENT_GEOMETRY = ("tokenizer", "tokenizer_width", "patch_px", "latent_channels", "latent_stride")
PREFIX = "tokenizer."  # of its weights, here and in a model


class TokenizerModel(nn.Module):
    """The part of a world-action model that turns images into latents, alone."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        if config.tokenizer != "autoencoder":
            raise ConfigError(
                f"stage '{TOKENIZER_STAGE}' trains the autoencoder, but preset '{config.preset}' sees through "
                f"'{config.tokenizer}': take tiny, small or another preset that is trained from scratch."
            )
        self.config = config
        self.tokenizer = AutoencoderTokenizer(config)


def reconstruction_losses(
    model: TokenizerModel, teacher: None, batch: Batch, config: LossConfig, generator: torch.Generator
) -> dict[str, Tensor]:
    """Returns scalars "pixels" (mean squared error of intensities) and "loss" (weighted by saturation)."""
    del teacher
    clip = _clip(batch)
    latents = model.tokenizer.latents(clip)
    if config.latent_noise > 0:
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        latents = latents + config.latent_noise * noise
    target = clip.float() / 255.0
    error = (model.tokenizer.pixels(latents) - target).pow(2).mean(-1)  # (B, T, K, height, width)
    weight = 1.0 + config.colour_weight * (target.amax(-1) - target.amin(-1))
    return {"pixels": error.mean(), "loss": (weight * error).mean()}


def reconstruction_measures(model: TokenizerModel, batch: Batch, transforms: Transforms) -> dict[str, float]:
    """How faithful what comes back is: see ``wam.image_metrics`` for each number."""
    del transforms
    clip = _clip(batch)
    pixels = model.tokenizer.pixels(model.tokenizer.latents(clip))
    return fidelity(clip, (pixels.clamp(0.0, 1.0) * 255.0).round().to(torch.uint8))


def fidelity(truth: UInt8[Tensor, "*S height width 3"], back: UInt8[Tensor, "*S height width 3"]) -> dict[str, float]:
    """PSNR [dB] and mean colour error [CIE dE] over vivid pixels and over the rest, of images and what came back."""
    ours, theirs = truth.cpu().numpy(), back.cpu().numpy()
    error, chosen = colour_error(ours, theirs), vivid(ours)
    return {
        "psnr_db": float(psnr(ours, theirs).mean()),
        "vivid_error_de": float(error[chosen].mean()) if chosen.any() else 0.0,
        "other_error_de": float(error[~chosen].mean()) if not chosen.all() else 0.0,
    }


def choose_tokenizer(config: ModelConfig, wanted: str, stage: str) -> ModelConfig:
    """Returns the geometry with another tokenizer.

    Args:
        config: A preset.
        wanted: "" for the preset's, "patches", "pixels", or a run that trained an autoencoder, whose geometry of
            latents is taken over.
        stage: Of the training; that of a tokenizer makes an autoencoder whatever else is said.

    Raises:
        CheckpointError: The run does not exist or trained something else.
        ConfigError: The preset sees through Wan's autoencoder.
    """
    if stage != TOKENIZER_STAGE and not wanted:
        return config
    if config.tokenizer == "vae":
        raise ConfigError(
            f"preset '{config.preset}' sees through Wan's autoencoder and has no other: choose a tokenizer for presets "
            "that are trained from scratch, such as tiny or small."
        )
    if stage == TOKENIZER_STAGE:
        return dataclasses.replace(config, tokenizer="autoencoder")
    if wanted == "patches":
        return dataclasses.replace(config, tokenizer="patches")
    if wanted == "pixels":
        return dataclasses.replace(config, tokenizer="pixels", latent_channels=3 * config.patch_px**2)
    if not Path(wanted).exists():
        raise CheckpointError(
            f"tokenizer '{wanted}' is neither patches nor pixels nor a folder: name a run of "
            f"`wam train --stage {TOKENIZER_STAGE}`."
        )
    trained = describe_tokenizer(Path(wanted)).config
    return dataclasses.replace(config, **{name: getattr(trained, name) for name in LATENT_GEOMETRY})


def describe_tokenizer(run: Path) -> CheckpointInfo:
    """Reads what a tokenizer run saved, but its weights.

    Raises:
        CheckpointError: There is none, or the run trained something else.
    """
    return describe_checkpoint(run, stage=TOKENIZER_STAGE)


def load_tokenizer(tokenizer: AutoencoderTokenizer, run: Path, images: UInt8[Tensor, "M K height width 3"]) -> None:
    """Gives a tokenizer the weights of a run and brings its latents to unit spread on a dataset.

    Raises:
        CheckpointError: There is no such run, or its weights do not fit.
    """
    info = describe_tokenizer(run)
    try:
        with safe_open(info.weights, framework="pt") as file:
            weights = {name.removeprefix(PREFIX): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        tokenizer.load_state_dict(weights)
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"weights of tokenizer {info.path} do not fit this model: {error}") from error
    tokenizer.standardise(images)


def _clip(batch: Batch) -> UInt8[Tensor, "B T K height width 3"]:
    return torch.cat((batch.images[:, None], batch.future_images), dim=1)
