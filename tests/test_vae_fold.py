"""The first frame of Wan's causal autoencoder as two-dimensional convolutions: the same numbers as diffusers' own."""

import io

import onnx
import pytest
import torch
from torch import nn

from wam.config import preset
from wam.robot import load_robot
from wam.vae import VaeTokenizer, random_vae
from wam.vae_fold import FirstFrameVae, frame_tokens

diffusers = pytest.importorskip("diffusers")

STATISTICS = {"latents_mean": [0.1, 0.2, -0.3, 0.0], "latents_std": [1.0, 2.0, 0.5, 1.0]}
VARIANTS = {
    "wan2.1": {},
    "wan2.2": {
        "is_residual": True,
        "in_channels": 12,
        "out_channels": 12,
        "patch_size": 2,
        "decoder_base_dim": 8,
        "scale_factor_spatial": 16,
    },
}


@pytest.fixture(params=VARIANTS)
def vae(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    options = {"base_dim": 8, "z_dim": 4, "num_res_blocks": 1, **STATISTICS, **VARIANTS[request.param]}
    return diffusers.AutoencoderKLWan(**options).eval().requires_grad_(False)


@torch.no_grad()
def test_folded_encoder_equals_the_causal_one(vae: nn.Module):
    pixels = torch.rand(2, 3, 1, 32, 64) * 2 - 1
    expected = vae.encode(pixels).latent_dist.mode()
    found = FirstFrameVae(vae)(pixels)
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=1e-5)
    assert float(expected.std()) > 1e-3  # not a comparison of zeros
    assert float((FirstFrameVae(vae)(pixels.flip(-1)) - found).abs().max()) > 1e-3


@torch.no_grad()
def test_the_folded_latent_is_the_first_of_a_whole_clip(vae: nn.Module):
    clip = torch.rand(1, 3, 5, 32, 64) * 2 - 1
    whole = vae.encode(clip).latent_dist.mode()
    torch.testing.assert_close(FirstFrameVae(vae)(clip[:, :, :1]), whole[:, :, :1], atol=2e-6, rtol=1e-5)


@torch.no_grad()
def test_standardised_latents_are_those_of_the_tokenizer():
    config = preset("wan_micro", load_robot("sim6"))
    torch.manual_seed(0)
    vae = random_vae(config, base_dim=8).eval()
    tokenizer = VaeTokenizer(config).attach(vae)
    images = torch.randint(0, 256, (1, config.n_cameras, *config.image_size_px, 3), dtype=torch.uint8)
    found = frame_tokens(tokenizer, FirstFrameVae(vae), images)
    torch.testing.assert_close(found, tokenizer.encode(images), atol=2e-6, rtol=1e-5)


@torch.no_grad()
def test_no_three_dimensional_convolution_is_left(vae: nn.Module):
    folded = FirstFrameVae(vae)
    assert not any(isinstance(module, nn.Conv3d) for module in folded.modules())
    kept = sum(p.numel() for p in folded.parameters())
    was = sum(p.numel() for part in (vae.encoder, vae.quant_conv) for p in part.parameters())
    assert kept < 0.5 * was
    stream = io.BytesIO()
    pixels = torch.rand(1, 3, 1, 32, 32)
    torch.onnx.export(folded, (pixels,), stream, dynamo=False, opset_version=20)
    ranks = {len(t.dims) for t in onnx.load_from_string(stream.getvalue()).graph.initializer if t.dims}
    assert 5 not in ranks


@torch.no_grad()
def test_half_precision_stays_close(vae: nn.Module):
    pixels = torch.rand(1, 3, 1, 32, 64) * 2 - 1
    exact, lowered = FirstFrameVae(vae)(pixels), FirstFrameVae(vae, torch.bfloat16)(pixels)
    assert lowered.dtype is torch.float32
    assert float((exact - lowered).abs().max()) < 0.05 * max(1.0, float(exact.abs().max()))


def test_the_autoencoder_itself_is_left_alone(vae: nn.Module):
    before = {name: parameter.shape for name, parameter in vae.named_parameters()}
    FirstFrameVae(vae)
    assert {name: parameter.shape for name, parameter in vae.named_parameters()} == before
