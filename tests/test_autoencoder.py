"""The learned tokenizer: it starts as the closed form, never looks ahead, trains, resumes, and a model learns on it."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from policy.load import load_policy
from wam.autoencoder import AutoencoderTokenizer
from wam.checkpoint import describe_checkpoint, load_checkpoint
from wam.config import ModelConfig, preset
from wam.errors import CheckpointError, ConfigError
from wam.export import export_bundle
from wam.image_metrics import colour_error, vivid
from wam.losses import LossConfig
from wam.manifest import read_manifest
from wam.robot import load_robot
from wam.spec import Observation
from wam.tokenizer import PatchTokenizer, make_tokenizer
from wam.tokenizer_stage import TokenizerModel
from wam.train import main, train
from wam.train_config import TrainConfig

ROBOT = load_robot("sim6")
QUICK = {"preset": "micro", "steps": 8, "batch_size": 4, "warmup_steps": 2, "save_every": 4, "validate_every": 8}


def config(dataset: Path, out: Path, **changes) -> TrainConfig:
    return TrainConfig(dataset=(dataset,), out=out, threads=1, **{**QUICK, **changes})


def micro(stride: int = 1, frames: int = 1) -> ModelConfig:
    """The smallest model that sees through an autoencoder."""
    base = preset("micro", ROBOT)
    return dataclasses.replace(base, tokenizer="autoencoder", latent_stride=stride, future_frames=frames)


def random_images(*leading: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (*leading, 2, 32, 32, 3), generator=generator, dtype=torch.uint8)


def shaken(tokenizer: AutoencoderTokenizer) -> AutoencoderTokenizer:
    """Weights as after some training: the corrections, which start at zero, are not."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in tokenizer.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return tokenizer


@pytest.fixture(scope="module")
def trained(reach_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer after some steps."""
    out = tmp_path_factory.mktemp("tokenizer")
    steps = {"steps": 60, "save_every": 60, "validate_every": 20}
    assert train(config(reach_dataset, out, stage="tokenizer", **steps)) == 0
    return out


def test_it_starts_as_the_closed_form():
    images, ours, closed = random_images(20), AutoencoderTokenizer(micro()), PatchTokenizer(preset("micro", ROBOT))
    assert ours.fit(images) == closed.fit(images)
    assert torch.allclose(ours.encode(images), closed.encode(images), atol=1e-5)
    assert (ours.decode(ours.encode(images)).int() - closed.decode(closed.encode(images)).int()).abs().max() <= 1


@pytest.mark.parametrize(("stride", "frames"), [(1, 1), (1, 4), (2, 4), (4, 8)])
def test_latents_never_depend_on_what_comes_later(stride: int, frames: int):
    tokenizer = shaken(AutoencoderTokenizer(micro(stride, frames)))
    now, future = random_images(3), random_images(3, frames, seed=1)
    latents = tokenizer.encode_future(now, future).unflatten(1, (frames // stride, -1))  # (B, L, N, Z)
    for frame in range(frames):
        changed = future.clone()
        changed[:, frame] = 255 - changed[:, frame]
        moved = tokenizer.encode_future(now, changed).unflatten(1, (frames // stride, -1)) - latents
        first = frame // stride  # of the latents that see this frame
        assert moved[:, :first].abs().max() < 1e-5 if first else True
        assert moved[:, first].abs().max() > 1e-3
    clip = torch.cat((now[:, None], future), dim=1)
    alone = tokenizer.latents(now[:, None])
    assert torch.allclose(tokenizer.latents(clip)[:, :, :1], alone, atol=1e-5)


@pytest.mark.parametrize(("stride", "frames"), [(1, 1), (2, 4)])
def test_decoding_is_causal_and_gives_every_frame(stride: int, frames: int):
    tokenizer = shaken(AutoencoderTokenizer(micro(stride, frames)))
    now, future = random_images(2), random_images(2, frames, seed=1)
    tokens, later = tokenizer.encode(now), tokenizer.encode_future(now, future)
    film = tokenizer.decode_future(tokens, later)
    assert film.shape == future.shape
    cut = tokenizer.decode_future(tokens, later[:, : tokens.shape[1]])  # one latent frame
    assert torch.equal(cut, film[:, :stride])
    whole = tokenizer.pixels(tokenizer.latents(torch.cat((now[:, None], future), dim=1)))
    assert whole.shape == (2, 1 + frames, 2, 32, 32, 3)
    assert (whole[:, 1:].clamp(0, 1) * 255 - film.float()).abs().max() < 1.0


def test_cameras_do_not_see_each_other():
    tokenizer = shaken(AutoencoderTokenizer(micro()))
    images = random_images(2)
    changed = images.clone()
    changed[:, 1] = 0
    first, second = tokenizer.latents(images[:, None]), tokenizer.latents(changed[:, None])
    assert torch.allclose(first[:, 0], second[:, 0], atol=1e-5)
    assert not torch.allclose(first[:, 1], second[:, 1], atol=1e-3)


def test_standardised_latents_have_unit_spread():
    images, tokenizer = random_images(20), shaken(AutoencoderTokenizer(micro()))
    tokenizer.standardise(images)
    tokens = tokenizer.encode(images)
    assert float(tokens.detach().pow(2).mean().sqrt()) == pytest.approx(1.0, abs=0.01)
    assert (tokenizer.decode(tokens).float() - _back(tokenizer, images)).abs().max() <= 1.0


def _back(tokenizer: AutoencoderTokenizer, images: torch.Tensor) -> torch.Tensor:
    pixels = tokenizer.pixels(tokenizer.latents(images[:, None]))[:, 0].detach()
    return (pixels.clamp(0, 1) * 255).round()


def test_training_it_beats_the_closed_form_and_is_judged(trained: Path):
    records = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    judged = [record for record in records if "val_psnr_db" in record]
    assert judged[-1]["val_psnr_db"] > judged[0]["val_psnr_db"]
    assert judged[-1]["val_vivid_error_de"] > 0
    info = describe_checkpoint(trained, stage="tokenizer")
    assert all(name.startswith("tokenizer.") for name in load_file(info.weights))  # and no policy


def test_an_interrupted_tokenizer_goes_on_bit_for_bit(reach_dataset: Path, tmp_path: Path):
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    for out in (whole, halves):
        assert train(config(reach_dataset, out, stage="tokenizer")) == 0
    last = sorted((halves / "checkpoints").glob("step_*"))[-1]
    for file in last.iterdir():
        file.unlink()
    last.rmdir()
    assert train(config(reach_dataset, halves, stage="tokenizer")) == 0
    first, second = (load_file(describe_checkpoint(run, stage="tokenizer").weights) for run in (whole, halves))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_model_trains_on_it_frozen_and_is_exported(reach_dataset: Path, trained: Path, tmp_path: Path):
    run, bundle = tmp_path / "run", tmp_path / "bundle"
    assert train(config(reach_dataset, run, tokenizer=str(trained))) == 0
    assert train(config(reach_dataset, run, tokenizer=str(trained))) == 0  # finished already: nothing to refuse
    model = load_checkpoint(run).model
    theirs = load_file(describe_checkpoint(trained, stage="tokenizer").weights)
    for name in ("tokenizer.encoder.now.weight", "tokenizer.decoder.leave.weight", "tokenizer.closed.encoder"):
        assert torch.equal(model.state_dict()[name], theirs[name])
    assert float(model.tokenizer.scale) != 1.0
    export_bundle(load_checkpoint(run), bundle)
    manifest = read_manifest(bundle)
    assert manifest.model.tokenizer == "autoencoder"
    chunks = [load_policy(bundle, ROBOT, backend=name, threads=1) for name in ("onnx", "torch")]
    ours, reference = (policy.infer(observation(), noise_seed=3).actions for policy in chunks)
    assert np.allclose(ours, reference, atol=1e-4)


def test_pixels_train_and_are_exported(reach_dataset: Path, tmp_path: Path):
    run, bundle = tmp_path / "run", tmp_path / "bundle"
    assert train(config(reach_dataset, run, tokenizer="pixels")) == 0
    checkpoint = load_checkpoint(run)
    assert (checkpoint.config.tokenizer, checkpoint.config.latent_channels) == ("pixels", 192)
    images = random_images(3)
    assert torch.equal(checkpoint.model.tokenizer.decode(checkpoint.model.tokenizer.encode(images)), images)
    export_bundle(checkpoint, bundle)
    assert read_manifest(bundle).model.tokenizer == "pixels"


def observation() -> Observation:
    rng = np.random.default_rng(0)
    images = {c.name: rng.integers(0, 256, (c.height_px, c.width_px, 3), dtype=np.uint8) for c in ROBOT.cameras}
    proprio = ((ROBOT.lower + ROBOT.upper) / 2).astype(np.float32)
    return Observation(images=images, proprio=proprio, task="reach the red cube", stamp=0.0)


def test_every_tokenizer_has_the_same_methods():
    names = {"fit", "encode", "decode", "encode_future", "decode_future", "future_condition", "image_tokens"}
    base = preset("micro", ROBOT)
    for changes in ({}, {"tokenizer": "pixels", "latent_channels": 192}, {"tokenizer": "autoencoder"}):
        tokenizer = make_tokenizer(dataclasses.replace(base, **changes))
        assert all(callable(getattr(tokenizer, name)) for name in names)
        images, future = random_images(2), random_images(2, 1, seed=1)
        tokens, later = tokenizer.encode(images), tokenizer.encode_future(images, future)
        assert tokens.shape == later.shape == (2, tokenizer.config.tokens_per_frame, tokenizer.config.token_dim)
        assert tokenizer.decode_future(tokens, later).shape == future.shape


def test_a_tokenizer_is_no_policy(reach_dataset: Path, trained: Path, tmp_path: Path):
    with pytest.raises(CheckpointError, match="holds a tokenizer and no policy: train a model on it with.*--tokenizer"):
        load_checkpoint(trained)
    run = tmp_path / "run"
    assert train(config(reach_dataset, run, steps=1)) == 0
    with pytest.raises(CheckpointError, match="made by stage 'full' but one of stage 'tokenizer' is needed"):
        train(config(reach_dataset, tmp_path / "other", tokenizer=str(run)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"tokenizer": "pixel"},
            "'pixel' is neither patches nor pixels nor a folder: name a run of `wam train --stage",
        ),
        ({"tokenizer": "pixels", "preset": "wan_micro"}, "'wan_micro' sees through Wan's autoencoder and has no other"),
        ({"stage": "tokenizer", "preset": "wan_micro"}, "'wan_micro' sees through Wan's autoencoder and has no other"),
    ],
)
def test_tokenizers_that_cannot_be(reach_dataset: Path, tmp_path: Path, options: dict, message: str):
    with pytest.raises((CheckpointError, ConfigError), match=message):
        train(config(reach_dataset, tmp_path, **options))


def test_options_that_exclude_each_other(tmp_path: Path):
    with pytest.raises(ConfigError, match="tokenizer 'pixels' cannot be chosen here"):
        config(tmp_path, tmp_path, tokenizer="pixels", stage="tokenizer")
    with pytest.raises(ConfigError, match=r"colour_weight is -1.0 but must be at least 0"):
        LossConfig(colour_weight=-1.0)
    with pytest.raises(ConfigError, match="stage 'tokenizer' trains the autoencoder, but preset 'micro' sees through"):
        TokenizerModel(preset("micro", ROBOT))
    base = preset("micro", ROBOT)
    for changes, message in (
        (
            {"tokenizer": "pixels"},
            "'pixels' keeps every pixel: latent_channels is 8 but a patch of 8 x 8 .* 192 values",
        ),
        ({"tokenizer": "pixels", "latent_channels": 192, "latent_stride": 2, "future_frames": 2}, "sees each frame al"),
        ({"tokenizer": "autoencoder", "patch_px": 1, "latent_channels": 3}, "works on half patches, but patch_px is 1"),
    ):
        with pytest.raises(ConfigError, match=message):
            dataclasses.replace(base, **changes)


def test_a_run_from_before_an_option_existed_goes_on(reach_dataset: Path, tmp_path: Path, capsys):
    settings = config(reach_dataset, tmp_path, steps=1)
    assert train(settings) == 0
    path = load_checkpoint(tmp_path).path / "checkpoint.json"
    description = json.loads(path.read_text())
    del description["training"]["tokenizer"], description["training"]["loss"]["latent_noise"]
    path.write_text(json.dumps(description))
    assert train(settings) == 0
    with pytest.raises(ConfigError, match="tokenizer was '', now 'pixels'"):
        train(dataclasses.replace(settings, tokenizer="pixels"))


def test_the_command_trains_a_tokenizer(reach_dataset: Path, tmp_path: Path, capsys):
    arguments = ["--dataset", str(reach_dataset), "--out", str(tmp_path), "--preset", "micro", "--stage", "tokenizer"]
    assert main([*arguments, "--steps", "1", "--batch-size", "2"]) == 0
    assert f"--tokenizer {tmp_path}" in capsys.readouterr().out


def test_a_grey_cube_is_a_large_colour_error():
    red = np.full((4, 4, 3), (200, 30, 30), dtype=np.uint8)
    grey = np.full((4, 4, 3), 90, dtype=np.uint8)
    assert vivid(red).all()
    assert not vivid(grey).any()
    assert colour_error(red, red).max() == 0
    assert colour_error(red, grey).min() > 50
    white, black = np.full((1, 3), 255, np.uint8), np.zeros((1, 3), np.uint8)
    assert colour_error(white, black) == pytest.approx(100.0, abs=0.1)  # L* runs from 0 to 100
