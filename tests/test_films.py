"""Films, picture by picture: the same pictures as LeRobot's decoder gives, and never more than a few in memory."""

import weakref
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from lerobot.datasets.video_utils import decode_video_frames

from tests.small_datasets import FPS, LENGTHS, ROBOT, write_dataset
from wam import films
from wam.dataset import camera_frames, load_episodes
from wam.dataset_check import check_dataset
from wam.errors import DatasetError
from wam.films import frames_at, frames_by_rate, read_header

SIZE_PX = (64, 48)  # (width, height)
COUNT = 60


def write_film(path: Path, count: int, *, codec: str, rate: int, layout: str = "yuv420p", options: dict | None = None):
    rng = np.random.default_rng(7)
    scene = np.kron(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8), np.ones((8, 8, 1), np.uint8))
    with av.open(str(path), "w") as film:
        stream = film.add_stream(codec, rate=rate, options=options or {})
        stream.width, stream.height, stream.pix_fmt = *SIZE_PX, layout
        for number in range(count):
            picture = np.roll(scene, 3 * number, axis=1)
            picture[:4, :4] = number * 255 // count
            film.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        film.mux(stream.encode())
    return path


@pytest.fixture(
    scope="module",
    params=[
        ("libx264", {"g": "10", "bf": "2"}),  # frames are stored in another order than they are shown in
        ("libx264", {"g": "250", "preset": "ultrafast"}),  # one key frame: every episode is decoded from the first
        ("mpeg4", {}),
        ("libsvtav1", {"g": "2", "preset": "12"}),  # LeRobot's own
    ],
    ids=["h264 with B-frames", "h264 with one key frame", "mpeg4", "av1"],
)
def film(request, tmp_path_factory) -> Path:
    codec, options = request.param
    path = tmp_path_factory.mktemp("films") / "film.mp4"
    return write_film(path, COUNT, codec=codec, rate=30, options=options)


@pytest.mark.parametrize(("first", "count", "step"), [(0, 20, 1), (20, 25, 1), (45, 15, 1), (7, 10, 3), (59, 1, 1)])
def test_pictures_are_those_of_lerobot_wherever_an_episode_begins(film, first, count, step):
    seconds = (first / 30 + np.float32(step * np.arange(count) / 30).astype(float)).tolist()
    theirs = decode_video_frames(film, seconds, 1e-4, "pyav", return_uint8=True).permute(0, 2, 3, 1).numpy()
    ours = list(frames_at(film, seconds))
    assert len(ours) == count
    assert np.array_equal(np.stack(ours), theirs)


def test_a_time_may_be_asked_for_twice_and_lie_a_little_beside_its_frame(film):
    seconds = [0.1, 0.1, 0.1 + 5e-5, 0.2 - 5e-5, 0.2]
    theirs = decode_video_frames(film, seconds, 1e-4, "pyav", return_uint8=True).permute(0, 2, 3, 1).numpy()
    assert np.array_equal(np.stack(list(frames_at(film, seconds))), theirs)


@pytest.mark.parametrize("hours", [0.1, 0.5, 3.0])
def test_pictures_are_found_hours_into_a_film(tmp_path, hours):
    """Where many episodes share a film, the times of the later ones are no longer exact in float32."""
    begin = round(hours * 3600)
    path = tmp_path / "long.mp4"
    with av.open(str(path), "w") as film:
        stream = film.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = *SIZE_PX, "yuv420p"
        for number in (0, *range(10 * begin, 10 * begin + 20)):  # a gap stands for the episodes before
            shade = 40 if number == 0 else 60 + 8 * (number - 10 * begin)
            frame = av.VideoFrame.from_ndarray(np.full((*SIZE_PX[::-1], 3), shade, np.uint8), format="rgb24")
            frame.pts = number
            film.mux(stream.encode(frame))
        film.mux(stream.encode())
    rows = np.float32(np.arange(20) / 10).astype(float)  # as tables store them
    shades = [picture.mean() for picture in frames_at(path, (rows + begin).tolist())]
    np.testing.assert_allclose(shades, 60 + 8 * np.arange(20), atol=4)
    with pytest.raises(DatasetError, match="nearest to"):
        list(frames_at(path, [begin + 0.13]))


def test_a_time_without_a_frame_is_refused(film, tmp_path):
    with pytest.raises(DatasetError, match=r"nearest to 0\.1150 s is 0\.01\d* s away"):
        list(frames_at(film, [0.1, 0.115]))
    with pytest.raises(DatasetError, match=r"nearest to 2\.0000 s"):
        list(frames_at(film, [1.9, 2.0]))
    with pytest.raises(DatasetError, match="cannot be decoded"):
        next(frames_at(tmp_path / "none.mp4", [0.0]))


def test_a_film_of_another_rate_gives_pictures_at_ours(film):
    pictures = list(frames_by_rate(film, 1 / 10))
    exact = list(frames_at(film, [place / 10 for place in range(20)]))
    assert np.array_equal(np.stack(pictures), np.stack(exact))
    assert len(list(frames_by_rate(film, 1 / 60))) == 2 * COUNT - 1  # every picture twice but the last


def test_the_head_says_size_and_colours(tmp_path):
    coloured = write_film(tmp_path / "a.mp4", 2, codec="libx264", rate=30)
    grey = write_film(tmp_path / "b.mkv", 2, codec="ffv1", rate=30, layout="gray")
    assert (read_header(coloured).size_px, read_header(coloured).colours) == (SIZE_PX, True)
    assert not read_header(grey).colours
    (tmp_path / "c.mp4").write_bytes(b"no film")
    with pytest.raises(DatasetError, match=r"c\.mp4 cannot be read"):
        read_header(tmp_path / "c.mp4")


class Counted:
    """Stands for decoded frames, and knows how many of them anybody holds."""

    alive = most = 0

    def __init__(self, frame: Any) -> None:
        self._frame = frame
        Counted.alive += 1
        Counted.most = max(Counted.most, Counted.alive)
        weakref.finalize(self, Counted.gone)

    @classmethod
    def gone(cls) -> None:
        cls.alive -= 1

    def to_ndarray(self, **options: Any) -> np.ndarray:
        return np.ndarray.view(self._frame.to_ndarray(**options), Picture)


class Picture(np.ndarray):
    """Pixels that are counted too; what is computed from them is not."""

    def __array_finalize__(self, source: Any) -> None:
        if self.base is not None and not isinstance(source, Picture):
            Counted.alive += 1
            Counted.most = max(Counted.most, Counted.alive)
            weakref.finalize(self, Counted.gone)


def test_a_dataset_is_decoded_with_a_handful_of_frames_in_memory(tmp_path, monkeypatch):
    dataset = write_dataset(tmp_path / "dataset")
    whole = films._decoded
    monkeypatch.setattr(films, "_decoded", lambda *a, **k: ((time, Counted(f)) for time, f in whole(*a, **k)))
    Counted.alive = Counted.most = 0
    episodes = load_episodes(dataset, ROBOT, (32, 32), cache=tmp_path / "frames.u8")
    assert len(episodes.frames) == sum(LENGTHS)
    assert 0 < Counted.most <= 8, "two frames around a time, their pixels, and what the loops still name"
    assert Counted.alive <= 2
    held = list(camera_frames(check_dataset(dataset, ROBOT).tables, 0, "front"))
    assert Counted.alive >= len(held) == LENGTHS[0], "who keeps pictures is found out"


def test_episodes_of_a_dataset_are_those_of_lerobot(tmp_path):
    dataset = write_dataset(tmp_path / "dataset")
    tables = check_dataset(dataset, ROBOT).tables
    for episode, first in enumerate(np.cumsum([0, *LENGTHS[:-1]])):
        path = tables.videos["wrist"][episode].path
        seconds = [float(first + place) / FPS for place in range(LENGTHS[episode])]
        theirs = decode_video_frames(path, seconds, 1e-4, "pyav", return_uint8=True).permute(0, 2, 3, 1).numpy()
        assert np.array_equal(np.stack(list(camera_frames(tables, episode, "wrist"))), theirs)


def test_a_film_that_is_cut_names_episode_and_camera(tmp_path):
    dataset = write_dataset(tmp_path / "dataset")
    tables = check_dataset(dataset, ROBOT).tables
    film = tables.videos["front"][0].path
    film.unlink()
    with pytest.raises(DatasetError, match=r"'observation.images.front' of episode 1 cannot be decoded.*restore it"):
        list(camera_frames(tables, 1, "front"))
