"""``wam study``: trains and judges several models and writes one table with intervals.

Each study is a list of ``wam`` commands; interrupted, the same command goes on where it was. The table counts solved
test episodes with 95 % Clopper-Pearson intervals; all cells of a column play the same seeds.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table

from sim.commands import command_line
from sim.demo_stages import InterruptedDemo, check_folder, locked, open_state, run_stages
from sim.results import percent, write_json
from sim.statistics import PairedTest, mcnemar_exact
from sim.studies import STUDIES, SUITE
from sim.study_plan import LATENCY_MS, Cell, Figure, Plan
from wam.errors import ConfigError, unknown_name
from wam.robot import load_robot
from wam.robot_identity import behaviour_hash

__all__ = ["StudyConfig", "main", "markdown"]

FORMAT = "wam-study/1"


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """Train and judge several models; one table. The same command goes on after an interruption."""

    name: str  # language, steps, suite, tokenizer, ...: an unknown one lists them all
    out: Path | None = None  # folder for datasets, runs, bundles, evaluations and the table; default: runs/study/<name>
    robot: str = "sim6"  # robot name or file; the simulation needs an MJCF of the same name
    episodes: int = 200  # test episodes per cell
    threads: int = 1  # CPU threads of training
    tasks: tuple[str, ...] = ()  # of `quantise`, which takes one task at a time; default: the whole suite
    reuse: tuple[str, ...] = ()  # NAME=FOLDER of a dataset or training run that is there already, by its name in --dry
    dry: bool = False  # only print the commands

    def __post_init__(self) -> None:
        if self.name not in STUDIES:
            raise ConfigError(unknown_name("study", self.name, STUDIES))
        for name in ("episodes", "threads"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)} but must be at least 1.")
        for task in self.tasks:
            if task not in SUITE:
                raise ConfigError(unknown_name("task", task, SUITE))
        for item in self.reuse:
            name, _, folder = item.partition("=")
            if not name or not Path(folder).is_dir() or not folder:
                raise ConfigError(f"--reuse {item} must be NAME=FOLDER with a folder that is there.")

    @property
    def folder(self) -> Path:
        """Where everything goes."""
        return Path("runs/study") / self.name if self.out is None else self.out


def main(argv: list[str] | None = None) -> int:
    """Command line of ``wam study``.

    Returns:
        0 when the table is written, 128 + signal number when it was interrupted.
    """
    config = tyro.cli(StudyConfig, args=argv, prog="wam study")
    plan = Plan(
        folder=config.folder,
        robot=config.robot,
        episodes=config.episodes,
        threads=config.threads,
        tasks=config.tasks,
        reuse={name: Path(folder) for name, _, folder in (item.partition("=") for item in config.reuse)},
    )
    study = STUDIES[config.name]
    study.build(plan)
    if config.dry:
        for stage in plan.stages:
            print("wam", *stage.argv[3:])
        return 0
    check_folder(config.folder)
    settings = {
        "study": config.name,
        "episodes": config.episodes,
        "robot_fingerprint": behaviour_hash(load_robot(config.robot).to_dict(), with_fit=True),
    }
    with locked(config.folder) as lock:
        state = open_state(config.folder, settings)
        try:
            run_stages(state, plan.stages, lock, chained=False)
        except InterruptedDemo as interruption:
            print(interruption, file=sys.stderr)
            return interruption.status
    command = command_line("study", config, always=("name", "episodes"), never=("out", "dry"))
    rows = [_record(cell) for cell in plan.cells] + [_figure(figure) for figure in plan.figures]
    write_json(config.folder / "study.json", {"format": FORMAT, "command": command, "rows": rows})
    text = markdown(study.title, study.question, command, rows)
    (config.folder / "table.md").write_text(text)
    Console().print(_table(study.title, rows))
    print(f"wrote {config.folder / 'table.md'}\nwrote {config.folder / 'study.json'}")
    return 0


def markdown(title: str, question: str, command: str, rows: Sequence[dict[str, Any]]) -> str:
    """Returns the table as Markdown: one line per model and question, one column per task.

    Args:
        title: Heading.
        question: What the table answers.
        command: That made it.
        rows: Cells as ``study.json`` holds them.
    """
    columns = list(dict.fromkeys(row["column"] for row in rows))
    names = list(dict.fromkeys(row["row"] for row in rows))
    cells = {(row["row"], row["column"]): row for row in rows}
    lines = [f"## {title}", "", question, "", "| |" + "|".join(columns) + "|", "|---|" + "---|" * len(columns)]
    for name in names:
        found = [cells.get((name, column)) for column in columns]
        lines.append(f"| {name} |" + "|".join(" – " if cell is None else f" {_text(cell)} " for cell in found) + "|")
    minutes = [row["training_cpu_minutes"] for row in rows if "text" not in row]
    lines += [
        "",
        "Percentages: solved test episodes, 95 % intervals, same seeds in a column (p: McNemar's exact test), "
        f"{LATENCY_MS} ms of latency in the loop. "
        f"Training took {min(minutes)} to {max(minutes)} CPU-minutes per model, all stages counted.",
        f"Made by `{command}`.",
        "",
    ]
    return "\n".join(lines)


def _text(row: dict[str, Any]) -> str:
    if "text" in row:
        return str(row["text"])
    paired = row.get("mcnemar")
    compared = f", p = {paired['p_value']:.2g}" if paired else ""
    return f"{percent(row['rate'])} ({100 * row['low']:.0f}–{100 * row['high']:.0f}){compared}"


def _record(cell: Cell) -> dict[str, Any]:
    results = json.loads(cell.results.read_text())
    policy = results["rows"][0]
    return {
        "row": cell.row,
        "column": cell.column,
        **{name: policy[name] for name in ("successes", "episodes", "rate", "low", "high")},
        "mcnemar": None if cell.against is None else asdict(_paired(json.loads(cell.against.read_text()), results)),
        "n_steps": results["n_steps"],
        "chunk_p50_ms": results["latency_ms"]["p50"],
        "training_cpu_minutes": round(sum(map(_cpu_seconds, cell.runs)) / 60, 1),
        "evaluation": str(cell.results),
    }


def _paired(first: dict[str, Any], second: dict[str, Any]) -> PairedTest:
    """Compares two evaluations on the seeds that both played."""
    solved = [
        {episode["seed"]: episode["success"] for episode in results["episodes"] if episode["row"] == "policy"}
        for results in (first, second)
    ]
    shared = [seed for seed in solved[0] if seed in solved[1]]
    return mcnemar_exact(*([one[seed] for seed in shared] for one in solved))


def _cpu_seconds(run: Path) -> float:
    """CPU time of a run's optimiser steps [s]; 0 without its metrics."""
    metrics = run / "metrics.jsonl"
    lines = metrics.read_text().splitlines() if metrics.is_file() else []
    return sum(json.loads(line).get("cpu_seconds", 0.0) for line in lines)


def _figure(figure: Figure) -> dict[str, Any]:
    value = json.loads(figure.source.read_text())
    for key in figure.keys:
        value = value[key]
    text = figure.text.format(value)
    return {"row": figure.row, "column": figure.column, "value": value, "text": text, "source": str(figure.source)}


def _table(title: str, rows: Sequence[dict[str, Any]]) -> Table:
    table = Table(title=title, title_justify="left")
    for column in ("model", "task", "solved", "rate", "95 % interval", "training [CPU-min]"):
        table.add_column(column)
    for row in rows:
        if "text" in row:
            table.add_row(row["row"], row["column"], row["text"], "", "")
            continue
        interval = f"{100 * row['low']:.1f} – {percent(row['high'])}"
        solved = f"{row['successes']}/{row['episodes']}"
        minutes = str(row["training_cpu_minutes"])
        table.add_row(row["row"], row["column"], solved, percent(row["rate"]), interval, minutes)
    return table


if __name__ == "__main__":
    sys.exit(main())
