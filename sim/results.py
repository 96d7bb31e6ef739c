"""What an evaluation found, as plain JSON data: the same numbers for people, for scripts and for the report.

A *row* is one planner in one mode ("policy", "policy, frozen", "expert" …) over its seeds. Every row's seeds are a
prefix of the same list, so rows are compared on paired seeds.
"""

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from sim.rollout import Episode
from sim.statistics import mcnemar_exact, success_rate

__all__ = ["FORMAT", "episode_record", "percent", "results_table", "summarise_rows", "write_json"]

FORMAT = "wam-evaluation/1"
LONG_LISTS = ("episodes", "rows", "videos")  # one item per line: long enough to read, short enough to compare


def episode_record(row: str, episode: Episode) -> dict[str, Any]:
    """Returns one episode as JSON data."""
    return {
        "row": row,
        "seed": episode.seed,
        "outcome": episode.outcome,
        "success": episode.success,
        "steps": episode.steps,
        "seconds": episode.seconds,
        "progress": round(episode.progress[-1], 4) if episode.progress else 0.0,
        "progress_curve": [round(value, 3) for value in episode.progress],
        "latency_ms": [round(value, 3) for value in episode.latency_ms],
        "message": episode.message,
    }


def summarise_rows(rows: Mapping[str, Sequence[Episode]]) -> list[dict[str, Any]]:
    """Counts successes per row, with intervals and, against the first row, exact paired tests.

    Args:
        rows: Row name to its episodes; the first row is the policy under test.
    """
    first = next(iter(rows.values()))
    return [_summary(name, episodes, None if episodes is first else first) for name, episodes in rows.items()]


def results_table(results: Mapping[str, Any]) -> Table:
    """Returns the table for the terminal."""
    table = Table(title=f"{results['task']}: success over {results['split']} seeds", title_justify="left")
    table.add_column("who", no_wrap=True)
    for column in ("solved", "rate", "95 % interval", "p, paired", "time"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in results["rows"]:
        seconds = row["median_success_seconds"]
        table.add_row(
            row["name"],
            f"{row['successes']}/{row['episodes']}",
            percent(row["rate"]),
            f"{100 * row['low']:.1f} – {percent(row['high'])}",
            "" if row["mcnemar"] is None else f"{row['mcnemar']['p_value']:.2g}",
            "" if seconds is None else f"{seconds:.1f} s",
        )
    return table


def percent(share: float) -> str:
    """Returns a share in [0, 1] as "97.5 %"."""
    return f"{100 * share:.1f} %"


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Writes JSON all at once (an interrupted write leaves the old file), long lists one item per line.

    Raises:
        ValueError: A number is not finite; JSON has no such thing.
    """
    lines = []
    for key, value in data.items():
        if key in LONG_LISTS and isinstance(value, list) and value:
            items = ",\n".join(f"    {json.dumps(item, allow_nan=False)}" for item in value)
            text = f"[\n{items}\n  ]"
        else:
            text = json.dumps(value, indent=2, allow_nan=False).replace("\n", "\n  ")
        lines.append(f"  {json.dumps(key)}: {text}")
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".tmp")
    draft.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    os.replace(draft, path)


def _summary(name: str, episodes: Sequence[Episode], first: Sequence[Episode] | None) -> dict[str, Any]:
    rate = success_rate(sum(episode.success for episode in episodes), len(episodes))
    times = [episode.seconds for episode in episodes if episode.success]
    return {
        "name": name,
        **asdict(rate),
        "outcomes": dict(Counter(episode.outcome for episode in episodes)),
        "median_success_seconds": float(np.median(times)) if times else None,
        "mcnemar": None if first is None else _paired(first, episodes),
    }


def _paired(first: Sequence[Episode], second: Sequence[Episode]) -> dict[str, Any]:
    by_seed = {episode.seed: episode.success for episode in first}
    shared = [(by_seed[episode.seed], episode.success) for episode in second if episode.seed in by_seed]
    return asdict(mcnemar_exact([a for a, _ in shared], [b for _, b in shared]))
