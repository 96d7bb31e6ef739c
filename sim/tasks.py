"""Tasks: where their scenes come from, what they ask for in words, and when they are solved.

A task is data plus two pure functions of ``SceneState``, the simulator's ground truth at one instant. Adding a task is
one entry in ``TASKS`` and one waypoint function in ``sim.experts``. Units are metres, seconds and radians.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sim.errors import SimError
from sim.layout import BIN_HALF, CUBE_HALF, Layout, Region
from wam.errors import unknown_name

__all__ = ["HOLD_SECONDS", "REACH_OFFSET", "TASKS", "SceneState", "Task", "get_task", "task_names"]

HOLD_SECONDS = 0.5  # an episode ends once success has held this long [s]
REACH_OFFSET = CUBE_HALF + 0.012  # reach asks for a point this far above the cube's centre, free of the cube [m]
REACH_TOLERANCE = 0.03  # [m]: the fingers then stand around the cube, just over it
LIFT_HEIGHT = 0.06  # the cube must rise this far [m]
PUSH_TOLERANCE = 0.04  # cube centre to goal centre [m]: most of the cube lies on the mark
PLACE_TOLERANCE = BIN_HALF - CUBE_HALF + 0.003  # cube centre to bin centre per axis [m]: inside the walls, tilted too


@dataclass(frozen=True, kw_only=True)
class SceneState:
    """Ground truth at one instant; world frame."""

    tip: np.ndarray  # (3,) point between the finger tips [m]
    tip_yaw: float  # heading of the gripper about z [rad]; 0 closes along y
    opening: float  # gripper opening [0, 1]
    cube: np.ndarray  # (3,) centre of the named cube [m]
    cube_yaw: float  # heading of the named cube about z [rad]
    cube_start: np.ndarray  # (3,) where it was at reset [m]
    tip_start: np.ndarray  # (3,) where the tip was at reset [m]
    holding: bool  # both fingers touch the named cube
    touching: bool  # at least one finger touches it
    goal_xy: np.ndarray | None  # (2,) [m]
    bin_xy: np.ndarray | None  # (2,) [m]


@dataclass(frozen=True, kw_only=True)
class Task:
    """One task of the suite."""

    name: str  # as on the command line
    instruction: str  # template with {cube} and {bin} colours
    max_seconds: float  # an episode that is not solved by then has failed [s]
    cubes: Region  # where the named cube starts
    others: Region | None = None  # where distractors start; the same region when None, so that place gives no hint
    goal: Region | None = None  # where the goal may lie, if any
    bin: Region | None = None  # where the bin may lie, if any
    success: Callable[[SceneState], bool]  # solved at this instant
    progress: Callable[[SceneState], float]  # how far, [0, 1]; 1 when solved

    def instruct(self, layout: Layout) -> str:
        """Returns the instruction for a scene, such as "lift the red cube"."""
        return self.instruction.format(cube=layout.cubes[0].colour, bin=layout.bin_colour)


def task_names() -> tuple[str, ...]:
    """Names of all tasks."""
    return tuple(TASKS)


def get_task(name: str) -> Task:
    """Returns a task by name.

    Raises:
        SimError: No such task.
    """
    if name not in TASKS:
        raise SimError(unknown_name("task", name, TASKS))
    return TASKS[name]


def _reach_distance(state: SceneState) -> float:
    return float(np.linalg.norm(state.tip - state.cube - (0, 0, REACH_OFFSET)))


def _reach_success(state: SceneState) -> bool:
    return _reach_distance(state) <= REACH_TOLERANCE


def _reach_progress(state: SceneState) -> float:
    start = float(np.linalg.norm(state.tip_start - state.cube_start - (0, 0, REACH_OFFSET)))
    return _share_done(_reach_distance(state), start, REACH_TOLERANCE)


def _rise(state: SceneState) -> float:
    return float(state.cube[2] - state.cube_start[2])


def _lift_success(state: SceneState) -> bool:
    return state.holding and _rise(state) >= LIFT_HEIGHT


def _lift_progress(state: SceneState) -> float:
    return 1.0 if _lift_success(state) else float(np.clip(_rise(state) / LIFT_HEIGHT, 0.0, 0.99))


def _goal_distance(cube: np.ndarray, target_xy: np.ndarray | None) -> float:
    if target_xy is None:
        raise SimError("this scene has no goal or bin: the task's layout does not match its success function.")
    return float(np.linalg.norm(cube[:2] - target_xy))


def _push_success(state: SceneState) -> bool:
    return bool(_goal_distance(state.cube, state.goal_xy) <= PUSH_TOLERANCE and state.cube[2] < 2 * CUBE_HALF)


def _push_progress(state: SceneState) -> float:
    if _push_success(state):
        return 1.0
    start = _goal_distance(state.cube_start, state.goal_xy)
    return min(0.99, _share_done(_goal_distance(state.cube, state.goal_xy), start, PUSH_TOLERANCE))


def _place_success(state: SceneState) -> bool:
    inside = np.abs(state.cube[:2] - state.bin_xy).max() <= PLACE_TOLERANCE
    return bool(inside and state.cube[2] < 2 * CUBE_HALF and not state.touching)


def _place_progress(state: SceneState) -> float:
    if _place_success(state):
        return 1.0
    start = _goal_distance(state.cube_start, state.bin_xy)
    return min(0.99, _share_done(_goal_distance(state.cube, state.bin_xy), start, PLACE_TOLERANCE))


def _share_done(now: float, start: float, tolerance: float) -> float:
    """1 within the tolerance, 0 at the start or farther, linear between."""
    return 1.0 if now <= tolerance else float(np.clip(1 - now / max(start, tolerance), 0.0, 0.99))


_CENTRE = Region(x=(0.28, 0.48), y=(-0.12, 0.12))

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(
            name="reach",
            instruction="reach the {cube} cube",
            max_seconds=6.0,
            cubes=_CENTRE,
            success=_reach_success,
            progress=_reach_progress,
        ),
        Task(
            name="lift",
            instruction="lift the {cube} cube",
            max_seconds=8.0,
            cubes=_CENTRE,
            success=_lift_success,
            progress=_lift_progress,
        ),
        Task(
            name="push",
            instruction="push the {cube} cube to the target",
            max_seconds=12.0,
            # The cube starts nearer to the arm than the goal, so that it is always pushed forward, up to 45 degrees.
            cubes=Region(x=(0.29, 0.37), y=(-0.08, 0.08)),
            others=Region(x=(0.27, 0.52), y=(-0.20, 0.20)),  # beside the cube's way to the goal
            goal=Region(x=(0.45, 0.50), y=(-0.09, 0.09)),
            success=_push_success,
            progress=_push_progress,
        ),
        Task(
            name="place",
            instruction="place the {cube} cube in the {bin} bin",
            max_seconds=12.0,
            cubes=Region(x=(0.28, 0.46), y=(-0.17, 0.02)),
            bin=Region(x=(0.31, 0.37), y=(0.145, 0.17)),
            success=_place_success,
            progress=_place_progress,
        ),
    )
}
