"""Plots of the report as SVG text: small, sharp at any zoom, in the page's own font, nothing loaded from elsewhere."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

__all__ = ["latency_histogram", "loss_curves", "progress_curves", "success_bars", "timing_panels"]

MAIN, OTHER, INK, GRID = "#0f766e", "#94a3b8", "#1e293b", "#e2e8f0"
ROW_COLOURS = ("#0f766e", "#2563eb", "#d97706", "#64748b", "#be185d", "#7c3aed")
SIZE_INCHES = (5.6, 3.1)  # of the viewBox only; the page scales it
STYLE = {
    "svg.fonttype": "none",  # text stays text: the page's font, selectable
    "svg.hashsalt": "wam",  # the same data gives the same bytes
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.edgecolor": GRID,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def success_bars(rows: Sequence[Mapping[str, Any]]) -> str:
    """Draws success rates with their intervals; ``rows`` as from ``sim.results.summarise_rows``."""
    with matplotlib.rc_context(STYLE):
        figure, axes = _figure(width=9.0, height=0.6 + 0.34 * len(rows))
        for place, row in enumerate(rows):
            colour = MAIN if place == 0 else OTHER
            axes.barh(place, row["rate"], color=colour, height=0.62, alpha=0.9)
            axes.plot((row["low"], row["high"]), (place, place), color=INK, linewidth=1.6, solid_capstyle="butt")
            for end in (row["low"], row["high"]):
                axes.plot((end, end), (place - 0.14, place + 0.14), color=INK, linewidth=1.6)
            axes.text(1.03, place, f"{row['successes']}/{row['episodes']}", va="center")
        axes.set_yticks(range(len(rows)), [row["name"] for row in rows])
        axes.invert_yaxis()
        axes.set_xlim(0, 1)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", color=GRID)
        return _svg(figure)


def latency_histogram(values_ms: Sequence[float], percentiles: Mapping[str, float]) -> str:
    """Draws measured chunk latencies [ms] with their percentiles; the tail beyond p99 goes into the last bin."""
    with matplotlib.rc_context(STYLE):
        figure, axes = _figure()
        top = max(1.3 * percentiles["p99"], 1e-3)
        axes.hist(np.minimum(values_ms, top), bins=np.linspace(0, top, 45), color=MAIN, alpha=0.85)
        _, height = axes.get_ylim()
        for place, name in enumerate(("p50", "p95", "p99")):
            axes.axvline(percentiles[name], color=INK, linewidth=1, linestyle=(0, (3, 2)))
            label = f" {name} {percentiles[name]:.1f}"
            axes.text(percentiles[name], height * (1.0 - 0.09 * place), label, va="top", fontsize=9)
        axes.set_xlim(0, top)
        axes.set_xlabel(f"observation to action chunk [ms] (slowest: {percentiles['max']:.1f})")
        axes.set_ylabel("chunks")
        return _svg(figure)


def progress_curves(curves: Mapping[str, Sequence[Sequence[float]]], control_dt: float) -> str:
    """Draws task progress over time: the mean of each row, and the single episodes of the first one.

    Args:
        curves: Row name to one progress curve per episode, none empty; one that ended early stays at its last value.
        control_dt: Time between two values [s].
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = _figure()
        length = max(len(curve) for row in curves.values() for curve in row)
        for place, (name, row) in enumerate(curves.items()):
            colour = ROW_COLOURS[place % len(ROW_COLOURS)]
            filled = _filled(row, length)  # (episodes, steps)
            seconds = np.arange(length) * control_dt
            if place == 0:
                for curve in row:
                    axes.plot(np.arange(len(curve)) * control_dt, curve, color=colour, alpha=0.10, linewidth=0.8)
            axes.plot(seconds, filled.mean(axis=0), color=colour, linewidth=2.2 if place == 0 else 1.4, label=name)
        axes.set_ylim(0, 1.02)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_xlabel("simulated time [s]")
        axes.set_ylabel("progress, mean")
        axes.grid(axis="y", color=GRID)
        axes.legend(frameon=False, fontsize=9, loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
        return _svg(figure)


def loss_curves(curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], *, unit: str) -> str:
    """Draws (steps, values) per name on a logarithmic axis, labelled with ``unit``."""
    with matplotlib.rc_context(STYLE):
        figure, axes = _figure()
        for place, (name, (steps, values)) in enumerate(curves.items()):
            axes.plot(steps, values, color=ROW_COLOURS[place % len(ROW_COLOURS)], linewidth=1.5, label=name)
        axes.set_yscale("log")
        axes.set_xlabel("optimiser step")
        axes.set_ylabel(unit)
        axes.grid(axis="y", color=GRID)
        axes.legend(frameon=False, fontsize=9)
        return _svg(figure)


TIMINGS = {
    "policy_deviation_ms": "policy tick: deviation from its period [ms]",
    "guard_late_ms": "guard tick: lateness [ms]",
    "image_age_p95_ms": "image age at a policy tick, p95 of a minute [ms]",
    "observation_to_command_ms": "observation to first command [ms]",
}


def timing_panels(samples: Mapping[str, Sequence[float]]) -> str:
    """Draws how a running ROS graph kept its time: one histogram per kind of sample; the outer 0.1 % in the end bins.

    Args:
        samples: By name of ``TIMINGS`` [ms]; empty ones are left out.
    """
    shown = {name: np.asarray(samples[name]) for name in TIMINGS if len(samples.get(name, ()))}
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.0, 2.3 * -(-len(shown) // 2)), layout="constrained")
        for place, (name, values) in enumerate(shown.items(), start=1):
            axes = figure.add_subplot(-(-len(shown) // 2), 2, place)
            low, high = np.percentile(values, [0.1, 99.9])
            axes.hist(np.clip(values, low, high), bins=45, color=MAIN, alpha=0.85)
            p99 = float(np.percentile(values, 99))
            axes.axvline(p99, color=INK, linewidth=1, linestyle=(0, (3, 2)))
            axes.set_title(f"p50 {np.percentile(values, 50):.1f}, p99 {p99:.1f}, max {values.max():.1f}", fontsize=9)
            axes.set_xlabel(TIMINGS[name], fontsize=9)
            axes.set_yticks([])
        return _svg(figure)


def _figure(width: float = SIZE_INCHES[0], height: float = SIZE_INCHES[1]) -> tuple[Figure, Axes]:
    # Not pyplot: it would keep every figure and needs a display backend.
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def _filled(curves: Sequence[Sequence[float]], length: int) -> np.ndarray:
    return np.array([[*curve, *[curve[-1]] * (length - len(curve))] for curve in curves])


def _svg(figure: Figure) -> str:
    stream = io.StringIO()
    figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    return text[text.index("<svg") :]  # without the XML prolog, which names a DTD on another host
