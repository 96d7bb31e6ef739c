"""Several datasets as one: every frame, number and instruction stays with its episode."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wam.dataset import Episodes, join_episodes
from wam.errors import ConfigError
from wam.joined_frames import JoinedFrames
from wam.train import train
from wam.train_config import TrainConfig
from wam.training_data import prepare


def part(lengths: list[int], tasks: tuple[str, ...], mark: int) -> Episodes:
    """Frames, proprio and actions of frame i are mark + i; episode e has instruction e modulo the tasks."""
    count = sum(lengths)
    values = mark + np.arange(count)
    frames = np.zeros((count, 1, 2, 2, 3), np.uint8)
    frames[:, 0, 0, 0, 0] = values
    return Episodes(
        frames=frames,
        proprio=np.repeat(values[:, None], 7, axis=1).astype(np.float32),
        action=np.repeat(values[:, None], 7, axis=1).astype(np.float32),
        task_index=np.repeat(np.arange(len(lengths)) % len(tasks), lengths),
        tasks=tasks,
        start=np.concatenate(([0], np.cumsum(lengths)[:-1])).astype(np.int64),
        length=np.array(lengths, dtype=np.int64),
    )


@given(st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=3), min_size=1, max_size=3), st.integers(0, 2**31))
def test_joined_episodes_are_the_parts_behind_one_another(lengths: list[list[int]], seed: int):
    parts = [part(each, ("push it", f"task {number}"), 60 * number) for number, each in enumerate(lengths)]
    joined = join_episodes(parts)
    picks = np.random.default_rng(seed).integers(0, len(joined.proprio), 20)
    assert joined.frames[picks].shape == (20, 1, 2, 2, 3)
    assert np.array_equal(joined.frames[picks][:, 0, 0, 0, 0], joined.proprio[picks, 0])
    words = [p.tasks[i] for p in parts for i in p.task_index]
    assert [joined.tasks[i] for i in joined.task_index] == words
    assert len(set(joined.tasks)) == len(joined.tasks)
    chunks, is_pad = joined.chunks(joined.start, 2)
    assert np.array_equal(chunks[:, 0], joined.action[joined.start])
    assert np.array_equal(is_pad[:, 1], joined.length == 1)


def test_frames_of_parts_are_not_copied():
    first, second = np.zeros((3, 1, 2, 2, 3), np.uint8), np.ones((2, 1, 2, 2, 3), np.uint8)
    joined = JoinedFrames([first, second])
    assert joined.shape == (5, 1, 2, 2, 3)
    second[:] = 7
    assert joined[np.array([4, 0])][:, 0, 0, 0, 0].tolist() == [7, 0]


def test_one_model_trains_on_several_datasets(reach_dataset: Path, tmp_path: Path):
    options = {"preset": "micro", "steps": 2, "batch_size": 4, "save_every": 2, "validate_every": 2, "threads": 1}
    once = prepare(TrainConfig(dataset=(reach_dataset,), out=tmp_path / "once", **options))
    config = TrainConfig(dataset=(reach_dataset, reach_dataset), out=tmp_path / "twice", **options)
    twice = prepare(config)
    assert len(twice.episodes.length) == 2 * len(once.episodes.length)
    assert twice.episodes.tasks == once.episodes.tasks
    assert np.allclose(twice.episodes.proprio, np.concatenate([once.episodes.proprio] * 2))
    assert train(config) == 0


def test_no_dataset_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="names no folder"):
        TrainConfig(dataset=(), out=tmp_path)
