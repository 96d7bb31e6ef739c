"""The closed-form tokenizer: what it keeps, its layout, its determinism."""

import dataclasses

import pytest
import torch

from wam.config import ModelConfig, preset
from wam.robot import load_robot
from wam.tokenizer import PatchTokenizer


def smooth_images(count: int, config: ModelConfig) -> torch.Tensor:
    """Colour ramps with random corners: natural enough for a few components to hold most of the variance."""
    height, width = config.image_size_px
    corners = torch.rand((count * config.n_cameras, 3, 2, 2), generator=torch.Generator().manual_seed(0))
    ramps = torch.nn.functional.interpolate(corners, size=(height, width), mode="bilinear")
    return (ramps.permute(0, 2, 3, 1) * 255).to(torch.uint8).reshape(count, config.n_cameras, height, width, 3)


@pytest.fixture(scope="module")
def config() -> ModelConfig:
    return preset("micro", load_robot("sim6"))


@pytest.fixture(scope="module")
def fitted(config: ModelConfig) -> PatchTokenizer:
    tokenizer = PatchTokenizer(config)
    assert tokenizer.fit(smooth_images(40, config)) > 0.97
    return tokenizer


def test_round_trip_is_close_on_images_it_was_fitted_to(config: ModelConfig, fitted: PatchTokenizer):
    images = smooth_images(40, config)
    back = fitted.decode(fitted.encode(images))
    assert (back.float() - images.float()).abs().mean() < 4.0  # of 255


def test_all_components_make_it_lossless(config: ModelConfig):
    whole = PatchTokenizer(dataclasses.replace(config, latent_channels=192))
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(0, 256, (64, config.n_cameras, 32, 32, 3), generator=generator, dtype=torch.uint8)
    whole.fit(images)
    assert (whole.decode(whole.encode(images)).int() - images.int()).abs().max() <= 1


def test_latents_have_unit_scale(config: ModelConfig, fitted: PatchTokenizer):
    tokens = fitted.encode(smooth_images(40, config))
    assert float(tokens.pow(2).mean().sqrt()) == pytest.approx(1.0, abs=0.15)


def test_token_order_is_rows_then_cameras_then_columns(config: ModelConfig, fitted: PatchTokenizer):
    images = smooth_images(1, config)
    rows, columns = config.grid
    before = fitted.encode(images)
    changed = images.clone()
    changed[0, 1, :16, 16:] = 0  # second camera, first token row, second token column
    moved = (fitted.encode(changed) - before).abs().sum(-1)[0] > 1e-6  # (N,)
    assert moved.nonzero().flatten().tolist() == [0 * columns * config.n_cameras + 1 * columns + 1]
    assert len(moved) == rows * columns * config.n_cameras


def test_fit_repeats_exactly(config: ModelConfig, fitted: PatchTokenizer):
    again = PatchTokenizer(config)
    again.fit(smooth_images(40, config))
    assert torch.equal(again.encoder, fitted.encoder)


def test_more_channels_than_values_is_refused(config: ModelConfig):
    with pytest.raises(ValueError, match="latent_channels 999 exceed the 192 values"):
        PatchTokenizer(dataclasses.replace(config, latent_channels=999))
