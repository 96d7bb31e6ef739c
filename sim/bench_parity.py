"""Whether backends that are timed beside each other compute the same chunk, and how many times faster than eager torch.

A ratio of times says something only of the same work: every backend plans a chunk from the same observation and noise
before anything is timed, and one that gives another chunk stops the run.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from policy.timing import Contender
from wam.errors import WamError

__all__ = ["chunk_differences", "ratio_lines", "torch_ratios"]

# Largest difference by the type of the matrix products, of values around 1 [rad or opening].
TOLERANCES = {"float32": 1e-4, "float16": 5e-3, "bfloat16": 5e-2}
REFERENCE = "torch"
OTHER_QUESTIONS = ("torch_joint", "torch_inverse")  # their chunks come about in another way


def chunk_differences(contenders: Sequence[Contender], dtype: str) -> dict[str, float]:
    """Compares policies with the reference that takes as many steps: eager torch, or else the first of them.

    Args:
        contenders: Named "<backend>_<steps>"; running one returns its chunk.
        dtype: Type of the bundle's matrix products.

    Returns:
        Name → largest difference from the reference's chunk, of all but references.

    Raises:
        WamError: One is above the tolerance: it is not timed as if it did the same.
    """
    chunks = {
        _parts(one.name): np.asarray(one.run().actions)
        for one in contenders
        if _parts(one.name)[0] not in OTHER_QUESTIONS
    }
    differences = {}
    for (backend, steps), chunk in chunks.items():
        reference = _reference([name for name, count in chunks if count == steps])
        if backend == reference:
            continue
        found = float(np.abs(chunk - chunks[reference, steps]).max())
        if not found <= TOLERANCES[dtype]:
            raise WamError(
                f"backends '{backend}' and '{reference}' give chunks of {steps} step(s) that differ by {found:.1e}, "
                f"more than {TOLERANCES[dtype]:.0e}: they are not timed side by side. Run `wam verify` on the bundle."
            )
        differences[f"{backend}_{steps}"] = found
    return differences


def torch_ratios(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Returns how many times faster than eager torch with as many steps each backend is, by medians.

    Args:
        rows: Of ``results.json``.

    Returns:
        Row name → {"wall_ms", "cold_ms", "cpu_ms"} → ratio; empty where torch was not timed.
    """
    ratios = {}
    for name, row in rows.items():
        backend, _, steps = name.rpartition("_")
        eager = rows.get(f"{REFERENCE}_{steps}")
        if eager is not None and backend not in (REFERENCE, *OTHER_QUESTIONS):
            ratios[name] = {kind: eager[kind]["p50"] / row[kind]["p50"] for kind in ("wall_ms", "cold_ms", "cpu_ms")}
    return ratios


def ratio_lines(results: Mapping[str, Any]) -> list[str]:
    """Returns one line per backend and number of steps: faster than eager torch by what, and how alike the chunks."""
    return [
        f"{results['rows'][name]['what']}: {ratio['wall_ms']:.2f} times as fast as eager torch "
        f"(cold {ratio['cold_ms']:.2f}, CPU time {ratio['cpu_ms']:.2f}); "
        f"largest difference of the chunks {results['chunk_differences'][name]:.1e}"
        for name, ratio in results["torch_ratios"].items()
    ]


def _parts(name: str) -> tuple[str, str]:
    backend, _, steps = name.rpartition("_")
    return backend, steps


def _reference(backends: Sequence[str]) -> str:
    return REFERENCE if REFERENCE in backends else backends[0]
