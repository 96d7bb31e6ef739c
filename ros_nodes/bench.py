"""``wam bench ros``: the real graph around a simulated arm, measured against the numbers a robot has to hold.

Three parts: an undisturbed run (rates, ages, lateness), faults (the policy killed and hung, the joint states lost,
until the guard holds), and the recorder with two full-size cameras. All of it runs on a ROS domain of its own and never
meets a robot.
"""

import json
import os
import platform
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
import yaml
from rich.console import Console
from rich.progress import Progress

from policy.load import BACKENDS
from ros_nodes.bench_graph import LaunchedGraph, private_graph
from ros_nodes.bench_listener import Listener
from ros_nodes.bench_measures import GuardTick, judge, silence_s
from ros_nodes.bench_recorder import measure_recorder
from ros_nodes.bench_report import results_table, timing_plot
from ros_nodes.bench_timing import timing
from ros_nodes.distribution import distribution
from ros_nodes.episode_file import COMPRESSIONS
from ros_nodes.launch_text import PACKAGE, find_share
from wam.errors import ConfigError, unknown_name
from wam.manifest import read_manifest
from wam.robot import load_robot, robot_file

__all__ = ["BenchRosConfig", "main", "measure_graph", "run_bench", "ticks_of_a_hold", "untrained"]

SETTLE_S = 2.0  # after engaging, before anything counts
GUARD_NOTICES_S = 20.0  # a guard that has not held by then will not
FAULTS: dict[str, tuple[str, signal.Signals]] = {
    "hold_after_kill_s": ("policy", signal.SIGKILL),
    "hold_after_hang_s": ("policy", signal.SIGSTOP),
    "hold_after_joint_loss_s": ("arm", signal.SIGSTOP),
}


@dataclass(frozen=True, kw_only=True)
class BenchRosConfig:
    """Measure the running ROS graph around a simulated arm: rates, ages, time until it holds, recording."""

    bundle: Path | None = None  # policy bundle; default: one with random weights, which takes as long
    robot: str = "sim6"  # robot of that bundle, which is simulated
    scene: str = "lift"  # simulated task
    minutes: float = 1.0  # length of the undisturbed run and of the recording; 10 for numbers to publish
    rate_hz: float = 10.0  # observations per second
    threads: int = 0  # CPU threads of the network; 0: its own choice
    backend: str = "auto"  # inference runtime
    faults: int = 3  # times each fault is made
    recorder: bool = True  # measure the recorder too
    recorded_robot: str = "so101"  # whose cameras the recorder gets
    compression: str = "lz4"  # of the recording; none needs 3.3 GB per minute
    seed: int = 0  # of the first scene
    gate: bool = False  # exit status 1 when a CI gate is missed
    out: Path = Path("runs/bench_ros")  # folder for results.json, timing.png and the nodes' log

    def __post_init__(self) -> None:
        if self.minutes <= 0 or self.faults < 0 or not 7 <= self.rate_hz <= 100:
            raise ConfigError(
                f"minutes {self.minutes:g} must be above 0, faults {self.faults} not negative, and rate_hz "
                f"{self.rate_hz:g} in [7, 100]."
            )
        if self.threads < 0 or self.seed < 0:
            raise ConfigError(f"threads {self.threads} and seed {self.seed} must not be negative.")
        for name, value, known in (
            ("backend", self.backend, ("auto", *BACKENDS)),
            ("compression", self.compression, COMPRESSIONS),
        ):
            if value not in known:
                raise ConfigError(unknown_name(name, value, known))


def run_bench(config: BenchRosConfig) -> dict[str, Any]:
    """Measures and writes ``results.json`` and ``timing.png``.

    Returns:
        The content of ``results.json``.

    Raises:
        WamError: Bundle or robot cannot be used, or the graph does not run.
    """
    _check(config)
    config.out.mkdir(parents=True, exist_ok=True)
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="wam-bench-ros-") as scratch, private_graph():
        folder = Path(scratch)
        robot, bundle = (config.robot, config.bundle) if config.bundle else untrained(folder, config.robot)
        arguments = ["sim", f"robot:={robot}", f"bundle:={bundle.resolve()}", f"scene:={config.scene}"]
        arguments += [f"backend:={config.backend}", f"first_seed:={config.seed}"]
        arguments += [f"config:={_parameters(folder, config)}"]
        with Progress(console=Console(stderr=True), transient=True) as progress:
            numbers, traces = measure_graph(config, arguments, _ticker(progress, "graph", 60 * config.minutes))
            results = _write(config, load_before, numbers, traces, None)
            if config.recorder:
                ticker = _ticker(progress, "recorder", 60 * config.minutes)
                seconds = 60 * config.minutes
                recording = measure_recorder(folder, config.recorded_robot, seconds, config.compression, ticker)
                numbers["recorder_lost"] = recording["lost"]
                results = _write(config, load_before, numbers, traces, recording)
    return results


def _write(
    config: BenchRosConfig,
    load_before: float,
    numbers: dict[str, float | None],
    traces: dict[str, Any],
    recording: dict[str, Any] | None,
) -> dict[str, Any]:
    """Writes what has been measured so far, with the plot; returns the content of ``results.json``."""
    results = {
        "what": "wam bench ros",
        "machine": {"cpu": _cpu(), "cores": len(os.sched_getaffinity(0)), "load_before": load_before},
        "ros": distribution(os.environ).name,
        "python": platform.python_version(),
        "bundle": "random weights" if config.bundle is None else str(config.bundle),
        "minutes": config.minutes,
        "rate_hz": config.rate_hz,
        "rows": judge(numbers),
        **traces,
        "recording": recording,
    }
    (config.out / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    timing_plot(results, config.out / "timing.png")
    return results


def _check(config: BenchRosConfig) -> None:
    """Refuses what cannot be measured, before anything starts."""
    from sim.tasks import get_task  # the arm is simulated, so it is installed

    get_task(config.scene)
    robot = load_robot(config.robot)
    if config.recorder:
        load_robot(config.recorded_robot)
    if config.bundle is not None:
        read_manifest(config.bundle).check_robot(robot)


def measure_graph(
    config: BenchRosConfig, arguments: Sequence[str], each: Callable[[float], None]
) -> tuple[dict[str, float | None], dict[str, Any]]:
    """Runs a launch file, listens, then breaks things.

    Args:
        config: What to measure.
        arguments: Of ``ros_nodes.up``.
        each: Told from time to time how many seconds are left.

    Returns:
        Numbers by name of ``bench_measures.LIMITS``, and percentiles and histories for the results.
    """
    robot = load_robot(config.robot)
    with LaunchedGraph(arguments, config.out / "nodes.log") as graph, Listener(robot, graph.check) as listener:
        listener.until(lambda: listener.chunks, "the policy plans", patience_s=120.0)
        listener.engage()
        listener.spin(SETTLE_S)
        listener.clear()
        listener.spin(60 * config.minutes, each)
        measured = timing(listener, robot, config.rate_hz)
        numbers, traces = measured.numbers, measured.traces
        for name in FAULTS:
            holds = [_time_to_hold(graph, listener, name) for _ in range(config.faults)]
            numbers[name] = max((seconds for seconds, _ in holds), default=None)
            traces.setdefault("faults", {})[name] = [round(seconds, 4) for seconds, _ in holds]
            traces.setdefault("faults_guard_late_s", {})[name] = [round(late, 4) for _, late in holds]
    return numbers, traces


def _time_to_hold(graph: LaunchedGraph, listener: Listener, fault: str) -> tuple[float, float]:
    """Makes one fault while the policy moves the arm.

    Returns:
        How long until the guard held the arm, and how much of that its ticks were late in all, as they are where the
        machine does not run it [s].
    """
    node, number = FAULTS[fault]
    listener.until(lambda: graph.runs(node), f"'{node}' is started again")
    listener.engage()  # the policy was killed before, or a machine that did not run the arm made the guard fault
    listener.clear()
    graph.send(node, number)
    begun = time.monotonic()
    held: list[float] = []

    def holds() -> bool:
        held[:] = ticks_of_a_hold(listener.guard, begun)[:1]
        return bool(held) and listener.guard[-1].tick_s - held[0] > listener.robot.safety.chunk_age_s

    try:
        listener.until(holds, f"the guard holds after {fault}", patience_s=GUARD_NOTICES_S)
    finally:
        if number == signal.SIGSTOP:
            graph.send(node, signal.SIGCONT)
    period_s = 1 / listener.robot.safety.guard_rate_hz
    return held[0] - begun, silence_s([tick.tick_s for tick in listener.guard if tick.tick_s <= held[0]], period_s)


def ticks_of_a_hold(ticks: Sequence[GuardTick], since: float) -> list[float]:
    """Returns when the guard ticked since it moves the arm no more, after a steady time [s]; none while it moves it.

    A busy machine may make it hold for a moment and go on, for as long as it has actions of the last chunk.
    """
    moved = max((tick.tick_s for tick in ticks if tick.state.startswith("RUN")), default=since)
    return [tick.tick_s for tick in ticks if tick.tick_s > max(moved, since)]


def _parameters(folder: Path, config: BenchRosConfig) -> Path:
    """Copies the nodes' parameter files and writes this measurement's own values into them."""
    copy = folder / "config"
    shutil.copytree(find_share(PACKAGE, os.environ) / "config", copy)
    path = copy / "policy.yaml"
    parameters = yaml.safe_load(path.read_text())
    parameters["/**"]["ros__parameters"] |= {"rate_hz": config.rate_hz, "threads": config.threads}
    path.write_text(yaml.safe_dump(parameters))
    return copy


def untrained(folder: Path, name: str) -> tuple[str, Path]:
    """Makes a bundle with random weights; returns robot file and bundle."""
    from sim.bench import _untrained_bundle  # with torch and onnx; a given bundle needs neither

    data = yaml.safe_load(robot_file(name).read_text())
    # Random weights do not begin where the arm is, which a real guard rightly refuses to engage on; and they move it
    # so wildly that a machine which leaves the arm's process alone for a moment looks like an arm that does not follow.
    patience = {"engage_error": 10.0, "tracking_error": 10.0, "state_fault_s": 60.0}
    data["safety"] = {**(data.get("safety") or {}), **patience}
    path = folder / robot_file(name).name
    path.write_text(yaml.safe_dump(data))
    return str(path), _untrained_bundle(folder, load_robot(path), "tiny")


def _ticker(progress: Progress, name: str, seconds: float) -> Callable[[float], None]:
    task = progress.add_task(name, total=seconds)
    return lambda left: progress.update(task, completed=seconds - left)


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def main(argv: list[str] | None = None) -> int:
    """Command line of ``wam bench ros``."""
    config = tyro.cli(BenchRosConfig, args=argv, prog="wam bench ros")
    results = run_bench(config)
    Console().print(results_table(results))
    print(f"results: {config.out / 'results.json'}\nplot:    {config.out / 'timing.png'}")
    missed = [row["what"] for row in results["rows"] if row["gate_ok"] is False]
    if missed:
        print(f"missed on this machine: {'; '.join(missed)}", file=sys.stderr)
    return int(config.gate and bool(missed))


if __name__ == "__main__":
    sys.exit(main())
