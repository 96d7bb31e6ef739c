"""Checks a LeRobotDataset v3 folder before anything is trained on it; needs pyarrow and PyAV, no torch.

Every file the metadata promises must be there and whole, every state and action a position of the right robot, every
row in its place and beside its picture. Numbers come first, films last: they are demuxed, not decoded.
"""

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wam.dataset_files import FIX, raise_together, read_info
from wam.dataset_meta import DatasetMeta, limit_changes, read_meta, robot_differences
from wam.dataset_motion import check_action_meaning, check_content
from wam.dataset_names import ReadAs
from wam.dataset_pictures import check_pictures, picture_headers
from wam.dataset_tables import DatasetTables, check_files, read_tables
from wam.dataset_times import check_episode_rows, check_offsets, check_timestamps, check_videos
from wam.dataset_units import check_finite, check_ranges, compare_datasets
from wam.errors import DatasetError
from wam.films import FilmHeader
from wam.robot import RobotSpec, load_robot
from wam.spec import ACTION, OBS_STATE

__all__ = ["DatasetSummary", "check_dataset", "check_numbers", "check_written", "chosen_robot", "say"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class DatasetSummary:
    """What a sound dataset holds."""

    root: Path  # its folder
    episodes: int  # number of episodes
    frames: int  # number of frames, equal to control steps
    lengths: tuple[int, ...]  # frames of each episode
    meta: DatasetMeta | None  # contents of meta/wam.json; None when another tool recorded it
    tables: DatasetTables  # its numbers
    pictures: Mapping[str, tuple[FilmHeader, ...]]  # camera -> kinds of pictures its films hold
    notes: tuple[str, ...] = ()  # what is no fault, but is to be said once


def check_dataset(root: Path, robot: RobotSpec, read_as: ReadAs | None = None) -> DatasetSummary:
    """Checks that a dataset is whole, in the robot's units and of this robot.

    Args:
        root: Folder of a LeRobotDataset v3.
        robot: The robot it is to be used for.
        read_as: What a person says about it.

    Returns:
        Its size, numbers and our metadata.

    Raises:
        DatasetError: Something is missing, truncated, not finite, of another robot or unit, or contradicts itself; the
            message names the file, and the episode and column where there is one.
    """
    summary = check_numbers([root], robot, read_as)[0]
    check_videos(summary.tables)
    return summary


def check_written(root: Path, robot: RobotSpec) -> DatasetSummary:
    """Checks a dataset that was just written: it must be whole; what training will refuse in its numbers is a note.

    Raises:
        DatasetError: It is not whole.
    """
    summary = _check(root, robot, ReadAs(), judge=False)
    check_videos(summary.tables)
    return summary


def check_numbers(roots: Sequence[Path], robot: RobotSpec, read_as: ReadAs | None = None) -> list[DatasetSummary]:
    """Checks all of some datasets but their films: what is wrong is said before anything heavy begins.

    Args:
        roots: Folders that are to train together; they are compared with one another.
        robot: As for ``check_dataset``.
        read_as: As for ``check_dataset``.

    Raises:
        DatasetError: As for ``check_dataset``, of all datasets at once; or they are not in one unit.
    """
    summaries, faults = [], []
    for root in roots:
        try:
            summaries.append(_check(root, robot, read_as or ReadAs()))
        except DatasetError as error:
            faults.append(error)
    raise_together(faults)
    compared = tuple(compare_datasets([summary.tables for summary in summaries], robot))
    return [*summaries[:-1], dataclasses.replace(summaries[-1], notes=(*summaries[-1].notes, *compared))]


def chosen_robot(name: str, root: Path) -> RobotSpec:
    """The robot that a dataset is to be used for.

    Args:
        name: Robot name or file; "" is the one the dataset says it was recorded with.
        root: The dataset, or the first of several.

    Raises:
        DatasetError: No robot is named and the dataset, which is one that could be used, does not say.
        RobotSpecError: Unknown robot.
    """
    if name:
        return load_robot(name)
    meta = read_meta(root)
    if meta is None:
        read_info(root)
        raise DatasetError(
            f"dataset {root} does not say which robot it is of (no meta/wam.json), because another tool recorded it: "
            "name the file of its robot, --robot my_arm.yaml."
        )
    return meta.robot


def say(summary: DatasetSummary) -> None:
    """Logs what is no fault."""
    for note in summary.notes:
        logger.warning("dataset %s: %s.", summary.root, note)


def _check(root: Path, robot: RobotSpec, read_as: ReadAs, *, judge: bool = True) -> DatasetSummary:
    faults: list[DatasetError] = []
    beside: list[DatasetError] = []  # no reason not to look at the numbers as well
    meta = _collected(lambda: _check_meta(root, robot), faults)
    tables = _collected(lambda: read_tables(root, robot, read_as, beside), faults)
    if tables is None or faults:
        raise_together([*beside, *faults])
    assert tables is not None
    _collected(lambda: check_episode_rows(tables), faults)
    if not faults:
        _collected(lambda: check_timestamps(tables), faults)
        _collected(lambda: check_offsets(tables), faults)
    _collected(lambda: check_finite(tables, robot), faults)
    if faults:
        raise_together([*beside, *faults])
    lost: list[DatasetError] = []
    films = [part.path for parts in tables.videos.values() for part in parts]
    _collected(lambda: check_files(root, tables.files, films, films_too=True), lost)
    if not read_as.absolute_actions:
        _collected(lambda: check_action_meaning(tables, robot), faults)  # changes of a state have no range
    notes = [
        [] if meta is None else limit_changes(meta.robot, robot),
        _collected(lambda: check_ranges(tables, robot, (OBS_STATE,) if faults else (OBS_STATE, ACTION)), faults),
        _collected(lambda: check_content(tables, robot), faults),
    ]
    if not judge:
        notes.append([f"training will refuse it: {fault}" for fault in faults])
        faults.clear()
    # Numbers that are wrong are said before a film is opened
    pictures = {} if faults or beside else picture_headers(tables)
    notes.append(_collected(lambda: check_pictures(root, pictures, robot, read_as), faults))
    raise_together([*beside, *faults, *lost])
    lengths = tuple(int(length) for length in tables.length)
    if meta is not None and tuple(episode.steps for episode in meta.episodes) != lengths:
        raise DatasetError(
            f"{root}/meta/wam.json lists {len(meta.episodes)} episodes of {sum(e.steps for e in meta.episodes)} steps "
            f"but the tables hold {len(lengths)} of {sum(lengths)}: they are not from one recording; {FIX}"
        )
    return DatasetSummary(
        root=root,
        episodes=len(lengths),
        frames=sum(lengths),
        lengths=lengths,
        meta=meta,
        tables=tables,
        pictures=pictures,
        notes=tuple(text for part in notes for text in part or ()),
    )


def _collected[T](work: Callable[[], T], faults: list[DatasetError]) -> T | None:
    try:
        return work()
    except DatasetError as error:
        faults.append(error)
        return None


def _check_meta(root: Path, robot: RobotSpec) -> DatasetMeta | None:
    meta = read_meta(root)
    if meta is not None and (differences := robot_differences(meta.robot, robot)):
        raise DatasetError(
            f"dataset {root} was recorded on robot '{meta.robot.name}', not on '{robot.name}' "
            f"({'; '.join(differences)}): leave --robot out to use the robot it was "
            "recorded on, or give data that was recorded on this one."
        )
    return meta
