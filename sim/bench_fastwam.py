"""``wam bench fastwam``: our network, eager and on ONNX Runtime, beside LeRobot's FastWAM core, on the CPU in one run.

Same geometry, same weights, same inputs; the chunks must agree before anything is timed. All take turns within every
round, so what else the machine does falls on both. LeRobot's call is its ``infer_action`` from latents and text
embeddings; ours is the same from observation to chunk, with what belongs to the task alone (keys and values of the
instruction) computed when the task begins, as on a robot; that part is timed as a row of its own.
"""

import json
import sys
import tempfile
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

from sim.fastwam_onnx import OnnxHalf
from sim.provenance import provenance
from wam.errors import ConfigError, WamError
from wam.fastwam_pair import FastWamPair, build_pair

__all__ = ["FastWamBenchConfig", "main", "run_bench"]

TOLERANCE = 1e-4  # largest difference of a chunk of ours and LeRobot's; float32 rounding is 1e-6
THEIRS = "LeRobot FastWAM core, eager"
OURS = {"eager": "ours, eager", "onnx": "ours, onnx"}  # way to run our network -> its row
TASK = {way: f"{name}, once per task" for way, name in OURS.items()}  # -> row of the instruction's keys and values


@dataclass(frozen=True, kw_only=True)
class FastWamBenchConfig:
    """Measure our network beside LeRobot's FastWAM core: same geometry (6.8 M parameters, 98 tokens), same weights."""

    out: Path = Path("runs/bench_fastwam")  # folder of results.json
    rounds: int = 60  # measured rounds; each runs every contender once, in turn
    warmup: int = 5  # rounds that are not measured
    n_steps: int = 10  # denoising steps of a chunk
    threads: int = 1  # CPU threads of torch and of ONNX Runtime
    seed: int = 0  # of weights and inputs

    def __post_init__(self) -> None:
        for name in ("rounds", "n_steps", "threads"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)} but must be at least 1.")


def run_bench(config: FastWamBenchConfig) -> dict[str, Any]:
    """Compares and times all; returns what ``results.json`` holds.

    Raises:
        WamError: A chunk of ours is not LeRobot's: then their times mean nothing.
    """
    torch.set_num_threads(config.threads)
    pair = build_pair(config.seed)
    with tempfile.TemporaryDirectory(prefix="bench_fastwam_") as folder:
        calls = _calls(pair, OnnxHalf(pair, Path(folder), config.threads), config.n_steps)
        difference = _differences(calls)
        times = _measure(calls, config.rounds, config.warmup)
    rows = {name: _row(wall, cpu) for name, (wall, cpu) in times.items()}
    return {
        "config": {**asdict(config), "out": str(config.out)},
        "geometry": pair.ours.config.to_dict(),
        "parameters": sum(p.numel() for p in pair.ours.parameters()),
        "tolerance": TOLERANCE,
        "difference": difference,
        "rows": rows,
        "ratio": {way: _ratio(rows, name) for way, name in OURS.items()},
        # As if a robot were given a new task with every observation: LeRobot's call takes the instruction each time.
        "ratio_new_task_each_chunk": {way: _ratio(rows, name, TASK[way]) for way, name in OURS.items()},
        "provenance": provenance("torch and onnxruntime"),
    }


def _calls(pair: FastWamPair, onnx: OnnxHalf, n_steps: int) -> dict[str, Callable[[], Any]]:
    prompt, onnx_prompt = pair.our_prompt(), onnx.prompt()
    return {
        THEIRS: lambda: pair.their_chunk(n_steps)[0],
        OURS["eager"]: lambda: pair.our_chunk(n_steps, prompt)[0],
        OURS["onnx"]: lambda: onnx.chunk(n_steps, onnx_prompt),
        TASK["eager"]: pair.our_prompt,
        TASK["onnx"]: onnx.prompt,
    }


def _differences(calls: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Largest difference of each of our chunks from LeRobot's."""
    expected = np.asarray(calls[THEIRS]())  # (H, A)
    found = {way: float(np.abs(np.asarray(calls[name]()) - expected).max()) for way, name in OURS.items()}
    for way, difference in found.items():
        if not difference <= TOLERANCE:
            raise WamError(
                f"our chunk ({way}) and LeRobot's differ by {difference:.1e}, more than {TOLERANCE:.0e}: "
                "nothing is timed."
            )
    return found


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


def _ratio(rows: dict[str, Any], *ours: str) -> dict[str, float]:
    """LeRobot's median beside the sum of ours."""
    return {kind: rows[THEIRS][kind]["p50"] / sum(rows[name][kind]["p50"] for name in ours) for kind in rows[THEIRS]}


def _table(results: dict[str, Any]) -> Table:
    config = results["config"]
    title = (
        f"milliseconds per chunk of {config['n_steps']} steps, {results['parameters'] / 1e6:.1f} M parameters, "
        f"{config['threads']} thread(s), {config['rounds']} rounds"
    )
    table = Table(title=title, title_justify="left")
    table.add_column("one call", no_wrap=True)
    for name in ("p50", "p95", "p99", "max", "CPU p50"):
        table.add_column(name, justify="right", no_wrap=True)
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
    for way, ratio in results["ratio"].items():
        wall, cpu, difference = ratio["wall_ms"], ratio["cpu_ms"], results["difference"][way]
        every = results["ratio_new_task_each_chunk"][way]["wall_ms"]
        print(f"{way + ':':<8} ratio: {wall:.2f} of wall time, {cpu:.2f} of CPU time (LeRobot / ours, medians)")
        print(f"{'':<8}        {every:.2f} of wall time if the instruction were new with every chunk")
        print(f"{'':<8} parity: largest difference of the chunks {difference:.1e}, tolerance {TOLERANCE:.0e}")
    print(f"results: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
