"""Rows, times and places of pictures: whatever would put a picture beside another row is refused with its numbers."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from tests.small_datasets import DATA, EPISODES, FPS, ROBOT, copy_dataset, edit_info, edit_rows, write_dataset
from wam import dataset_times
from wam.dataset_check import check_dataset
from wam.dataset_times import check_timestamps, check_videos
from wam.errors import DatasetError
from wam.spec import image_key

FRONT = f"videos/{image_key('front')}"


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("times") / "sound")


@pytest.fixture
def dataset(sound, tmp_path):
    return copy_dataset(sound, tmp_path / "dataset")


def set_times(root, function, episodes=(0, 1, 2)):
    def change(rows):
        for row in rows:
            if row["episode_index"] in episodes:
                row["timestamp"] = function(row)

    edit_rows(root, DATA, change)


@pytest.mark.parametrize(
    ("function", "episodes", "message"),
    [
        (
            lambda row: 0.0,
            (1,),
            r"episode 1 \(1 of 3 episodes are so\) has timestamp 0 in every row.*write the times anew",
        ),
        (lambda row: row["frame_index"] / 20, (0, 1, 2), "episode 0 .3 of 3.* 0.0500 s apart, which is 20 frames per"),
        (lambda row: row["frame_index"] / FPS + 4.2, (2,), "episode 2 .* its times do not begin at 0"),
        (
            lambda row: row["timestamp"] + 0.04 * (row["frame_index"] == 9),
            (0,),
            "timestamp 0.9400 s at frame 9, but .*0.9",
        ),
        (lambda row: float("nan"), (0,), "episode 0 .* has timestamp nan"),
        (lambda row: -row["timestamp"], (0,), "episode 0 .*timestamp -0.1000 s at frame 1"),
    ],
)
def test_times_that_are_not_the_frames_are_refused(dataset, function, episodes, message):
    set_times(dataset, function, episodes)
    with pytest.raises(DatasetError, match=message):
        check_dataset(dataset, ROBOT)


def reverse(rows):
    return rows[::-1]


def reverse_an_episode(rows):
    return rows[:30] + rows[30:55][::-1] + rows[55:]


def swap_two(rows):
    rows[3], rows[4] = rows[4], rows[3]
    return rows


@pytest.mark.parametrize(
    ("disorder", "episode", "numbers"),
    [
        (reverse, 0, "24, 23, 22, 21"),
        (reverse_an_episode, 1, "24, 23, 22, 21"),
        (swap_two, 0, "4, 3, 5, 6"),
    ],
)
def test_rows_out_of_order_are_refused_and_the_line_mends_them(dataset, sound, disorder, episode, numbers, repository):
    edit_rows(dataset, DATA, disorder)
    with pytest.raises(
        DatasetError, match=f"episode {episode} has frame_index {numbers} .* out of order: sort"
    ) as caught:
        check_dataset(dataset, ROBOT)
    code = str(caught.value).split('python -c "')[1].rsplit('"', 1)[0]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=repository)
    assert np.array_equal(check_dataset(dataset, ROBOT).tables.action, check_dataset(sound, ROBOT).tables.action)


def test_the_line_for_times_mends_them(dataset, sound, repository):
    set_times(dataset, lambda row: 0.0)
    with pytest.raises(DatasetError) as caught:
        check_dataset(dataset, ROBOT)
    code = str(caught.value).split('python -c "')[1].rsplit('"', 1)[0]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=repository)
    assert np.array_equal(check_dataset(dataset, ROBOT).tables.seconds, check_dataset(sound, ROBOT).tables.seconds)


def test_frames_that_occur_twice_are_refused(dataset):
    def twice(rows):
        rows[7]["frame_index"] = 6

    edit_rows(dataset, DATA, twice)
    with pytest.raises(DatasetError, match="from row 7 on, episode 0 has frame_index 6, 8.* missing or occur twice"):
        check_dataset(dataset, ROBOT)


def test_an_index_that_does_not_count_is_refused(dataset):
    edit_rows(dataset, DATA, lambda rows: [row | {"index": row["index"] + (row["index"] > 40)} for row in rows])
    with pytest.raises(DatasetError, match=r"'index' is 42 in row 41 \(episode 1\) but must count the rows .* 41 here"):
        check_dataset(dataset, ROBOT)


def test_spans_that_contradict_the_lengths_are_refused(dataset):
    edit_rows(dataset, EPISODES, lambda rows: [row | {"dataset_to_index": 55} for row in rows])
    with pytest.raises(DatasetError, match="episode 0 says rows 0 to 55 but the lengths say 0 to 30"):
        check_dataset(dataset, ROBOT)


def test_another_rate_than_the_times_is_refused_for_a_robot_of_that_rate_too(dataset):
    edit_info(dataset, lambda info: info.update(fps=20))
    with pytest.raises(DatasetError, match="which is 10 frames per second, but info.json says 20"):
        check_dataset(dataset, dataclasses.replace(ROBOT, control_rate_hz=20.0))


def swap_offsets(rows):
    for name in ("from_timestamp", "to_timestamp"):
        rows[1][f"{FRONT}/{name}"], rows[2][f"{FRONT}/{name}"] = rows[2][f"{FRONT}/{name}"], rows[1][f"{FRONT}/{name}"]


def shift(seconds, *episodes):
    def change(rows):
        for episode in episodes:
            for name in ("from_timestamp", "to_timestamp"):
                rows[episode][f"{FRONT}/{name}"] += seconds

    return change


def shorten(rows):
    rows[1][f"{FRONT}/to_timestamp"] -= 1.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            swap_offsets,
            r"episode 2 of 'observation.images.front' takes 3.0000 to 5.5000 s .*episode 1 before it .* until 8.0",
        ),
        (shift(-0.3, 1), "episode 1 .* takes 2.7000 to 5.2000 s .* episode 0 before it .* until 3.0000 s"),
        (shift(-0.1, 0), "episode 0 .* takes -0.1000 .* a film begins at 0 s"),
        (shorten, "episode 1 .* 1.5000 s, but its 25 frames at 10 per second last 2.5000 s"),
        (shift(6.0, 0, 1, 2), r"episode 0 .* asks for a picture at 8.0000 s .* 80 frames from 0.0000 to 7.9000 s"),
        (shift(0.05, 2), "episode 2 .* asks for a picture at 5.5500 s .* nearest is 0.0500 s away"),
        (lambda rows: [row | {f"{FRONT}/from_timestamp": float("nan")} for row in rows], "episode 0 .* takes nan"),
    ],
)
def test_offsets_that_show_other_pictures_are_refused(dataset, change, message):
    edit_rows(dataset, EPISODES, change)
    with pytest.raises(DatasetError, match=message):
        check_dataset(dataset, ROBOT)


def test_a_film_longer_than_the_table_is_fine(tmp_path):
    assert check_dataset(write_dataset(tmp_path / "longer", extra_frames=4), ROBOT).frames == 80


def test_a_film_of_another_rate_is_refused(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("tests.small_datasets.FPS", 5)
    other = write_dataset(tmp_path / "other")
    film = f"{FRONT}/chunk-000/file-000.mp4"
    (dataset / film).write_bytes((other / film).read_bytes())
    with pytest.raises(
        DatasetError, match="episode 0 .* at 0.1000 s .* 80 frames from 0.0000 to 15.8000 s, 5 per second"
    ):
        check_dataset(dataset, ROBOT)


@pytest.mark.parametrize("rate", [10.0, 30.0, 50.0])
@pytest.mark.parametrize("hours", [0.1, 0.3, 2.0])
def test_episodes_far_into_a_film_are_sound(dataset, monkeypatch, hours, rate):
    """Hundreds of episodes share a film; times are stored as float32, which is coarse by then."""
    tables = check_dataset(dataset, ROBOT).tables
    begin = round(hours * 3600 * rate) / rate
    count = int(tables.length.sum())
    film = np.round((begin + np.arange(count) / rate) * 15360) / 15360  # in ticks of a container
    monkeypatch.setattr(dataset_times, "frame_times", lambda path: film)
    first = np.cumsum(tables.length) - tables.length
    far = dataclasses.replace(
        tables,
        fps=rate,
        seconds=np.float32(tables.frame / rate).astype(float),
        videos={
            camera: tuple(
                dataclasses.replace(part, begin_s=begin + start / rate, end_s=begin + (start + length) / rate)
                for part, start, length in zip(parts, first.tolist(), tables.length.tolist(), strict=True)
            )
            for camera, parts in tables.videos.items()
        },
    )
    check_timestamps(far)
    check_videos(far)
    late = {
        camera: tuple(dataclasses.replace(p, begin_s=p.begin_s + 0.4 / rate) for p in parts)
        for camera, parts in far.videos.items()
    }
    with pytest.raises(DatasetError, match="asks for a picture at"):
        check_videos(dataclasses.replace(far, videos=late))
