"""``python -m ros_nodes.closed_loop``: simulated episodes through the real graph, at wall-clock time, and their timing.

It starts what ``sim.launch.xml`` says, arm in MuJoCo, guard and policy as processes of their own, and lets
``ros_nodes.episodes`` run the episodes and measure. ``wam demo`` ends with it.
"""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from ros_nodes.bench_graph import LaunchedGraph, private_graph
from ros_nodes.distribution import distribution
from ros_nodes.errors import GraphError
from wam.errors import ConfigError, WamError
from wam.manifest import read_manifest
from wam.robot import load_robot

__all__ = ["ClosedLoopConfig", "main", "run_closed_loop"]

FORMAT = "wam-closed-loop/1"
START_S = 120.0  # until a node that loads a network answers, on a slow and busy machine


@dataclass(frozen=True, kw_only=True)
class ClosedLoopConfig:
    """Run simulated episodes through the real ROS graph at wall-clock time and measure its timing."""

    bundle: Path  # policy bundle
    robot: str = "sim6"  # its robot
    task: str = "lift"  # simulated task
    episodes: int = 20  # episodes to run
    first_seed: int = 0  # seed of the first scene; later ones count up
    out: Path = Path("runs/closed_loop")  # folder for results.json and logs

    def __post_init__(self) -> None:
        if self.episodes < 1 or self.first_seed < 0:
            raise ConfigError(f"episodes is {self.episodes} and first_seed {self.first_seed}: at least 1 and 0.")


def run_closed_loop(config: ClosedLoopConfig) -> dict[str, Any]:
    """Runs the episodes and writes ``results.json``.

    Returns:
        Its content.

    Raises:
        WamError: Bundle or robot cannot be used, or the graph does not run.
    """
    read_manifest(config.bundle).check_robot(load_robot(config.robot))  # before anything starts
    config.out.mkdir(parents=True, exist_ok=True)
    arguments = ["sim", f"robot:={config.robot}", f"bundle:={config.bundle.resolve()}", f"scene:={config.task}"]
    arguments.append(f"first_seed:={config.first_seed}")
    with private_graph(), LaunchedGraph(arguments, config.out / "nodes.log") as graph:
        report = _conduct(config, graph)
        name = distribution(os.environ).name
    results = {
        "format": FORMAT,
        "task": config.task,
        "ros": name,
        "episodes": len(report["episodes"]),
        "successes": report["successes"],
        "numbers": {row["name"]: row["value"] for row in report["rows"] if row["value"] is not None},
        "percentiles": report["percentiles"],
        "samples": report["samples"],
        "records": report["episodes"],
    }
    (config.out / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    return results


def _conduct(config: ClosedLoopConfig, graph: LaunchedGraph) -> Mapping[str, Any]:
    """Runs the episodes as long as the graph is there; returns what the conductor wrote."""
    path = config.out / "episodes.json"
    path.unlink(missing_ok=True)
    command = [sys.executable, "-m", "ros_nodes.episodes", "--episodes", str(config.episodes), "--out", str(path)]
    command += ["--robot", config.robot, "--patience-s", str(START_S)]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        while process.poll() is None:
            graph.check()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=0.5)
    finally:
        process.terminate()
        process.wait()
    if process.returncode != 0 or not path.is_file():
        raise GraphError(
            f"the episodes ended with status {process.returncode}; their own message stands above, and what the nodes "
            f"said in {config.out / 'nodes.log'}."
        )
    return json.loads(path.read_text())


def main(argv: list[str] | None = None) -> int:
    """Command line of ``python -m ros_nodes.closed_loop``."""
    try:
        config = tyro.cli(ClosedLoopConfig, args=argv, prog="python -m ros_nodes.closed_loop")
        results = run_closed_loop(config)
    except WamError as error:
        print(f"closed_loop: {error}", file=sys.stderr)
        return 2
    print(f"{results['successes']} of {results['episodes']} episodes solved through ROS, at wall-clock time")
    print(f"results: {config.out / 'results.json'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
