"""The frozen parts of a Wan folder: autoencoder as tokenizer, UMT5 with its cache."""

import copy
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from tests.wan_folders import write_text_encoder, write_vae
from wam.config import ModelConfig, preset
from wam.errors import CheckpointError, ConfigError, DatasetError
from wam.latents import latents_to_tokens
from wam.model import WorldActionModel
from wam.robot import load_robot
from wam.umt5 import PROMPT_TEMPLATE, TextEncoder
from wam.vae import VaeTokenizer


@pytest.fixture(scope="module")
def config() -> ModelConfig:
    return dataclasses.replace(preset("wan_micro", load_robot("sim6")), prompt_length=20)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, config: ModelConfig) -> Path:
    root = tmp_path_factory.mktemp("wan")
    write_vae(root, config)
    write_text_encoder(root, config)
    return root


@pytest.fixture(scope="module")
def tokenizer(folder: Path, config: ModelConfig) -> VaeTokenizer:
    return VaeTokenizer(config).load(folder)


def images(config: ModelConfig, *lead: int) -> torch.Tensor:
    shape = (*lead, config.n_cameras, *config.image_size_px, 3)
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(4), dtype=torch.uint8)


def test_tokens_are_the_autoencoders_standardised_mean(tokenizer: VaeTokenizer, config: ModelConfig):
    now, future = images(config, 2), images(config, 2, config.future_frames)
    side_by_side = torch.cat((now[:, None], future), dim=1).permute(0, 5, 1, 3, 2, 4).flatten(4)  # (B, 3, T, h, K·w)
    vae = copy.deepcopy(tokenizer.vae)
    vae.register_to_config(latents_mean=[0.1, -0.2, 0.3, 0.0], latents_std=[2.0, 0.5, 1.0, 3.0])
    ours = VaeTokenizer(config).attach(vae)
    with torch.no_grad():
        raw = vae.encode(side_by_side / 127.5 - 1.0).latent_dist.mode()
    mean, std = (torch.tensor(v).view(1, 4, 1, 1, 1) for v in (vae.config.latents_mean, vae.config.latents_std))
    expected = latents_to_tokens((raw - mean) / std, config)
    count = config.tokens_per_frame
    assert expected.shape[1] == count * (1 + config.future_latents)
    torch.testing.assert_close(ours.encode_future(now, future), expected[:, count:], atol=1e-5, rtol=1e-4)
    # Causal: the observation's tokens are the same whether or not anything follows
    torch.testing.assert_close(ours.encode(now), expected[:, :count], atol=1e-5, rtol=1e-4)


def test_frames_come_back_in_their_shape(tokenizer: VaeTokenizer, config: ModelConfig):
    now, future = images(config, 1), images(config, 1, config.future_frames)
    tokens, later = tokenizer.encode(now), tokenizer.encode_future(now, future)
    assert tokenizer.decode(tokens).shape == now.shape
    assert tokenizer.decode_future(tokens, later).shape == future.shape
    assert tokenizer.decode_future(tokens, later).dtype == torch.uint8


def test_frozen_networks_are_no_part_of_the_weights(folder: Path, config: ModelConfig):
    model = WorldActionModel(config)
    before = set(model.state_dict())
    model.tokenizer.load(folder)
    assert set(model.state_dict()) == before
    assert not any(p.requires_grad for p in model.tokenizer.vae.parameters())
    model.double()
    assert next(model.tokenizer.vae.parameters()).dtype == torch.float64  # moves with the model
    assert copy.deepcopy(model).tokenizer.vae is model.tokenizer.vae  # and is shared, not copied


def test_saved_beside_a_run_they_load_again(tokenizer: VaeTokenizer, config: ModelConfig, tmp_path: Path):
    tokenizer.save(tmp_path)
    again = VaeTokenizer(config).load(tmp_path)
    assert torch.equal(again.encode(images(config, 1)), tokenizer.encode(images(config, 1)))


def test_condition_and_image_tokens_of_image_to_video(tokenizer: VaeTokenizer, config: ModelConfig):
    from transformers import CLIPVisionConfig, CLIPVisionModel

    changes = {"condition_channels": 8, "image_width": 16, "image_tokens": 50}
    clip = CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, patch_size=32
        )
    )
    ours = VaeTokenizer(dataclasses.replace(config, **changes)).attach(tokenizer.vae, clip)
    now = images(config, 2)
    assert ours.image_tokens(now).shape == (2, 50, 16)
    condition = ours.future_condition(now)
    assert condition.shape == (2, config.future_tokens, 8 * config.token_patch**2)
    mask = condition.unflatten(-1, (-1, 8))[..., :4]
    assert not mask.any()  # nothing of the future is given
    assert tokenizer.future_condition(now) is None
    assert tokenizer.image_tokens(now) is None


def test_errors_name_what_is_missing(tokenizer: VaeTokenizer, config: ModelConfig, tmp_path: Path):
    with pytest.raises(ConfigError, match="video autoencoder is not loaded.*tokenizer.load"):
        VaeTokenizer(config).encode(images(config, 1))
    with pytest.raises(CheckpointError, match="no vae in .*Wan2.2-TI2V-5B-Diffusers"):
        VaeTokenizer(config).load(tmp_path)
    wider = dataclasses.replace(config, latent_channels=6)
    with pytest.raises(CheckpointError, match=r"4 channels, stride 16 px and 4 frames, but preset .* expects 6, 16 px"):
        VaeTokenizer(wider).attach(tokenizer.vae)
    with pytest.raises(CheckpointError, match="no text_encoder in"):
        TextEncoder(tmp_path, tmp_path, length=4)


def encoder(folder: Path, cache: Path, config: ModelConfig) -> TextEncoder:
    return TextEncoder(folder, cache, length=config.prompt_length, dtype=torch.float32)


def test_embeddings_are_the_encoders_with_zeroed_padding(folder: Path, config: ModelConfig, tmp_path: Path):
    from transformers import AutoTokenizer, UMT5EncoderModel

    found = encoder(folder, tmp_path, config).encode(["red", "blue  red"])
    assert found.shape == (2, config.prompt_length, config.text_width)
    tokens = AutoTokenizer.from_pretrained(folder / "tokenizer")(
        PROMPT_TEMPLATE.format(task="blue red"), return_tensors="pt"
    )
    count = tokens.input_ids.shape[1]
    with torch.no_grad():
        alone = UMT5EncoderModel.from_pretrained(folder / "text_encoder")(**tokens).last_hidden_state[0]
    np.testing.assert_allclose(found[1, :count], alone.numpy(), atol=1e-5)
    assert not found[1, count:].any()
    assert found[0].any()


def test_the_cache_serves_without_the_encoder(folder: Path, config: ModelConfig, tmp_path: Path, monkeypatch):
    first = encoder(folder, tmp_path, config).encode(["red", "red", "blue"])
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    monkeypatch.setattr(TextEncoder, "_compute", lambda self, prompts: pytest.fail(f"computed {prompts}"))
    again = encoder(folder, tmp_path, config).encode(["red", "red", "blue"])
    assert np.array_equal(first, again)


def test_a_prompt_is_refused_before_the_encoder_is_read_rather_than_cut(
    folder: Path, config: ModelConfig, tmp_path: Path
):
    with pytest.raises(DatasetError, match=r"red blue red' has 22 tokens, but the model reads 20.*length 22$"):
        encoder(tmp_without_encoder(folder, tmp_path), tmp_path, config).encode(["red", "red red blue red blue red"])


def tmp_without_encoder(folder: Path, root: Path) -> Path:
    """A Wan folder whose text encoder cannot be read."""
    (root / "text_encoder").mkdir()
    (root / "tokenizer").symlink_to(folder / "tokenizer")
    return root


def test_what_an_earlier_version_cut_is_not_taken_from_the_cache(folder: Path, config: ModelConfig, tmp_path: Path):
    short = encoder(folder, tmp_path, dataclasses.replace(config, prompt_length=17))
    whole = short.encode(["red"])
    assert np.array_equal(short.encode(["red"]), whole)  # it just fits
    cut = {"embedding": np.ones_like(whole[0])}  # every place is filled: that may have been the cut
    save_file(cut, short.path(PROMPT_TEMPLATE.format(task="red blue")))
    with pytest.raises(DatasetError, match="has 18 tokens, but the model reads 17"):
        short.encode(["red blue"])


def test_instructions_that_the_encoder_takes_for_one_are_said(
    folder: Path, config: ModelConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """Its tokenizer knows neither word, and gives both the same id."""
    encoder(folder, tmp_path, config).encode(["pink", "Pink!", "grey"])
    assert "grey' are the same to the text encoder" in caplog.text
    assert len(caplog.records) == 1


def test_half_a_cached_file_and_another_encoder_are_computed_anew(folder: Path, config: ModelConfig, tmp_path: Path):
    cache = tmp_path / "cache"
    first = encoder(folder, cache, config).encode(["red"])
    path = next(cache.glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:50])
    assert np.array_equal(encoder(folder, cache, config).encode(["red"]), first)
    other = tmp_path / "other"
    write_text_encoder(other, dataclasses.replace(config, text_width=24))
    assert encoder(other, cache, config).encode(["red"]).shape[-1] == 24


def test_another_matrix_in_the_middle_of_a_large_file_is_another_encoder(tmp_path: Path):
    for name in ("text_encoder", "tokenizer"):
        (tmp_path / name).mkdir()
    weights = tmp_path / "text_encoder" / "model.safetensors"
    size, matrix = 40 << 20, 17 << 20
    with weights.open("wb") as file:
        file.truncate(size)
    before = TextEncoder(tmp_path, tmp_path, length=4).path("red")
    with weights.open(
        "r+b"
    ) as file:  # a sparse file, but for a matrix, each of which is larger than 16 MiB in UMT5-XXL
        file.seek((size - matrix) // 2)
        file.write(b"\1" * matrix)
    assert TextEncoder(tmp_path, tmp_path, length=4).path("red") != before
