"""Decoded frames are taken again only for the pictures they were made of, whatever the file is called and how large."""

import dataclasses
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.small_datasets import DATA, EPISODES, LENGTHS, ROBOT, copy_dataset, edit_info, edit_rows, write_dataset
from wam import dataset as module
from wam import frame_cache
from wam.dataset import load_episodes
from wam.spec import image_key

SIZE_PX = (16, 16)
FILM = f"videos/{image_key('front')}/chunk-000/file-000.mp4"


@pytest.fixture(scope="module")
def one(tmp_path_factory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("one") / "dataset")


@pytest.fixture(scope="module")
def other(one, tmp_path_factory) -> Path:
    """As long as the first, with films of other pictures: those of the first, 20 frames later."""
    root = write_dataset(tmp_path_factory.mktemp("other") / "dataset", extra_frames=20)
    for name in ROBOT.camera_names:
        key = f"videos/{image_key(name)}"
        edit_rows(root, EPISODES, lambda rows, key=key: [row | _later(row, key) for row in rows])
    return root


def _later(row: dict, key: str) -> dict:
    return {f"{key}/{end}": row[f"{key}/{end}"] + 2.0 for end in ("from_timestamp", "to_timestamp")}


@pytest.fixture
def decodings(monkeypatch) -> list[str]:
    """Grows by the camera of every episode that is decoded."""
    seen: list[str] = []
    whole = module.camera_frames

    def counted(tables, episode, camera):
        seen.append(camera)
        return whole(tables, episode, camera)

    monkeypatch.setattr(module, "camera_frames", counted)
    return seen


def frames(root: Path, cache: Path, robot=ROBOT) -> np.ndarray:
    return np.array(load_episodes(root, robot, SIZE_PX, cache=cache).frames)


def test_another_dataset_of_the_same_size_is_not_taken_for_the_first(one, other, tmp_path, caplog):
    first = frames(one, tmp_path / "frames.u8")
    with caplog.at_level(logging.WARNING):
        second = frames(other, tmp_path / "frames.u8")
    assert "are of other pictures: the dataset is decoded anew" in caplog.text
    assert np.array_equal(second, frames(other, tmp_path / "elsewhere.u8"))
    assert not np.array_equal(first, second)


def test_the_same_pictures_are_decoded_once_wherever_they_lie(one, tmp_path, decodings, caplog):
    cache = tmp_path / "run" / "frames.u8"
    expected = frames(one, cache)
    count = len(decodings)
    assert count == len(LENGTHS) * len(ROBOT.cameras)
    moved = copy_dataset(one, tmp_path / "moved")
    shutil.move(tmp_path / "run", tmp_path / "another run")
    assert np.array_equal(frames(moved, tmp_path / "another run" / "frames.u8"), expected)
    assert len(decodings) == count
    edit_rows(moved, DATA, lambda rows: [row | {"action": row["observation.state"]} for row in rows])
    edit_info(moved, lambda info: info.update(robot_type="another"))
    episodes = load_episodes(moved, ROBOT, SIZE_PX, cache=tmp_path / "another run" / "frames.u8")
    assert len(decodings) == count, "numbers are read anew, pictures are the same"
    assert episodes.content != load_episodes(one, ROBOT, SIZE_PX, cache=tmp_path / "another run" / "frames.u8").content


def test_frames_of_a_run_that_ended_early_do_not_count(one, tmp_path, decodings, caplog):
    cache = tmp_path / "frames.u8"
    expected = frames(one, cache)
    cache.with_name("frames.u8.json").unlink()  # as older versions left them, or a crash before the last step
    cache.write_bytes(bytes(cache.stat().st_size))
    with caplog.at_level(logging.WARNING):
        assert np.array_equal(frames(one, cache), expected)
    assert "ended early, or by an older version: the dataset is decoded anew" in caplog.text
    cache.write_bytes(cache.read_bytes()[:-1])
    assert np.array_equal(frames(one, cache), expected)
    cache.with_name("frames.u8.json").write_text("{")
    assert np.array_equal(frames(one, cache), expected)
    assert len(decodings) == 4 * len(LENGTHS) * len(ROBOT.cameras)


def test_a_crash_while_decoding_leaves_nothing_that_counts(one, other, tmp_path, monkeypatch):
    cache = tmp_path / "frames.u8"
    frames(one, cache)

    def crash(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(module, "fit_picture", crash)
        with pytest.raises(KeyboardInterrupt):
            frames(other, cache)
    assert not list(tmp_path.glob("*.partial"))
    with monkeypatch.context() as patched:
        patched.setattr(frame_cache, "write_json", crash)
        with pytest.raises(KeyboardInterrupt):
            frames(other, cache)
    assert np.array_equal(frames(one, cache), frames(one, tmp_path / "fresh.u8"))


@pytest.mark.parametrize("what", ["fit", "size_px", "decoder", "bytes"])
def test_everything_that_decides_a_pixel_counts(one, tmp_path, decodings, monkeypatch, what):
    cache, root, robot = tmp_path / "frames.u8", copy_dataset(one, tmp_path / "dataset"), ROBOT
    frames(root, cache)
    count = len(decodings)
    if what == "fit":
        robot = dataclasses.replace(ROBOT, cameras=(dataclasses.replace(ROBOT.cameras[0], fit="pad"), ROBOT.cameras[1]))
    elif what == "decoder":
        monkeypatch.setattr(frame_cache, "_decoder", lambda: {"av": "another"})
    elif what == "bytes":
        with (root / FILM).open("ab") as film:
            film.write(b"\0\0\0\x08free")  # an empty box at the end: the same pictures, but who knows
    else:
        load_episodes(root, robot, (8, 32), cache=cache)
        assert len(decodings) == 2 * count
        return
    frames(root, cache, robot)
    assert len(decodings) == 2 * count
