"""Validation of what arrives at the guard: a chunk or a command is right in every number, or it is dropped whole.

Shape legend: H points of a chunk, A action width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from policy.guard_types import ChunkMessage
from wam.errors import ValueContractError
from wam.limits import ABSURD, grazed_bounds
from wam.robot import RobotSpec

__all__ = ["CheckedChunk", "check_chunk", "check_command"]

LONGEST_CHUNK_S = 60.0  # a longer one is no chunk but a mistake of units


@dataclass(frozen=True, kw_only=True)
class CheckedChunk:
    """A chunk in the robot's order, float64 and finite."""

    times_s: np.ndarray  # (H,) from ``stamp`` [s], strictly increasing, from 0 or later; H >= 2
    positions: np.ndarray  # (H, A) [rad, gripper opening]
    stamp: float  # robot time of its observation [s]
    epoch: int
    sequence: int
    session: int = 0  # which start of the policy


def check_chunk(message: ChunkMessage, robot: RobotSpec) -> CheckedChunk:
    """Checks a chunk and puts its columns into the robot's order.

    Raises:
        ValueContractError: Names, shapes, times or numbers that cannot be played, or actions outside the robot's range.
    """
    positions, times = _numbers(message.positions, "positions"), _numbers(message.times_s, "times")
    if times.ndim != 1 or positions.ndim != 2 or len(times) != len(positions):
        raise ValueContractError(
            f"chunk has positions {positions.shape} and times {times.shape}: one time per point is needed."
        )
    if len(times) < 2:
        raise ValueContractError(f"chunk has {len(times)} points but needs at least 2: a single one has no duration.")
    order = _order(message.names, positions.shape[1], robot)
    _check_positions(positions, "chunk", message.names)
    if not np.isfinite(times).all() or times[0] < 0 or not (np.diff(times) > 0).all() or times[-1] > LONGEST_CHUNK_S:
        raise ValueContractError(
            f"chunk times run from {times[0]} to {times[-1]} s: they must start at 0 or later, strictly increase and "
            f"end within {LONGEST_CHUNK_S:g} s."
        )
    if not np.isfinite(message.stamp):
        raise ValueContractError(f"chunk stamp is {message.stamp}: it must be the time of its observation [s].")
    if message.stamp == 0:
        raise ValueContractError("chunk is not stamped (header.stamp is 0): it must carry the time of its observation.")
    positions = positions[:, order]
    _check_range(positions, robot)
    return CheckedChunk(
        times_s=times,
        positions=positions,
        stamp=float(message.stamp),
        epoch=int(message.epoch),
        sequence=int(message.sequence),
        session=int(message.epoch if message.session is None else message.session),
    )


def check_command(names: Sequence[str], positions: np.ndarray, robot: RobotSpec) -> np.ndarray:
    """Checks one command of a person and returns it in the robot's order, (A,) float64.

    Raises:
        ValueContractError: Names, shape or numbers that cannot be commanded.
    """
    vector = _numbers(positions, "positions")
    if vector.ndim != 1:
        raise ValueContractError(f"command has shape {vector.shape} but must be one number per joint.")
    order = _order(names, len(vector), robot)
    _check_positions(vector[None], "command", names)
    return vector[order]


def _numbers(values: object, what: str) -> np.ndarray:
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueContractError(f"{what} are not an array of numbers: {error}") from error


def _order(names: Sequence[str], width: int, robot: RobotSpec) -> list[int]:
    """Columns in the robot's order, by name: order alone says nothing."""
    names = list(names)
    missing = [name for name in robot.action_names if name not in names]
    extra = [name for name in names if name not in robot.action_names]
    if missing or extra or len(names) != robot.action_dim or width != len(names):
        wrong = [f"lacks {', '.join(missing)}"] * bool(missing) + [f"has unknown {', '.join(extra)}"] * bool(extra)
        detail = "; ".join(wrong) or f"has {len(names)} names for {width} columns"
        raise ValueContractError(
            f"joint names {', '.join(names) or 'none'}: {detail}; robot '{robot.name}' has exactly "
            f"{', '.join(robot.action_names)}."
        )
    return [names.index(name) for name in robot.action_names]


def _check_positions(rows: np.ndarray, what: str, names: Sequence[str]) -> None:
    usable = np.abs(rows) <= ABSURD  # also False for NaN
    if not usable.all():
        row, column = np.argwhere(~usable)[0]
        raise ValueContractError(
            f"{what} holds {rows[row, column]} for '{names[column]}' at point {row}: dropped whole."
        )


def _check_range(actions: np.ndarray, robot: RobotSpec) -> None:
    """Refuses (H, A) actions that do more than graze the ends of an axis' range; a chunk is dropped, never clamped."""
    lowest, highest = grazed_bounds(robot)
    beyond = np.maximum(lowest - actions, actions - highest)  # (H, A)
    if beyond.max() <= 0:
        return
    row, column = np.unravel_index(int(beyond.argmax()), beyond.shape)
    low, high = robot.axes[column].position
    raise ValueContractError(
        f"chunk wants {actions[row, column]:.3f} for '{robot.action_names[column]}' at point {row}, whose range is "
        f"[{low:g}, {high:g}]: another unit (degrees, 0 to 100), another robot, or limits narrower than the policy's "
        "demonstrations; dropped whole."
    )
