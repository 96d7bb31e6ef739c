"""How ``wam bench`` shows its results: a table, ``results.json`` and a plot."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.table import Table

__all__ = ["device_line", "latency_plot", "results_table"]

OURS, THEIRS, SIMULATOR = "#0f766e", "#94a3b8", "#d97706"


def results_table(results: Mapping[str, Any]) -> Table:
    """Returns the table of a run; ``results`` as written to ``results.json``."""
    title = f"milliseconds per call, {results['rounds']} rounds; ratio: ACT p50 to this"
    table = Table(title=title, title_justify="left")
    table.add_column("one call", no_wrap=True)
    for name in ("p50", "p95", "p99", "max", "CPU", "cold", "ratio"):
        table.add_column(name, justify="right")
    for row in results["rows"].values():
        wall = [f"{row['wall_ms'][name]:.2f}" for name in ("p50", "p95", "p99", "max")]
        ratio = "" if row["act_ratio"] is None else f"{row['act_ratio']:.1f}"
        table.add_row(row["what"], *wall, f"{row['cpu_ms']['p50']:.2f}", f"{row['cold_ms']['p50']:.2f}", ratio)
    return table


def device_line(results: Mapping[str, Any]) -> str:
    """Returns the machine, and what each contender used of it."""
    used = {name.split("_")[0]: row["device"] for name, row in results["rows"].items()}
    return f"{results['device']} ({'; '.join(f'{name} on {device}' for name, device in used.items())})"


def latency_plot(results: Mapping[str, Any], path: Path) -> None:
    """Draws p50 as bars, p50..p99 as lines and cold calls as rings, on a logarithmic axis, into a PNG file."""
    rows = results["rows"]
    figure = Figure(figsize=(9.0, 1.2 + 0.36 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    for place, (name, row) in enumerate(rows.items()):
        wall = row["wall_ms"]
        colour = {"act": THEIRS, "render": SIMULATOR}.get(name, OURS)
        axes.barh(place, wall["p50"], color=colour, height=0.62)
        axes.plot((wall["p50"], wall["p99"]), (place, place), color="#1e293b", linewidth=1.4)
        cold = row["cold_ms"]["p50"]
        axes.plot(cold, place, marker="o", markersize=5, markerfacecolor="white", color="#1e293b")
        axes.text(max(wall["p99"], cold) * 1.08, place, f"{wall['p50']:.2f}", va="center", fontsize=9)
    axes.set_xscale("log")
    axes.set_yticks(range(len(rows)), [row["what"] for row in rows.values()])
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("milliseconds per call: bar and number p50, line to p99, ring p50 of cold calls")
    axes.set_title(f"{results['device']}, {results['rounds']} rounds", fontsize=10, loc="left")
    figure.savefig(path, dpi=150)
