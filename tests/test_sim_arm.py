"""ArmSim: commands, time, limits, failures."""

import dataclasses

import numpy as np
import pytest

from sim.arm_sim import ArmSim, choose_physics_dt
from sim.errors import SimError
from sim.tasks import HOLD_SECONDS
from wam.robot import load_robot

ROBOT = load_robot("sim6")


@pytest.fixture
def sim():
    arm = ArmSim("lift", ROBOT)
    arm.reset(1)
    yield arm
    arm.close()


def test_an_observation_keeps_the_contract(sim):
    sim.step(sim.proprio())
    observation = sim.observation().validate(ROBOT)
    assert observation.stamp == pytest.approx(0.1)
    assert observation.task == sim.instruction
    np.testing.assert_array_equal(observation.proprio, sim.proprio())


@pytest.mark.parametrize(("rate", "expected"), [(10, 1 / 250), (20, 1 / 300), (30, 1 / 300), (50, 1 / 250)])
def test_physics_divides_every_usual_control_rate(rate, expected):
    assert choose_physics_dt(rate) == pytest.approx(expected)
    sim = ArmSim("reach", ROBOT, control_rate_hz=rate)
    assert sim.max_steps == 6 * rate
    for _ in range(rate):
        sim.step(sim.proprio())
    assert sim.time == pytest.approx(1.0)


def test_rates_that_physics_cannot_divide_are_refused():
    with pytest.raises(SimError, match="control rate 7 Hz divides none of the physics rates"):
        ArmSim("lift", ROBOT, control_rate_hz=7)
    with pytest.raises(SimError, match=r"control step of 0\.1 s is not a multiple of the physics step of 0\.003 s"):
        ArmSim("lift", ROBOT, physics_dt=0.003)
    with pytest.raises(SimError, match="control rate is -1"):
        ArmSim("lift", ROBOT, control_rate_hz=-1)


def test_a_physics_step_of_ones_own_is_taken():
    assert ArmSim("lift", ROBOT, control_rate_hz=7, physics_dt=1 / 350).physics_dt == 1 / 350


@pytest.mark.parametrize("seconds", [0.005, 0.001, -0.004, float("nan"), float("inf")])
def test_time_only_moves_in_physics_steps(sim, seconds):
    with pytest.raises(SimError, match=r"advance of .* s is not a multiple of the physics step of 0\.004 s"):
        sim.advance(seconds)
    assert sim.time == 0.0


@pytest.mark.parametrize("target", [np.full(7, np.nan), np.full(7, np.inf), np.zeros(6), np.zeros((1, 7))])
def test_commands_that_are_not_seven_finite_numbers_are_refused(sim, target):
    before = sim.setpoint
    with pytest.raises(SimError, match=r"refused: it must be \(7,\) finite numbers, yaw, shoulder"):
        sim.command(target)
    np.testing.assert_array_equal(sim.setpoint, before)


def test_the_setpoint_is_a_straight_line_over_one_control_step_and_then_holds(sim):
    start = sim.setpoint
    target = start + np.array([0.1, 0, 0, 0, 0, 0, -0.5], dtype=np.float32)
    sim.command(target)
    for part in (0.2, 0.4, 0.6, 0.8, 1.0):
        sim.advance(0.02)
        np.testing.assert_allclose(sim.setpoint, start + part * (target - start), atol=1e-6)
    sim.advance(0.2)
    np.testing.assert_allclose(sim.setpoint, target, atol=1e-6)
    np.testing.assert_allclose(sim.proprio(), target, atol=0.02)


def test_a_new_command_starts_from_the_setpoint_in_force(sim):
    start = sim.setpoint
    sim.command(start + np.float32(0.1))
    sim.advance(0.048)
    midway = sim.setpoint
    sim.command(start)
    np.testing.assert_allclose(sim.setpoint, midway, atol=1e-6)
    assert midway[0] == pytest.approx(start[0] + 0.048, abs=1e-6)


def test_a_delayed_command_leaves_the_world_running(sim):
    """Split and whole steps are the same physics: latency in the loop depends on it."""
    target = sim.setpoint + np.float32(0.05)
    sim.step(target)
    sim.step(target)
    whole = sim.data.qpos.copy()
    sim.reset(1)
    sim.command(target)
    for _ in range(10):
        sim.advance(0.02)
    np.testing.assert_array_equal(sim.data.qpos, whole)


def test_commands_are_clamped_to_the_limits_of_the_robot(sim):
    sim.step(np.full(7, 100.0))
    np.testing.assert_array_equal(sim.setpoint, ROBOT.upper)
    sim.step(np.full(7, -100.0))
    np.testing.assert_array_equal(sim.setpoint, ROBOT.lower)


@pytest.mark.parametrize("opening", [0.0, 0.3, 1.0])
def test_the_gripper_opens_as_far_as_told(sim, opening):
    target = sim.setpoint
    target[-1] = opening
    for _ in range(8):
        sim.step(target)
    assert sim.proprio()[-1] == pytest.approx(opening, abs=0.02)


@pytest.mark.parametrize("field", ["qvel", "qpos", "qacc_warmstart"])
def test_an_unstable_simulation_fails_the_episode_until_reset(sim, field):
    if field == "qacc_warmstart":
        sim.data.qfrc_applied[0] = np.nan
    else:
        getattr(sim.data, field)[0] = np.nan
    sim.step(sim.setpoint)
    assert sim.failed
    assert not sim.success()
    assert sim.progress() == 0.0
    assert sim.time == pytest.approx(0.1)  # MuJoCo has reset its own clock
    sim.reset(1)
    assert not sim.failed
    sim.step(sim.setpoint)
    assert not sim.failed


def test_no_warning_file_is_left_behind(sim, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    sim.data.qvel[0] = np.nan
    sim.step(sim.setpoint)
    assert list(tmp_path.iterdir()) == []
    assert "Nan, Inf or huge value in QVEL" in caplog.text


def test_unknown_names_list_the_valid_ones(sim):
    with pytest.raises(
        SimError, match=r"unknown task 'lfit' \(did you mean 'lift'\?\); valid names: lift, place, push"
    ):
        ArmSim("lfit", ROBOT)
    with pytest.raises(SimError, match="unknown camera 'wirst' .*valid names: front, wrist"):
        sim.render("wirst")


def test_each_camera_has_its_own_size():
    large = dataclasses.replace(ROBOT.cameras[1], width_px=64, height_px=48)
    robot = dataclasses.replace(ROBOT, cameras=(ROBOT.cameras[0], large))
    sim = ArmSim("reach", robot)
    sim.observation().validate(robot)
    assert sim.render("wrist").shape == (48, 64, 3)
    sim.close()


def test_a_closed_simulation_draws_again_when_asked(sim):
    before = sim.render("front")
    sim.close()
    np.testing.assert_array_equal(sim.render("front"), before)


def test_success_must_hold_before_the_episode_is_finished():
    sim = ArmSim("reach", ROBOT)
    sim.reset(0)
    state = sim.state()
    over_cube = np.array([*state.tip[:2], state.tip[2] - 0.036])
    sim.data.qpos[sim.model.joint("cube_0").qposadr[0] :][:3] = over_cube  # hang the cube right below the tip
    sim.model.opt.gravity[2] = 0.0
    steps = 0
    while not sim.finished:
        assert steps * sim.control_dt <= HOLD_SECONDS + 0.2
        sim.step(sim.setpoint)
        assert sim.success()
        steps += 1
    assert steps * sim.control_dt >= HOLD_SECONDS
    sim.data.qpos[sim.model.joint("cube_0").qposadr[0]] += 0.2
    sim.step(sim.setpoint)
    assert not sim.success()
    assert not sim.finished
