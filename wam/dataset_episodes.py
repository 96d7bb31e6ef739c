"""``meta/episodes`` of a LeRobotDataset v3 folder: how long each episode is, and where its rows and pictures are.

Shape legend: E episodes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wam.dataset_files import FIX, file_path, missing_columns, read_table, real_numbers, whole_numbers
from wam.dataset_names import ReadAs
from wam.errors import DatasetError
from wam.spec import image_key

__all__ = ["EpisodeRows", "VideoPart", "episode_tables"]

OTHER_SPELLINGS = {"data/chunk_index": "data_chunk_index", "data/file_index": "data_file_index"}
EPISODE_COLUMNS = ("episode_index", "length", "data/chunk_index", "data/file_index")
VIDEO_COLUMNS = ("chunk_index", "file_index", "from_timestamp", "to_timestamp")


@dataclass(frozen=True, kw_only=True)
class VideoPart:
    """Where the frames of one camera of one episode are."""

    path: Path
    begin_s: float  # time in the video at which the episode begins [s]
    end_s: float  # ... and at which it ends, as the metadata says [s]


class EpisodeRows:
    """Columns of ``meta/episodes``, in the order of the episodes."""

    def __init__(
        self,
        root: Path,
        info: Mapping[str, Any],
        read: tuple[list[Path], list[Any]],
        cameras: Sequence[str],
        read_as: ReadAs,
    ) -> None:
        paths, tables = read
        keys = {name: read_as.key(image_key(name)) for name in cameras}
        wanted = [*EPISODE_COLUMNS, *(f"videos/{key}/{name}" for key in keys.values() for name in VIDEO_COLUMNS)]
        for path, table in zip(paths, tables, strict=True):
            missing = [name for name in wanted if _spelled(table, name) not in table.column_names]
            if missing:
                raise DatasetError(missing_columns(path, missing, table.column_names))
        number = self._whole(paths, tables, "episode_index")
        order = np.argsort(number, kind="stable")
        self.length = self._whole(paths, tables, "length")[order]
        self.paths = self._files(root, info, paths, tables, order)
        spans = ("dataset_from_index", "dataset_to_index")
        told = all(name in table.column_names for table in tables for name in spans)
        self.spans = np.stack([self._whole(paths, tables, n)[order] for n in spans], axis=1) if told else None
        words = [row for table in tables for row in _told_tasks(table)]
        self.told = tuple(words[place] for place in order)
        self.videos = {name: self._videos(root, info, paths, tables, order, key) for name, key in keys.items()}
        _check_totals(root, info, number[order], self.length)

    def _whole(self, paths: list[Path], tables: list[Any], name: str) -> np.ndarray:
        return np.concatenate(
            [whole_numbers(path, t, _spelled(t, name)) for path, t in zip(paths, tables, strict=True)]
        )

    def _files(self, root: Path, info: Mapping[str, Any], paths: list[Path], tables: list[Any], order: Any) -> list:
        chunk, file = (self._whole(paths, tables, f"data/{name}")[order] for name in ("chunk_index", "file_index"))
        return [
            (int(c), int(f), file_path(root, info, "data_path", chunk_index=int(c), file_index=int(f)))
            for c, f in zip(chunk, file, strict=True)
        ]

    def _videos(
        self, root: Path, info: Mapping[str, Any], paths: list[Path], tables: list[Any], order: Any, key: str
    ) -> tuple[VideoPart, ...]:
        chunk, file = (self._whole(paths, tables, f"videos/{key}/{name}")[order] for name in VIDEO_COLUMNS[:2])
        begin, end = (
            np.concatenate(
                [real_numbers(path, t, f"videos/{key}/{name}") for path, t in zip(paths, tables, strict=True)]
            )[order]
            for name in VIDEO_COLUMNS[2:]
        )
        return tuple(
            VideoPart(
                path=file_path(root, info, "video_path", video_key=key, chunk_index=int(c), file_index=int(f)),
                begin_s=float(b),
                end_s=float(e),
            )
            for c, f, b, e in zip(chunk, file, begin, end, strict=True)
        )


def _told_tasks(table: Any) -> list[frozenset[str]]:
    values = table["tasks"].to_pylist() if "tasks" in table.column_names else [None] * table.num_rows
    lists = [row if isinstance(row, list) else [row] for row in values]
    return [frozenset(text for text in row if isinstance(text, str)) for row in lists]


def _spelled(table: Any, name: str) -> str:
    return name if name in table.column_names else OTHER_SPELLINGS.get(name, name)


def episode_tables(root: Path, info: Mapping[str, Any]) -> tuple[list[Path], list[Any]]:
    """Reads the files of ``meta/episodes``.

    Raises:
        DatasetError: There is none, or one is damaged.
    """
    paths = sorted((root / "meta" / "episodes").glob("*/*.parquet"))
    tables = [read_table(path, without="stats/") for path in paths]
    if not sum(table.num_rows for table in tables):
        raise DatasetError(
            f"dataset {root} holds no episodes: {root}/meta/episodes is empty or missing, though info.json promises "
            f"{info['total_episodes']}; {FIX}"
        )
    return paths, tables


def _check_totals(root: Path, info: Mapping[str, Any], number: np.ndarray, length: np.ndarray) -> None:
    if len(number) != info["total_episodes"] or not np.array_equal(number, np.arange(len(number))):
        raise DatasetError(
            f"{root}/meta/episodes lists {len(number)} episodes but info.json promises {info['total_episodes']}"
            f"{'' if len(number) != info['total_episodes'] else ', and they are not numbered from 0 on'}: {FIX}"
        )
    if (length < 1).any():
        raise DatasetError(f"{root}/meta/episodes: episode {int((length < 1).argmax())} has no frames: {FIX}")
    if length.sum() != info["total_frames"]:
        raise DatasetError(
            f"{root}/meta/episodes lists {length.sum()} frames but info.json promises {info['total_frames']}: {FIX}"
        )
