"""Checks a LeRobotDataset v3 folder before anything is trained on it; needs pyarrow and PyAV, no torch.

Every file the metadata promises must be there and whole, every state and action finite, every episode as long in the
tables as in the videos, and the robot the right one. Videos are demuxed, not decoded: counting packets finds a missing
or truncated file in milliseconds.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wam.dataset_meta import DatasetMeta, read_meta, robot_differences
from wam.errors import DatasetError
from wam.robot import RobotSpec
from wam.spec import ACTION, OBS_STATE, image_key

__all__ = ["DatasetSummary", "check_dataset"]

FIX = "record the dataset again (wam collect), or restore the file from a copy."
SUPPORTED_VERSION = "v3."


@dataclass(frozen=True, kw_only=True)
class DatasetSummary:
    """What a sound dataset holds."""

    root: Path  # its folder
    episodes: int  # number of episodes
    frames: int  # number of frames, equal to control steps
    lengths: tuple[int, ...]  # frames of each episode
    meta: DatasetMeta | None  # contents of meta/wam.json; None when another tool recorded it


def check_dataset(root: Path, robot: RobotSpec) -> DatasetSummary:
    """Checks that a dataset is whole, finite and of this robot.

    Args:
        root: Folder of a LeRobotDataset v3.
        robot: The robot it is to be used for.

    Returns:
        Its size and our metadata.

    Raises:
        DatasetError: Something is missing, truncated, not finite, of another robot, or contradicts itself; the message
            names the file, and the episode and column where there is one.
    """
    info = _read_info(root)
    meta = read_meta(root)
    _check_robot(root, info, meta, robot)
    episodes = _read_episodes(root, info)
    _check_tables(root, info, episodes, robot)
    _check_videos(root, info, episodes, robot)
    lengths = tuple(int(episode["length"]) for episode in episodes)
    if meta is not None and tuple(episode.steps for episode in meta.episodes) != lengths:
        raise DatasetError(
            f"{root}/meta/wam.json lists {len(meta.episodes)} episodes of {sum(e.steps for e in meta.episodes)} steps "
            f"but the tables hold {len(lengths)} of {sum(lengths)}: they are not from one recording; {FIX}"
        )
    return DatasetSummary(root=root, episodes=len(lengths), frames=sum(lengths), lengths=lengths, meta=meta)


def _read_info(root: Path) -> Mapping[str, Any]:
    path = root / "meta" / "info.json"
    if not root.is_dir():
        raise DatasetError(f"there is no dataset at {root}: record one with wam collect, or correct the path.")
    if not path.is_file():
        raise DatasetError(f"{path} is missing, so {root} is not a LeRobot dataset or is not finished: {FIX}")
    try:
        info = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path} is not valid JSON ({error}): it was truncated; {FIX}") from error
    needed = ("codebase_version", "fps", "features", "total_episodes", "total_frames", "data_path", "video_path")
    missing = [key for key in needed if key not in info]
    if missing:
        raise DatasetError(f"{path}: field '{missing[0]}' is missing; {FIX}")
    if not str(info["codebase_version"]).startswith(SUPPORTED_VERSION):
        raise DatasetError(
            f"{path} says format {info['codebase_version']} but only LeRobotDataset v3 is read: convert it with "
            "lerobot's convert_dataset_v21_to_v30 script."
        )
    return info


def _check_robot(root: Path, info: Mapping[str, Any], meta: DatasetMeta | None, robot: RobotSpec) -> None:
    if meta is not None:
        differences = robot_differences(meta.robot, robot)
        if differences:
            raise DatasetError(
                f"dataset {root} was recorded on robot '{meta.robot.name}', not on '{robot.name}' "
                f"({'; '.join(differences)}): choose the robot it was recorded on, or record it again on this one."
            )
    for key in (OBS_STATE, ACTION):
        feature = _feature(root, info, key)
        if tuple(feature["shape"]) != (robot.action_dim,):
            raise DatasetError(
                f"dataset {root}: '{key}' has shape {tuple(feature['shape'])} but robot '{robot.name}' expects "
                f"({robot.action_dim},), {', '.join(robot.action_names)}: choose the robot it was recorded on."
            )
        names = feature.get("names")
        if isinstance(names, list) and tuple(names) != robot.action_names:
            raise DatasetError(
                f"dataset {root}: the columns of '{key}' are {', '.join(names)} but robot '{robot.name}' expects "
                f"{', '.join(robot.action_names)}, in this order: choose the robot it was recorded on."
            )
    if float(info["fps"]) != robot.control_rate_hz:
        raise DatasetError(
            f"dataset {root} has {info['fps']} frames per second but robot '{robot.name}' is controlled at "
            f"{robot.control_rate_hz:g} Hz: an action would last another time than it was shown for."
        )
    for camera in robot.cameras:
        _feature(root, info, image_key(camera.name))


def _feature(root: Path, info: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    if key not in info["features"]:
        raise DatasetError(
            f"dataset {root} has no '{key}'; it has {', '.join(sorted(info['features']))}: choose the robot it was "
            "recorded on, or record it again."
        )
    return info["features"][key]


def _read_episodes(root: Path, info: Mapping[str, Any]) -> list[dict[str, Any]]:
    files = sorted((root / "meta" / "episodes").glob("*/*.parquet"))
    episodes = [row for file in files for row in _read_table(file, without="stats/").to_pylist()]
    if not episodes:
        raise DatasetError(f"dataset {root} holds no episodes: {root}/meta/episodes is empty or missing; {FIX}")
    episodes.sort(key=lambda episode: episode["episode_index"])
    if [episode["episode_index"] for episode in episodes] != list(range(info["total_episodes"])):
        raise DatasetError(
            f"{root}/meta/episodes lists {len(episodes)} episodes but info.json promises {info['total_episodes']}: "
            f"{FIX}"
        )
    frames = sum(episode["length"] for episode in episodes)
    if frames != info["total_frames"]:
        raise DatasetError(
            f"{root}/meta/episodes lists {frames} frames but info.json promises {info['total_frames']}: {FIX}"
        )
    return episodes


def _read_table(path: Path, *, without: str = "", columns: Iterable[str] | None = None) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise DatasetError(f"{path} is missing: {FIX}")
    try:
        names = pq.read_schema(path).names
        wanted = [name for name in names if not (without and name.startswith(without))] if columns is None else columns
        missing = [name for name in wanted if name not in names]
        if missing:
            raise DatasetError(f"{path}: column '{missing[0]}' is missing; it has {', '.join(names)}. {FIX}")
        return pq.read_table(path, columns=list(wanted))
    except (pa.ArrowException, OSError) as error:
        raise DatasetError(f"{path} cannot be read ({error}): it was truncated or damaged; {FIX}") from error


def _check_tables(root: Path, info: Mapping[str, Any], episodes: list[dict[str, Any]], robot: RobotSpec) -> None:
    places = {(episode["data/chunk_index"], episode["data/file_index"]) for episode in episodes}
    frames: Counter[int] = Counter()
    for chunk, file in sorted(places):
        path = root / info["data_path"].format(chunk_index=chunk, file_index=file)
        table = _read_table(path, columns=("episode_index", "frame_index", OBS_STATE, ACTION))
        owners = table["episode_index"].to_numpy()  # (M,) rows of this file
        for key in (OBS_STATE, ACTION):
            _check_finite(path, key, _matrix(path, key, table[key], robot), owners, robot)
        frames.update(owners.tolist())
    for episode in episodes:
        index = episode["episode_index"]
        if frames[index] != episode["length"]:
            raise DatasetError(
                f"dataset {root}: episode {index} has {frames[index]} rows in its data file but "
                f"{episode['length']} frames in meta/episodes: {FIX}"
            )


def _matrix(path: Path, key: str, column: Any, robot: RobotSpec) -> np.ndarray:
    flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)  # (M * A,)
    if len(flat) != len(column) * robot.action_dim:
        raise DatasetError(f"{path}: not every row of '{key}' has {robot.action_dim} numbers; {FIX}")
    return flat.reshape(-1, robot.action_dim)  # (M, A)


def _check_finite(path: Path, key: str, values: np.ndarray, owners: np.ndarray, robot: RobotSpec) -> None:
    broken = np.argwhere(~np.isfinite(values.astype(np.float64)))
    if len(broken):
        row, column = broken[0]
        raise DatasetError(
            f"{path}: episode {owners[row]} holds {values[row, column]} in '{key}', column "
            f"'{robot.action_names[column]}' (row {row}, {len(broken)} numbers in all): one such number spoils the "
            "whole training; remove that episode (lerobot-edit-dataset) or record the dataset again."
        )


def _check_videos(root: Path, info: Mapping[str, Any], episodes: list[dict[str, Any]], robot: RobotSpec) -> None:
    for camera in robot.cameras:
        key = image_key(camera.name)
        if info["features"][key]["dtype"] != "video":
            raise DatasetError(
                f"dataset {root}: '{key}' is stored as {info['features'][key]['dtype']} but only video is read: "
                "convert it with lerobot-edit-dataset."
            )
        owners: dict[Path, list[dict[str, Any]]] = {}
        for episode in episodes:
            place = {name: episode[f"videos/{key}/{name}"] for name in ("chunk_index", "file_index")}
            owners.setdefault(root / info["video_path"].format(video_key=key, **place), []).append(episode)
        for path, parts in owners.items():
            expected = sum(part["length"] for part in parts)
            found = _count_frames(path)
            if found != expected:
                indices = [part["episode_index"] for part in parts]
                raise DatasetError(
                    f"{path} holds {found} frames but episodes {min(indices)} to {max(indices)} need {expected}: "
                    f"the video was truncated or replaced; {FIX}"
                )


def _count_frames(path: Path) -> int:
    import av

    if not path.is_file():
        raise DatasetError(f"{path} is missing: {FIX}")
    count = 0
    try:
        with av.open(str(path)) as container:
            for packet in container.demux(container.streams.video[0]):
                count += bool(packet.size and not packet.is_corrupt)
    except (av.error.FFmpegError, IndexError) as error:
        raise DatasetError(f"{path} cannot be read ({error}): it was truncated or damaged; {FIX}") from error
    return count
