"""meta/wam.json: round trip, refusals, and which differences between robots matter."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wam.dataset_meta import (
    DatasetMeta,
    EpisodeMeta,
    limit_changes,
    meta_path,
    read_meta,
    robot_differences,
    write_meta,
)
from wam.errors import DatasetError
from wam.robot import load_robot

ROBOT = load_robot("sim6")
EPISODES = st.builds(
    EpisodeMeta,
    seed=st.integers(0, 99_999),
    success=st.booleans(),
    steps=st.integers(1, 500),
    noise=st.floats(0, 1, allow_nan=False),
)


@given(
    episodes=st.lists(EPISODES, max_size=5),
    failed=st.lists(st.integers(0, 99_999), max_size=3),
    settings=st.dictionaries(st.text(max_size=8), st.one_of(st.integers(-9, 9), st.text(max_size=8)), max_size=3),
)
def test_metadata_survives_json(episodes, failed, settings):
    meta = DatasetMeta(
        robot=ROBOT,
        task="lift",
        episodes=tuple(episodes),
        failed_seeds=tuple(failed),
        settings=settings,
        versions={"wam": "1"},
        cpu_seconds={"simulation": 1.5},
    )
    assert DatasetMeta.from_dict(json.loads(json.dumps(meta.to_dict()))) == meta


def test_file_is_written_and_read_back(tmp_path):
    meta = DatasetMeta(robot=ROBOT, task="reach", episodes=())
    assert read_meta(tmp_path) is None
    write_meta(tmp_path, meta)
    assert read_meta(tmp_path) == meta
    assert [path.name for path in meta_path(tmp_path).parent.iterdir()] == ["wam.json"]
    stored = json.loads(meta_path(tmp_path).read_text())
    assert stored["robot_fingerprint"] == ROBOT.fingerprint()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 99}, "has format 99 but this version reads format 1"),
        ({"task": None}, "field 'task' is missing"),
        ({"episodes": [{"seed": 1}]}, "malformed.*restore it from a copy"),
        ({"episodes": 3}, "malformed"),
        ({"robot": {"name": "x"}}, "malformed.*field 'joints' is missing"),
    ],
)
def test_bad_metadata_is_refused(change, message):
    data = DatasetMeta(robot=ROBOT, task="lift", episodes=()).to_dict() | change
    with pytest.raises(DatasetError, match=message):
        DatasetMeta.from_dict({key: value for key, value in data.items() if value is not None})


@pytest.mark.parametrize(
    ("text", "message"), [('{"format": 1, "ta', "not valid JSON.*truncated"), ("[1]", "is a list")]
)
def test_damaged_file_is_refused(tmp_path, text, message):
    meta_path(tmp_path).parent.mkdir()
    meta_path(tmp_path).write_text(text)
    with pytest.raises(DatasetError, match=message):
        read_meta(tmp_path)


def test_robot_differences_name_what_would_be_misread():
    wrist_first = dataclasses.replace(ROBOT, cameras=ROBOT.cameras[::-1])
    faster = dataclasses.replace(ROBOT, name="fast6", control_rate_hz=20.0)
    assert robot_differences(ROBOT, ROBOT) == []
    assert len(robot_differences(ROBOT, wrist_first)) == 1
    assert robot_differences(ROBOT, wrist_first)[0].startswith("cameras: ('front', 'wrist') recorded")
    assert [text.split(":")[0] for text in robot_differences(ROBOT, faster)] == ["name", "control rate [Hz]"]


def test_changed_limits_do_not_make_another_robot_but_are_said():
    moved = dataclasses.replace(ROBOT, state_topic="/arm/joint_states")
    assert robot_differences(ROBOT, moved) == limit_changes(ROBOT, moved) == []
    slow = dataclasses.replace(
        ROBOT, joints=(dataclasses.replace(ROBOT.joints[0], max_velocity=1.0), *ROBOT.joints[1:])
    )
    assert robot_differences(ROBOT, slow) == []
    assert limit_changes(ROBOT, slow) == ["robot 'sim6' has other limits than on the day of the dataset: yaw"]
