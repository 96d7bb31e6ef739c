"""``wam bench``: latency of the policy on this machine, beside LeRobot's ACT and the cost of rendering, in one run.

All contenders take turns (``policy.timing``): policy backends side by side, whose chunks agree (``sim.bench_parity``),
and beside them what a chunk cannot be faster than.
"""

import importlib
import json
import logging
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console

from policy.load import BACKENDS
from policy.roofline import DEVICES
from policy.timing import Contender, Times, time_interleaved, timing_row
from sim.arm_sim import ArmSim
from sim.bench_contenders import act_contender, default_backends, policy_contenders, render_contender
from sim.bench_floor import floors_ms
from sim.bench_parity import chunk_differences, ratio_lines, torch_ratios
from sim.bench_report import device_line, floor_lines, latency_plot, results_table
from sim.provenance import provenance
from wam.errors import ConfigError, unknown_name
from wam.manifest import read_manifest
from wam.robot import RobotSpec, load_robot

__all__ = ["BenchConfig", "main", "run_bench"]

logger = logging.getLogger(__name__)

SUBCOMMANDS = {  # wam bench NAME -> its module
    "fastwam": "sim.bench_fastwam",
    "geometry": "sim.bench_geometry",
    "history": "sim.bench_history",
    "guard": "sim.bench_guard",
    "seams": "sim.bench_seams",
    "tokenizers": "sim.bench_tokenizers",
}
BUSY_LOAD = 0.5  # load average per core above which wall times say more about the machine's other work


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """Measure the latency of a policy on this machine, beside LeRobot's ACT and the rendering of one observation."""

    bundle: Path | None = None  # policy bundle; default: one with random weights, which takes as long
    preset: str = "tiny"  # model preset of that random bundle
    robot: str = "sim6"  # robot name or file
    task: str = "lift"  # scene that is rendered and seen
    backends: tuple[str, ...] = ()  # inference backends to time; default: all that run here
    n_steps: tuple[int, ...] = (1, 2, 4, 10)  # denoising steps per chunk to time
    rounds: int = 50  # turns of each contender, each one cold call and four others; p99 needs at least 25
    threads: int = 0  # CPU threads of the onnx backend; 0: its own choice
    act: bool = True  # time LeRobot's ACT too
    device_floor: str = ""  # device whose floor is computed, such as orin; default: the GPU at hand
    seed: int = 0  # of the scene and of the order
    out: Path = Path("runs/bench")  # folder for results.json and latency.png

    def __post_init__(self) -> None:
        for name in self.backends:
            if name not in BACKENDS:
                raise ConfigError(unknown_name("backend", name, BACKENDS))
        if self.device_floor and self.device_floor not in DEVICES:
            raise ConfigError(unknown_name("device", self.device_floor, DEVICES))
        if self.rounds < 1 or not self.n_steps or min(self.n_steps) < 1:
            raise ConfigError(f"rounds {self.rounds} and n_steps {self.n_steps} must all be at least 1.")
        if self.threads < 0:
            raise ConfigError(f"threads is {self.threads} but must be 0 (the backend's choice) or more.")


def run_bench(config: BenchConfig) -> dict[str, Any]:
    """Measures and writes ``results.json`` and ``latency.png``.

    Returns:
        The content of ``results.json``.

    Raises:
        WamError: Bundle, robot, task or backend cannot be used, or two backends do not give the same chunk.
    """
    robot = load_robot(config.robot)
    load_before = os.getloadavg()[0]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="wam-bench-")))
        bundle = config.bundle or _untrained_bundle(folder, robot, config.preset)
        sim = stack.enter_context(closing(ArmSim(config.task, robot)))
        sim.reset(config.seed)
        manifest = read_manifest(bundle)
        floors = floors_ms(manifest.model, manifest.dtype, config.n_steps, config.device_floor)
        contenders = policy_contenders(
            bundle,
            robot,
            sim.observation(),
            backends=config.backends or default_backends(bundle),
            step_counts=config.n_steps,
            threads=config.threads or None,
        )
        differences = chunk_differences(contenders, manifest.dtype)
        contenders += [act_contender(robot)] if config.act else []
        contenders.append(render_contender(sim, robot))
        times = time_interleaved(contenders, config.rounds, config.seed)
    results = _results(config, contenders, times, load_before)
    results |= {"floors_ms": floors, "chunk_differences": differences, "torch_ratios": torch_ratios(results["rows"])}
    config.out.mkdir(parents=True, exist_ok=True)
    (config.out / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    latency_plot(results, config.out / "latency.png")
    return results


def _untrained_bundle(folder: Path, robot: RobotSpec, preset: str) -> Path:
    from wam.export import export_bundle  # with torch and onnx; a given bundle needs neither
    from wam.untrained import save_untrained_checkpoint

    checkpoint = save_untrained_checkpoint(folder / "run", robot, preset_name=preset)
    export_bundle(checkpoint, folder / "bundle")
    return folder / "bundle"


def _results(
    config: BenchConfig, contenders: Sequence[Contender], times: Sequence[Times], load_before: float
) -> dict[str, Any]:
    rows = {one.name: timing_row(one, measured) for one, measured in zip(contenders, times, strict=True)}
    for name, row in rows.items():
        compared = "act" in rows and name not in ("act", "render")
        row["act_ratio"] = rows["act"]["wall_ms"]["p50"] / row["wall_ms"]["p50"] if compared else None
        row["act_ratio_cold"] = rows["act"]["cold_ms"]["p50"] / row["cold_ms"]["p50"] if compared else None
    return {
        **provenance(", ".join(dict.fromkeys(name.rsplit("_", 1)[0] for name in rows if name[-1].isdigit()))),
        "bundle": "random weights" if config.bundle is None else str(config.bundle),
        "rounds": config.rounds,
        "load_before": load_before,
        "rows": rows,
    }


def main(argv: list[str] | None = None) -> int:
    """Command line of ``wam bench`` and of its sub-commands."""
    arguments = sys.argv[1:] if argv is None else argv
    if arguments and arguments[0] in SUBCOMMANDS:
        return importlib.import_module(SUBCOMMANDS[arguments[0]]).main(arguments[1:])
    config = tyro.cli(BenchConfig, args=argv, prog="wam bench")
    results = run_bench(config)
    Console().print(results_table(results))
    if results["load_before"] > BUSY_LOAD * len(os.sched_getaffinity(0)):
        print(f"the machine was busy (load {results['load_before']:.1f}): trust the CPU times, not the wall times")
    for line in (*ratio_lines(results), *floor_lines(results)):
        print(line)
    print(f"device:  {device_line(results)}")
    print(f"results: {config.out / 'results.json'}\nplot:    {config.out / 'latency.png'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
