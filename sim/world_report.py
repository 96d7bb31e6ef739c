"""What ``wam evaluate world`` writes for people: a Markdown table, a plot, and a strip of pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from sim.world_plans import Plan

__all__ = ["markdown", "write_plot", "write_strip"]

UNITS = {"psnr": "PSNR [dB]", "ssim": "SSIM", "latent": "latent error"}


def markdown(results: Mapping[str, Any]) -> str:
    """Returns the tables as Markdown."""
    seconds = [f"{value:g} s" for value in results["horizon_s"]]
    lines = [
        f"## A learned simulator beside MuJoCo: {results['task']}",
        "",
        f"{results['plans']} plans ({results['split']} seeds), the same chunks in both. Made by",
        f"`{results['command']}`.",
        "",
        f"| pictures | | {' | '.join(seconds)} |",
        "|---|---|" + "---|" * len(seconds),
    ]
    for metric, rows in results["pictures"].items():
        lines += [f"| {UNITS[metric]} | {name} | {' | '.join(map(_short, values))} |" for name, values in rows.items()]
    lines += [
        "",
        f"| rank correlation with real progress | {' | '.join(seconds)} | with success | pairs in order |",
        "|---|" + "---|" * (len(seconds) + 2),
    ]
    for name, ranks in results["ranks"].items():
        pairs = results["pairs"][name]
        cells = [*map(_interval, ranks), _interval(results["solved_ranks"][name]), f"{100 * pairs['share']:.0f} %"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += [
        "",
        f"Spearman, 95 % bootstrap over starts; pairs: {results['pairs']['imagined']['pairs']} pairs of plans from one "
        "start with different real progress. An imagined last picture is nearer to its own outcome than to another "
        f"plan's in {100 * results['told_apart']:.0f} % of the pairs (a coin: 50 %).",
        "",
    ]
    return "\n".join(lines)


def write_plot(results: Mapping[str, Any], path: Path) -> None:
    """Draws PSNR and SSIM by horizon, and imagined against real progress."""
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    axes = figure.subplots(1, 3)
    for axis, metric in zip(axes, ("psnr", "ssim"), strict=False):
        for name, values in results["pictures"][metric].items():
            axis.plot(results["horizon_s"], values, marker="o", label=name)
        axis.set_xlabel("horizon [s]")
        axis.set_ylabel(UNITS[metric])
        axis.legend(frameon=False, fontsize=8)
    outcomes = results["outcomes"]
    axes[2].scatter(outcomes["real"], outcomes["real pictures"], s=12, color="0.75", label="probe on real pictures")
    axes[2].scatter(outcomes["real"], outcomes["imagined"], s=12, label="probe on imagined ones")
    axes[2].set_xlabel("progress in MuJoCo")
    axes[2].set_ylabel("progress by the last picture")
    axes[2].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=120)


def write_strip(plans: Sequence[Plan], imagined: np.ndarray, path: Path) -> None:
    """Draws plans of one start: what happened above what was imagined, the start on the left.

    Args:
        plans: Q plans.
        imagined: (Q, N, K, height, width, 3) uint8.
        path: Target.
    """
    columns = 1 + imagined.shape[1]
    figure = Figure(figsize=(2.6 * columns, 1.45 * 2 * len(plans)), layout="constrained")
    axes = figure.subplots(2 * len(plans), columns, squeeze=False)
    for row, plan in enumerate(plans):
        for line, (name, frames) in enumerate((("MuJoCo", plan.happened), ("imagined", imagined[row]))):
            for column, views in enumerate([plan.images, *frames]):
                axis = axes[2 * row + line, column]
                axis.imshow(np.concatenate(list(views), axis=1))
                axis.set_xticks([])
                axis.set_yticks([])
                if column == 0:
                    axis.set_ylabel(f"{plan.kind}\n{name}", fontsize=8)
    figure.savefig(path, dpi=110)


def _short(value: float) -> str:
    return f"{value:.3g}"


def _interval(rank: Mapping[str, float]) -> str:
    return f"{rank['rho']:.2f} ({rank['low']:.2f} – {rank['high']:.2f})"
