"""Where things lie at the start of an episode: colours, regions and the sampling of one scene from a seed.

Pure numpy. World frame: the arm's base at the origin, x forward over the table, y to the arm's left, z up, table top at
z = 0. A layout is all that is random in a scene; the same generator state gives the same layout.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np

from sim.errors import SimError

__all__ = [
    "BIN_HALF",
    "COLOURS",
    "CUBE_HALF",
    "MAX_DISTRACTORS",
    "Cube",
    "Layout",
    "Region",
    "name_cube",
    "sample_layout",
]

CUBE_HALF = 0.024  # half edge of every cube [m]
BIN_HALF = 0.06  # half outer edge of the bin [m]
MAX_DISTRACTORS = 4  # six colours, less the named cube's and the bin's
SEPARATION = 0.10  # least distance of two cube centres [m]: open fingers must fit between
MAX_YAW = np.deg2rad(30)  # cubes beyond 45 degrees would make the choice of grasp ambiguous
START_JITTER = 0.06  # half range of the arm's start pose about home, per joint [rad]

# Spread over hue and brightness, so that they stay apart at 64 x 64 px under flat light.
COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.86, 0.10, 0.10),
    "green": (0.10, 0.62, 0.18),
    "blue": (0.08, 0.25, 0.88),
    "yellow": (0.98, 0.86, 0.08),
    "purple": (0.52, 0.14, 0.72),
    "orange": (0.98, 0.48, 0.04),
}


@dataclass(frozen=True, kw_only=True)
class Region:
    """A rectangle on the table."""

    x: tuple[float, float]  # lowest and highest x [m]
    y: tuple[float, float]  # lowest and highest y [m]

    def sample(self, rng: np.random.Generator) -> np.ndarray:
        """Returns a uniform point, (2,) float64 [m]."""
        return np.array([rng.uniform(*self.x), rng.uniform(*self.y)])


@dataclass(frozen=True, kw_only=True)
class Cube:
    """One cube at the start."""

    colour: str  # a name of COLOURS
    xy: np.ndarray  # (2,) centre on the table [m]
    yaw: float  # rotation about z [rad]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One scene; ``cubes[0]`` is the one the instruction names."""

    cubes: tuple[Cube, ...]  # the named cube, then the distractors
    goal_xy: np.ndarray | None  # (2,) centre of the marked goal [m], if the task has one
    bin_xy: np.ndarray | None  # (2,) centre of the bin [m], if the task has one
    bin_colour: str | None  # never the colour of a cube
    start_offset: np.ndarray  # (n_joints,) start pose minus home [rad]


def sample_layout(
    rng: np.random.Generator,
    *,
    cubes: Region,
    others: Region,
    goal: Region | None,
    bin_: Region | None,
    distractors: int,
    n_joints: int,
) -> Layout:
    """Draws one scene.

    Args:
        rng: The only source of randomness.
        cubes: Where the named cube's centre may lie.
        others: Where the centres of distractors may lie.
        goal: Where the goal's centre may lie, or None for a task without one.
        bin_: Where the bin's centre may lie, or None for a task without one.
        distractors: Number of cubes beside the named one, each of another colour.
        n_joints: Number of arm joints.

    Raises:
        SimError: ``distractors`` is out of range.
    """
    if not 0 <= distractors <= MAX_DISTRACTORS:
        raise SimError(
            f"distractors is {distractors} but must be 0 to {MAX_DISTRACTORS}: there are {len(COLOURS)} colours, and "
            "the named cube and the bin need one each."
        )
    colours = [str(name) for name in rng.permutation(list(COLOURS))]
    start_offset = rng.uniform(-START_JITTER, START_JITTER, n_joints)
    goal_xy = goal.sample(rng) if goal else None
    bin_xy = bin_.sample(rng) if bin_ else None
    centres = [cubes.sample(rng)]
    while len(centres) < 1 + distractors:
        centres.append(_free_spot(rng, others, centres, goal_xy))
    placed = tuple(
        Cube(colour=colours[i], xy=xy, yaw=float(rng.uniform(-MAX_YAW, MAX_YAW))) for i, xy in enumerate(centres)
    )
    return Layout(
        cubes=placed,
        goal_xy=goal_xy,
        bin_xy=bin_xy,
        bin_colour=colours[-1] if bin_ else None,
        start_offset=start_offset,
    )


def name_cube(layout: Layout, number: int) -> Layout:
    """Returns the same scene with another cube named: what a counterfactual instruction asks for.

    Args:
        layout: A scene.
        number: Which of its cubes the instruction names; 0 is the one it names already.

    Raises:
        SimError: The scene has no such cube.
    """
    if not 0 <= number < len(layout.cubes):
        raise SimError(
            f"cube {number} was to be named but the scene has {len(layout.cubes)}, counted from 0: use distractors."
        )
    others = tuple(cube for i, cube in enumerate(layout.cubes) if i != number)
    return dataclasses.replace(layout, cubes=(layout.cubes[number], *others))


def _free_spot(
    rng: np.random.Generator, region: Region, centres: list[np.ndarray], goal_xy: np.ndarray | None
) -> np.ndarray:
    for attempt in range(1000):
        spot = region.sample(rng)
        # Crowded scenes: give way a little every hundred attempts, so that sampling always ends.
        room = SEPARATION * 0.95 ** (attempt // 100)
        apart = all(np.linalg.norm(spot - other) >= room for other in centres)
        if apart and (goal_xy is None or _distance_to_path(spot, centres[0], goal_xy) >= room):
            return spot
    raise SimError(f"no room for {len(centres) + 1} cubes in x {region.x}, y {region.y} m: use fewer distractors.")


def _distance_to_path(spot: np.ndarray, cube: np.ndarray, goal: np.ndarray) -> float:
    """Distance [m] from a point to the way a pushed cube takes, and the gripper behind it."""
    along = (goal - cube) / max(float(np.linalg.norm(goal - cube)), 1e-6)
    start = cube - SEPARATION * along
    length = float(np.linalg.norm(goal - start))
    nearest = start + np.clip((spot - start) @ along, 0.0, length) * along
    return float(np.linalg.norm(spot - nearest))
