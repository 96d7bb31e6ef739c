"""Several processes and accumulated gradients: the same shards give the same weights, whoever computes them."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from wam.batches import make_batch
from wam.checkpoint import describe_checkpoint, load_checkpoint
from wam.errors import ConfigError
from wam.export import export_bundle
from wam.losses import LossConfig, training_losses
from wam.manifest import read_manifest
from wam.processes import SEED_STRIDE, Shards
from wam.run_state import start_run
from wam.train import learning_rate, train
from wam.train_config import TrainConfig
from wam.training_data import prepare

QUICK = {"preset": "micro", "steps": 3, "batch_size": 4, "warmup_steps": 2, "threads": 1, "device": "cpu"}
ROUNDING = 2e-5  # of weights after three steps: sums in another order


def config(dataset: Path, out: Path, **changes) -> TrainConfig:
    return TrainConfig(dataset=(dataset,), out=out, **{**QUICK, **changes})


def weights(run: Path, stage: str = "") -> dict[str, torch.Tensor]:
    """Raw weights of the last step; averaged ones hardly move in so few."""
    info = describe_checkpoint(run, stage=stage)
    tensors = load_file(info.path / "training.safetensors")
    return {name: value for name, value in tensors.items() if name.startswith("model.")}


def largest_difference(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    assert first.keys() == second.keys()
    return max(float((first[name].double() - second[name].double()).abs().max()) for name in first)


@given(processes=st.integers(1, 5), accumulate=st.integers(1, 4), each=st.integers(1, 4), seed=st.integers(0, 2**31))
def test_every_frame_is_computed_once(processes: int, accumulate: int, each: int, seed: int):
    frames = np.random.default_rng(seed).integers(0, 1000, processes * accumulate * each)
    ranks = [Shards(processes, rank, accumulate) for rank in range(processes)]
    ranks[0].check(len(frames))
    parts = {shard: rank.frames(frames, shard) for rank in ranks for shard in rank.mine}
    assert sorted(parts) == list(range(processes * accumulate))
    assert np.array_equal(np.concatenate([parts[shard] for shard in sorted(parts)]), frames)
    first = {int(torch.randint(2**40, (), generator=ranks[0].generator(seed, 3, shard))) for shard in parts}
    assert len(first) == len(parts)  # each shard has noise of its own


def test_one_process_computes_what_a_plain_loop_does(reach_dataset: Path, tmp_path: Path):
    """Bit for bit: this is how every checkpoint so far was trained."""
    settings = config(reach_dataset, tmp_path / "ours")
    assert train(settings) == 0
    torch.set_num_threads(1)
    data = prepare(config(reach_dataset, tmp_path / "plain"))
    run = start_run(config(reach_dataset, tmp_path / "plain"), data, torch.device("cpu"))
    for step in range(settings.steps):
        frames = data.training.draw(step, settings.batch_size)
        batch = make_batch(data.episodes, frames, data.model_config, data.transforms, data.prompts)
        generator = torch.Generator().manual_seed(settings.seed * SEED_STRIDE + step)
        run.optimizer.param_groups[0]["lr"] = learning_rate(step, settings)
        run.optimizer.zero_grad()
        training_losses(run.model, batch, LossConfig(), generator)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(run.model.parameters(), settings.clip_norm)
        run.optimizer.step()
    ours = weights(tmp_path / "ours")
    assert all(torch.equal(ours[f"model.{name}"], value) for name, value in run.model.state_dict().items())


def test_accumulated_gradients_are_those_of_the_whole_batch(reach_dataset: Path, tmp_path: Path):
    exact = {"stage": "tokenizer", "loss": LossConfig(latent_noise=0.0)}  # no noise: shards change nothing but sums
    for name, parts in (("whole", 1), ("parts", 2)):
        assert train(config(reach_dataset, tmp_path / name, accumulate=parts, **exact)) == 0
    whole, parts = (weights(tmp_path / name, "tokenizer") for name in ("whole", "parts"))
    assert largest_difference(whole, parts) < ROUNDING


def test_mixed_precision_trains_and_keeps_float32_weights(reach_dataset: Path, tmp_path: Path):
    assert train(config(reach_dataset, tmp_path / "mixed", precision="bfloat16")) == 0
    assert train(config(reach_dataset, tmp_path / "plain")) == 0
    mixed, plain = weights(tmp_path / "mixed"), weights(tmp_path / "plain")
    assert all(value.dtype == plain[name].dtype for name, value in mixed.items())
    assert 0.0 < largest_difference(mixed, plain) < 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"accumulate": 3}, r"batch_size 4 cannot be shared equally by 3 shards \(processes x accumulate\)"),
        ({"accumulate": 0}, "accumulate is 0 but must be at least 1"),
        ({"precision": "float16"}, r"unknown precision 'float16'"),
    ],
)
def test_what_cannot_be_shared(reach_dataset: Path, tmp_path: Path, options: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        train(config(reach_dataset, tmp_path, **options))


TORCHRUN = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.mark.slow
def test_two_processes_are_one_with_the_double_batch(reach_dataset: Path, tmp_path: Path):
    """Each computes half of a batch. Without noise one process does all of it at once, with noise in two parts.

    Loss and gradient of the first step are compared: Adam turns the rounding of gradients near zero into whole steps.
    """
    cases = {
        "tokenizer": (["--stage", "tokenizer", "--loss.latent-noise", "0"], {"loss": LossConfig(latent_noise=0.0)}),
        "full": ([], {"accumulate": 2}),
    }
    for stage, (options, changes) in cases.items():
        shared, alone = tmp_path / f"shared_{stage}", tmp_path / f"alone_{stage}"
        given_options = {"dataset": reach_dataset, "out": shared} | QUICK
        flags = [word for name, value in given_options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
        command = [sys.executable, "-m", *TORCHRUN, "-m", "wam.train", *flags, *options]
        done = subprocess.run(command, capture_output=True, text=True, timeout=800, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.count("checkpoint:") == 1  # one process reports
        assert train(config(reach_dataset, alone, stage=stage, **changes)) == 0
        ours, theirs = (json.loads((run / "metrics.jsonl").read_text().splitlines()[0]) for run in (shared, alone))
        for name in ("loss", "grad_norm"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-4), (stage, name)


@pytest.mark.slow
def test_small_trains_and_is_exported_on_a_cpu(reach_dataset: Path, tmp_path: Path):
    """A few steps on little: that it fits together, not that it learns; its training belongs on a GPU."""
    assert train(config(reach_dataset, tmp_path / "run", preset="small", batch_size=2, steps=3)) == 0
    checkpoint = load_checkpoint(tmp_path / "run")
    assert sum(parameter.numel() for parameter in checkpoint.model.parameters()) == pytest.approx(70e6, rel=0.05)
    export_bundle(checkpoint, tmp_path / "bundle", n_steps=1)
    assert read_manifest(tmp_path / "bundle").model.preset == "small"
