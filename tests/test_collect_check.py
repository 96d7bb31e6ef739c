"""The check before training: every kind of damage to a real dataset is found, named and explained."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sim import collect as command
from wam.dataset_check import check_dataset
from wam.dataset_meta import meta_path
from wam.errors import DatasetError
from wam.robot import load_robot
from wam.spec import ACTION, OBS_STATE, image_key

pytest.importorskip("lerobot")
pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

ROBOT = load_robot("sim6")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    out = tmp_path_factory.mktemp("check") / "reach"
    assert command.main(["--task", "reach", "--episodes", "2", "--out", str(out), "--workers", "1"]) == 0
    return out


@pytest.fixture
def dataset(recorded, tmp_path):
    """A copy that a test may damage."""
    return Path(shutil.copytree(recorded, tmp_path / "reach"))


def data_file(root: Path) -> Path:
    return root / "data/chunk-000/file-000.parquet"


def episodes_file(root: Path) -> Path:
    return root / "meta/episodes/chunk-000/file-000.parquet"


def video_file(root: Path) -> Path:
    return root / f"videos/{image_key('wrist')}/chunk-000/file-000.mp4"


def cut(path: Path, share: float = 0.6) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def edit_json(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_column(root: Path, name: str, change) -> None:
    table = pq.read_table(data_file(root))
    values = change(table[name].to_pylist())
    index = table.column_names.index(name)
    pq.write_table(
        table.set_column(index, table.field(name), pa.array(values, table.field(name).type)), data_file(root)
    )


def test_sound_dataset_is_described(dataset):
    summary = check_dataset(dataset, ROBOT)
    assert summary.episodes == len(summary.lengths) == 2
    assert summary.frames == sum(summary.lengths) == pq.read_metadata(data_file(dataset)).num_rows
    assert summary.meta.task == "reach"


def test_dataset_of_another_tool_has_no_metadata_of_ours_and_is_fine(dataset):
    meta_path(dataset).unlink()
    assert check_dataset(dataset, ROBOT).meta is None


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(("key", "column", "name"), [(ACTION, 1, "shoulder"), (OBS_STATE, 6, "gripper")])
def test_number_that_is_not_finite_is_named_by_episode_and_column(dataset, key, column, name, value):
    row = check_dataset(dataset, ROBOT).lengths[0] + 2

    def spoil(rows):
        rows[row][column] = value
        return rows

    edit_column(dataset, key, spoil)
    with pytest.raises(
        DatasetError, match=rf"episode 1 holds {value} in '{key}', column '{name}' \(row {row}, 1 numbers"
    ):
        check_dataset(dataset, ROBOT)


def test_missing_row_value_is_found(dataset):
    edit_column(dataset, ACTION, lambda rows: [None, *rows[1:]])
    with pytest.raises(DatasetError, match="not every row of 'action' has 7 numbers|holds nan in 'action'"):
        check_dataset(dataset, ROBOT)


@pytest.mark.parametrize("path", [data_file, episodes_file])
def test_truncated_table_is_named(dataset, path):
    cut(path(dataset))
    with pytest.raises(
        DatasetError, match=f"{path(dataset)} cannot be read .*truncated or damaged.*record the dataset"
    ):
        check_dataset(dataset, ROBOT)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.95])
def test_truncated_video_is_named(dataset, share):
    cut(video_file(dataset), share)
    with pytest.raises(
        DatasetError, match=f"{video_file(dataset)} (cannot be read|holds .* frames but episodes 0 to 1)"
    ):
        check_dataset(dataset, ROBOT)


@pytest.mark.parametrize("path", [data_file, video_file])
def test_missing_file_is_named(dataset, path):
    path(dataset).unlink()
    with pytest.raises(DatasetError, match=f"{path(dataset)} is missing"):
        check_dataset(dataset, ROBOT)


def test_video_of_another_episode_is_found(dataset):
    other = dataset / f"videos/{image_key('front')}/chunk-000/file-000.mp4"
    av = pytest.importorskip("av")
    with av.open(str(other)) as source, av.open(str(video_file(dataset)), "w") as shorter:
        stream = shorter.add_stream_from_template(source.streams.video[0], opaque=True)
        for packet in list(source.demux(source.streams.video[0]))[:7]:
            packet.stream = stream
            shorter.mux(packet)
    with pytest.raises(DatasetError, match="holds 7 frames but episodes 0 to 1 need"):
        check_dataset(dataset, ROBOT)


def test_lost_rows_are_named_by_episode(dataset):
    table = pq.read_table(data_file(dataset))
    pq.write_table(table.slice(0, table.num_rows - 3), data_file(dataset))
    length = check_lengths(dataset)[1]
    with pytest.raises(DatasetError, match=f"episode 1 has {length - 3} rows in its data file but {length} frames"):
        check_dataset(dataset, ROBOT)


def check_lengths(root: Path) -> list[int]:
    return pq.read_table(episodes_file(root), columns=["length"])["length"].to_pylist()


def test_lost_column_is_named(dataset):
    table = pq.read_table(data_file(dataset))
    pq.write_table(table.drop_columns(ACTION), data_file(dataset))
    with pytest.raises(DatasetError, match="column 'action' is missing; it has observation.state"):
        check_dataset(dataset, ROBOT)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"total_episodes": 5}, "lists 2 episodes but info.json promises 5"),
        ({"total_frames": 5}, "frames but info.json promises 5"),
        ({"codebase_version": "v2.1"}, "format v2.1 but only LeRobotDataset v3 is read.*convert_dataset_v21_to_v30"),
        ({"fps": 30}, "30 frames per second but robot 'sim6' is controlled at 10 Hz"),
    ],
)
def test_contradicting_info_is_found(dataset, changes, message):
    edit_json(dataset / "meta/info.json", **changes)
    with pytest.raises(DatasetError, match=message):
        check_dataset(dataset, ROBOT)


def test_info_is_needed_and_must_be_whole(dataset, tmp_path):
    path = dataset / "meta/info.json"
    with pytest.raises(DatasetError, match=r"there is no dataset at .*nowhere: record one with wam collect"):
        check_dataset(tmp_path / "nowhere", ROBOT)
    text = path.read_text()
    path.write_text(text.replace('"fps"', '"fsp"'))
    with pytest.raises(DatasetError, match="info.json: field 'fps' is missing"):
        check_dataset(dataset, ROBOT)
    cut(path)
    with pytest.raises(DatasetError, match="info.json is not valid JSON.*truncated"):
        check_dataset(dataset, ROBOT)
    path.unlink()
    with pytest.raises(DatasetError, match="info.json is missing, so .* is not a LeRobot dataset or is not finished"):
        check_dataset(dataset, ROBOT)


def test_lost_episode_table_is_found(dataset):
    episodes_file(dataset).unlink()
    with pytest.raises(DatasetError, match="holds no episodes: .*meta/episodes is empty or missing"):
        check_dataset(dataset, ROBOT)


def test_metadata_of_another_recording_is_found(dataset):
    stored = json.loads(meta_path(dataset).read_text())
    stored["episodes"][0]["steps"] += 1
    meta_path(dataset).write_text(json.dumps(stored))
    with pytest.raises(DatasetError, match="wam.json lists 2 episodes of .* not from one recording"):
        check_dataset(dataset, ROBOT)


def test_other_robot_is_refused_with_the_differences(dataset):
    joints = (dataclasses.replace(ROBOT.joints[0], name="base"), *ROBOT.joints[1:])
    other = dataclasses.replace(ROBOT, name="other6", joints=joints)
    with pytest.raises(
        DatasetError, match="was recorded on robot 'sim6', not on 'other6' .*joints and gripper: .*'yaw'"
    ):
        check_dataset(dataset, other)
    meta_path(dataset).unlink()
    with pytest.raises(
        DatasetError, match="columns of 'observation.state' are yaw, .* but robot 'other6' expects base"
    ):
        check_dataset(dataset, other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"joints": ROBOT.joints[:5]}, r"has shape \(7,\) but robot 'sim6' expects \(6,\)"),
        ({"control_rate_hz": 20.0}, "10 frames per second but robot 'sim6' is controlled at 20 Hz"),
        (
            {"cameras": (*ROBOT.cameras, dataclasses.replace(ROBOT.cameras[0], name="top"))},
            "has no 'observation.images.top'; it has action",
        ),
    ],
)
def test_robot_that_does_not_fit_is_refused_without_our_metadata_too(dataset, change, message):
    meta_path(dataset).unlink()
    with pytest.raises(DatasetError, match=message):
        check_dataset(dataset, dataclasses.replace(ROBOT, **change))


def test_images_instead_of_video_are_refused(dataset):
    info = json.loads((dataset / "meta/info.json").read_text())
    info["features"][image_key("front")]["dtype"] = "image"
    edit_json(dataset / "meta/info.json", features=info["features"])
    with pytest.raises(DatasetError, match="'observation.images.front' is stored as image but only video is read"):
        check_dataset(dataset, ROBOT)


def test_check_does_not_need_torch(repository, dataset):
    code = (
        "import sys; from pathlib import Path\n"
        "sys.modules['torch'] = sys.modules['lerobot'] = None\n"
        "from wam.dataset_check import check_dataset; from wam.robot import load_robot\n"
        "print(check_dataset(Path(sys.argv[1]), load_robot('sim6')).episodes)"
    )
    line = [sys.executable, "-c", code, str(dataset)]
    done = subprocess.run(line, cwd=repository, capture_output=True, text=True, check=True)
    assert done.stdout == "2\n"
