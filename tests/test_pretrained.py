"""Training and loading from published weights, end to end on a tiny random Wan folder."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from tests.wan_folders import write_wan_folder
from wam.checkpoint import load_checkpoint
from wam.config import ModelConfig, preset, preset_names
from wam.errors import ConfigError
from wam.model import WorldActionModel
from wam.pretrained import load_pretrained, materialise, start_from_wan
from wam.robot import load_robot
from wam.skeleton import skeleton
from wam.train import train
from wam.train_config import TrainConfig
from wam.wan_weights import load_weights


@pytest.fixture(scope="module")
def config() -> ModelConfig:
    return preset("wan_micro", load_robot("sim6"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, config: ModelConfig) -> Path:
    return write_wan_folder(tmp_path_factory.mktemp("wan"), config)


def run_config(dataset: Path, out: Path, **changes) -> TrainConfig:
    options = {"preset": "wan_micro", "steps": 2, "batch_size": 2, "validate_every": 2, "learning_rate": 1e-4}
    return TrainConfig(dataset=(dataset,), out=out, threads=1, **{**options, **changes})


def test_training_starts_from_a_wan_folder(reach_dataset: Path, folder: Path, config: ModelConfig, tmp_path: Path):
    """Autoencoder, text encoder and video expert from the folder; the run then holds all that evaluation needs."""
    assert train(run_config(reach_dataset, tmp_path, wan=folder, freeze_video=True)) == 0
    checkpoint = load_checkpoint(tmp_path)
    start = WorldActionModel(config)
    load_weights(start, folder)
    trained, theirs = checkpoint.model.experts["video"], start.experts["video"]
    assert all(torch.equal(a, b) for a, b in zip(trained.parameters(), theirs.parameters(), strict=True))
    images = torch.zeros(1, config.n_cameras, *config.image_size_px, 3, dtype=torch.uint8)
    assert checkpoint.model.tokenizer.encode(images).isfinite().all()
    record = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert record["video"] > 0
    assert record["val_chunk_error"] > 0


def test_training_without_the_folder_says_what_is_missing(reach_dataset: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match="preset 'wan_micro' sees through Wan's autoencoder.*--wan"):
        train(run_config(reach_dataset, tmp_path))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_pretrained_models_are_built_in_their_type(folder: Path, config: ModelConfig, dtype: str):
    model, report = load_pretrained(config, folder, dtype=dtype)
    assert report.layout == "diffusers"
    block = model.experts["action"].blocks[0]
    assert block.qkv.weight.dtype == getattr(torch, dtype)
    assert block.norm_cross.weight.dtype == torch.float32
    assert all(p.isfinite().all() for p in model.parameters())
    reference = WorldActionModel(config)
    load_weights(reference, folder)
    x, sigma = torch.randn(1, config.future_tokens, config.token_dim), torch.tensor([0.5])
    text = torch.randn(1, config.prompt_length, config.text_width)
    with torch.no_grad():
        got, expected = (
            m.predict("policy", {}, {"video": m.experts["video"].text_kv(text)}, video=(x, sigma)).video
            for m in (model, reference)
        )
    tolerance = 1e-5 if dtype == "float32" else 0.2
    torch.testing.assert_close(got, expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("name", ["tiny", "micro", "wan_micro"])
def test_a_model_built_without_values_becomes_a_whole_one(name: str):
    config = dataclasses.replace(preset(name, load_robot("sim6")))
    model = materialise(skeleton(config))
    plain = WorldActionModel(config)
    for (name, mine), (_, theirs) in zip(model.named_parameters(), plain.named_parameters(), strict=True):
        assert mine.shape == theirs.shape, name
        assert bool(mine.isfinite().all()), name
    for name, buffer in plain.named_buffers():
        assert torch.equal(model.get_buffer(name), buffer), name


GEOMETRY = {  # billions of parameters: video expert, action expert; what the released models have
    "wan5b": (5.0, 1.02),
    "wan14b": (16.4, 0.0),
    "small": (0.05, 0.02),
}


@pytest.mark.parametrize("name", list(GEOMETRY))
def test_presets_have_the_size_of_their_models(name: str):
    with torch.device("meta"):
        model = WorldActionModel(preset(name, load_robot("sim6")))
    video, action = (sum(p.numel() for p in model.experts[e].parameters()) / 1e9 for e in ("video", "action"))
    assert video == pytest.approx(GEOMETRY[name][0], rel=0.1)
    assert action == pytest.approx(GEOMETRY[name][1], rel=0.1, abs=1e-3)


def test_every_preset_is_listed():
    assert set(preset_names()) == {"tiny", "small", "wan5b", "wan14b", "micro", "wan_micro"}


def test_frozen_networks_of_an_earlier_attempt_are_not_taken_for_these(
    tmp_path: Path, config: ModelConfig, monkeypatch: pytest.MonkeyPatch
):
    model, loaded = WorldActionModel(config), []
    monkeypatch.setattr(model.tokenizer, "load", loaded.append)
    kept = tmp_path / "run" / "frozen" / "name"

    def save(folder: Path) -> None:
        folder.mkdir(parents=True)
        (folder / "name").write_text(str(loaded[-1]))

    monkeypatch.setattr(model.tokenizer, "save", save)

    def start(wan: str, *, begins: bool) -> str:
        start_from_wan(model, tmp_path / "run", Path(wan), None, begins=begins, fresh=False)
        return kept.read_text()

    assert start("one", begins=True) == "one"
    (tmp_path / "run" / "frozen.partial").mkdir()  # an attempt that was interrupted while it wrote
    assert start("other", begins=True) == "other", "no checkpoint was made with the first one"
    assert start("moved", begins=False) == "other", "checkpoints belong to what was frozen with them"
