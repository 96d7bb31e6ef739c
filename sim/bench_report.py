"""How ``wam bench`` shows its results: a table, ``results.json`` and a plot."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.table import Table

from policy.roofline import DEVICES

__all__ = ["device_line", "floor_lines", "geometry_table", "latency_plot", "results_table"]

OURS, THEIRS, SIMULATOR = "#0f766e", "#94a3b8", "#d97706"


def results_table(results: Mapping[str, Any]) -> Table:
    """Returns the table of a run; ``results`` as written to ``results.json``."""
    title = f"milliseconds per call, {results['rounds']} rounds; ratio: ACT p50 to this"
    table = Table(title=title, title_justify="left")
    table.add_column("one call", no_wrap=True)
    for name in ("p50", "p95", "p99", "max", "CPU", "cold", "MB", "ratio"):
        table.add_column(name, justify="right")
    for row in results["rows"].values():
        wall = [f"{row['wall_ms'][name]:.2f}" for name in ("p50", "p95", "p99", "max")]
        ratio = "" if row["act_ratio"] is None else f"{row['act_ratio']:.1f}"
        memory = "" if row["memory_mb"] is None else f"{row['memory_mb']['gpu'] or row['memory_mb']['rss']:.0f}"
        table.add_row(row["what"], *wall, f"{row['cpu_ms']['p50']:.2f}", f"{row['cold_ms']['p50']:.2f}", memory, ratio)
    return table


def geometry_table(results: Mapping[str, Any]) -> Table:
    """Returns the table of ``wam bench geometry``; rows that were not run say why."""
    machine = f"{results['geometry']['preset']} on {results['gpu']}, {results['dtype']}"
    title = f"{machine}, milliseconds per chunk, {results['rounds']} rounds"
    table = Table(title=title, title_justify="left")
    table.add_column("core of the model, random weights", no_wrap=True)
    for name in ("p50", "p95", "p99", "cold", "MB GPU", "MB RSS"):
        table.add_column(name, justify="right")
    for row in results["rows"].values():
        if "not_run" in row:
            table.add_row(f"{row['what']}: not run, {row['not_run']}")
            continue
        wall = [f"{row['wall_ms'][name]:.2f}" for name in ("p50", "p95", "p99")]
        memory = [f"{row['memory_mb'][name]:.0f}" for name in ("gpu", "rss")]
        table.add_row(row["what"], *wall, f"{row['cold_ms']['p50']:.2f}", *memory)
    return table


def floor_lines(results: Mapping[str, Any]) -> list[str]:
    """Returns one line per device with the floor of a chunk, which is arithmetic and not a measurement."""
    lines = []
    for name, floors in results["floors_ms"].items():
        listed = ", ".join(f"{steps} step{'s' * (int(steps) > 1)} {floor:.2f}" for steps, floor in floors.items())
        lines.append(f"floor:   {DEVICES[name].name}, computed, not measured, ms per chunk: {listed}")
    return lines


def device_line(results: Mapping[str, Any]) -> str:
    """Returns the machine, and what each contender used of it."""
    used = {name.rsplit("_", 1)[0]: row["device"] for name, row in results["rows"].items()}
    return f"{results['device']} ({'; '.join(f'{name} on {device}' for name, device in used.items())})"


def latency_plot(results: Mapping[str, Any], path: Path) -> None:
    """Draws p50 as bars, p50..p99 as lines and cold calls as rings, on a logarithmic axis, into a PNG file."""
    rows = {name: row for name, row in results["rows"].items() if "wall_ms" in row}
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
