"""What ``wam bench ros`` shows: a table of numbers beside their limits, and a picture of the timing."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

__all__ = ["results_table", "timing_plot"]

PANELS = {
    "policy_deviation_ms": ("policy tick: deviation from its period", "ms"),
    "guard_late_ms": ("guard tick: lateness", "ms"),
    "image_age_p95_ms": ("age of the oldest image at a policy tick: p95 of a minute", "ms"),
    "observation_to_command_ms": ("observation to first command", "ms"),
}
COLOUR, LIMIT_COLOUR = "#0f766e", "#d97706"
SHOWN_LIMITS = {"image_age_p95_ms": "image_age_p95_ms", "guard_late_ms": "guard_late_p99_ms"}


def results_table(results: Mapping[str, Any]) -> Table:
    """Returns the table that is printed."""
    table = Table(title=f"{results['what']}: {results['minutes']:g} min at {results['rate_hz']:g} Hz, {results['ros']}")
    for name in ("what", "measured", "idle target", "CI gate", ""):
        table.add_column(name, justify="left" if name in {"what", ""} else "right")
    for row in results["rows"]:
        sign = "≥" if row["at_least"] else "≤"
        value = "-" if row["value"] is None else f"{row['value']:.4g} {row['unit']}"
        verdict = {None: "not measured", True: "ok", False: "missed"}[row["idle_ok"]]
        if row["idle_ok"] is False and row["gate_ok"]:
            verdict = "CI gate only"
        limits = [f"{sign} {row[key]:g} {row['unit']}" for key in ("idle_target", "ci_gate")]
        table.add_row(row["what"], value, *limits, verdict)
    return table


def timing_plot(results: Mapping[str, Any], path: Path) -> None:
    """Draws the distribution of every measured time, the tail beyond p99.9 in the last bin."""
    from matplotlib.figure import Figure

    limits = {row["name"]: row["idle_target"] for row in results["rows"]}
    figure = Figure(figsize=(10, 5.6), layout="constrained")
    for place, (name, (title, unit)) in enumerate(PANELS.items(), start=1):
        axes = figure.add_subplot(2, 2, place)
        values = np.asarray(results["samples"][name])
        axes.set_title(title, fontsize=10)
        axes.set_xlabel(unit)
        if not values.size:
            axes.text(0.5, 0.5, "nothing measured", ha="center", transform=axes.transAxes)
            continue
        low, high = np.percentile(values, [0.1, 99.9])
        axes.hist(np.clip(values, low, high), bins=60, color=COLOUR, alpha=0.85)
        p99 = float(np.percentile(values, 99))
        axes.axvline(p99, color="#1e293b", linewidth=1, linestyle="--", label=f"p99 {p99:.1f}")
        if name in SHOWN_LIMITS:
            limit = limits[SHOWN_LIMITS[name]]
            axes.axvline(limit, color=LIMIT_COLOUR, linewidth=1, label=f"target {limit:g}")
        axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)
