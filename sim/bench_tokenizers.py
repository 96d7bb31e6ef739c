"""``wam bench tokenizers``: what tokenizers of trained models keep of an image, and what they cost, in one run.

Fidelity is that of encoding and decoding alone, on frames spread over a dataset that none of the models was trained on:
PSNR, and the colour error (CIE dE) over vivid pixels, which the cubes are, and over everything else. Cost is CPU time
of this process, as ratios to the first model: of encoding one observation, and of one training step on its latents.
All take turns within every round, so what else the machine does falls on all of them.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor

from sim.provenance import provenance
from wam.batches import Batch, FrameSampler, make_batch
from wam.checkpoint import Checkpoint, load_checkpoint
from wam.dataset import Episodes, load_episodes
from wam.errors import ConfigError
from wam.losses import LossConfig, training_losses
from wam.tokenizer_stage import fidelity

__all__ = ["TokenizerBenchConfig", "main", "run_bench"]

ENCODES = 20  # observations encoded in one turn: one alone takes a fraction of a millisecond


@dataclass(frozen=True, kw_only=True)
class TokenizerBenchConfig:
    """Compare the tokenizers of trained models: colour fidelity and CPU time; ratios are to the first."""

    runs: tuple[Path, ...]  # runs or checkpoints of `wam train`, of the same robot
    dataset: Path  # LeRobot dataset whose frames are encoded and decoded; held out from all runs
    out: Path = Path("runs/bench_tokenizers")  # folder of results.json
    frames: int = 256  # observations judged, spread over the dataset
    rounds: int = 20  # turns of each model; each is 20 encodings and one training step
    batch_size: int = 32  # observations of a training step
    threads: int = 1  # CPU threads
    seed: int = 0  # of the noise in the training steps

    def __post_init__(self) -> None:
        if not self.runs:
            raise ConfigError("runs names no model: give at least one run of `wam train`.")
        for name in ("frames", "rounds", "batch_size", "threads"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)} but must be at least 1.")


def run_bench(config: TokenizerBenchConfig) -> dict[str, Any]:
    """Measures all models; returns what ``results.json`` holds.

    Raises:
        WamError: A run or the dataset cannot be read, or they do not belong to the same robot.
    """
    torch.set_num_threads(config.threads)
    checkpoints = [load_checkpoint(run) for run in config.runs]
    for checkpoint in checkpoints:
        if checkpoint.robot.fingerprint() != checkpoints[0].robot.fingerprint():
            raise ConfigError(f"{checkpoint.path} was trained for another robot than {checkpoints[0].path}.")
    rows: dict[str, dict[str, Any]] = {}
    turns: dict[str, dict[str, Callable[[], object]]] = {}
    with tempfile.TemporaryDirectory(prefix="bench_tokenizers_") as folder:
        for run, checkpoint in zip(config.runs, checkpoints, strict=True):
            rows[str(run)], turns[str(run)] = _prepare(config, checkpoint, Path(folder))
        cpu = _take_turns(turns, config.rounds)
    first = cpu[str(config.runs[0])]
    for name, row in rows.items():
        row["cpu_ratio"] = {what: cpu[name][what] / first[what] for what in first}
    return {
        "config": {**asdict(config), "runs": [*map(str, config.runs)], "dataset": str(config.dataset)}
        | {"out": str(config.out)},
        "rows": rows,
        "provenance": provenance("torch"),
    }


def _prepare(
    config: TokenizerBenchConfig, checkpoint: Checkpoint, folder: Path
) -> tuple[dict[str, Any], dict[str, Callable[[], object]]]:
    """Judges one model's images and makes what is timed of it."""
    size = checkpoint.config.image_size_px
    cache = folder / f"{size[0]}x{size[1]}.u8"
    episodes = load_episodes(config.dataset, checkpoint.robot, size, cache=cache, read_as=checkpoint.read_as)
    everything = np.arange(len(episodes.length))
    sampler = FrameSampler(episodes, everything, seed=config.seed, start_share=0.0, start_steps=1, idle_keep=1)
    chosen = sampler.spread(config.frames)
    batch = make_batch(episodes, chosen[: config.batch_size], checkpoint.config, checkpoint.transforms)
    row = {
        "tokenizer": checkpoint.config.tokenizer,
        "values_per_token": checkpoint.config.token_dim,
        "tokenizer_parameters": sum(p.numel() for p in checkpoint.model.tokenizer.parameters()),
        **_judge(checkpoint, torch.from_numpy(_frames(episodes, chosen))),
    }
    return row, _turns(checkpoint, batch, config)


def _frames(episodes: Episodes, chosen: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(episodes.frames[chosen])


@torch.no_grad()
def _judge(checkpoint: Checkpoint, images: Tensor) -> dict[str, float]:
    tokenizer = checkpoint.model.tokenizer
    return fidelity(images, tokenizer.decode(tokenizer.encode(images)))


def _turns(checkpoint: Checkpoint, batch: Batch, config: TokenizerBenchConfig) -> dict[str, Callable[[], object]]:
    model, one = checkpoint.model, batch.images[:1]
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith("tokenizer."))

    def encode() -> None:
        with torch.inference_mode():
            for _ in range(ENCODES):
                model.tokenizer.encode(one)

    def train() -> None:
        generator = torch.Generator().manual_seed(config.seed)
        training_losses(model, batch, LossConfig(), generator)["loss"].backward()
        model.zero_grad(set_to_none=True)

    return {"encode": encode, "training_step": train}


def _take_turns(turns: Mapping[str, Mapping[str, Callable[[], object]]], rounds: int) -> dict[str, dict[str, float]]:
    """Median CPU seconds of one turn, by model and by what it does; the first round warms up and does not count."""
    spent: dict[str, dict[str, list[float]]] = {name: {what: [] for what in calls} for name, calls in turns.items()}
    for number in range(rounds + 1):
        for name, calls in turns.items():
            for what, call in calls.items():
                started = time.process_time()
                call()
                if number:
                    spent[name][what].append(time.process_time() - started)
    return {name: {what: float(np.median(values)) for what, values in calls.items()} for name, calls in spent.items()}


def _table(results: dict[str, Any]) -> Table:
    table = Table(title=f"tokenizers on {results['config']['dataset']}", title_justify="left")
    for column in ("run", "tokenizer", "cubes, dE", "elsewhere, dE", "PSNR, dB", "encode, CPU", "training step, CPU"):
        table.add_column(column, justify="left" if column in ("run", "tokenizer") else "right")
    for name, row in results["rows"].items():
        ratio = row["cpu_ratio"]
        numbers = [f"{row[key]:.2f}" for key in ("vivid_error_de", "other_error_de", "psnr_db")]
        times = [f"× {ratio[what]:.2f}" for what in ("encode", "training_step")]
        table.add_row(Path(name).name, row["tokenizer"], *numbers, *times)
    return table


def main(argv: list[str] | None = None) -> int:
    """Command line of ``wam bench tokenizers``."""
    config = tyro.cli(TokenizerBenchConfig, args=argv, prog="wam bench tokenizers")
    results = run_bench(config)
    config.out.mkdir(parents=True, exist_ok=True)
    path = config.out / "results.json"
    path.write_text(json.dumps(results, indent=1) + "\n")
    Console().print(_table(results))
    print(f"results: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
