"""`wam study`: a list of real commands, resumed where it stopped, and a table whose numbers are the evaluations'."""

import json
import shlex
import sys
from pathlib import Path

import pytest
import tyro

from sim import study
from sim.collect import CollectConfig
from sim.commands import command_line
from sim.demo_stages import StageCommand
from sim.evaluate import EvaluateConfig
from sim.studies import STUDIES, Study
from sim.study import main, markdown
from sim.study_plan import Plan
from sim.tasks import get_task
from wam.cli import VERBS
from wam.errors import ConfigError
from wam.export import ExportConfig
from wam.train_config import TrainConfig

TAKES = {"collect": CollectConfig, "train": TrainConfig, "export": ExportConfig, "evaluate": EvaluateConfig}

RESULTS = """
import json, pathlib, sys
out = pathlib.Path(sys.argv[1]); out.mkdir(parents=True, exist_ok=True)
row = {"successes": int(sys.argv[2]), "episodes": 4, "rate": int(sys.argv[2]) / 4, "low": 0.1, "high": 0.9}
print("played", out.name)
(out / "results.json").write_text(json.dumps({"rows": [row], "n_steps": 4, "latency_ms": {"p50": 2.0}}))
"""

METRICS = """
run = pathlib.Path("{run}"); run.mkdir(parents=True)
(run / "metrics.jsonl").write_text((json.dumps(dict(cpu_seconds={seconds})) + chr(10)) * 2)
"""


@pytest.mark.parametrize("name", sorted(STUDIES))
def test_every_study_consists_of_commands_that_exist(name: str, tmp_path: Path):
    plan = Plan(folder=tmp_path, robot="sim6", episodes=7)
    STUDIES[name].build(plan)
    assert {stage.argv[3] for stage in plan.stages} <= set(VERBS)
    assert len({stage.name for stage in plan.stages}) == len(plan.stages)
    assert len({cell.results for cell in plan.cells}) == len(plan.cells) > 0
    made = {stage.output for stage in plan.stages}
    assert all(cell.results in made for cell in plan.cells)
    for stage in plan.stages:
        if stage.argv[3] in TAKES:  # and their options go together
            config = tyro.cli(TAKES[stage.argv[3]], args=stage.argv[4:])
            if isinstance(config, EvaluateConfig) and config.named:
                assert get_task(config.task).others is None, "its distractors start where they cannot be solved"


def fake(plan: Plan) -> None:
    for row, successes in (("one", 3), ("two", 1)):
        plan.evaluate(row, "reach", plan.folder / "runs" / row, "reach", [])
        last = plan.stages[-1]
        argv = (sys.executable, "-c", RESULTS, str(last.output.parent), str(successes))
        plan.stages[-1] = StageCommand(name=last.name, argv=argv, output=last.output)


def test_the_table_holds_what_was_measured_and_nothing_runs_twice(tmp_path: Path, monkeypatch, capfd):
    monkeypatch.setitem(STUDIES, "fake", Study(title="Fake", question="Does it count?", build=fake))
    assert main(["--name", "fake", "--out", str(tmp_path), "--episodes", "4"]) == 0
    assert capfd.readouterr().out.count("played") == 2
    rows = json.loads((tmp_path / "study.json").read_text())["rows"]
    assert [(row["row"], row["successes"]) for row in rows] == [("one", 3), ("two", 1)]
    assert "| one | 75.0 % (10–90) |" in (tmp_path / "table.md").read_text()
    (tmp_path / "evaluations/two_reach/results.json").unlink()
    assert main(["--name", "fake", "--out", str(tmp_path), "--episodes", "4"]) == 0
    assert capfd.readouterr().out.count("played") == 1


def test_cells_that_were_not_measured_stay_empty():
    rows = [{"row": "a", "column": "x", "rate": 1.0, "low": 0.5, "high": 1.0, "training_cpu_minutes": 1.0}]
    rows.append({"row": "b", "column": "y", "rate": 0.0, "low": 0.0, "high": 0.5, "training_cpu_minutes": 2.5})
    assert "| a | 100.0 % (50–100) | – |" in markdown("T", "Q", "wam study", rows)


def test_training_time_counts_the_runs_that_a_model_started_from(tmp_path: Path, monkeypatch, capfd):
    def build(plan: Plan) -> None:
        first = plan.train("first", [tmp_path], [])
        second = plan.train("second", [tmp_path], ["--steps", 5], init=first)
        assert plan.stages[-1].argv[-4:] == ("--init", str(first), "--steps", "5")
        plan.stages.clear()
        plan.evaluate("one", "reach", second, "reach", [])
        last = plan.stages[-1]
        metrics = "".join(METRICS.format(run=run, seconds=seconds) for run, seconds in ((first, 60.0), (second, 33.0)))
        argv = (sys.executable, "-c", RESULTS + metrics, str(last.output.parent), "3")
        plan.stages[-1] = StageCommand(name=last.name, argv=argv, output=last.output)

    monkeypatch.setitem(STUDIES, "fake", Study(title="Fake", question="How long?", build=build))
    assert main(["--name", "fake", "--out", str(tmp_path / "study"), "--episodes", "4"]) == 0
    assert json.loads((tmp_path / "study/study.json").read_text())["rows"][0]["training_cpu_minutes"] == 3.1
    assert "took 3.1 to 3.1 CPU-minutes" in (tmp_path / "study/table.md").read_text()


def test_bad_arguments(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"unknown study 'langage' \(did you mean 'language'\?\)"):
        study.StudyConfig(name="langage")
    with pytest.raises(ConfigError, match="episodes is 0 but must be at least 1"):
        study.StudyConfig(name="steps", episodes=0)


def test_what_is_no_success_stands_beside_it_with_its_own_text(tmp_path: Path):
    plan = Plan(folder=tmp_path, robot="sim6", episodes=4)
    plan.compare_tokenizers({"ours": tmp_path / "a", "theirs": tmp_path / "b"}, tmp_path / "data")
    argv = plan.stages[-1].argv[3:]
    assert argv[:5] == ("bench", "tokenizers", "--runs", str(tmp_path / "a"), str(tmp_path / "b"))
    row = {"vivid_error_de": 1.26, "other_error_de": 0.5, "psnr_db": 30.0}
    row["cpu_ratio"] = {"encode": 1.0, "training_step": 2.0}
    plan.figures[0].source.parent.mkdir()
    plan.figures[0].source.write_text(json.dumps({"rows": {str(tmp_path / name): row for name in "ab"}}))
    rows = [study._figure(figure) for figure in plan.figures]
    cell = {"row": "ours", "column": "reach", "rate": 1.0, "low": 0.5, "high": 1.0, "training_cpu_minutes": 2.0}
    text = markdown("T", "Q", "wam study", [cell, *rows])
    assert "| ours | 100.0 % (50–100) | 1.3 | 0.5 | 30.0 | × 1.00 | × 2.00 |" in text
    assert "| theirs | – | 1.3 |" in text


def test_a_quantised_model_is_compared_with_its_own_on_the_same_seeds(tmp_path: Path):
    data, run = tmp_path / "somewhere", tmp_path / "else"
    plan = Plan(folder=tmp_path / "s", robot="sim6", episodes=4, tasks=("lift",), reuse={"lift_0": data, "lift": run})
    STUDIES["quantise"].build(plan)
    assert [stage.argv[3] for stage in plan.stages] == ["export", "evaluate", "quantise", "evaluate"]  # nothing trained
    assert plan.stages[0].argv[4:6] == ("--checkpoint", str(run))
    assert plan.stages[2].argv[4:7] == (str(tmp_path / "s/bundles/lift"), "--dataset", str(data))
    assert [cell.against for cell in plan.cells] == [None, plan.cells[0].results]
    solved = [(True, True, False, True), (True, False, False, False)]
    for cell, found in zip(plan.cells, solved, strict=True):
        row = {"successes": sum(found), "episodes": 4, "rate": sum(found) / 4, "low": 0.1, "high": 0.9}
        episodes = [{"row": "policy", "seed": seed, "success": success} for seed, success in enumerate(found)]
        episodes.append({"row": "expert", "seed": 0, "success": True})
        cell.results.parent.mkdir(parents=True)
        results = {"rows": [row], "episodes": episodes, "n_steps": 4, "latency_ms": {"p50": 2.0}}
        cell.results.write_text(json.dumps(results))
    rows = [study._record(cell) for cell in plan.cells]
    assert rows[0]["mcnemar"] is None
    assert rows[1]["mcnemar"] == {"only_first": 2, "only_second": 0, "p_value": 0.5, "episodes": 4}
    assert "| INT8 | 25.0 % (10–90), p = 0.5 |" in markdown("T", "Q", "wam study", rows)


def test_what_is_reused_must_be_there(tmp_path: Path):
    with pytest.raises(ConfigError, match="--reuse lift=nowhere must be NAME=FOLDER"):
        study.StudyConfig(name="quantise", reuse=("lift=nowhere",))
    with pytest.raises(ConfigError, match=r"unknown task 'lft' \(did you mean 'lift'\?\)"):
        study.StudyConfig(name="quantise", tasks=("lft",))
    study.StudyConfig(name="quantise", tasks=("lift",), reuse=(f"lift={tmp_path}",))


def test_the_command_of_a_table_can_be_given_again(tmp_path: Path):
    folders = [tmp_path / "a b", tmp_path / "c"]
    for folder in folders:
        folder.mkdir()
    reuse = tuple(f"{name}={folder}" for name, folder in zip(("lift", "lift_0"), folders, strict=True))
    config = study.StudyConfig(name="quantise", tasks=("lift",), reuse=reuse)
    command = command_line("study", config, always=("name",))
    assert command == f"wam study --name quantise --tasks lift --reuse '{reuse[0]}' {reuse[1]}"
    assert tyro.cli(study.StudyConfig, args=shlex.split(command)[2:]) == config
