"""Scenes: what is drawn from a seed, what the model holds, and what the cameras see."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.arm_sim import ArmSim
from sim.errors import SimError
from sim.gl import mujoco, open_renderer
from sim.layout import BIN_HALF, COLOURS, CUBE_HALF, MAX_DISTRACTORS, MAX_YAW, Layout, Region, name_cube, sample_layout
from sim.scene import build_model, cube_name
from sim.tasks import TASKS
from wam.robot import load_robot

ROBOT = load_robot("sim6")


def layout_of(task: str, seed: int, distractors: int = 0) -> Layout:
    entry = TASKS[task]
    return sample_layout(
        np.random.default_rng(seed),
        cubes=entry.cubes,
        others=entry.others or entry.cubes,
        goal=entry.goal,
        bin_=entry.bin,
        distractors=distractors,
        n_joints=6,
    )


@given(seed=st.integers(0, 2**32 - 1), task=st.sampled_from(sorted(TASKS)), distractors=st.integers(0, MAX_DISTRACTORS))
def test_every_layout_keeps_the_promises(seed, task, distractors):
    layout = layout_of(task, seed, distractors)
    colours = [cube.colour for cube in layout.cubes]
    assert len(colours) == len(set(colours)) == 1 + distractors
    assert layout.bin_colour not in colours
    assert (layout.bin_xy is None) == (TASKS[task].bin is None)
    assert (layout.goal_xy is None) == (TASKS[task].goal is None)
    region = TASKS[task].cubes
    assert region.x[0] <= layout.cubes[0].xy[0] <= region.x[1]
    assert region.y[0] <= layout.cubes[0].xy[1] <= region.y[1]
    assert all(abs(cube.yaw) <= MAX_YAW for cube in layout.cubes)
    for i, cube in enumerate(layout.cubes):
        others = [other.xy for other in layout.cubes[:i]]
        assert all(np.linalg.norm(cube.xy - xy) > 2 * CUBE_HALF * np.sqrt(2) * 0.9 for xy in others)
        if layout.bin_xy is not None:
            assert np.abs(cube.xy - layout.bin_xy).max() > BIN_HALF + CUBE_HALF


def test_a_layout_is_decided_by_its_seed():
    first, again, other = layout_of("place", 5, 2), layout_of("place", 5, 2), layout_of("place", 6, 2)
    np.testing.assert_array_equal(first.start_offset, again.start_offset)
    assert [cube.colour for cube in first.cubes] == [cube.colour for cube in again.cubes]
    np.testing.assert_array_equal([cube.xy for cube in first.cubes], [cube.xy for cube in again.cubes])
    assert not np.array_equal(first.cubes[0].xy, other.cubes[0].xy)


def test_every_colour_is_named_sooner_or_later():
    assert {layout_of("lift", seed).cubes[0].colour for seed in range(60)} == set(COLOURS)


@pytest.mark.parametrize("distractors", [-1, MAX_DISTRACTORS + 1])
def test_impossible_numbers_of_distractors_are_refused(distractors):
    with pytest.raises(SimError, match=f"distractors is {distractors} but must be 0 to {MAX_DISTRACTORS}"):
        layout_of("lift", 0, distractors)


def test_a_region_without_room_is_refused():
    tight = Region(x=(0.3, 0.31), y=(0.0, 0.01))
    with pytest.raises(SimError, match="no room for 2 cubes .* use fewer distractors"):
        sample_layout(
            np.random.default_rng(0), cubes=tight, others=tight, goal=None, bin_=None, distractors=1, n_joints=6
        )


def test_the_robot_file_and_the_model_agree():
    model = build_model(ROBOT, n_cubes=1, with_goal=False, with_bin=False, physics_dt=0.004)
    for joint in ROBOT.joints:
        np.testing.assert_allclose(model.joint(joint.name).range, joint.position)
    assert model.vis.quality.offsamples == 0  # multisampling and shadows are most of the cost of a frame
    assert not model.light_castshadow.any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "sim7"}, r"unknown simulated robot 'sim7' \(did you mean 'sim6'\?\)"),
        ({"joints": (dataclasses.replace(ROBOT.joints[0], name="jaw"), *ROBOT.joints[1:])}, "unknown actuator 'jaw'"),
        ({"cameras": (dataclasses.replace(ROBOT.cameras[0], name="side"),)}, "unknown camera 'side'"),
    ],
)
def test_a_robot_without_its_model_is_refused(change, message):
    robot = dataclasses.replace(ROBOT, **change)
    with pytest.raises(SimError, match=message):
        build_model(robot, n_cubes=1, with_goal=False, with_bin=False, physics_dt=0.004)


def test_the_same_seed_gives_the_same_pixels():
    first, second = (ArmSim("place", ROBOT, distractors=1) for _ in range(2))
    second.reset(3)  # what happened before must leave no trace
    second.render("front")
    second.step(second.proprio())
    for sim in (first, second):
        sim.reset(11)
    for camera in ROBOT.camera_names:
        image = first.render(camera)
        np.testing.assert_array_equal(image, second.render(camera))
        assert image.shape == (96, 96, 3)
        assert image.dtype == np.uint8
        assert image.std() > 10  # not a black void
    assert not np.array_equal(first.render("front"), first.render("wrist"))
    for sim in (first, second):
        sim.close()


@pytest.mark.parametrize("task", sorted(TASKS))
def test_the_front_camera_sees_everything_that_matters(task):
    sim = ArmSim(task, ROBOT)
    renderer = open_renderer(sim.model, 96, 96)
    renderer.enable_segmentation_rendering()
    bodies = [cube_name(0)] + ["goal"] * (TASKS[task].goal is not None) + ["bin"] * (TASKS[task].bin is not None)
    for seed in range(20):
        sim.reset(seed)
        renderer.update_scene(sim.data, camera="front")
        geoms = renderer.render()[..., 0]  # (96, 96) geom ids, -1 where nothing is
        assert (geoms >= 0).all()
        for body in bodies:
            seen = np.isin(geoms, np.flatnonzero(sim.model.geom_bodyid == sim.model.body(body).id))
            assert seen.sum() >= 40, f"{body} covers {seen.sum()} pixels at seed {seed}"
            assert not seen[:, [0, -1]].any(), f"{body} is cut off at seed {seed}"
    renderer.close()


def test_the_named_cube_has_the_named_colour():
    sim = ArmSim("lift", ROBOT)
    for seed in range(12):
        sim.reset(seed)
        colour = sim.instruction.split()[2]
        np.testing.assert_allclose(sim.model.geom(cube_name(0)).rgba[:3], COLOURS[colour], atol=1e-6)


def test_the_scene_starts_at_rest():
    sim = ArmSim("place", ROBOT, distractors=MAX_DISTRACTORS)
    for seed in range(5):
        sim.reset(seed)
        before = sim.state()
        for _ in range(5):
            sim.step(sim.setpoint)
        after = sim.state()
        np.testing.assert_allclose(after.cube, before.cube, atol=1e-3)
        np.testing.assert_allclose(after.tip, before.tip, atol=2e-3)
    assert sim.data.warning[mujoco.mjtWarning.mjWARN_CONTACTFULL].number == 0


def test_naming_another_cube_changes_the_wish_and_not_the_scene():
    usual, counterfactual = ArmSim("reach", ROBOT, distractors=1), ArmSim("reach", ROBOT, distractors=1, named=1)
    try:
        for sim in (usual, counterfactual):
            sim.reset(1_000_003)
        first, second = usual.layout.cubes
        assert counterfactual.instruction == f"reach the {second.colour} cube" != usual.instruction
        assert [cube.colour for cube in counterfactual.layout.cubes] == [second.colour, first.colour]
        np.testing.assert_allclose(counterfactual.state().cube[:2], second.xy)
        for camera in ROBOT.camera_names:
            np.testing.assert_array_equal(usual.render(camera), counterfactual.render(camera))
    finally:
        usual.close()
        counterfactual.close()


def test_cubes_that_cannot_be_named_are_refused():
    with pytest.raises(SimError, match="named is 1 but must lie in 0 to the number of distractors, 0"):
        ArmSim("reach", ROBOT, named=1)
    with pytest.raises(SimError, match="task 'push' cannot name another cube"):
        ArmSim("push", ROBOT, distractors=1, named=1)
    with pytest.raises(SimError, match="cube 2 was to be named but the scene has 2"):
        name_cube(layout_of("reach", 0, 1), 2)
