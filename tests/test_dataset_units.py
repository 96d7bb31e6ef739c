"""Numbers that are no positions of the robot are said before training: ranges, units, meaning, motion."""

import dataclasses

import numpy as np
import pytest

from tests.small_datasets import (
    DATA,
    EPISODES,
    ROBOT,
    TASKS,
    copy_dataset,
    edit_axis,
    edit_info,
    edit_rows,
    write_dataset,
)
from wam.dataset_check import check_dataset, check_numbers, check_written
from wam.dataset_motion import check_lengths
from wam.errors import DatasetError
from wam.limits import GRAZE
from wam.spec import ACTION, OBS_STATE
from wam.train_config import TrainConfig

JOINTS = range(6)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("units") / "sound")


@pytest.fixture
def dataset(sound, tmp_path):
    return copy_dataset(sound, tmp_path / "dataset")


def test_sound_dataset_passes_without_a_word(dataset):
    assert check_dataset(dataset, ROBOT).notes == ()


def test_degrees_and_percent_are_named_for_all_axes_at_once(dataset):
    edit_axis(dataset, np.degrees, axes=JOINTS)
    edit_axis(dataset, lambda values: 100 * values, axes=[6])
    with pytest.raises(DatasetError) as caught:
        check_dataset(dataset, ROBOT)
    text = str(caught.value)
    for key in (OBS_STATE, ACTION):
        for name in ROBOT.action_names:
            unit = "0..100" if name == "gripper" else "degrees"
            line = next(line for line in text.splitlines() if f"{key} '{name}'" in line)
            assert f"looks like {unit}" in line
            assert "of 80 rows" in line
    assert "--robot my_arm.yaml" in text.splitlines()[-1]


def test_cameras_and_rate_do_not_hide_what_is_wrong_with_the_numbers(dataset):
    def spoil(info):
        info["features"]["observation.images.top"] = info["features"].pop("observation.images.front")

    edit_info(dataset, spoil)
    edit_axis(dataset, np.degrees, axes=JOINTS)
    with pytest.raises(DatasetError) as caught:
        check_dataset(dataset, dataclasses.replace(ROBOT, control_rate_hz=20.0))
    for words in (
        "--keys observation.images.front=observation.images.top",
        "write control_rate_hz: 10 into its robot file",
        "looks like degrees",
    ):
        assert words in str(caught.value)


def test_normalised_joints_are_told_from_degrees(dataset):
    edit_axis(dataset, lambda values: 100 * values / np.abs(values).max(), axes=JOINTS)
    with pytest.raises(DatasetError, match=r"'yaw': -?\d.*looks like -100\.\.100"):
        check_dataset(dataset, ROBOT)


def test_servo_ticks_are_named(dataset):
    edit_axis(dataset, lambda values: 2048 + values * 4096 / (2 * np.pi), axes=JOINTS)
    with pytest.raises(DatasetError, match="'elbow': .*looks like servo ticks"):
        check_dataset(dataset, ROBOT)


@pytest.mark.parametrize("value", [1e9, 40.0, -1e300])
def test_one_absurd_number_is_refused_with_its_episode(dataset, value):
    def spoil(rows):
        rows[57][ACTION][2] = value

    edit_rows(dataset, DATA, spoil)
    with pytest.raises(DatasetError) as caught:
        check_dataset(dataset, ROBOT)
    if abs(value) < 1e30:
        assert "action 'elbow'" in str(caught.value)
    assert '--operation.episode_indices "[2]"' in str(caught.value)


def test_few_rows_outside_are_said_with_counts(tmp_path):
    root = write_dataset(tmp_path / "long", lengths=(150, 150))
    high = ROBOT.joints[1].position[1]

    def spoil(rows):
        rows[200][OBS_STATE][1] = high + 2 * GRAZE * (high - ROBOT.joints[1].position[0])

    edit_rows(root, DATA, spoil)
    (note,) = check_dataset(root, ROBOT).notes
    assert "'shoulder'" in note
    assert "1 of 300 rows" in note
    assert "episode 1" in note


def test_values_that_graze_a_range_are_no_matter(dataset):
    low, high = ROBOT.joints[0].position
    edit_axis(dataset, lambda values: values / np.abs(values).max() * (high + 0.9 * GRAZE * (high - low)), axes=[0])
    assert check_dataset(dataset, ROBOT).notes == ()


def test_joined_datasets_in_two_units_are_refused_together(sound, dataset, tmp_path):
    edit_axis(dataset, lambda values: values / 57.3)
    edit_axis(dataset, lambda values: values * 57.3, axes=[6])
    with pytest.raises(DatasetError, match=r"not in one unit: observation.state 'yaw' .*57.3 times as wide.*--dataset"):
        check_numbers([sound, dataset], ROBOT)


def test_one_axis_that_moves_elsewhere_is_said(sound, dataset):
    edit_axis(dataset, lambda values: values * 0.2 + 1.9, axes=[0])
    edit_axis(sound := copy_dataset(sound, dataset.parent / "other"), lambda values: values * 0.2 - 1.0, axes=[0])
    notes = check_numbers([sound, dataset], ROBOT)[-1].notes
    assert any("'yaw'" in note and "apart" in note for note in notes)


@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_delta_actions_are_refused_as_what_they_are(dataset, scale):
    def deltas(rows):
        for row in rows:
            row[ACTION][:6] = (scale * (np.array(row[ACTION]) - np.array(row[OBS_STATE])))[:6].tolist()

    edit_rows(dataset, DATA, deltas)
    with pytest.raises(
        DatasetError, match=r"delta actions.*'yaw' \|action - state\| .*correlation .*--absolute-actions"
    ):
        check_dataset(dataset, ROBOT)
    if scale == 1.0:
        told = TrainConfig(dataset=(dataset,), out=dataset, absolute_actions=True).read_as()
        assert check_dataset(dataset, ROBOT, told).tables is not None


@pytest.mark.parametrize("lag", [1, 2])
@pytest.mark.parametrize("offset", [0.0, 0.15])
def test_absolute_targets_pass_with_lag_noise_and_offset(dataset, lag, offset):
    generator = np.random.default_rng(1)

    def changed(rows):
        states = np.array([row[OBS_STATE] for row in rows])
        for index, row in enumerate(rows):
            later = states[min(index + lag, len(rows) - 1)]
            row[ACTION][:6] = (later + offset + generator.normal(0, 0.02, 7))[:6].tolist()

    edit_rows(dataset, DATA, changed)
    check_dataset(dataset, ROBOT)


def test_frozen_and_constant_axes_are_said_and_wholly_still_ones_refused(dataset):
    edit_axis(dataset, lambda values: 0 * values + 0.3, keys=[OBS_STATE], axes=[1, 3])
    edit_axis(dataset, lambda values: 0 * values + 0.3, keys=[ACTION], axes=[6])
    notes = check_dataset(dataset, ROBOT).notes
    assert notes == (
        "'observation.state' is frozen in 2 of 7 axes (shoulder, forearm_roll), all rows alike",
        "'action' is constant in 1 of 7 axes (gripper), all rows alike",
    )
    edit_axis(dataset, lambda values: 0 * values + 0.3, keys=[OBS_STATE])
    with pytest.raises(DatasetError, match="'observation.state' is frozen: every axis has one value in all 80 rows"):
        check_dataset(dataset, ROBOT)


def test_empty_tasks_are_said_and_refused_if_all_are(dataset):
    def change(words):
        def apply(rows):
            for row, text in zip(rows, words, strict=True):
                row["__index_level_0__"] = text

        edit_rows(dataset, TASKS, apply)
        edit_rows(dataset, EPISODES, lambda rows: [row | {"tasks": []} for row in rows])

    change(["lift", " "])
    assert check_dataset(dataset, ROBOT).notes == ("the task is empty in 25 of 80 rows (1 episodes)",)
    change(["", " "])
    with pytest.raises(DatasetError, match="needs an instruction. Write one: lerobot-edit-dataset"):
        check_dataset(dataset, ROBOT)


def test_short_episodes_are_said_and_refused_if_most_of_a_chunk_would_be_padding(tmp_path):
    (note,) = check_lengths(tmp_path, np.array([4, 20, 30]), 16)
    assert note == "1 of 3 episodes are shorter than a chunk of 16 steps"
    assert check_lengths(tmp_path, np.array([16]), 16) == []
    assert check_lengths(tmp_path, np.array([4, 9]), 16) != []
    with pytest.raises(DatasetError, match=r"all 2 episodes are shorter than half .* 16 steps \(the longest has 7\)"):
        check_lengths(tmp_path, np.array([4, 7]), 16)


def test_what_was_just_written_is_judged_by_training_alone(dataset):
    edit_axis(dataset, np.degrees, axes=JOINTS)
    (note,) = check_written(dataset, ROBOT).notes
    assert note.startswith("training will refuse it: ")
    assert "looks like degrees" in note


def test_an_opening_a_little_beyond_one_is_not_called_percent(dataset):
    edit_axis(dataset, lambda values: values * 1.3 + 0.1, axes=[6])
    with pytest.raises(DatasetError, match="'gripper': .*wider ranges, another zero.*widen 'position'|another zero"):
        check_dataset(dataset, ROBOT)


def test_missing_films_do_not_hide_a_wrong_unit(dataset):
    edit_axis(dataset, np.degrees, axes=JOINTS)
    (dataset / "videos").rename(dataset / "films")
    with pytest.raises(DatasetError) as caught:
        check_dataset(dataset, ROBOT)
    assert "looks like degrees" in str(caught.value)
    assert "file-000.mp4 are missing (2 of 3 files)" in str(caught.value)
