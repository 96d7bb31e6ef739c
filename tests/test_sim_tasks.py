"""Success and progress as pure functions of the state."""

import dataclasses

import numpy as np
import pytest

from sim.errors import SimError
from sim.layout import CUBE_HALF, Cube, Layout
from sim.scene import BIN_HEIGHT
from sim.tasks import LIFT_HEIGHT, REACH_OFFSET, TASKS, SceneState, get_task, task_names

CUBE = np.array([0.35, 0.02, CUBE_HALF])
STATE = SceneState(
    tip=np.array([0.38, 0.0, 0.2]),
    tip_yaw=0.0,
    opening=1.0,
    cube=CUBE,
    cube_yaw=0.0,
    cube_start=CUBE,
    tip_start=np.array([0.38, 0.0, 0.2]),
    holding=False,
    touching=False,
    goal_xy=np.array([0.47, 0.0]),
    bin_xy=np.array([0.37, 0.18]),
)


def with_cube(**change: object) -> SceneState:
    return dataclasses.replace(STATE, **change)


def up(metres: float) -> np.ndarray:
    return CUBE + (0, 0, metres)


@pytest.mark.parametrize("name", task_names())
def test_nothing_is_solved_at_the_start(name):
    assert not TASKS[name].success(STATE)
    assert TASKS[name].progress(STATE) < 0.5


@pytest.mark.parametrize(
    ("task", "state", "solved"),
    [
        ("reach", with_cube(tip=up(REACH_OFFSET)), True),
        ("reach", with_cube(tip=up(REACH_OFFSET + 0.05)), False),
        ("lift", with_cube(cube=up(LIFT_HEIGHT + 0.001), holding=True, touching=True), True),
        ("lift", with_cube(cube=up(LIFT_HEIGHT + 0.001)), False),  # thrown, not held
        ("lift", with_cube(cube=up(LIFT_HEIGHT - 0.01), holding=True, touching=True), False),
        ("push", with_cube(cube=np.array([0.47, 0.01, CUBE_HALF])), True),
        ("push", with_cube(cube=np.array([0.47, 0.06, CUBE_HALF])), False),
        ("push", with_cube(cube=np.array([0.47, 0.01, 0.1])), False),  # carried over the goal, not pushed onto it
        ("place", with_cube(cube=np.array([0.37, 0.18, CUBE_HALF + 0.008])), True),
        ("place", with_cube(cube=np.array([0.37, 0.18, CUBE_HALF + 0.008]), touching=True), False),  # not let go
        ("place", with_cube(cube=np.array([0.37, 0.18, BIN_HEIGHT + 2 * CUBE_HALF])), False),  # still above the bin
        ("place", with_cube(cube=np.array([0.37, 0.18 - 0.06, CUBE_HALF + BIN_HEIGHT])), False),  # on the wall
    ],
)
def test_success_means_what_the_instruction_says(task, state, solved):
    assert TASKS[task].success(state) is solved
    assert (TASKS[task].progress(state) == 1.0) is solved


@pytest.mark.parametrize(
    ("task", "path"),
    [
        ("reach", [with_cube(tip=up(REACH_OFFSET + rise)) for rise in (0.15, 0.1, 0.06, 0.04, 0.0)]),
        ("lift", [with_cube(cube=up(rise), holding=True) for rise in (0.0, 0.02, 0.04, 0.059, 0.07)]),
        ("push", [with_cube(cube=np.array([x, 0.0, CUBE_HALF])) for x in (0.35, 0.38, 0.40, 0.42, 0.46)]),
        ("place", [with_cube(cube=np.array([0.37, y, 0.03])) for y in (0.02, 0.08, 0.11, 0.13, 0.18)]),
    ],
)
def test_progress_grows_from_the_start_to_the_end(task, path):
    values = [TASKS[task].progress(state) for state in path]
    assert values == sorted(values)
    assert len(set(values)) == len(values)
    assert values[-1] == 1.0
    assert 0.0 <= values[0] < 0.6


def test_instructions_are_natural():
    cubes = (Cube(colour="red", xy=CUBE[:2], yaw=0.0),)
    layout = Layout(cubes=cubes, goal_xy=None, bin_xy=None, bin_colour="blue", start_offset=np.zeros(6))
    assert TASKS["reach"].instruct(layout) == "reach the red cube"
    assert TASKS["lift"].instruct(layout) == "lift the red cube"
    assert TASKS["push"].instruct(layout) == "push the red cube to the target"
    assert TASKS["place"].instruct(layout) == "place the red cube in the blue bin"


def test_an_unknown_task_lists_the_valid_ones():
    with pytest.raises(SimError, match=r"unknown task 'plce' \(did you mean 'place'\?\); valid names: lift, place"):
        get_task("plce")


def test_a_scene_without_goal_cannot_be_judged():
    with pytest.raises(SimError, match="this scene has no goal or bin"):
        TASKS["push"].success(with_cube(goal_xy=None))
