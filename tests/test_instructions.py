"""Instructions from the dataset to the robot: read to their end, told apart, listed, and an unseen one is said."""

import dataclasses
import itertools
import json
import logging
from pathlib import Path

import pytest

from policy.runner import Policy
from sim.evaluate import evaluate, summary
from sim.evaluate_config import EvaluateConfig
from tests.small_datasets import DATA, EPISODES, TASKS, copy_dataset, edit_rows, write_dataset
from tests.test_policy_runner import FakeBackend, make_manifest, make_observation
from wam import doctor
from wam.checkpoint import describe_checkpoint
from wam.cli import main as wam
from wam.errors import BundleError, ConfigError, DatasetError, ValueContractError
from wam.export_source import checkpoint_source
from wam.manifest import Manifest
from wam.text import VOCABULARY_SIZE, token_ids
from wam.train import train
from wam.train_config import TrainConfig

FIFTEEN = "take the cube that lies on the left side of the table and lift it"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("small") / "dataset")


def with_tasks(source: Path, root: Path, *tasks: str) -> Path:
    """A copy whose instructions are others; episodes take them in turns, and no row has those beyond the second."""
    copy_dataset(source, root)
    rows = [{"task_index": index, "__index_level_0__": task} for index, task in enumerate(tasks)]
    edit_rows(root, TASKS, lambda _: rows)
    edit_rows(root, EPISODES, lambda rows: [{**row, "tasks": []} for row in rows])
    return root


def run(out: Path, *datasets: Path, **changes) -> TrainConfig:
    options = {"preset": "micro", "steps": 1, "batch_size": 2, "validate_every": 1, "robot": "sim6", "threads": 1}
    return TrainConfig(dataset=datasets, out=out, **{**options, **changes})


def two_of_one_hash() -> tuple[str, str]:
    seen: dict[int, str] = {}
    for number in itertools.count():
        word = f"w{number}"
        other = seen.setdefault(int(token_ids(word, 1)[0]), word)
        if other != word:
            return other, word
    raise AssertionError(f"{VOCABULARY_SIZE} rows for all words")


@pytest.mark.parametrize("command", [False, True])
def test_instructions_that_differ_in_a_word_beyond_the_prompt_are_refused(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture, command: bool
):
    """The command says it without torch, before anything is decoded; training from a script says it as well."""
    root = with_tasks(dataset, tmp_path / "long", f"{FIFTEEN} left", f"{FIFTEEN} right")
    if command:
        given = ["train", "--dataset", str(root), "--out", str(tmp_path / "run"), "--robot", "sim6"]
        assert wam(given) == 2
        message = capsys.readouterr().err
    else:
        with pytest.raises(DatasetError) as error:
            train(run(tmp_path / "run", root))
        message = str(error.value)
    assert "has 16 words but the model reads 12: what stands from 'and' on would not count" in message
    assert message.strip().endswith("Let it read more: --prompt-length 16")
    assert not (tmp_path / "run" / "cache").exists()


def test_a_model_that_reads_more_takes_them(dataset: Path, tmp_path: Path):
    long = (f"{FIFTEEN} left", f"{FIFTEEN} right")
    root = with_tasks(dataset, tmp_path / "long", *long)
    assert train(run(tmp_path / "run", root, prompt_length=16)) == 0
    info = describe_checkpoint(tmp_path / "run")
    assert (info.config.prompt_length, set(info.instructions)) == (16, set(long))
    with pytest.raises(ConfigError, match="prompt_length is 20 .*keeps that of its checkpoint"):
        run(tmp_path / "more", root, init=tmp_path / "run", prompt_length=20)


def test_a_checkpoint_cannot_be_taught_longer_ones(dataset: Path, tmp_path: Path):
    assert train(run(tmp_path / "run", dataset)) == 0
    root = with_tasks(dataset, tmp_path / "long", "lift the cube", f"{FIFTEEN} left")
    with pytest.raises(DatasetError, match=r"25 rows: .*16 words.*Say it shorter: lerobot-edit-dataset .*task_repl"):
        train(run(tmp_path / "more", root, init=tmp_path / "run"))


def test_instructions_that_a_model_cannot_tell_apart_are_refused(dataset: Path, tmp_path: Path):
    one, other = two_of_one_hash()
    root = with_tasks(dataset, tmp_path / "alike", f"lift the {one}", f"lift the {other}")
    with pytest.raises(DatasetError, match=rf"'lift the {other}' and 'lift the {one}' become the same.*modify_tasks"):
        train(run(tmp_path / "run", root))


def test_spelling_and_instructions_without_rows_are_no_fault(dataset: Path, tmp_path: Path):
    one, other = two_of_one_hash()
    unused = (f"lift the {one}", f"lift the {other}", f"{FIFTEEN} left")
    root = with_tasks(dataset, tmp_path / "spelt", "Lift the cube.", "lift the cube", *unused)
    assert train(run(tmp_path / "run", root)) == 0
    assert describe_checkpoint(tmp_path / "run").instructions == ("Lift the cube.",)


def test_a_checkpoint_lists_what_it_was_trained_on(dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """Of all datasets; not what was held out; kept when a run goes on, extended when another starts from it."""
    other = with_tasks(dataset, tmp_path / "other", "open the door", "Push the cube!")
    edit_rows(other, DATA, lambda rows: [{**row, "task_index": int(row["episode_index"] == 2)} for row in rows])
    both = run(tmp_path / "both", dataset, other, validation_share=0.01)
    assert train(both) == 0
    held_out = describe_checkpoint(tmp_path / "both")
    assert set(held_out.instructions) == {"lift the cube", "push the cube", "open the door"}
    assert train(both) == 0  # nothing left to do
    assert train(run(tmp_path / "more", other, init=tmp_path / "both")) == 0
    assert describe_checkpoint(tmp_path / "more").instructions[:3] == held_out.instructions
    bundle = checkpoint_source(describe_checkpoint(tmp_path / "more")).origin
    assert bundle["instructions"] == list(held_out.instructions)
    file = next((tmp_path / "both").glob("checkpoints/*/checkpoint.json"))
    old = json.loads(file.read_text())
    del old["instructions"]
    file.write_text(json.dumps(old))
    assert describe_checkpoint(tmp_path / "both").instructions is None
    assert "instructions" not in checkpoint_source(describe_checkpoint(tmp_path / "both")).origin
    assert train(run(tmp_path / "later", dataset, init=tmp_path / "both")) == 0
    assert "does not say which instructions it was trained on" in caplog.text
    assert set(describe_checkpoint(tmp_path / "later").instructions) == {"lift the cube", "push the cube"}


def test_what_only_held_out_episodes_say_was_not_trained_on(dataset: Path, tmp_path: Path):
    root = with_tasks(dataset, tmp_path / "own", "one", "two", "three")
    edit_rows(root, DATA, lambda rows: [{**row, "task_index": row["episode_index"]} for row in rows])
    assert train(run(tmp_path / "run", root)) == 0
    assert len(describe_checkpoint(tmp_path / "run").instructions) == 2


def told(*instructions: str, **changes) -> Manifest:
    return dataclasses.replace(make_manifest(), checkpoint={"instructions": list(instructions)}, **changes)


def test_the_manifest_lists_them_or_does_not_tell():
    data = told("lift the red cube").to_dict()
    assert Manifest.from_dict(data).instructions == ("lift the red cube",)
    assert Manifest.from_dict(make_manifest().to_dict()).instructions is None
    data["checkpoint"]["instructions"] = "lift the red cube"
    with pytest.raises(BundleError, match=r"checkpoint\.instructions is 'lift the red cube' but must be a list"):
        Manifest.from_dict(data)


def test_an_unseen_instruction_is_a_warning_once(caplog: pytest.LogCaptureFixture):
    policy = Policy(told("lift the red cube", "push the red cube"), FakeBackend())
    with caplog.at_level(logging.WARNING):
        policy.infer(make_observation(task="Lift the red cube."))
        assert not caplog.records
        for _ in range(3):
            policy.infer(make_observation(task="pick up the red cube"))
        policy.infer(make_observation(task=""))
    first, second = caplog.messages
    assert "'pick up the red cube' is none of the 2" in first
    assert "the nearest is '" in first
    assert "an instruction without words" in second


def test_a_bundle_that_does_not_tell_says_nothing(caplog: pytest.LogCaptureFixture):
    Policy(make_manifest(), FakeBackend()).infer(make_observation(task="pick up the red cube"))
    assert not caplog.records


def test_a_policy_refuses_what_it_cannot_read():
    policy = Policy(told("lift the red cube"), FakeBackend())
    for ask in (policy.infer, Policy(told("lift the red cube"), FakeBackend(), imaginer=lambda: None).imagine):
        with pytest.raises(ValueContractError, match=r"16 words but the model reads 12.*such as 'lift the red cube'"):
            ask(make_observation(task=f"{FIFTEEN} left"))


def test_diagnostics_say_whether_the_instruction_is_known():
    instructions = Policy(told("lift the red cube"), FakeBackend()).instructions
    assert instructions.status("LIFT the red cube") == {"task_known": "yes"}
    assert instructions.status("lift it") == {"task_known": "no", "task_nearest": "lift the red cube"}
    assert Policy(make_manifest(), FakeBackend()).instructions.status("lift it") == {"task_known": "unknown"}


def asked(out: Path, *instructions: str) -> dict:
    few = {"episodes": 3, "references": "none", "videos": 0, "failure_videos": 0, "workers": 1, "latency_ms": "50"}
    config = EvaluateConfig(bundle=Path("unused"), task="reach", out=out, robot="sim6", execution_horizon=16, **few)
    return evaluate(config, make_policy=lambda: Policy(told(*instructions), FakeBackend()))


def test_evaluate_says_for_how_many_episodes_an_instruction_is_new(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    first = asked(tmp_path / "first", "reach the pink cube")
    assert sum(row["episodes"] for row in first["instructions"]) == 3
    assert all((row["known"], row["nearest"]) == (False, "reach the pink cube") for row in first["instructions"])
    assert "never trained on: 'reach the " in summary(first)
    assert "of 3 episodes)" in caplog.text
    caplog.clear()
    again = asked(tmp_path / "again", *(row["instruction"].upper() for row in first["instructions"]))
    assert all(row["known"] for row in again["instructions"])
    assert "never trained on" not in summary(again)
    assert "trained on" not in caplog.text


def test_evaluate_refuses_what_the_policy_cannot_read_before_the_first_episode(tmp_path: Path):
    short = dataclasses.replace(make_manifest(), model=dataclasses.replace(make_manifest().model, prompt_length=2))
    few = {"episodes": 1, "references": "none", "workers": 1, "latency_ms": "50"}
    config = EvaluateConfig(bundle=Path("unused"), task="reach", out=tmp_path, robot="sim6", **few)
    with pytest.raises(ValueContractError, match="has 4 words but the model reads 2"):
        evaluate(config, make_policy=lambda: Policy(short, FakeBackend()))


def test_doctor_describes_a_bundle(micro_bundle: Path, tmp_path: Path):
    value = doctor.find_bundle(micro_bundle).value
    assert "robot 'sim6', preset 'micro'" in value
    assert "instructions that nobody wrote down" in value
    assert doctor.find_bundle(tmp_path).status == doctor.BROKEN
