"""What a study consists of: commands in order, and which evaluation fills which cell of its table."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sim.demo_stages import StageCommand

__all__ = ["LATENCY_MS", "Cell", "Figure", "Plan"]

LATENCY_MS = 50  # in the loop of every cell: more than any of these models takes on a free core, and the same for all

TOKENIZER_FIGURES = (  # column, text, where `wam bench tokenizers` puts it
    ("colour error of cubes [CIE dE]", "{:.1f}", "vivid_error_de"),
    ("elsewhere [CIE dE]", "{:.1f}", "other_error_de"),
    ("PSNR [dB]", "{:.1f}", "psnr_db"),
    ("CPU time of encoding", "× {:.2f}", "cpu_ratio", "encode"),
    ("CPU time of a training step", "× {:.2f}", "cpu_ratio", "training_step"),
)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One number of the table."""

    row: str  # which model, asked in which way
    column: str  # which task
    results: Path  # results.json of the evaluation
    runs: tuple[Path, ...]  # training runs behind it, from scratch on
    against: Path | None = None  # results.json of another row in the same column, compared seed by seed


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One entry of the table that is no count of solved episodes."""

    row: str  # which model
    column: str  # what was measured
    source: Path  # JSON file with the number
    keys: tuple[str, ...]  # where it stands in that file
    text: str  # how it is written, a format such as "{:.1f}"


@dataclass(kw_only=True)
class Plan:
    """Commands that depend on one another, gathered step by step; each is a command a person could give."""

    folder: Path  # of the study: datasets, runs, bundles and evaluations lie in it
    robot: str  # robot name or file
    episodes: int  # test episodes per cell
    threads: int = 1  # CPU threads of training
    stages: list[StageCommand] = field(default_factory=list)
    cells: list[Cell] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    origins: dict[Path, Path] = field(default_factory=dict)  # run → run it started from
    tasks: tuple[str, ...] = ()  # of a study that takes one task at a time; empty: all of them
    reuse: Mapping[str, Path] = field(default_factory=dict)  # name of a dataset or run → folder where it is already

    def collect(self, task: str, *, distractors: int, episodes: int, name: str = "", seed: int | None = None) -> Path:
        """Adds a dataset of demonstrations, unless it is there already, and returns its folder.

        Args:
            task: That is shown.
            distractors: Other cubes in the scene.
            episodes: How many.
            name: Of the dataset; task and distractors unless given.
            seed: Of the first scene; None: what `wam collect` takes.
        """
        name = name or f"{task}_{distractors}"
        if name in self.reuse:
            return self.reuse[name]
        out = self.folder / "datasets" / name
        given: list[object] = ["--task", task, "--robot", self.robot, "--distractors", distractors]
        if seed is not None:
            given += ["--seed", seed]
        self._add(f"collect {name}", "collect", [*given, "--episodes", episodes, "--out", out], out)
        return out

    def train(self, name: str, datasets: Sequence[Path], options: Sequence[object], init: Path | None = None) -> Path:
        """Adds a training run, from scratch or from an earlier one, and returns its folder."""
        if name in self.reuse:
            return self.reuse[name]
        out = self.folder / "runs" / name
        if init is not None:
            self.origins[out] = init
            options = ["--init", init, *options]
        done = ["--out", out, "--robot", self.robot, "--threads", self.threads, *options]
        self._add(f"train {name}", "train", ["--dataset", *datasets, *done], out)
        return out

    def bundle(self, run: Path, name: str = "") -> Path:
        """Adds the export of a run and returns the bundle's folder; its name is the run's unless given."""
        name = name or run.name
        out = self.folder / "bundles" / name
        self._add(f"export {name}", "export", ["--checkpoint", run, "--out", out, "--overwrite"], out / "manifest.json")
        return out

    def quantise(self, bundle: Path, dataset: Path, scheme: str) -> Path:
        """Adds a quantised bundle, calibrated and judged on a dataset, and returns its folder."""
        out = bundle.with_name(f"{bundle.name}_{scheme}")
        given = [bundle, "--dataset", dataset, "--scheme", scheme, "--out", out, "--overwrite"]
        self._add(f"quantise {bundle.name} to {scheme}", "quantise", given, out / "manifest.json")
        return out

    def evaluate(
        self,
        row: str,
        column: str,
        run: Path,
        task: str,
        options: Sequence[object],
        *,
        bundle: Path | None = None,
        against: str = "",
    ) -> None:
        """Adds an evaluation that fills one cell.

        Args:
            row: Which model, asked in which way.
            column: Which task, and how.
            run: Training run behind it.
            task: That is played.
            options: More of ``wam evaluate``.
            bundle: What plays; None: the run's export.
            against: Row whose cell of the same column plays the same seeds and is compared with.
        """
        bundle = self.folder / "bundles" / run.name if bundle is None else bundle
        base = next((cell.results for cell in self.cells if (cell.row, cell.column) == (against, column)), None)
        out = self.folder / "evaluations" / f"{row} {column}".replace(" ", "_").replace("/", "-")
        given = ["--bundle", bundle, "--task", task, "--out", out, "--overwrite", "--episodes", self.episodes]
        quiet = ["--references", "none", "--videos", 0, "--failure-videos", 0, "--latency-ms", LATENCY_MS]
        self._add(f"evaluate {row}, {column}", "evaluate", [*given, *quiet, *options], out / "results.json")
        runs = [run]
        while runs[0] in self.origins:
            runs.insert(0, self.origins[runs[0]])
        self.cells.append(Cell(row=row, column=column, results=out / "results.json", runs=tuple(runs), against=base))

    def compare_tokenizers(self, models: Mapping[str, Path], dataset: Path) -> None:
        """Adds `wam bench tokenizers` and what it measures of each model.

        Args:
            models: Row of the table -> training run; costs are ratios to the first.
            dataset: Frames that none of them was trained on.
        """
        out = self.folder / "tokenizers"
        given = ["--runs", *models.values(), "--dataset", dataset, "--out", out]
        self._add("bench tokenizers", "bench", ["tokenizers", *given], out / "results.json")
        for row, run in models.items():
            for column, text, *keys in TOKENIZER_FIGURES:
                where = ("rows", str(run), *keys)
                figure = Figure(row=row, column=column, source=out / "results.json", keys=where, text=text)
                self.figures.append(figure)

    def _add(self, name: str, verb: str, options: Sequence[object], output: Path) -> None:
        if any(stage.name == name for stage in self.stages):
            return
        argv = (sys.executable, "-m", "wam.cli", verb, *map(str, options))
        self.stages.append(StageCommand(name=name, argv=argv, output=output))
