"""The tables of a LeRobotDataset v3 folder as arrays, in the robot's order; pyarrow and JSON alone, no torch.

These are the numbers that train: what is checked is what is loaded.

Shape legend: M rows of all episodes, E episodes, A axes.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wam.dataset_episodes import EpisodeRows, VideoPart, episode_tables
from wam.dataset_files import (
    FIX,
    raise_together,
    read_info,
    read_matrix,
    read_table,
    read_tasks,
    real_numbers,
    whole_numbers,
)
from wam.dataset_names import NO_NAMES, ReadAs, axis_order, column_names
from wam.errors import DatasetError
from wam.robot import RobotSpec
from wam.spec import ACTION, OBS_STATE, image_key

__all__ = ["DatasetTables", "check_files", "read_tables"]

ROW_COLUMNS = ("episode_index", "frame_index", "timestamp", "task_index")


@dataclass(frozen=True, kw_only=True)
class DatasetTables:
    """All numbers of a dataset, in recording order."""

    root: Path
    fps: float  # frames per second that info.json says
    proprio: np.ndarray  # (M, A) float64
    action: np.ndarray  # (M, A) float64
    seconds: np.ndarray  # (M,) float64 time within the episode [s]
    episode: np.ndarray  # (M,) int64
    frame: np.ndarray  # (M,) int64 within the episode
    index: np.ndarray | None  # (M,) int64 within the dataset, if the tables say
    task: np.ndarray  # (M,) int64 task index as stored
    tasks: Mapping[int, str]  # task index -> instruction
    told: tuple[frozenset[str], ...]  # instructions of each episode by meta/episodes; empty where it does not say
    length: np.ndarray  # (E,) int64 frames of each episode, as meta/episodes says
    spans: np.ndarray | None  # (E, 2) int64 first row and the one after the last, if meta/episodes says
    files: tuple[Path, ...]  # data files, in the order of the rows
    first_row: np.ndarray  # (files,) int64 of each file
    videos: Mapping[str, tuple[VideoPart, ...]]  # camera -> one per episode

    @property
    def instructions(self) -> tuple[str, ...]:
        """Instructions that a row has, in the order of their task index."""
        return tuple(self.tasks[index] for index in np.unique(self.task).tolist())

    @property
    def task_places(self) -> np.ndarray:
        """(M,) int64 place of each row's task in ``instructions``."""
        return np.searchsorted(np.unique(self.task), self.task)

    def rows(self, episode: int) -> slice:
        """The rows of an episode."""
        end = int(self.length[: episode + 1].sum())
        return slice(end - int(self.length[episode]), end)

    def place(self, row: int) -> tuple[Path, int]:
        """The file that a row is in, and its number there."""
        file = int(np.searchsorted(self.first_row, row, side="right")) - 1
        return self.files[file], int(row - self.first_row[file])


def read_tables(root: Path, robot: RobotSpec, read_as: ReadAs, beside: list[DatasetError]) -> DatasetTables:
    """Reads what a dataset says about itself, then its rows.

    Args:
        root: The dataset.
        robot: Whose axes and cameras.
        read_as: What a person says about it.
        beside: Gets what is wrong with cameras and rate: the numbers can be read and judged all the same, of those
            cameras that there are.

    Raises:
        DatasetError: Something is missing, damaged or of another robot; what can be found at once is in one message.
    """
    info = read_info(root)
    faults: list[DatasetError] = []
    orders: dict[str, list[int]] = {}
    episodes: tuple[list[Path], list[Any]] = ([], [])
    tasks: dict[int, str] = {}
    try:
        orders = _column_orders(root, info, robot, read_as, beside)
    except DatasetError as error:
        faults.append(error)
    try:
        episodes = episode_tables(root, info)
        tasks = read_tasks(root)
    except DatasetError as error:
        faults.append(error)
    if faults:
        raise_together([*faults, *beside])
    cameras = [name for name in robot.camera_names if _is_film(info["features"].get(read_as.key(image_key(name))))]
    rows = EpisodeRows(root, info, episodes, cameras, read_as)
    return _rows(root, info, robot, read_as, orders, rows, tasks)


def _is_film(feature: Any) -> bool:
    return isinstance(feature, Mapping) and feature.get("dtype") == "video"


def _column_orders(
    root: Path, info: Mapping[str, Any], robot: RobotSpec, read_as: ReadAs, beside: list[DatasetError]
) -> dict[str, list[int]]:
    """Columns of state and action in the robot's order; everything that does not fit is one error."""
    features, faults, others, orders = info["features"], [], [], {}
    wanted = [OBS_STATE, ACTION, *(image_key(camera.name) for camera in robot.cameras)]
    missing = [key for key in wanted if read_as.key(key) not in features]
    if missing:
        numbers_too = {OBS_STATE, ACTION} & set(missing)
        (faults if numbers_too else others).append(_missing_keys(root, features, missing, wanted, read_as))
    for key in (OBS_STATE, ACTION):
        if key not in missing:
            orders[key], fault = _order(root, key, features[read_as.key(key)], robot, read_as)
            faults += [fault] if fault else []
    for key in wanted[2:]:
        kind = None if key in missing else features[read_as.key(key)].get("dtype")
        if key not in missing and kind != "video":
            others.append(
                f"dataset {root}: '{read_as.key(key)}' is stored as {kind} but only video is read: convert it with "
                f"lerobot-edit-dataset --repo_id local/{root.name} --root {root} --new_root {root}_video "
                "--operation.type convert_image_to_video"
            )
    if float(info["fps"]) != robot.control_rate_hz:
        others.append(
            f"dataset {root} has {info['fps']} frames per second but robot '{robot.name}' is controlled at "
            f"{robot.control_rate_hz:g} Hz: an action would last another time than it was shown for. If the arm is to "
            f"be controlled as it was recorded, write control_rate_hz: {float(info['fps']):g} into its robot file."
        )
    beside += map(DatasetError, others)
    raise_together(map(DatasetError, faults))
    return orders


def _order(
    root: Path, key: str, feature: Mapping[str, Any], robot: RobotSpec, read_as: ReadAs
) -> tuple[list[int], str]:
    shape = feature.get("shape")
    width = robot.action_dim
    if shape not in ([width], (width,)) and not (width == 1 and shape in ([], ())):
        described = (
            f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})" if isinstance(shape, list) else shape
        )
        return [], (
            f"dataset {root}: '{read_as.key(key)}' has shape {described} but robot '{robot.name}' expects ({width},), "
            f"{', '.join(robot.action_names)}: give the file of the robot it was recorded on, --robot my_arm.yaml."
        )
    names = column_names(feature.get("names"), width)
    order, wrong = axis_order(names, robot.action_names, robot_order=read_as.robot_order)
    if not wrong:
        return order, ""
    said = f"are {', '.join(names)}" if names else f"have no names (names: {feature.get('names')!r})"
    fits = not names or (len(names) == width and not set(names) & set(robot.action_names))
    return [], (
        f"dataset {root}: the columns of '{read_as.key(key)}' {said} but robot '{robot.name}' expects "
        f"{', '.join(robot.action_names)}{f': it {wrong}' if names else ''}. Name the axes alike in the robot file or "
        "in meta/info.json (any order will do)"
        + (f", or say that they are these axes in this order: {NO_NAMES}" if fits else ".")
    )


def _missing_keys(
    root: Path, features: Mapping[str, Any], missing: list[str], wanted: list[str], read_as: ReadAs
) -> str:
    used = {read_as.key(key) for key in wanted}
    spare = [key for key in features if key not in used]
    pictures = [key for key in spare if features[key].get("dtype") in ("video", "image")]
    guesses = {OBS_STATE: ("state", "observation/state", "qpos"), ACTION: ("actions", "observation.action")}
    pairs = []
    for key in missing:
        if key in guesses:
            found = next((other for other in guesses[key] if other in spare), "")
        else:
            found = pictures.pop(0) if pictures else ""
        pairs.append(f"{key}={found or 'ITS_NAME'}")
    return (
        f"dataset {root} has no {', '.join(repr(read_as.key(key)) for key in missing)}; it has "
        f"{', '.join(sorted(features)) or 'no columns'}. Say which is which, --keys {' '.join(pairs)}, or give the "
        "file of the robot it was recorded on, --robot my_arm.yaml."
    )


def check_files(root: Path, data: Sequence[Path], films: Iterable[Path], *, films_too: bool) -> None:
    """Every file that the metadata names is there; else all that are not are one error.

    Args:
        root: The dataset.
        data: Its tables.
        films: Its films.
        films_too: Refuse also if films alone are missing.

    Raises:
        DatasetError: Names what is missing.
    """
    paths = list(dict.fromkeys((*data, *films)))
    missing = [path for path in paths if not path.is_file()]
    if len(missing) == len(paths):
        raise DatasetError(
            f"dataset {root} is metadata alone: {missing[0]} is missing, and so are all {len(missing)} files of data/ "
            f"and videos/ that meta/ names. Copy the whole folder: cp -r SOURCE {root}"
        )
    if missing and (films_too or set(missing) & set(data)):
        some = ", ".join(str(path) for path in missing[:5]) + (", ..." if len(missing) > 5 else "")
        are = "is" if len(missing) == 1 else "are"
        raise DatasetError(f"{some} {are} missing ({len(missing)} of {len(paths)} files): {FIX}")


def _rows(
    root: Path,
    info: Mapping[str, Any],
    robot: RobotSpec,
    read_as: ReadAs,
    orders: Mapping[str, list[int]],
    episodes: EpisodeRows,
    tasks: Mapping[int, str],
) -> DatasetTables:
    keys = {ours: read_as.key(ours) for ours in (OBS_STATE, ACTION)}
    paths = [path for _, _, path in sorted(set(episodes.paths))]
    films = [part.path for parts in episodes.videos.values() for part in parts]
    check_files(root, paths, films, films_too=False)  # missing films are said beside what is wrong with the numbers
    parts: dict[str, list[np.ndarray]] = {}
    for path in paths:
        table = read_table(path, columns=[*ROW_COLUMNS, *keys.values()])
        for name in ("episode_index", "frame_index", "task_index"):
            parts.setdefault(name, []).append(whole_numbers(path, table, name))
        parts.setdefault("timestamp", []).append(real_numbers(path, table, "timestamp"))
        for ours, theirs in keys.items():
            values = read_matrix(path, table, theirs, robot.action_dim)[:, orders[ours]]
            parts.setdefault(ours, []).append(values)
        extra = read_table(path, columns=["index"], optional=True)
        if "index" in extra.column_names:
            parts.setdefault("index", []).append(whole_numbers(path, extra, "index"))
    columns = {name: np.concatenate(values) for name, values in parts.items()}
    told = len(parts.get("index", ())) == len(paths)
    return DatasetTables(
        root=root,
        fps=float(info["fps"]),
        proprio=columns[OBS_STATE],
        action=columns[ACTION],
        seconds=columns["timestamp"],
        episode=columns["episode_index"],
        frame=columns["frame_index"],
        index=columns["index"] if told else None,
        task=columns["task_index"],
        tasks=tasks,
        told=episodes.told,
        length=episodes.length,
        spans=episodes.spans,
        files=tuple(paths),
        first_row=np.cumsum([0, *(len(part) for part in parts["episode_index"][:-1])]),
        videos=episodes.videos,
    )
