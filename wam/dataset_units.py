"""Are the numbers of a dataset positions of this robot, in radians and openings of 0 to 1?

A network trains on degrees as well as on radians, its export agrees with it to seven digits, and the arm is told 59.9.
So every axis is held against its range before, with the margins that the guard will hold the policy's actions to.

Shape legend: M rows, A axes, D datasets.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wam.dataset_tables import DatasetTables
from wam.errors import DatasetError
from wam.limits import foreign_bounds, grazed_bounds
from wam.robot import RobotSpec
from wam.spec import ACTION, OBS_STATE

__all__ = ["check_finite", "check_ranges", "compare_datasets"]

FEW = 0.01  # share of rows outside an axis' range up to which they are single readings; they are said, not refused
SINGLE = 3  # rows that are single readings in a dataset of any length
TURN_DEG, TICKS = 400.0, 4200.0  # joints turn little more than once; servos count 4096 per turn
UNIT_RATIO = 20.0  # the smallest factor between two units of one quantity in use (degrees to radians is 57)
OWN = "this unit on an arm"
MOVES = 0.02  # an axis that spans less than this share of its range says nothing about its unit


@dataclass(frozen=True, kw_only=True)
class _Axis:
    """One axis of state or action that leaves its range."""

    key: str
    name: str
    outside: int  # rows
    absurd: bool  # so far outside that no row may be so
    few: bool  # single readings, not a unit
    text: str


def check_finite(tables: DatasetTables, robot: RobotSpec) -> None:
    """Refuses numbers that are missing, NaN or infinite.

    Raises:
        DatasetError: Names file, episode, column and row of the first.
    """
    for key, values in _columns(tables):
        broken = np.argwhere(~(np.abs(values) <= np.finfo(np.float32).max))  # also True for NaN
        if len(broken):
            row, column = broken[0]
            path, place = tables.place(int(row))
            raise DatasetError(
                f"{path}: episode {tables.episode[row]} holds {values[row, column]} in '{key}', column "
                f"'{robot.action_names[column]}' (row {place}, {len(broken)} numbers in all): one such number spoils "
                f"the whole training; {_remove_episodes(tables, np.unique(tables.episode[broken[:, 0]]))}, or record "
                "the dataset again."
            )


def check_ranges(tables: DatasetTables, robot: RobotSpec, keys: Sequence[str] = (OBS_STATE, ACTION)) -> list[str]:
    """Holds every axis of state and action against the robot's ranges.

    Args:
        tables: The numbers.
        robot: Whose ranges.
        keys: Columns that hold positions.

    Returns:
        What is to be said: axes that leave their range in less than 1 % of the rows, with counts.

    Raises:
        DatasetError: An axis is outside in 1 % of the rows or more, or has an absurd value; all of them, with what they
            look like.
    """
    axes = [axis for key, values in _columns(tables) if key in keys for axis in _outside(key, values, tables, robot)]
    rows = len(tables.episode)
    wrong = [axis for axis in axes if axis.absurd or axis.outside >= FEW * rows]
    if wrong:
        lines = "".join(f"\n    {axis.text}" for axis in wrong)
        raise DatasetError(
            f"dataset {tables.root}: numbers are no positions of robot '{robot.name}' (radians, gripper opening 0 to "
            f"1):{lines}\n    {_way_out(tables, robot, wrong)}"
        )
    if not axes:
        return []
    return [f"a few rows are outside the ranges of robot '{robot.name}': {'; '.join(axis.text for axis in axes)}"]


def compare_datasets(parts: Sequence[DatasetTables], robot: RobotSpec) -> list[str]:
    """Compares D datasets that are to train together, axis by axis.

    Returns:
        What is to be said: an axis that moves many times as far in one as in another, or in another part of its range.

    Raises:
        DatasetError: Most axes of one dataset span a multiple of those of another: they are in another unit.
    """
    said = []
    for number, one in enumerate(parts):
        for other in parts[number + 1 :]:
            found = [text for key in (OBS_STATE, ACTION) for text in _differences(one, other, key, robot)]
            if found:
                said.append(f"{one.root} and {other.root} differ: {'; '.join(found)}")
    return said


def _columns(tables: DatasetTables) -> tuple[tuple[str, np.ndarray], ...]:
    return ((OBS_STATE, tables.proprio), (ACTION, tables.action))


def _outside(key: str, values: np.ndarray, tables: DatasetTables, robot: RobotSpec) -> list[_Axis]:
    (low, high), (lowest, highest) = grazed_bounds(robot), foreign_bounds(robot)
    outside = (values < low) | (values > high)  # (M, A)
    foreign = (values < lowest) | (values > highest)
    found = []
    for column in np.flatnonzero(outside.any(axis=0)):
        axis, rows = robot.axes[column], int(outside[:, column].sum())
        gripper = bool(column >= len(robot.joints))
        share = rows / len(values)
        group = values[:, len(robot.joints) :] if gripper else values[:, : len(robot.joints)]
        far = bool(foreign[:, column].any())
        few = rows < FEW * len(values) or (far and rows <= SINGLE)
        unit = _few(tables, outside[:, column]) if few else _unit(values[:, column], group, gripper=gripper)
        found.append(
            _Axis(
                key=key,
                name=axis.name,
                outside=rows,
                absurd=far,
                few=few,
                text=(
                    f"{key} '{axis.name}': {values[:, column].min():.4g} to {values[:, column].max():.4g}, "
                    f"{rows} of {len(values)} rows ({share:.2%}) outside [{axis.position[0]:g}, {axis.position[1]:g}] "
                    f"and a margin, {unit}"
                ),
            )
        )
    return found


def _few(tables: DatasetTables, outside: np.ndarray) -> str:
    episodes = np.unique(tables.episode[outside])
    return f"single readings in episode {_listed(episodes)}"


def _unit(values: np.ndarray, group: np.ndarray, *, gripper: bool) -> str:
    """What an axis looks like, in words; the other axes of its kind tell degrees from -100 to 100."""
    low, reach = float(values.min()), float(np.abs(group).max())
    if reach <= (2.0 if gripper else 3 * math.pi):
        return f"looks like {OWN} with wider ranges, another zero or other directions"
    if reach > TICKS or (low < -TURN_DEG and float(values.max()) > TURN_DEG):
        return "looks like no unit of position: a broken number, or another quantity"
    if reach > TURN_DEG:
        return "looks like servo ticks" if low >= -1 else "looks like servo ticks from another zero"
    if reach > 101:
        return "looks like degrees"
    if float(group.min()) >= -1 and (gripper or reach >= 98):
        return "looks like 0..100"
    return "looks like -100..100" if reach >= 98 else "looks like degrees (or -100..100)"


def _way_out(tables: DatasetTables, robot: RobotSpec, wrong: Sequence[_Axis]) -> str:
    if all(axis.few for axis in wrong):
        low, high = grazed_bounds(robot)
        far = np.any([((v < low) | (v > high)).any(axis=1) for _, v in _columns(tables)], axis=0)
        return f"To go on without these readings, {_remove_episodes(tables, np.unique(tables.episode[far]))}"
    if all(OWN in axis.text for axis in wrong):
        return (
            "If the arm goes there, widen 'position' of these axes in its robot file and give it: --robot my_arm.yaml"
        )
    return (
        "Convert the columns of 'observation.state' and 'action' before training (degrees: * pi / 180; 0..100: / 100; "
        "-100..100 and ticks: by the arm's calibration), or record with lerobot-record --robot.use_degrees=true and "
        "convert those. If the arm does go there, widen 'position' in its robot file and give it: --robot my_arm.yaml"
    )


def _remove_episodes(tables: DatasetTables, episodes: np.ndarray) -> str:
    root = tables.root
    return (
        f"remove episode {_listed(episodes)}: lerobot-edit-dataset --repo_id local/{root.name} --root {root} "
        "--new_root "
        f'{root}_clean --operation.type delete_episodes --operation.episode_indices "[{", ".join(map(str, episodes))}]"'
    )


def _listed(episodes: np.ndarray) -> str:
    some = ", ".join(str(episode) for episode in episodes[:5])
    return some if len(episodes) <= 5 else f"{some} and {len(episodes) - 5} more"


def _differences(one: DatasetTables, other: DatasetTables, key: str, robot: RobotSpec) -> list[str]:
    spans = []
    for tables in (one, other):
        values = dict(_columns(tables))[key]
        spans.append(np.percentile(values, [1, 99], axis=0))  # (2, A)
    ranges = np.array([axis.position[1] - axis.position[0] for axis in robot.axes])
    widths = np.array([span[1] - span[0] for span in spans])  # (2, A)
    wide = widths.max(axis=0) > MOVES * ranges
    ratio = widths[0] / np.maximum(widths[1], 1e-12)
    factor = np.maximum(ratio, 1 / np.maximum(ratio, 1e-12))
    other_unit = wide & (widths.min(axis=0) > 0) & (factor >= UNIT_RATIO)
    apart = wide & ~other_unit & ((spans[0][1] < spans[1][0]) | (spans[1][1] < spans[0][0]))
    texts = []
    for column in np.flatnonzero(other_unit | apart):
        (a, b), (c, d) = spans[0][:, column], spans[1][:, column]
        what = f"{factor[column]:.3g} times as wide" if other_unit[column] else "apart"
        texts.append(f"{key} '{robot.axes[column].name}' {a:.4g}..{b:.4g} and {c:.4g}..{d:.4g}, {what}")
    moving = wide & (widths.min(axis=0) > 0)
    if moving.sum() and other_unit.sum() * 2 > moving.sum() and np.median(factor[moving]) >= UNIT_RATIO:
        raise DatasetError(
            f"datasets {one.root} and {other.root} are not in one unit: {'; '.join(texts)}. Convert one of them, or "
            f"train on one alone: --dataset {one.root}"
        )
    return texts
