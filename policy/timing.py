"""Latency, measured fairly: contenders take turns in an order drawn anew each round, so that load falls on all of them.

A turn is a few calls. The first finds its caches emptied by the contender before and is reported apart, as "cold":
between two chunks a robot's computer does other things too. A short pause before each call lets thread pools go to
sleep. Wall time is what a robot feels; CPU time is reported beside it because it hardly depends on other load.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

__all__ = ["TURN_CALLS", "Contender", "Times", "percentiles_ms", "resident_bytes", "time_interleaved", "timing_row"]

WARM_UP_TURNS = 2  # first calls allocate and pick kernels
TURN_CALLS = 4  # timed calls of one turn, after its cold one
PAUSE_S = 0.003  # before each timed call: OpenMP workers spin for about a millisecond after their last job


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One row of a table of latencies."""

    name: str  # key in results.json
    what: str  # the row's text, short
    device: str  # device and CPU threads
    run: Callable[[], object]  # one chunk, or one rendered observation; returns when it is done
    before: Callable[[], object] | None = None  # untimed preparation of the next run
    memory_mb: Mapping[str, float] | None = None  # what making it added: "rss" of the process, "gpu" of the device


@dataclass(frozen=True, kw_only=True)
class Times:
    """Measured calls of one contender [ms]."""

    wall: list[float]  # wall time of calls that follow one of the same contender
    cpu: list[float]  # CPU time of this process during the same calls
    cold: list[float]  # wall time of each turn's first call


def time_interleaved(contenders: Sequence[Contender], rounds: int, seed: int, *, what: str = "bench") -> list[Times]:
    """Gives every contender one turn per round, in an order drawn anew.

    Args:
        contenders: Who takes part.
        rounds: Turns of each, after a few that are not kept.
        seed: Of the order.
        what: Text beside the progress bar.

    Returns:
        One entry per contender.
    """
    rng = np.random.default_rng(seed)
    times = [Times(wall=[], cpu=[], cold=[]) for _ in contenders]
    for number in track(range(-WARM_UP_TURNS, rounds), description=what, console=Console(stderr=True)):
        for place in rng.permutation(len(contenders)):
            turn = [_time_call(contenders[place]) for _ in range(1 + TURN_CALLS)]
            if number >= 0:
                times[place].cold.append(turn[0][0])
                times[place].wall.extend(wall for wall, _ in turn[1:])
                times[place].cpu.extend(cpu for _, cpu in turn[1:])
    return times


def percentiles_ms(values_ms: Sequence[float]) -> dict[str, float]:
    """Summarises latencies as p50, p95, p99, max [ms] and count; NaN free, all 0 when there are none.

    A mean alone would hide the tail, and a robot feels the tail.
    """
    if not len(values_ms):
        return {"p50": 0.0, "p95": 0.0, "p99": 0.0, "max": 0.0, "count": 0}
    p50, p95, p99 = np.percentile(values_ms, [50, 95, 99])
    return {
        "p50": float(p50),
        "p95": float(p95),
        "p99": float(p99),
        "max": float(np.max(values_ms)),
        "count": len(values_ms),
    }


def timing_row(contender: Contender, measured: Times) -> dict[str, Any]:
    """One contender's line of a ``results.json``, with milliseconds as ``percentiles_ms``."""
    return {
        "what": contender.what,
        "device": contender.device,
        "wall_ms": percentiles_ms(measured.wall),
        "cold_ms": percentiles_ms(measured.cold),
        "cpu_ms": percentiles_ms(measured.cpu),
        "memory_mb": contender.memory_mb,
    }


def resident_bytes() -> int:
    """Returns this process's resident memory [bytes]; 0 where the system does not say."""
    path = Path("/proc/self/status")
    lines = path.read_text().splitlines() if path.is_file() else []
    sizes = [line.split()[1] for line in lines if line.startswith("VmRSS:")]
    return 1024 * int(sizes[0]) if sizes else 0


def _time_call(contender: Contender) -> tuple[float, float]:
    """Returns wall and CPU time of one call [ms]."""
    if contender.before is not None:
        contender.before()
    time.sleep(PAUSE_S)
    cpu, wall = time.process_time(), time.perf_counter()
    contender.run()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return 1e3 * wall, 1e3 * cpu
