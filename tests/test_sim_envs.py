"""Gymnasium environments."""

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from sim.arm_sim import ArmSim
from sim.envs import ArmEnv, env_id
from sim.errors import SimError
from sim.experts import ScriptedExpert
from sim.tasks import task_names
from wam.robot import load_robot
from wam.spec import OBS_STATE, TASK, image_key

ROBOT = load_robot("sim6")


@pytest.mark.parametrize("task", task_names())
# Actions are absolute joint targets, on purpose; gymnasium prefers spaces scaled to [-1, 1].
@pytest.mark.filterwarnings("error", "ignore:.*symmetric and normalized space.*")
def test_gymnasiums_own_checker_is_satisfied(task):
    env = gymnasium.make(env_id(task), render_mode="rgb_array")
    check_env(env.unwrapped)
    env.close()


def test_the_seed_is_the_seed_of_the_scene():
    env = ArmEnv("place", distractors=1)
    observation, info = env.reset(seed=17)
    sim = ArmSim("place", ROBOT, distractors=1)
    sim.reset(17)
    assert info[TASK] == sim.instruction
    np.testing.assert_array_equal(observation[OBS_STATE], sim.proprio())
    for camera in ROBOT.camera_names:
        np.testing.assert_array_equal(observation[image_key(camera)], sim.render(camera))
    np.testing.assert_array_equal(env.render(), sim.render("front"))
    sim.close()
    env.close()


def test_resets_without_a_seed_give_other_scenes_in_a_repeatable_order():
    env = ArmEnv("reach")
    seen = []
    for _ in range(2):
        env.reset(seed=1)
        seen.append([env.reset()[0][OBS_STATE] for _ in range(3)])
    np.testing.assert_array_equal(seen[0], seen[1])
    assert not np.array_equal(seen[0][0], seen[0][1])
    env.close()


def test_an_expert_ends_the_episode_with_success():
    env = ArmEnv("lift")
    env.reset(seed=5)
    expert = ScriptedExpert(env.sim, np.random.default_rng(0))
    rewards, terminated, truncated = [], False, False
    while not (terminated or truncated):
        _, reward, terminated, truncated, info = env.step(expert.act())
        rewards.append(reward)
    assert terminated
    assert not truncated
    assert info["is_success"]
    assert info["progress"] == 1.0
    assert rewards[0] == 0.0
    assert rewards[-5:] == [1.0] * 5
    env.close()


def test_doing_nothing_ends_by_truncation():
    env = ArmEnv("reach")
    observation, _ = env.reset(seed=5)
    ends = [env.step(observation[OBS_STATE])[2:4] for _ in range(env.sim.max_steps)]
    assert ends[-1] == (False, True)
    assert not any(terminated or truncated for terminated, truncated in ends[:-1])
    env.close()


def test_a_broken_simulation_ends_without_success():
    env = ArmEnv("lift")
    observation, _ = env.reset(seed=5)
    env.sim.data.qvel[0] = np.nan
    _, reward, terminated, _, info = env.step(observation[OBS_STATE])
    assert (reward, terminated, info["failed"], info["is_success"]) == (0.0, True, True, False)
    env.close()


def test_a_wrong_render_mode_is_refused():
    with pytest.raises(SimError, match="render_mode is 'human' but this environment only knows 'rgb_array'"):
        ArmEnv("lift", render_mode="human")
