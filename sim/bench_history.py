"""``wam bench history``: what looking back costs per observation, computed anew and as a stream, counted and not timed.

Random weights and random observations at the spacing of a model's instants. Counted are the tokens that pass the video
expert and the floating-point operations of the context; the numbers are the same on every machine. A stream is counted
only after its action chunks were those of the policy that computes everything anew.
"""

import dataclasses
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from policy.torch_backend import TorchBackend
from policy.torch_streaming import StreamingTorchBackend
from sim.errors import SimError
from wam.config import ModelConfig, preset
from wam.errors import ConfigError
from wam.model import WorldActionModel
from wam.robot import load_robot
from wam.sigmas import sigma_schedule
from wam.text import token_ids

__all__ = ["HistoryConfig", "main", "run_history"]

TOLERANCE = 1e-3  # of a normalised chunk; rounding of float32 through both paths stays near 1e-6


@dataclass(frozen=True, kw_only=True)
class HistoryConfig:
    """Count what an observation that looks back costs: all instants anew, or one of a stream."""

    preset: str = "tiny"  # model preset, with random weights
    robot: str = "sim6"  # robot name or file; gives cameras and action width
    n_obs_steps: tuple[int, ...] = (2, 4)  # instants that are looked back on, the present included
    observations: int = 12  # of the stream; the first fills its window
    seed: int = 0  # of weights and observations
    out: Path = Path("runs/bench_history")  # folder for results.json

    def __post_init__(self) -> None:
        if not self.n_obs_steps or min(self.n_obs_steps) < 2:
            raise ConfigError(f"n_obs_steps {self.n_obs_steps} must all be at least 2: one instant has no past.")
        if self.observations < 2:
            raise ConfigError(f"observations is {self.observations} but a stream needs at least 2.")


def run_history(config: HistoryConfig) -> dict[str, Any]:
    """Counts and writes ``results.json``.

    Returns:
        The content of ``results.json``.

    Raises:
        SimError: A stream's chunks are not those of the policy that computes everything anew.
        WamError: Robot or preset cannot be used.
    """
    base = preset(config.preset, load_robot(config.robot))
    rows = [row for count in config.n_obs_steps for row in _rows(config, base, count)]
    results = {"preset": config.preset, "robot": config.robot, "observations": config.observations, "rows": rows}
    config.out.mkdir(parents=True, exist_ok=True)
    (config.out / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    return results


def _rows(config: HistoryConfig, base: ModelConfig, count: int) -> list[dict[str, Any]]:
    whole = dataclasses.replace(base, n_obs_steps=count)
    causal = dataclasses.replace(whole, obs_attention="causal")
    exact = dataclasses.replace(causal, obs_lead=causal.full_lead)
    torch.manual_seed(config.seed)
    model = WorldActionModel(exact).eval()
    anew = {"whole": whole, "causal": causal, "causal, with what leads up to it": exact}
    rows = []
    for name, shape in anew.items():
        runs = TorchBackend.of_model(_with_config(model, shape))
        flops, chunk = _play(config, runs, shape)
        rows.append(_row(name, shape, shape.n_instants, flops))
    stream = StreamingTorchBackend.of_model(model)
    flops, streamed = _play(config, stream, exact)
    difference = float(np.abs(streamed - chunk).max())
    if difference > TOLERANCE:
        raise SimError(f"a stream of {count} instants differs by {difference:.1e} from what is computed anew: a bug.")
    computed = (stream.computed - exact.n_instants) / (config.observations - 1)
    return [*rows, {**_row("stream", exact, computed, flops), "largest_difference": difference}]


def _with_config(model: WorldActionModel, shape: ModelConfig) -> WorldActionModel:
    other = WorldActionModel(shape).eval()
    other.load_state_dict(model.state_dict())
    return other


def _row(name: str, shape: ModelConfig, instants: float, flops: float) -> dict[str, Any]:
    tokens = instants * shape.tokens_per_frame
    return {"what": name, "n_obs_steps": shape.n_obs_steps, "instants": instants, "tokens": tokens, "flops": flops}


def _play(config: HistoryConfig, runs: TorchBackend, shape: ModelConfig) -> tuple[float, np.ndarray]:
    """Observes a stream; returns operations per observation after the first, and the last chunk."""
    rng = np.random.default_rng(config.seed)
    size = (config.observations, shape.n_cameras, *shape.image_size_px, 3)
    images = rng.integers(0, 256, size, dtype=np.uint8)
    proprio = rng.standard_normal((config.observations, shape.state_dim), dtype=np.float32)
    prompt = runs.encode_prompt(token_ids("lift the red cube", shape.prompt_length))
    counts = []
    for last in range(config.observations):
        places = np.maximum(np.arange(last + 1 - shape.n_instants, last + 1), 0)
        with FlopCounterMode(display=False) as counter:
            _observe(runs, images[places], proprio[places], prompt, places.astype(float).tolist())
        counts.append(counter.get_total_flops())
    noise = rng.standard_normal((shape.chunk_length, shape.action_dim), dtype=np.float32)
    return float(np.mean(counts[1:])), runs.denoise(noise, sigma_schedule(1, shape.action_shift))


def _observe(runs: TorchBackend, images: np.ndarray, proprio: np.ndarray, prompt: Any, stamps: Sequence[float]) -> None:
    if isinstance(runs, StreamingTorchBackend):
        runs.encode_stream(images, proprio, prompt, stamps)
    else:
        runs.encode_context(images, proprio, prompt)


def results_table(results: dict[str, Any]) -> Table:
    """Returns the table; the last column says how much a stream saves."""
    title = f"{results['preset']}, per observation of k instants; ratio: to the stream's operations"
    table = Table(title=title, title_justify="left")
    table.add_column("k", justify="right")
    table.add_column("computed", no_wrap=True)
    for name in ("tokens", "MFLOP", "ratio"):
        table.add_column(name, justify="right", no_wrap=True)
    streams = {row["n_obs_steps"]: row for row in results["rows"] if row["what"] == "stream"}
    for row in results["rows"]:
        ratio = row["flops"] / streams[row["n_obs_steps"]]["flops"]
        table.add_row(
            str(row["n_obs_steps"]), row["what"], f"{row['tokens']:.0f}", f"{row['flops'] / 1e6:.1f}", f"{ratio:.2f}"
        )
    return table


def main(argv: list[str] | None = None) -> int:
    """Command line of ``wam bench history``."""
    config = tyro.cli(HistoryConfig, args=argv, prog="wam bench history")
    results = run_history(config)
    Console().print(results_table(results))
    print(f"results: {config.out / 'results.json'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
