"""What a listener heard of an undisturbed run, as numbers to hold, percentiles and samples for plots."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ros_nodes.bench_listener import Listener
from ros_nodes.bench_measures import lateness_ms, limit_violations, missed_ticks, summary
from ros_nodes.errors import GraphError
from wam.robot import RobotSpec

__all__ = ["Timing", "timing"]

MOST_SAMPLES = 4000  # kept for plots


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Timing of a run."""

    numbers: dict[str, float | None]  # by name of ``bench_measures.LIMITS``
    traces: dict[str, Any]  # percentiles, counts and samples, as JSON data


def timing(listener: Listener, robot: RobotSpec, rate_hz: float) -> Timing:
    """Works out the timing of everything heard since ``listener.clear()``.

    Args:
        listener: What was heard.
        robot: Its guard's rate and limits.
        rate_hz: Nominal ticks of the policy per second.

    Raises:
        GraphError: Guard or policy was not heard.
    """
    guard, chunks, ages = listener.guard, listener.chunks, listener.image_age
    if min(len(guard), len(chunks)) < 2 or not ages:
        counts = f"{len(guard)} ticks of the guard, {len(chunks)} chunks, {len(ages)} diagnostics of the policy"
        raise GraphError(f"too little was heard to measure anything: {counts}.")
    late_ms = lateness_ms([tick.tick_s for tick in guard], 1 / robot.safety.guard_rate_hz)
    deviation_ms = lateness_ms(chunks, 1 / rate_hz)
    missed = missed_ticks(chunks, 1 / rate_hz)
    # A missed tick is counted as one, and not a second time as a very late one.
    deviation_ms = deviation_ms[np.abs(deviation_ms) < 0.5e3 / rate_hz]
    latency_ms = [1e3 * value for value in _changes([tick.latency_s for tick in guard]) if value > 0]
    numbers: dict[str, float | None] = {
        "policy_period_p99_deviation_ms": summary(np.abs(deviation_ms)).get("p99"),
        "policy_misses_percent": 100 * missed / (missed + len(chunks)),
        "chunk_rate_hz": (len(chunks) - 1) / (chunks[-1] - chunks[0]),
        "image_age_p95_ms": max(age["p95"] for age in ages),  # of the worst minute
        "guard_late_p99_ms": summary(late_ms).get("p99"),
        "limit_violations": limit_violations(
            [tick.tick_s for tick in guard],
            [tick.state.startswith("RUN") for tick in guard],
            listener.commands,
            robot,
        ),
    }
    states = [tick.state for tick in guard]
    traces = {
        "seconds": round(guard[-1].tick_s - guard[0].tick_s, 1),
        "guard_states": {state: states.count(state) for state in sorted(set(states))},
        "counts": {
            "guard": len(guard),
            "chunks": len(chunks),
            "missed": missed,
            "commands": len(listener.commands),
            "unheard": listener.unheard,  # by this listener: limit violations are certain only where it is 0
        },
        "percentiles": {
            "policy_period_ms": summary(deviation_ms + 1e3 / rate_hz),
            "guard_late_ms": summary(late_ms),
            "image_age_ms": max(ages, key=lambda age: age["p95"]),
            "observation_to_command_ms": summary(latency_ms),
        },
        "samples": {
            "policy_deviation_ms": _thinned(deviation_ms),
            "guard_late_ms": _thinned(late_ms),
            "image_age_p95_ms": _thinned([age["p95"] for age in ages]),
            "observation_to_command_ms": _thinned(latency_ms),
        },
    }
    return Timing(numbers=numbers, traces=traces)


def _changes(values: Sequence[float]) -> list[float]:
    """Values that differ from the one before: each chunk's latency is repeated until the next one's."""
    return [value for place, value in enumerate(values) if place == 0 or value != values[place - 1]]


def _thinned(values: Sequence[float] | np.ndarray) -> list[float]:
    """At most so many of the values, evenly spread."""
    step = max(1, -(-len(values) // MOST_SAMPLES))
    return [round(float(value), 3) for value in values[::step]]
