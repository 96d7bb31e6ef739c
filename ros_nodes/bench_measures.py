"""From what was heard on the graph to the numbers a robot is judged by, and the limits they are held against.

Times are those that guard and policy say themselves [s], never when something arrived here: the listener's own delays
do not count.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from wam.robot import RobotSpec

__all__ = [
    "LIMITS",
    "GuardTick",
    "Limit",
    "judge",
    "lateness_ms",
    "limit_violations",
    "missed_ticks",
    "silence_s",
    "summary",
]


@dataclass(frozen=True, kw_only=True)
class GuardTick:
    """One tick of the guard."""

    tick_s: float
    state: str
    latency_s: float  # from the observation of the chunk in effect to its first command


@dataclass(frozen=True, kw_only=True)
class Limit:
    """One number to hold."""

    what: str
    unit: str
    idle: float  # on an idle robot computer
    gate: float  # on a busy machine, for continuous integration
    at_least: bool = False  # the number must not be below, instead of not above
    digits: int = 1  # shown after the point


LIMITS: Mapping[str, Limit] = {
    "policy_period_p99_deviation_ms": Limit(what="policy tick: p99 of |period - nominal|", unit="ms", idle=5, gate=15),
    "policy_misses_percent": Limit(what="policy ticks without a chunk", unit="%", idle=0.1, gate=0.1, digits=2),
    "chunk_rate_hz": Limit(what="action chunks per second", unit="Hz", idle=7, gate=7, at_least=True),
    "image_age_p95_ms": Limit(what="age of the oldest image at a tick: p95", unit="ms", idle=50, gate=50),
    "guard_late_p99_ms": Limit(what="guard period: p99 lateness", unit="ms", idle=2, gate=15, digits=2),
    "limit_violations": Limit(what="commands beyond a position or velocity limit", unit="", idle=0, gate=0, digits=0),
    "hold_after_kill_s": Limit(what="policy killed until HOLD, worst", unit="s", idle=0.40, gate=0.40, digits=3),
    "hold_after_hang_s": Limit(what="policy hung until HOLD, worst", unit="s", idle=0.40, gate=0.40, digits=3),
    "hold_after_joint_loss_s": Limit(
        what="joint states lost until HOLD, worst", unit="s", idle=0.17, gate=0.17, digits=3
    ),
    "recorder_lost": Limit(what="messages the recorder lost", unit="", idle=0, gate=0, digits=0),
}


def lateness_ms(ticks_s: Sequence[float], period_s: float) -> np.ndarray:
    """Returns how much later than one period each tick followed the one before [ms]; negative: earlier."""
    return 1e3 * (np.diff(np.asarray(ticks_s, dtype=np.float64)) - period_s)


def silence_s(ticks_s: Sequence[float], period_s: float) -> float:
    """Returns how long something with a period was silent beyond it, all in all [s]."""
    return float(np.maximum(lateness_ms(ticks_s, period_s), 0.0).sum()) / 1e3


def missed_ticks(ticks_s: Sequence[float], period_s: float) -> int:
    """Counts the ticks that are missing between others: a gap of about n periods misses n - 1."""
    periods = np.rint(np.diff(np.asarray(ticks_s, dtype=np.float64)) / period_s)
    return int(np.maximum(periods - 1, 0).sum())


def summary(values: Sequence[float] | np.ndarray, digits: int = 3) -> dict[str, float]:
    """Returns p50, p95, p99 and max; empty without values."""
    finite = np.asarray(values, dtype=np.float64)
    finite = finite[np.isfinite(finite)]
    if not finite.size:
        return {}
    numbers = {f"p{share}": np.percentile(finite, share) for share in (50, 95, 99)} | {"max": finite.max()}
    return {name: round(float(value), digits) for name, value in numbers.items()}


def limit_violations(
    ticks_s: Sequence[float], running: Sequence[bool], positions: Sequence[Sequence[float]], robot: RobotSpec
) -> int:
    """Counts commands that are not finite, outside the joint limits, or further from the last one than velocity allows.

    Commands carry no time. Each is taken to belong to the tick of the same place, give or take one, so the longest of
    three neighbouring periods is granted. Steps count only amid ticks that moved the arm: a reset takes hold of the arm
    where it is measured, which is a jump of the command and no motion.

    Args:
        ticks_s: Steady times of the guard's ticks [s].
        running: Whether each of them moved the arm.
        positions: (N, A) commanded positions [rad, gripper opening].
        robot: Names the limits.
    """
    count = min(len(ticks_s), len(positions))
    if count < 2:
        return 0
    values = np.asarray(positions, dtype=np.float64)[:count]  # (N, A)
    tolerance = 1e-4  # joint limits and commands are float32 on the way
    wrong = np.asarray(~np.isfinite(values).all(axis=1))
    wrong |= ((values < robot.lower - tolerance) | (values > robot.upper + tolerance)).any(axis=1)
    granted = _around(np.diff(np.asarray(ticks_s, dtype=np.float64)[:count]), np.maximum)  # (N - 1,)
    moved = _around(np.asarray(running, dtype=bool)[:count], np.logical_and)[1:]  # (N - 1,)
    most = np.array([axis.max_velocity for axis in robot.axes])
    far = (np.abs(np.diff(values, axis=0)) > 1.001 * most * granted[:, None] + tolerance).any(axis=1)
    wrong[1:] |= far & moved
    return int(wrong.sum())


def _around(values: np.ndarray, combine: np.ufunc) -> np.ndarray:
    """Combines each value with the one before and the one after it."""
    padded = np.pad(values, 1, mode="edge")
    return combine(combine(padded[:-2], padded[1:-1]), padded[2:])


def judge(numbers: Mapping[str, float | None]) -> list[dict[str, Any]]:
    """Compares numbers with their limits.

    Args:
        numbers: By name of ``LIMITS``; None when it was not measured.

    Returns:
        One row per limit, in order, with ``idle_ok`` and ``gate_ok`` (None when it was not measured).
    """
    return [_row(name, limit, numbers.get(name)) for name, limit in LIMITS.items()]


def _row(name: str, limit: Limit, value: float | None) -> dict[str, Any]:
    def holds(bound: float) -> bool | None:
        return None if value is None else bool(value >= bound if limit.at_least else value <= bound)

    return {
        "name": name,
        "what": limit.what,
        "unit": limit.unit,
        "value": None if value is None else round(value, 6),
        "idle_target": limit.idle,
        "ci_gate": limit.gate,
        "at_least": limit.at_least,
        "idle_ok": holds(limit.idle),
        "gate_ok": holds(limit.gate),
    }
