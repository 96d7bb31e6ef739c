"""What actions mean, told from how the state follows them, and data that holds no motion or no words.

Shape legend: M rows, A axes.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from wam.dataset_tables import DatasetTables
from wam.errors import DatasetError
from wam.robot import RobotSpec
from wam.spec import ACTION, OBS_STATE

__all__ = ["check_action_meaning", "check_content", "check_lengths"]

FEWEST_ROWS = 20  # fewer tell nothing
LAGS = (1, 2, 3)  # rows after which a state is compared with an action: servos take their time
FOLLOWS, IGNORES = 0.5, 0.5  # correlation from which an action goes with the motion; up to which not with the position
STEP_SIZE = 4.0  # an action of at most this many per-step motions is one, or a multiple set by a driver


def check_action_meaning(tables: DatasetTables, robot: RobotSpec) -> None:
    """Refuses actions that are changes of the state instead of positions.

    A target and the state that follows it lie close together and correlate. A change does not correlate with the state,
    but with its difference, and is as small; ``|action - state|`` is then as large as ``|state|``.

    Raises:
        DatasetError: Names the axes with their numbers.
    """
    joints = len(robot.joints)
    state, action = tables.proprio[:, :joints], tables.action[:, :joints]
    rows = np.flatnonzero(tables.episode[max(LAGS) :] == tables.episode[: -max(LAGS)])  # with all lags in their episode
    if len(rows) < FEWEST_ROWS:
        return
    told = action[rows]
    with_state = np.max([_correlation(told, state[rows + lag]) for lag in (0, 1)], axis=0)  # (joints,)
    steps = state[rows + 1] - state[rows]
    motion = np.max([_correlation(told, state[rows + lag] - state[rows + lag - 1]) for lag in LAGS], axis=0)
    size, step = np.sqrt((told**2).mean(axis=0)), np.sqrt((steps**2).mean(axis=0))
    far, reach = np.abs(told - state[rows]).mean(axis=0), np.abs(state[rows]).mean(axis=0)
    moves = (step > 1e-5) & (np.ptp(state[rows], axis=0) > 1e-3) & (np.ptp(told, axis=0) > 0)
    changes = moves & (motion >= FOLLOWS) & (motion > with_state + 0.2) & (with_state < IGNORES)
    changes &= (size <= STEP_SIZE * step) | ((motion > 0.8) & (far > 0.5 * reach))
    if changes.sum() * 2 <= moves.sum():
        return
    found = "; ".join(
        f"'{robot.joints[i].name}' |action - state| {far[i]:.3g} beside |state| {reach[i]:.3g}, |action| {size[i]:.3g} "
        f"beside a step of {step[i]:.3g}, correlation {motion[i]:.2f} with the motion and {with_state[i]:.2f} with the "
        "position"
        for i in np.flatnonzero(changes)
    )
    raise DatasetError(
        f"dataset {tables.root}: actions look like changes of the state per step (delta actions), not like the "
        f"absolute targets that are trained: {found}. A policy trained on them would send the arm to its zero. Write "
        "absolute targets into the column 'action' (the state at the first row of an episode, then each change added "
        "up), or record the leader's positions, then run the same command again. If they are targets all the same: "
        "--absolute-actions"
    )


def _correlation(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(A,) correlation of two (M, A) columns by column; 0 where one of them does not vary."""
    one, other = one - one.mean(axis=0), other - other.mean(axis=0)
    size = np.sqrt((one**2).sum(axis=0) * (other**2).sum(axis=0))
    return np.where(size > 0, (one * other).sum(axis=0) / np.maximum(size, 1e-300), 0.0)


def check_content(tables: DatasetTables, robot: RobotSpec) -> list[str]:
    """Finds axes that never move, instructions that are missing, and tasks that no table knows.

    Returns:
        What is to be said, with counts.

    Raises:
        DatasetError: No state or no action moves at all, no row has an instruction, or a task index is unknown.
    """
    said = []
    for key, values, what in ((OBS_STATE, tables.proprio, "frozen"), (ACTION, tables.action, "constant")):
        still = np.ptp(values, axis=0) == 0
        names = [name for name, is_still in zip(robot.action_names, still, strict=True) if is_still]
        if still.all():
            raise DatasetError(
                f"dataset {tables.root}: '{key}' is {what}: every axis has one value in all {len(values)} rows, so "
                "there is nothing to learn. The driver's joint states or the leader were not connected; record it "
                "again: wam collect, wam convert, or lerobot-record."
            )
        if names:
            said.append(f"'{key}' is {what} in {len(names)} of {len(still)} axes ({', '.join(names)}), all rows alike")
    unknown = sorted(set(np.unique(tables.task).tolist()) - set(tables.tasks))
    if unknown:
        rows = np.isin(tables.task, unknown)
        raise DatasetError(
            f"dataset {tables.root}: task_index {', '.join(map(str, unknown))} of {int(rows.sum())} rows (episode "
            f"{tables.episode[rows.argmax()]} is the first) is not in meta/tasks.parquet, which has "
            f"{', '.join(map(str, sorted(tables.tasks))) or 'none'}. Say what was done: lerobot-edit-dataset --repo_id "
            f'local/{tables.root.name} --root {tables.root} --operation.type modify_tasks --operation.new_task "..."'
        )
    _check_told(tables)
    return said + _wordless(tables)


def _check_told(tables: DatasetTables) -> None:
    for episode, told in enumerate(tables.told):
        found = {tables.tasks[index] for index in np.unique(tables.task[tables.rows(episode)]).tolist()}
        if told and told != found:
            raise DatasetError(
                f"dataset {tables.root}: episode {episode} is {_quoted(told)} by meta/episodes but {_quoted(found)} by "
                f"task_index and meta/tasks.parquet. Say which: {_edit(tables)} --operation.episode_tasks "
                f'\'{{"{episode}": "what the robot does"}}\''
            )


def _quoted(words: Iterable[str]) -> str:
    return ", ".join(repr(text) for text in sorted(words))


def _edit(tables: DatasetTables) -> str:
    root = tables.root
    return f"lerobot-edit-dataset --repo_id local/{root.name} --root {root} --operation.type modify_tasks"


def _wordless(tables: DatasetTables) -> list[str]:
    empty = np.isin(tables.task, [index for index, words in tables.tasks.items() if not words.strip()])
    if not empty.any():
        return []
    episodes = len(np.unique(tables.episode[empty]))
    edit = f'{_edit(tables)} --operation.new_task "what the robot does"'
    said = f"the task is empty in {int(empty.sum())} of {len(empty)} rows ({episodes} episodes)"
    if empty.all():
        raise DatasetError(f"dataset {tables.root}: {said}: a policy needs an instruction. Write one: {edit}")
    return [said]


def check_lengths(root: Path, lengths: np.ndarray, chunk_length: int) -> list[str]:
    """Finds episodes that are shorter than an action chunk.

    Returns:
        What is to be said, with counts.

    Raises:
        DatasetError: All of them are shorter than half of one, so that most of what is learned would be padding.
    """
    short = int((lengths < chunk_length).sum())
    if (2 * lengths < chunk_length).all():
        raise DatasetError(
            f"dataset {root}: all {short} episodes are shorter than half an action chunk of {chunk_length} steps (the "
            f"longest has {lengths.max()}): most of a chunk would be padding. Record longer episodes, or choose a "
            "preset with shorter chunks: --preset micro"
        )
    return [f"{short} of {len(lengths)} episodes are shorter than a chunk of {chunk_length} steps"] if short else []
