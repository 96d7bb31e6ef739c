"""Batches: pure functions of (seed, step), right frames, right padding."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wam.batches import FrameSampler, make_batch
from wam.config import preset
from wam.dataset import Episodes
from wam.normalise import Normaliser
from wam.robot import load_robot
from wam.text import token_ids
from wam.transforms import Transforms

LENGTHS = np.array([30, 12, 20])
IDENTITY = Normaliser(offset=(0.0,) * 7, scale=(1.0,) * 7, bound=1e6)


@pytest.fixture(scope="module")
def episodes() -> Episodes:
    """Action and proprio of frame i are i in every dimension, so that gathered values tell where they came from."""
    count = int(LENGTHS.sum())
    ramp = np.repeat(np.arange(count, dtype=np.float32)[:, None], 7, axis=1)
    frames = np.zeros((count, 2, 32, 32, 3), np.uint8)
    frames[:, 0, 0, 0, 0] = np.arange(count)
    return Episodes(
        frames=frames,
        proprio=ramp,
        action=ramp,
        task_index=np.repeat([0, 1, 0], LENGTHS),
        tasks=("lift the red cube", "lift the blue cube"),
        start=np.concatenate(([0], np.cumsum(LENGTHS)[:-1])),
        length=LENGTHS,
    )


def sampler(episodes: Episodes, chosen: tuple[int, ...] = (0, 1, 2), **changes) -> FrameSampler:
    options = {"seed": 0, "start_share": 0.4, "start_steps": 8, "idle_keep": 3} | changes
    return FrameSampler(episodes, np.array(chosen), **options)


@given(step=st.integers(0, 10_000))
def test_draw_depends_on_seed_and_step_only(episodes: Episodes, step: int):
    first, again, other = (sampler(episodes, seed=seed).draw(step, 32) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_share_from_the_start_is_kept(episodes: Episodes):
    frames = np.concatenate([sampler(episodes, start_share=0.5).draw(step, 100) for step in range(50)])
    within = frames - episodes.start[episodes.episode_of_frame[frames]]
    by_chance = 0.5 * (24 / LENGTHS.sum())
    assert np.mean(within < 8) == pytest.approx(0.5 + by_chance, abs=0.03)


def test_every_dataset_gets_its_share(episodes: Episodes):
    drawn = sampler(episodes, owner=np.array([0, 1, 1]), shares=(3.0, 1.0), start_share=0.5)
    frames = np.concatenate([drawn.draw(step, 100) for step in range(50)])
    assert np.mean(episodes.episode_of_frame[frames] == 0) == pytest.approx(0.75, abs=0.03)
    assert set(frames) == set(range(int(LENGTHS.sum())))  # every frame still has its chance
    within = frames - episodes.start[episodes.episode_of_frame[frames]]
    assert np.mean(within < 8) > 0.5


def test_only_chosen_episodes_are_drawn(episodes: Episodes):
    frames = np.concatenate([sampler(episodes, (1,)).draw(step, 64) for step in range(20)])
    assert set(episodes.episode_of_frame[frames]) == {1}


def test_idle_tail_is_dropped_but_for_a_few_frames(episodes: Episodes):
    action = episodes.action.copy()
    action[15:30] = action[15]  # episode 0 stands still from frame 15 on
    still = Episodes(**{**vars(episodes), "action": action})
    drawn = np.concatenate([sampler(still, (0,), idle_keep=3).draw(step, 64) for step in range(50)])
    assert drawn.max() == 15 + 3 - 1


def test_an_episode_that_never_moves_still_counts(episodes: Episodes):
    still = Episodes(**{**vars(episodes), "action": np.zeros_like(episodes.action)})
    assert len(sampler(still, (0,), idle_keep=0).spread(10)) == 1


def test_spread_is_fixed_and_within_the_pool(episodes: Episodes):
    places = sampler(episodes).spread(10)
    assert np.array_equal(places, sampler(episodes, seed=5).spread(10))
    assert len(places) == 10
    assert len(sampler(episodes).spread(10_000)) == LENGTHS.sum()


def test_batch_gathers_chunk_future_and_padding(episodes: Episodes):
    robot = load_robot("sim6")
    config = preset("micro", robot)
    transforms = Transforms(image_size_px=(32, 32), proprio=IDENTITY, action=IDENTITY)
    frames = np.array([0, 25, 35])  # fresh start; 5 frames before the end of episode 0; 7 before the end of episode 1
    batch = make_batch(episodes, frames, config, transforms)
    assert batch.actions[0, :, 0].tolist() == list(range(16))
    assert batch.actions[1, :, 0].tolist() == [25, 26, 27, 28, 29] + [29] * 11
    assert (~batch.action_is_pad).sum(1).tolist() == [16, 5, 7]
    assert batch.future_images[:, 0, 0, 0, 0, 0].tolist() == [8, 29, 41]
    assert batch.future_is_pad.tolist() == [[False], [True], [True]]
    assert batch.images[:, 0, 0, 0, 0].tolist() == frames.tolist()
    assert batch.token_ids[2].tolist() == token_ids("lift the blue cube", config.prompt_length).tolist()
    assert batch.to(torch.device("cpu")).actions.equal(batch.actions)
