"""`wam bench tokenizers`: fidelity on a dataset's frames and CPU time side by side, from the command line."""

import json
from pathlib import Path

import pytest

from sim.bench_tokenizers import TokenizerBenchConfig, main, run_bench
from wam.errors import ConfigError
from wam.robot import load_robot
from wam.train import train
from wam.train_config import TrainConfig
from wam.untrained import save_untrained_checkpoint


@pytest.fixture(scope="module")
def runs(reach_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """One step of training each: the closed form is fitted, and pixels are pixels."""
    folder = tmp_path_factory.mktemp("runs")
    for name in ("patches", "pixels"):
        quick = {"preset": "micro", "steps": 1, "batch_size": 2, "threads": 1, "tokenizer": name}
        assert train(TrainConfig(dataset=(reach_dataset,), out=folder / name, **quick)) == 0
    return folder / "patches", folder / "pixels"


def test_pixels_lose_nothing_and_the_closed_form_a_little(runs: tuple[Path, Path], reach_dataset: Path, tmp_path: Path):
    arguments = ["--runs", *map(str, runs), "--dataset", str(reach_dataset), "--out", str(tmp_path)]
    assert main([*arguments, "--frames", "12", "--rounds", "2", "--batch-size", "2"]) == 0
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    closed, pixels = (rows[str(run)] for run in runs)
    assert pixels["vivid_error_de"] == pixels["other_error_de"] == 0.0
    assert 0.0 < closed["psnr_db"] < pixels["psnr_db"] == 100.0
    assert closed["other_error_de"] > 0.0
    assert closed["cpu_ratio"] == {"encode": 1.0, "training_step": 1.0}
    assert all(value > 0 for value in pixels["cpu_ratio"].values())
    assert (closed["values_per_token"], pixels["values_per_token"]) == (32, 768)


def test_bad_arguments(runs: tuple[Path, Path], reach_dataset: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match="runs names no model"):
        TokenizerBenchConfig(runs=(), dataset=reach_dataset)
    with pytest.raises(ConfigError, match="rounds is 0 but must be at least 1"):
        TokenizerBenchConfig(runs=runs, dataset=reach_dataset, rounds=0)
    other = save_untrained_checkpoint(tmp_path / "other", load_robot("so101"), preset_name="micro")
    with pytest.raises(ConfigError, match="trained for another robot than"):
        run_bench(TokenizerBenchConfig(runs=(runs[0], other.path), dataset=reach_dataset))
