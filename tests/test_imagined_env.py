"""The learned simulator as a gymnasium environment, and the rolling forward underneath it; an untrained model."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

import sim.imagined_env  # noqa: F401  # registers the environment
from sim.imagined_env import ENV_ID, ImaginedEnv
from wam.checkpoint import Checkpoint
from wam.errors import ConfigError, ValueContractError
from wam.forward_dynamics import ForwardDynamics
from wam.robot import load_robot
from wam.spec import OBS_STATE, TASK
from wam.text import token_ids
from wam.untrained import save_untrained_checkpoint
from wam.video_sampling import VideoSampling, imagine_future

FEW = VideoSampling(n_steps=2)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return save_untrained_checkpoint(tmp_path_factory.mktemp("world") / "run", load_robot("sim6"), preset_name="micro")


@pytest.fixture(scope="module")
def env(checkpoint: Checkpoint, reach_dataset: Path) -> Iterator[gymnasium.Env]:
    made = gymnasium.make(ENV_ID, checkpoint=checkpoint, dataset=reach_dataset, horizon=2, sampling=FEW)
    yield made
    made.close()


def test_gymnasium_s_own_checks_pass(checkpoint: Checkpoint, reach_dataset: Path):
    env = ImaginedEnv(checkpoint, dataset=reach_dataset, horizon=3, sampling=FEW, render_mode="rgb_array")
    check_env(env, skip_render_check=False)
    env.close()


def test_an_episode_starts_real_goes_on_imagined_and_is_truncated(env: gymnasium.Env, checkpoint: Checkpoint):
    first, info = env.reset(seed=4)
    assert info["imagined"] is False
    assert info[TASK].startswith("reach the ")
    chunk = env.action_space.sample()
    second, reward, terminated, truncated, info = env.step(chunk)
    assert (reward, terminated, truncated, info["imagined"]) == (0.0, False, False, True)
    assert info["stamp"] == pytest.approx(checkpoint.config.future_offset * checkpoint.robot.control_dt)
    np.testing.assert_allclose(second[OBS_STATE], chunk[checkpoint.config.future_offset - 1], atol=1e-6)
    key = f"observation.images.{checkpoint.robot.camera_names[0]}"
    assert not np.array_equal(first[key], second[key])
    assert env.step(chunk)[3]  # the horizon
    assert env.render().shape == (32, 64, 3)


def test_the_seed_decides_the_start_and_what_is_imagined(env: gymnasium.Env):
    chunk = np.tile((env.action_space.low[0] + env.action_space.high[0]) / 2, (16, 1)).astype(np.float32)

    def episode(seed: int) -> list[np.ndarray]:
        first, _ = env.reset(seed=seed)
        return [*first.values(), *env.step(chunk)[0].values()]

    same, again, other = episode(1), episode(1), episode(2)
    assert all(np.array_equal(a, b) for a, b in zip(same, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(same, other, strict=True))


def test_a_start_can_be_chosen_and_a_judge_gives_the_reward(checkpoint: Checkpoint, reach_dataset: Path):
    env = ImaginedEnv(checkpoint, dataset=reach_dataset, sampling=FEW, judge=lambda images: float(images.mean() / 255))
    _, info = env.reset(options={"start": 17})
    assert info["start"] == 17
    chunk = env.action_space.sample()
    seen, reward, *_ = env.step(chunk)
    pictures = [value for key, value in seen.items() if key != OBS_STATE]
    assert reward == pytest.approx(np.stack(pictures).mean() / 255)
    with pytest.raises(ConfigError, match="start 9999 is not in .*: it has frames 0 to"):
        env.reset(options={"start": 9999})
    env.close()


def test_mujoco_scenes_give_starts_too(checkpoint: Checkpoint):
    env = ImaginedEnv(checkpoint, task="reach", sampling=FEW)
    _, info = env.reset(options={"start": 3})
    first = env.render().copy()
    assert info["start"] == 3
    env.reset(options={"start": 4})
    assert not np.array_equal(first, env.render())
    env.close()


@pytest.mark.slow
def test_starting_from_a_dataset_needs_no_mujoco(checkpoint: Checkpoint, reach_dataset: Path):
    script = (
        "import sys; sys.modules['mujoco'] = None\n"
        "from sim.imagined_env import ImaginedEnv; from wam.video_sampling import VideoSampling\n"
        f"env = ImaginedEnv({str(checkpoint.path)!r}, dataset={str(reach_dataset)!r}, "
        "sampling=VideoSampling(n_steps=1))\n"
        "env.reset(seed=0); env.step(env.action_space.sample()); env.close(); print('rolled')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=600)
    assert done.stdout.strip() == "rolled", done.stderr


def test_a_roll_is_a_chain_of_single_steps(checkpoint: Checkpoint):
    dynamics, inputs = ForwardDynamics(checkpoint, FEW), _inputs(checkpoint)
    rolled = dynamics.roll(*inputs, seed=3)
    images, proprio, tasks, chunks = inputs
    first = dynamics.next(images, proprio, tasks, chunks[:, 0], seed=3 * 1009)
    second = dynamics.next(*first, tasks, chunks[:, 1], seed=3 * 1009 + 1)
    np.testing.assert_array_equal(rolled.images, np.stack((first.images, second.images), axis=1))
    np.testing.assert_array_equal(rolled.proprio, np.stack((first.proprio, second.proprio), axis=1))


def test_it_asks_the_forward_question(checkpoint: Checkpoint):
    images, proprio, tasks, chunks = _inputs(checkpoint)
    found = ForwardDynamics(checkpoint, FEW).next(images, proprio, tasks, chunks[:, 0], seed=5).images
    model, transforms = checkpoint.model, checkpoint.transforms
    words = torch.from_numpy(np.stack([token_ids(task, checkpoint.config.prompt_length) for task in tasks]))
    expected = imagine_future(
        model,
        torch.from_numpy(images),
        torch.from_numpy(transforms.normalise_proprio(proprio)),
        model.encode_prompt(words),
        FEW,
        actions=torch.from_numpy(transforms.encode_actions(chunks[:, 0], proprio)),
        seed=5,
    )
    np.testing.assert_array_equal(found, expected[:, -1].numpy())


def test_a_servo_that_lags_has_not_reached_its_command(checkpoint: Checkpoint):
    images, proprio, tasks, chunks = _inputs(checkpoint)
    offset, dt = checkpoint.config.future_offset, checkpoint.robot.control_dt
    lagging = ForwardDynamics(checkpoint, FEW, servo_lag_s=0.25 * dt).next(images, proprio, tasks, chunks[:, 0])
    last, before = chunks[:, 0, offset - 1], chunks[:, 0, offset - 2]
    np.testing.assert_allclose(lagging.proprio, last - 0.25 * (last - before), atol=1e-6)
    with pytest.raises(ConfigError, match="servo_lag_s is 1.0 but must lie between 0 and a control step"):
        ForwardDynamics(checkpoint, FEW, servo_lag_s=1.0)


def test_impossible_requests(checkpoint: Checkpoint):
    with pytest.raises(ConfigError, match="either dataset, recorded frames to start from, or task"):
        ImaginedEnv(checkpoint)
    with pytest.raises(ConfigError, match="horizon is 0"):
        ImaginedEnv(checkpoint, task="reach", horizon=0)
    with pytest.raises(ConfigError, match="render_mode is 'human'"):
        ImaginedEnv(checkpoint, task="reach", render_mode="human")
    env = ImaginedEnv(checkpoint, task="reach", sampling=FEW)
    with pytest.raises(ConfigError, match="step before reset"):
        env.step(env.action_space.sample())
    with pytest.raises(ConfigError, match="render before reset"):
        env.render()
    env.reset(seed=0)
    with pytest.raises(ValueContractError, match=r"chunks are \(1, 3, 7\) but the model takes \(1, 16, 7\)"):
        env.step(env.action_space.sample()[:3])
    env.close()


def _inputs(checkpoint: Checkpoint) -> tuple[np.ndarray, np.ndarray, list[str], np.ndarray]:
    rng, config, robot = np.random.default_rng(0), checkpoint.config, checkpoint.robot
    images = rng.integers(0, 256, (2, config.n_cameras, *config.image_size_px, 3), dtype=np.uint8)
    proprio = rng.uniform(robot.lower, robot.upper, (2, config.action_dim)).astype(np.float32)
    chunks = rng.uniform(robot.lower, robot.upper, (2, 2, config.chunk_length, config.action_dim)).astype(np.float32)
    return images, proprio, ["reach the red cube", "reach the blue cube"], chunks
