"""What a study consists of: commands in order, and which evaluation fills which cell of its table."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sim.demo_stages import StageCommand

__all__ = ["Cell", "Plan"]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One number of the table."""

    row: str  # which model, asked in which way
    column: str  # which task
    results: Path  # results.json of the evaluation
    run: Path  # training run behind it


@dataclass(kw_only=True)
class Plan:
    """Commands that depend on one another, gathered step by step; each is a command a person could give."""

    folder: Path  # of the study: datasets, runs, bundles and evaluations lie in it
    robot: str  # robot name or file
    episodes: int  # test episodes per cell
    threads: int = 1  # CPU threads of training
    stages: list[StageCommand] = field(default_factory=list)
    cells: list[Cell] = field(default_factory=list)

    def collect(self, task: str, *, distractors: int, episodes: int) -> Path:
        """Adds a dataset of demonstrations, unless it is there already, and returns its folder."""
        out = self.folder / "datasets" / f"{task}_{distractors}"
        self._add(
            f"collect {task}, {distractors} distractors",
            "collect",
            ["--task", task, "--robot", self.robot, "--distractors", distractors, "--episodes", episodes, "--out", out],
            out,
        )
        return out

    def train(self, name: str, datasets: Sequence[Path], options: Sequence[object]) -> Path:
        """Adds a training run and returns its folder."""
        out = self.folder / "runs" / name
        done = ["--out", out, "--robot", self.robot, "--threads", self.threads, *options]
        self._add(f"train {name}", "train", ["--dataset", *datasets, *done], out)
        return out

    def bundle(self, run: Path) -> Path:
        """Adds the export of a run and returns the bundle's folder."""
        out = self.folder / "bundles" / run.name
        self._add(
            f"export {run.name}", "export", ["--checkpoint", run, "--out", out, "--overwrite"], out / "manifest.json"
        )
        return out

    def evaluate(self, row: str, column: str, run: Path, task: str, options: Sequence[object]) -> None:
        """Adds an evaluation that fills one cell."""
        bundle = self.folder / "bundles" / run.name
        out = self.folder / "evaluations" / f"{row} {column}".replace(" ", "_").replace("/", "-")
        given = ["--bundle", bundle, "--task", task, "--out", out, "--overwrite", "--episodes", self.episodes]
        quiet = ["--references", "none", "--videos", 0, "--failure-videos", 0]
        self._add(f"evaluate {row}, {column}", "evaluate", [*given, *quiet, *options], out / "results.json")
        self.cells.append(Cell(row=row, column=column, results=out / "results.json", run=run))

    def _add(self, name: str, verb: str, options: Sequence[object], output: Path) -> None:
        if any(stage.name == name for stage in self.stages):
            return
        argv = (sys.executable, "-m", "wam.cli", verb, *map(str, options))
        self.stages.append(StageCommand(name=name, argv=argv, output=output))
