"""``wam bench fastwam``: our network beside LeRobot's FastWAM core, eager on the CPU, in one run.

Same geometry, same weights, same inputs; the chunks must agree before anything is timed. The two take turns within
every round, so what else the machine does falls on both. LeRobot's call is its ``infer_action`` from latents and text
embeddings; ours is the same from observation to chunk, with what belongs to the task alone (keys and values of the
instruction) computed when the task begins, as on a robot; that part is timed as a row of its own.
"""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table

from sim.provenance import provenance
from wam.errors import ConfigError, WamError
from wam.fastwam_pair import FastWamPair, build_pair

__all__ = ["FastWamBenchConfig", "main", "run_bench"]

TOLERANCE = 1e-4  # largest difference of the two chunks; float32 rounding is 1e-6


@dataclass(frozen=True, kw_only=True)
class FastWamBenchConfig:
    """Measure our network beside LeRobot's FastWAM core: same geometry (6.8 M parameters, 98 tokens), same weights."""

    out: Path = Path("outputs/bench_fastwam")  # folder of results.json
    rounds: int = 60  # measured rounds; each runs every contender once, in turn
    warmup: int = 5  # rounds that are not measured
    n_steps: int = 10  # denoising steps of a chunk
    threads: int = 1  # CPU threads of torch
    seed: int = 0  # of weights and inputs

    def __post_init__(self) -> None:
        for name in ("rounds", "n_steps", "threads"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)} but must be at least 1.")


def run_bench(config: FastWamBenchConfig) -> dict[str, Any]:
    """Compares and times both; returns what ``results.json`` holds.

    Raises:
        WamError: The two chunks differ: then their times mean nothing.
    """
    torch.set_num_threads(config.threads)
    pair = build_pair(config.seed)
    difference = float((pair.our_chunk(config.n_steps) - pair.their_chunk(config.n_steps)).abs().max())
    if difference > TOLERANCE:
        raise WamError(
            f"our chunk and LeRobot's differ by {difference:.1e}, more than {TOLERANCE:.0e}: nothing is timed."
        )
    times = _measure(_calls(pair, config.n_steps), config.rounds, config.warmup)
    rows = {name: _row(wall, cpu) for name, (wall, cpu) in times.items()}
    theirs, ours = rows["LeRobot FastWAM core, eager"], rows["ours, eager"]
    return {
        "config": {**asdict(config), "out": str(config.out)},
        "geometry": pair.ours.config.to_dict(),
        "parameters": sum(p.numel() for p in pair.ours.parameters()),
        "difference": difference,
        "rows": rows,
        "ratio": {kind: theirs[kind]["p50"] / ours[kind]["p50"] for kind in ("wall_ms", "cpu_ms")},
        "provenance": provenance("torch"),
    }


def _calls(pair: FastWamPair, n_steps: int) -> dict[str, Callable[[], Any]]:
    prompt = pair.our_prompt()
    return {
        "LeRobot FastWAM core, eager": lambda: pair.their_chunk(n_steps),
        "ours, eager": lambda: pair.our_chunk(n_steps, prompt),
        "ours, instruction (once per task)": pair.our_prompt,
    }


def _measure(calls: dict[str, Callable[[], Any]], rounds: int, warmup: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    walls, cpus = ({name: np.empty(rounds) for name in calls} for _ in range(2))
    with torch.inference_mode():
        for index in range(-warmup, rounds):
            for name, call in calls.items():
                wall, cpu = time.perf_counter(), time.process_time()
                call()
                if index >= 0:
                    walls[name][index] = (time.perf_counter() - wall) * 1e3
                    cpus[name][index] = (time.process_time() - cpu) * 1e3
    return {name: (walls[name], cpus[name]) for name in calls}


def _row(wall: np.ndarray, cpu: np.ndarray) -> dict[str, dict[str, float]]:
    def summary(values: np.ndarray) -> dict[str, float]:
        p50, p95, p99 = np.percentile(values, (50, 95, 99))
        return {"p50": float(p50), "p95": float(p95), "p99": float(p99), "max": float(values.max())}

    return {"wall_ms": summary(wall), "cpu_ms": summary(cpu)}


def _table(results: dict[str, Any]) -> Table:
    config = results["config"]
    title = (
        f"milliseconds per chunk of {config['n_steps']} steps, {results['parameters'] / 1e6:.1f} M parameters, "
        f"{config['threads']} thread(s), {config['rounds']} rounds"
    )
    table = Table(title=title, title_justify="left")
    table.add_column("one call", no_wrap=True)
    for name in ("p50", "p95", "p99", "max", "CPU p50"):
        table.add_column(name, justify="right")
    for name, row in results["rows"].items():
        wall = [f"{row['wall_ms'][key]:.2f}" for key in ("p50", "p95", "p99", "max")]
        table.add_row(name, *wall, f"{row['cpu_ms']['p50']:.2f}")
    return table


def main(argv: list[str] | None = None) -> int:
    """Command line of ``wam bench fastwam``."""
    config = tyro.cli(FastWamBenchConfig, args=argv, prog="wam bench fastwam")
    results = run_bench(config)
    config.out.mkdir(parents=True, exist_ok=True)
    path = config.out / "results.json"
    path.write_text(json.dumps(results, indent=1) + "\n")
    Console().print(_table(results))
    ratio = results["ratio"]
    print(f"ratio:   {ratio['wall_ms']:.2f} of wall time, {ratio['cpu_ms']:.2f} of CPU time (LeRobot / ours, medians)")
    print(f"parity:  largest difference of the chunks {results['difference']:.1e}\nresults: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
