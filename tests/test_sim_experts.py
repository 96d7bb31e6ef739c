"""Inverse kinematics and scripted experts."""

import dataclasses
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim import scene
from sim.arm_sim import ArmSim
from sim.errors import SimError
from sim.experts import HOVER, LIFT_Z, WAYPOINTS, ScriptedExpert
from sim.gl import mujoco
from sim.kinematics import heading, solve_ik, tool_down
from sim.layout import CUBE_HALF
from sim.tasks import TASKS, task_names
from wam.robot import load_robot

ROBOT = load_robot("sim6")
EVALUATION_SEED = 1_000_000


def run_episode(sim: ArmSim, seed: int, noise: float = 0.0) -> list[np.ndarray]:
    sim.reset(seed)
    expert = ScriptedExpert(sim, np.random.default_rng(seed), noise=noise)
    labels = []
    while not (sim.finished or sim.failed) and len(labels) < sim.max_steps:
        labels.append(expert.act())
        sim.step(expert.perturb(labels[-1]))
    return labels


@given(yaw=st.floats(-3.1, 3.1))
def test_heading_undoes_tool_down(yaw):
    rotation = tool_down(yaw)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(rotation) == pytest.approx(1.0)
    np.testing.assert_allclose(rotation[:, 2], (0, 0, -1))
    assert heading(rotation) == pytest.approx(yaw)


def test_inverse_kinematics_reaches_all_of_the_workspace():
    sim = ArmSim("place", ROBOT)
    home = sim.data.qpos.copy()
    scratch = mujoco.MjData(sim.model)
    low, high = ROBOT.lower[:6], ROBOT.upper[:6]
    for x in (0.22, 0.28, 0.38, 0.48):
        for y in (-0.2, 0.0, 0.22):
            for z in (CUBE_HALF, LIFT_Z, 0.2):
                for yaw in (-np.pi / 4, 0.0, np.pi / 4):
                    scratch.qpos[:] = home
                    place = np.array([x, y, z])
                    joints, residual = solve_ik(
                        sim.model, scratch, sim.tip_site, sim.arm_dofs, place, tool_down(yaw), iterations=60
                    )
                    assert residual < 1e-3, (x, y, z, yaw)
                    assert ((joints > low + 0.02) & (joints < high - 0.02)).all(), (x, y, z, yaw, joints)
                    np.testing.assert_allclose(scratch.site_xpos[sim.tip_site], place, atol=1e-3)


def test_inverse_kinematics_says_how_far_off_it_ends():
    sim = ArmSim("lift", ROBOT)
    scratch = mujoco.MjData(sim.model)
    scratch.qpos[:] = sim.data.qpos
    joints, residual = solve_ik(
        sim.model, scratch, sim.tip_site, sim.arm_dofs, np.array([1.5, 0, 0.1]), tool_down(0.0), iterations=50
    )
    assert residual > 0.5
    assert ((joints >= ROBOT.lower[:6] - 1e-6) & (joints <= ROBOT.upper[:6] + 1e-6)).all()


@pytest.mark.parametrize("distractors", [0, 2])
@pytest.mark.parametrize("task", task_names())
def test_experts_solve_their_tasks(task, distractors):
    sim = ArmSim(task, ROBOT, distractors=distractors)
    solved = 0
    for seed in range(EVALUATION_SEED, EVALUATION_SEED + 25):
        run_episode(sim, seed)
        solved += sim.finished
    assert solved == 25


@pytest.mark.slow
@pytest.mark.parametrize(("noise", "least"), [(0.0, 196), (0.03, 190)])
@pytest.mark.parametrize("task", task_names())
def test_experts_solve_98_percent_of_200_seeds(task, noise, least):
    sim = ArmSim(task, ROBOT)
    solved = 0
    for seed in range(200):
        run_episode(sim, seed, noise)
        solved += sim.finished
    assert solved >= least


@pytest.mark.parametrize("rate", [20, 30])
def test_experts_take_the_same_time_at_other_rates(rate):
    def seconds(rate_hz: float) -> float:
        sim = ArmSim("lift", ROBOT, control_rate_hz=rate_hz)
        steps = [len(run_episode(sim, seed)) for seed in range(5)]
        assert max(steps) < sim.max_steps
        return float(np.mean(steps)) * sim.control_dt

    assert seconds(rate) == pytest.approx(seconds(10), rel=0.15)


@pytest.mark.parametrize("task", task_names())
def test_actions_are_finite_within_limits_and_smooth(task):
    sim = ArmSim(task, ROBOT)
    actions = np.stack(run_episode(sim, 4))
    assert actions.dtype == np.float32
    assert actions.shape[1] == ROBOT.action_dim
    assert (actions >= ROBOT.lower).all()
    assert (actions <= ROBOT.upper).all()
    speed = np.abs(np.diff(actions[:, :6], axis=0)).max(axis=0) / sim.control_dt
    assert (speed <= [joint.max_velocity for joint in ROBOT.joints]).all()


def test_the_clean_expert_is_a_function_of_the_state():
    """Another expert, dropped into the same state with another history, asks for the same action."""
    sim = ArmSim("place", ROBOT)
    sim.reset(8)
    expert = ScriptedExpert(sim, np.random.default_rng(0), noise=0.04)
    for _ in range(30):
        action = expert.act()
        np.testing.assert_array_equal(action, expert.act())
        np.testing.assert_array_equal(action, ScriptedExpert(sim, np.random.default_rng(9)).act())
        sim.step(expert.perturb(action))


def test_acting_does_not_touch_the_simulation():
    sim = ArmSim("lift", ROBOT)
    before = sim.data.qpos.copy(), sim.data.qvel.copy(), sim.time
    ScriptedExpert(sim, np.random.default_rng(0)).act()
    np.testing.assert_array_equal(sim.data.qpos, before[0])
    np.testing.assert_array_equal(sim.data.qvel, before[1])
    assert sim.time == before[2]


def perturbations(task: str) -> tuple[np.ndarray, np.ndarray]:
    """(2000, 7) executed minus wanted targets of one state, and where they differ."""
    sim = ArmSim(task, ROBOT)
    expert = ScriptedExpert(sim, np.random.default_rng(3), noise=0.03)
    action = expert.act()
    label = action.copy()
    offsets = np.stack([expert.perturb(action) - action for _ in range(2000)])
    np.testing.assert_array_equal(action, label)
    return offsets, (offsets[:, :6] != 0).any(axis=1)


def test_the_perturbation_spares_the_label_and_comes_and_goes():
    offsets, perturbed = perturbations("lift")
    assert 0.2 < perturbed.mean() < 0.45
    burst = offsets[perturbed][:, 0]
    assert burst.std() == pytest.approx(0.03, rel=0.25)
    both = perturbed[1:] & perturbed[:-1]
    assert np.corrcoef(offsets[1:][both][:, 0], offsets[:-1][both][:, 0])[0, 1] > 0.5


@pytest.mark.parametrize("task", task_names())
def test_the_perturbation_leaves_the_gripper_alone(task):
    offsets, _ = perturbations(task)
    assert (offsets[:, 6] == 0).all()


def test_without_noise_the_label_is_executed():
    sim = ArmSim("lift", ROBOT)
    expert = ScriptedExpert(sim, np.random.default_rng(3))
    action = expert.act()
    for _ in range(50):
        np.testing.assert_array_equal(expert.perturb(action), action)


def test_the_same_generator_gives_the_same_demonstration():
    sim = ArmSim("lift", ROBOT)
    np.testing.assert_array_equal(run_episode(sim, 2, 0.03), run_episode(sim, 2, 0.03))


def test_a_dropped_cube_is_picked_up_again():
    sim = ArmSim("lift", ROBOT)
    sim.reset(3)
    expert = ScriptedExpert(sim, np.random.default_rng(0))
    while not sim.success():
        sim.step(expert.act())
    open_hand = sim.setpoint
    open_hand[-1] = 1.0
    for _ in range(4):
        sim.step(open_hand)
    assert not sim.success()
    for _ in range(50):
        sim.step(expert.act())
    assert sim.finished


def test_closed_fingers_over_the_cube_open_before_they_go_down():
    sim = ArmSim("lift", ROBOT)
    state = sim.state()
    above = dataclasses.replace(state, tip=state.cube + (0, 0, HOVER), opening=0.0)
    waypoint = WAYPOINTS["lift"](above)
    assert waypoint.opening == 1.0
    assert waypoint.tip[2] >= above.tip[2] - 1e-9
    assert WAYPOINTS["lift"](dataclasses.replace(above, opening=1.0)).tip[2] < above.tip[2]


def test_the_expert_rises_before_it_goes_across():
    state = ArmSim("lift", ROBOT).state()
    beside = dataclasses.replace(state, tip=state.cube + (0.08, 0, 0))
    waypoint = WAYPOINTS["lift"](beside)
    np.testing.assert_allclose(waypoint.tip[:2], beside.tip[:2])
    assert waypoint.tip[2] > beside.tip[2] + 0.05


def test_a_cube_pushed_too_far_is_pushed_back():
    sim = ArmSim("push", ROBOT)
    sim.reset(2)
    goal = sim.layout.goal_xy
    sim.data.qpos[sim.model.joint("cube_0").qposadr[0] :][:2] = goal + (0.0, 0.08)
    sim.data.qpos[sim.arm_dofs[0]] += 0.4
    mujoco.mj_forward(sim.model, sim.data)
    expert = ScriptedExpert(sim, np.random.default_rng(0))
    steps = 0
    while not sim.finished and steps < sim.max_steps:
        sim.step(expert.act())
        steps += 1
    assert sim.finished


@pytest.mark.parametrize(("task", "missing"), [("push", "goal_xy"), ("place", "bin_xy")])
def test_an_expert_needs_what_its_task_is_about(task, missing):
    state = dataclasses.replace(ArmSim(task, ROBOT).state(), **{missing: None})
    with pytest.raises(SimError, match="this scene has no goal or bin"):
        WAYPOINTS[task](state)


def test_every_task_has_an_expert():
    assert set(WAYPOINTS) == set(TASKS)


def test_five_joints_are_enough(tmp_path, monkeypatch):
    """docs/adding_a_robot.md: an arm that turns its gripper about the tool's axis needs no roll of its forearm."""
    text = (scene.ASSETS / "sim6.xml").read_text()
    text, removed = re.subn(r'<(joint|position) name="forearm_roll"[^>]*/>', "", text)
    text, moved = re.subn(r"0 0\.289 1\.475 0 1\.378 0", "0 0.289 1.475 1.378 0", text)
    assert (removed, moved) == (2, 2)
    (tmp_path / "sim5.xml").write_text(text)
    monkeypatch.setattr(scene, "ASSETS", tmp_path)
    joints = tuple(joint for joint in ROBOT.joints if joint.name != "forearm_roll")
    robot = dataclasses.replace(ROBOT, name="sim5", joints=joints, kinematics=None)
    for task in task_names():
        sim = ArmSim(task, robot)
        for seed in range(3):
            run_episode(sim, EVALUATION_SEED + seed)
            assert sim.finished, (task, seed)
        sim.close()
