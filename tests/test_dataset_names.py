"""Columns are told by name in every form that LeRobot writes; what does not fit is one message."""

import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.small_datasets import DATA, EPISODES, ROBOT, TASKS, copy_dataset, edit_info, edit_rows, write_dataset
from wam.dataset_check import check_dataset, check_numbers
from wam.dataset_names import ReadAs, column_names
from wam.errors import ConfigError, DatasetError
from wam.spec import ACTION, OBS_STATE
from wam.train_config import TrainConfig

NAMES = list(ROBOT.action_names)
SHUFFLED = [NAMES[i] for i in (6, 2, 0, 5, 1, 4, 3)]


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("names") / "sound")


@pytest.fixture
def dataset(sound, tmp_path):
    return copy_dataset(sound, tmp_path / "dataset")


def name_columns(root, names, keys=(OBS_STATE, ACTION)):
    def change(info):
        for key in keys:
            if names is ...:
                del info["features"][key]["names"]
            else:
                info["features"][key]["names"] = names

    edit_info(root, change)


@pytest.mark.parametrize(
    ("names", "width", "found"),
    [
        (["a", "b"], 2, ("a", "b")),
        ({"motors": ["a", "b"]}, 2, ("a", "b")),
        ({"axes": ["a", "b"]}, 2, ("a", "b")),
        ({"left": ["a"], "right": ["b"]}, 2, ("a", "b")),
        ({"b": 1, "a": 0}, 2, ("a", "b")),
        ([["a", "b"]], 2, ("a", "b")),
        ("a", 1, ("a",)),
        ("a, b", 2, ("a", "b")),
        ("state", 2, ()),
        (None, 2, ()),
        ([], 2, ()),
    ],
)
def test_every_form_of_names_is_read(names, width, found):
    assert column_names(names, width) == found


@pytest.mark.parametrize(
    "form",
    [
        lambda names: names,
        lambda names: {"motors": names},
        lambda names: {"axes": names},
        lambda names: [names],
        lambda names: {name: place for place, name in enumerate(names)},
        lambda names: [f"{name}.pos" for name in names],
        ", ".join,
    ],
)
def test_columns_are_put_in_order_by_name(sound, dataset, form):
    order = [NAMES.index(name) for name in SHUFFLED]

    def shuffle(rows):
        for row in rows:
            for key in (OBS_STATE, ACTION):
                row[key] = [row[key][place] for place in order]

    edit_rows(dataset, DATA, shuffle)
    name_columns(dataset, form(SHUFFLED))
    tables, expected = check_dataset(dataset, ROBOT).tables, check_dataset(sound, ROBOT).tables
    assert np.array_equal(tables.proprio, expected.proprio)
    assert np.array_equal(tables.action, expected.action)


def test_all_missing_and_unknown_names_are_in_one_message(dataset):
    name_columns(dataset, {"motors": ["j1", "j2", *NAMES[2:]]}, keys=[OBS_STATE])
    name_columns(dataset, ["x", "y", "z", "roll", "pitch", "yaw", "gripper"], keys=[ACTION])
    with pytest.raises(DatasetError) as caught:
        check_dataset(dataset, ROBOT)
    text = str(caught.value)
    assert "there are 2 reasons" in text
    assert "lacks yaw, shoulder; has unknown j1, j2" in text
    assert "has unknown x, y, z, roll, pitch" in text


@pytest.mark.parametrize("names", [None, ..., [], "state"])
def test_no_names_want_an_option(sound, dataset, names):
    name_columns(dataset, names)
    with pytest.raises(DatasetError, match=r"have no names .*in this order: --axes-in-robot-order"):
        check_dataset(dataset, ROBOT)
    tables = check_dataset(dataset, ROBOT, ReadAs(robot_order=True)).tables
    assert np.array_equal(tables.action, check_dataset(sound, ROBOT).tables.action)


def test_the_option_does_not_overrule_names(dataset):
    name_columns(dataset, ["shoulder", "x", *NAMES[2:]])
    with pytest.raises(DatasetError, match="lacks yaw; has unknown x"):
        check_dataset(dataset, ROBOT, ReadAs(robot_order=True))


def test_other_keys_are_named_and_mapped(sound, dataset):
    others = {OBS_STATE: "state", ACTION: "actions"}

    def rename(info):
        info["features"] = {others.get(key, key): value for key, value in info["features"].items()}

    edit_info(dataset, rename)
    edit_rows(dataset, DATA, lambda rows: [{others.get(k, k): v for k, v in row.items()} for row in rows])
    with pytest.raises(
        DatasetError, match=r"no 'observation.state', 'action'; .*--keys observation.state=state action="
    ):
        check_dataset(dataset, ROBOT)
    keys = ("observation.state=state", "action=actions")
    read_as = TrainConfig(dataset=(dataset,), out=dataset, keys=keys).read_as()
    assert np.array_equal(
        check_dataset(dataset, ROBOT, read_as).tables.action, check_dataset(sound, ROBOT).tables.action
    )


@pytest.mark.parametrize("pair", ["state", "observation.state=", "stat=state"])
def test_pairs_of_keys_are_checked(tmp_path, pair):
    with pytest.raises(ConfigError, match=f"keys has '{pair}' but wants pairs"):
        TrainConfig(dataset=(tmp_path,), out=tmp_path, keys=(pair,))


def test_what_other_writers_do_is_read(sound, dataset):
    """Numbers as doubles, text as a dictionary, another spelling of the data file's place, a column 'task'."""

    def doubles(rows):
        for row in rows:
            row |= {name: float(row[name]) for name in ("episode_index", "frame_index", "task_index", "index")}
            row["task"] = "lift the cube"

    edit_rows(dataset, DATA, doubles)
    spelled = {"data/chunk_index": "data_chunk_index", "data/file_index": "data_file_index"}
    edit_rows(dataset, EPISODES, lambda rows: [{spelled.get(k, k): v for k, v in row.items()} for row in rows])
    words = pa.array(["lift the cube", "push the cube"]).dictionary_encode()
    pq.write_table(pa.table({"task": words, "task_index": [0.0, 1.0]}), dataset / TASKS)
    tables, expected = check_dataset(dataset, ROBOT).tables, check_dataset(sound, ROBOT).tables
    assert np.array_equal(tables.proprio, expected.proprio)
    assert tables.instructions == expected.instructions
    assert np.array_equal(tables.task_places, expected.task_places)


def drop(root, file, *names):
    edit_rows(root, file, lambda rows: [{k: v for k, v in row.items() if k not in names} for row in rows])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: drop(root, DATA, "timestamp", ACTION), "columns 'timestamp', 'action' are missing; it has"),
        (lambda root: drop(root, EPISODES, "length"), "column 'length' is missing; it has episode_index"),
        (
            lambda root: drop(root, EPISODES, "data/file_index", "videos/observation.images.wrist/from_timestamp"),
            "columns 'data/file_index', 'videos/observation.images.wrist/from_timestamp' are missing",
        ),
        (lambda root: edit_info(root, lambda info: info.update(fps=None)), "'fps' is None but must be the frames"),
        (
            lambda root: edit_info(root, lambda info: [info.pop(key) for key in ("fps", "features")]),
            "fields 'fps', 'features' are missing",
        ),
        (
            lambda root: edit_info(root, lambda info: info.update(fps=-1, total_frames="x", data_path="data.parquet")),
            "'fps' is -1 .*'total_frames' is 'x' .*'data_path' is 'data.parquet'",
        ),
        (
            lambda root: edit_rows(root, DATA, lambda rows: [row | {"task_index": 7} for row in rows]),
            "task_index 7 of 80 rows .* is not in meta/tasks.parquet, which has 0, 1. .*--operation.new_task",
        ),
        (
            lambda root: edit_rows(
                root, TASKS, lambda rows: [row | {"task_index": 1 - row["task_index"]} for row in rows]
            ),
            "episode 0 is 'lift the cube' by meta/episodes but 'push the cube' by task_index",
        ),
        (lambda root: (root / TASKS).unlink(), "tasks.parquet is missing.*lerobot-edit-dataset .*modify_tasks"),
        (lambda root: edit_info(root, lambda info: info.update(total_episodes=0)), "holds no episode: recording was"),
        (
            lambda root: edit_rows(root, DATA, lambda rows: [row | {ACTION: row[ACTION][:5]} for row in rows]),
            "not every row of 'action' has 7 numbers",
        ),
        (
            lambda root: edit_rows(root, DATA, lambda rows: [row | {ACTION: "x"} for row in rows]),
            r"not every row of 'action' has 7 numbers \(it is stored as string\)",
        ),
        (
            lambda root: edit_rows(root, DATA, lambda rows: [row | {"frame_index": 0.5} for row in rows]),
            "column 'frame_index' holds 0.5 in row 0 .80 rows in all. but must hold whole numbers",
        ),
    ],
)
def test_faults_of_metadata_are_one_message_each(dataset, spoil, message):
    spoil(dataset)
    with pytest.raises(DatasetError, match=message):
        check_dataset(dataset, ROBOT)


def test_metadata_alone_is_called_so(dataset):
    for folder in ("data", "videos"):
        (dataset / folder).rename(dataset / f"{folder}_elsewhere")
    with pytest.raises(DatasetError, match="is metadata alone: .* so are all 3 files .*cp -r SOURCE"):
        check_dataset(dataset, ROBOT)


def test_all_faults_of_all_datasets_are_said_at_once(sound, dataset):
    other = copy_dataset(sound, dataset.parent / "other")
    (dataset / TASKS).unlink()
    edit_info(dataset, lambda info: info.update(fps=30))
    drop(other, EPISODES, "length")
    with pytest.raises(DatasetError) as caught:
        check_numbers([dataset, other], ROBOT)
    for words in (
        "there are 3 reasons",
        "tasks.parquet is missing",
        "has 30 frames per second",
        "column 'length' is missing",
    ):
        assert words in str(caught.value)


CHECK_WITHOUT = """
import importlib.abc, sys
class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "lerobot", "av", "accelerate", "transformers"):
            raise ImportError(f"imported too early: {name}")
sys.meta_path.insert(0, Block())
from wam.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("fault", ["names", "units"])
def test_faults_are_said_before_torch_lerobot_and_films(repository, dataset, fault):
    if fault == "names":
        name_columns(dataset, ["a", *NAMES[1:]])
    else:
        edit_rows(dataset, DATA, lambda rows: [row | {ACTION: [50.0 * x for x in row[ACTION]]} for row in rows])
    command = ["train", "--dataset", str(dataset), "--out", str(dataset / "run"), "--robot", "sim6"]
    line = [sys.executable, "-c", CHECK_WITHOUT, *command]
    done = subprocess.run(line, cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert ("lacks yaw; has unknown a" if fault == "names" else "looks like") in done.stderr


def test_a_sound_dataset_reaches_what_is_heavy(repository, dataset):
    command = ["train", "--dataset", str(dataset), "--out", str(dataset / "run"), "--robot", "sim6"]
    line = [sys.executable, "-c", CHECK_WITHOUT, *command]
    done = subprocess.run(line, cwd=repository, capture_output=True, text=True, check=False)
    assert "imported too early" in done.stderr
    assert json.loads((dataset / "meta/info.json").read_text())["fps"] == 10
