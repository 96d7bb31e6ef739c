"""wam bench geometry: what is counted, what a floor is, rows that say why they were not run, a small run on the CPU."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from policy.roofline import DEVICES, StageCost, chunk_floor_ms, device_limits, match_device
from sim.bench import main
from sim.bench_cores import lerobot_contenders, our_contenders, random_model, take_tokens
from sim.bench_floor import floors_ms
from sim.bench_geometry import GeometryConfig, geometry_config
from wam.config import preset
from wam.errors import ConfigError
from wam.model import WorldActionModel
from wam.precision import lower_matmuls
from wam.robot import load_robot
from wam.stage_cost import stage_counts

ROBOT = load_robot("sim6")
SMALL = geometry_config(GeometryConfig(layers=2, width=1, device="cpu"), "wan5b")


def test_a_stage_reads_its_own_weights():
    config = preset("tiny", ROBOT)
    counts = stage_counts(config, "float32")
    action = WorldActionModel(config).experts["action"]
    blocks = [p for name, p in action.named_parameters() if ".cross_kv." not in name and "time." not in name]
    held = sum(4 * p.numel() for p in blocks)
    inputs = 4 * 2 * config.num_layers * config.num_heads * config.head_dim * (32 + 13)  # keys and values
    assert counts["denoise"].bytes_read == pytest.approx(held + inputs, rel=0.1)
    assert counts["context"].bytes_read > counts["denoise"].bytes_read
    chunk, inner = config.chunk_length, config.num_heads * config.head_dim
    products = 2 * chunk * sum(p.numel() for p in blocks if p.ndim == 2)
    attention = config.num_layers * 4 * chunk * inner * (32 + chunk + 13)  # observation and chunk; words and proprio
    rotation = config.num_layers * 2 * 2 * chunk * inner * config.head_dim  # of queries and keys, as a product
    assert counts["denoise"].flops == pytest.approx(products + attention + rotation, rel=0.02)


def test_half_precision_halves_what_is_read():
    full, half = (stage_counts(SMALL, dtype)["denoise"] for dtype in ("float32", "bfloat16"))
    assert half.bytes_read < 0.75 * full.bytes_read
    assert half.flops == full.flops


@pytest.mark.slow
def test_the_floor_of_fastwams_geometry():
    floors = floors_ms(preset("wan5b", ROBOT), "bfloat16", (10, 4), "h100")["h100"]
    assert floors[10] == pytest.approx(8.2, abs=0.3)
    assert floors[4] == pytest.approx(5.1, abs=0.3)


def test_a_floor_is_the_slower_of_reading_and_computing():
    device = dataclasses.replace(DEVICES["h100"], bandwidth_gb_s=1000.0, bf16_tflops=100.0)
    reading, computing = StageCost(bytes_read=2e9, flops=1e9), StageCost(bytes_read=1e6, flops=3e11)
    assert chunk_floor_ms(reading, computing, 4, device) == pytest.approx(2.0 + 4 * 3.0)


def test_devices_are_found_by_the_drivers_name():
    assert match_device("NVIDIA H100 80GB HBM3") == "h100"
    assert match_device("Orin") == "orin"
    assert match_device("NVIDIA GeForce RTX 5090") == "rtx5090"
    assert match_device("Quadro") == ""
    assert device_limits("thor").bandwidth_gb_s == 273


def test_without_a_gpu_rows_say_so_and_the_floor_is_there(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main(["geometry", "--presets", "wan_micro", "--device-floor", "h100", "--out", str(tmp_path)]) == 0
    results = json.loads((tmp_path / "wan_micro" / "results.json").read_text())
    assert [row["not_run"] for row in results["rows"].values()] == ["no CUDA device"] * 4
    assert results["floors_ms"]["h100"]["10"] > 0
    printed = capsys.readouterr().out
    assert "ours, compiled: not run, no CUDA device" in printed
    assert "H100 SXM, computed, not measured, ms per chunk: 10 steps 0." in printed


@pytest.mark.slow
def test_cores_run_on_the_cpu():
    model = random_model(SMALL, "float32", "cpu", 0)
    contenders = our_contenders(lambda: model, "cpu", (2,), 0, compiled=False, images=False)
    contenders += lerobot_contenders(SMALL, "float32", "cpu", (2,), 0)
    assert [contender.name for contender in contenders] == ["ours, eager, 2", "LeRobot FastWAM, eager, 2"]
    ours, theirs = contenders[0].run(), contenders[1].run()["action"]
    assert ours.shape == tuple(theirs.shape) == (32, 7)
    assert np.isfinite(ours).all()
    assert torch.isfinite(theirs).all()


def test_random_weights_keep_activations_finite_and_types():
    model = random_model(SMALL, "bfloat16", "cpu", 0)
    blocks = model.experts["action"].blocks
    assert blocks[0].ffn[0].weight.dtype == torch.bfloat16
    assert blocks[0].norm_q.weight.dtype == torch.float32
    tokens = torch.randn(1, SMALL.tokens_per_frame, SMALL.token_dim)
    core = take_tokens(model)
    prompt = core.encode_prompt(torch.randn(1, SMALL.prompt_length, SMALL.text_width))
    context = core.encode_context(tokens, torch.zeros(1, SMALL.state_dim), prompt)
    levels = torch.ones(1, SMALL.chunk_length), torch.zeros(1, SMALL.chunk_length)
    actions = core.denoise_step(torch.randn(1, SMALL.chunk_length, SMALL.action_dim), *levels, context)
    assert torch.isfinite(actions).all()
    assert lower_matmuls(model, "bfloat16") is model


def command_alone(repository, *options):
    """The command in a process without the checks of jaxtyping, which cannot be compiled as one graph."""
    command = [sys.executable, "-m", "sim.bench", "geometry", *options]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=800, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_whole_command_on_the_cpu(repository, tmp_path):
    options = ["--presets", "wan_micro", "--device", "cpu", "--dtype", "float32", "--n-steps", "1", "--rounds", "1"]
    command_alone(repository, *options, "--no-autoencoder", "--out", str(tmp_path))
    rows = json.loads((tmp_path / "wan_micro" / "results.json").read_text())["rows"]
    assert list(rows) == ["ours, eager, 1", "ours, compiled, 1", "LeRobot FastWAM, eager, 1"]
    assert all(row["wall_ms"]["count"] == 4 for row in rows.values())
    assert (tmp_path / "wan_micro" / "latency.png").is_file()


@pytest.mark.gpu
def test_the_whole_command_on_a_gpu(repository, tmp_path):
    command_alone(repository, "--layers", "2", "--n-steps", "2", "--rounds", "1", "--out", str(tmp_path))
    rows = json.loads((tmp_path / "wan5b" / "results.json").read_text())["rows"]
    assert "not_run" not in rows["ours, compiled, 2"]
    assert rows["ours, compiled, 2"]["wall_ms"]["p50"] < rows["ours, eager, 2"]["wall_ms"]["p50"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"presets": ("tiny", "wan5")}, r"unknown preset 'wan5' \(did you mean 'wan5b'\?\)"),
        ({"dtype": "float8"}, "unknown dtype 'float8'"),
        ({"device": "gpu"}, "unknown device 'gpu'"),
        ({"device_floor": "h10"}, r"unknown device 'h10' \(did you mean 'h100'\?\)"),
        ({"rounds": 0}, "rounds and n_steps must be at least 1"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        GeometryConfig(**options)
