"""Reads the files of a LeRobotDataset v3 folder as they are, and names what cannot be read; pyarrow and JSON alone.

Other tools write the same contents in other types: whole numbers as floats, text as a dictionary, one number per row
as a scalar. All of these are read; what is no number, or not there, is named with its file and column.

Shape legend: M rows of a table, A columns of a feature.
"""

import json
import math
import string
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wam.errors import DatasetError

__all__ = [
    "FIX",
    "DatasetFaults",
    "file_path",
    "missing_columns",
    "raise_together",
    "read_info",
    "read_matrix",
    "read_table",
    "read_tasks",
    "real_numbers",
    "whole_numbers",
]

FIX = (
    "restore it from a copy (from a hub: hf download OWNER/NAME --repo-type dataset --local-dir FOLDER), or record the "
    "dataset again."
)
SUPPORTED_VERSION = "v3."
NEEDED = ("codebase_version", "fps", "features", "total_episodes", "total_frames", "data_path", "video_path")
ABSURD_RATE_HZ = 1e4  # no camera and no arm has so many frames per second
PLACES = {"data_path": ("chunk_index", "file_index"), "video_path": ("video_key", "chunk_index", "file_index")}


def read_info(root: Path) -> dict[str, Any]:
    """Reads ``meta/info.json`` and checks the type of every field that is used.

    Raises:
        DatasetError: It is missing, not JSON, of another format, or lacks fields; all of those in one message.
    """
    path = root / "meta" / "info.json"
    if not root.is_dir():
        raise DatasetError(f"there is no dataset at {root}: record one with wam collect, or correct the path.")
    if not path.is_file():
        raise DatasetError(f"{path} is missing, so {root} is not a LeRobot dataset or is not finished: {FIX}")
    try:
        info = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path} is not valid JSON ({error}): it was truncated; {FIX}") from error
    if not isinstance(info, dict):
        raise DatasetError(f"{path} must hold an object of fields but holds a {type(info).__name__}; {FIX}")
    version = str(info.get("codebase_version", SUPPORTED_VERSION))
    if not version.startswith(SUPPORTED_VERSION):
        raise DatasetError(_older_format(path, root, version))
    missing = [key for key in NEEDED if key not in info]
    if missing:
        fields = f"fields {', '.join(map(repr, missing))} are" if len(missing) > 1 else f"field '{missing[0]}' is"
        raise DatasetError(f"{path}: {fields} missing; {FIX}")
    if info["total_episodes"] == 0:
        raise DatasetError(
            f"dataset {root} holds no episode: recording was stopped before the first was saved. Record at least two "
            "episodes (wam collect, wam convert, or lerobot-record) and give their folder with --dataset."
        )
    _check_types(path, info)
    return info


def read_table(path: Path, *, columns: Sequence[str] | None = None, without: str = "", optional: bool = False) -> Any:
    """Reads a parquet file.

    Args:
        path: The file.
        columns: Names that are needed; None reads all.
        without: Prefix of columns that are left out.
        optional: Columns that are not there are no error.

    Raises:
        DatasetError: The file is missing, damaged, or lacks columns; all of those in one message.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise DatasetError(f"{path} is missing: {FIX}")
    try:
        names = pq.read_schema(path).names
        wanted = [name for name in names if not (without and name.startswith(without))] if columns is None else columns
        missing = [name for name in wanted if name not in names]
        if missing and not optional:
            raise DatasetError(missing_columns(path, missing, names))
        return pq.read_table(path, columns=[name for name in wanted if name in names], partitioning=None)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path} cannot be read ({error}): it was truncated or damaged; {FIX}") from error


def missing_columns(path: Path, missing: Sequence[str], names: Sequence[str]) -> str:
    """The message for columns that a table lacks."""
    lacks = f"columns {', '.join(map(repr, missing))} are" if len(missing) > 1 else f"column '{missing[0]}' is"
    return f"{path}: {lacks} missing; it has {', '.join(n for n in names if not n.startswith('stats/'))}. {FIX}"


def whole_numbers(path: Path, table: Any, name: str) -> np.ndarray:
    """(M,) int64 of a column of whole numbers, of whatever type they are stored as.

    Raises:
        DatasetError: One is missing or not whole.
    """
    values = real_numbers(path, table, name)
    wrong = ~(np.isfinite(values) & (np.abs(values) < 2**53) & (values == np.round(values)))
    if wrong.any():
        row = int(wrong.argmax())
        raise DatasetError(
            f"{path}: column '{name}' holds {values[row]} in row {row} ({int(wrong.sum())} rows in all) but must hold "
            f"whole numbers; {FIX}"
        )
    return values.astype(np.int64)


def real_numbers(path: Path, table: Any, name: str) -> np.ndarray:
    """(M,) float64 of a column of numbers; a missing one is NaN.

    Raises:
        DatasetError: The column holds something else.
    """
    return read_matrix(path, table, name, 1)[:, 0]


def read_matrix(path: Path, table: Any, name: str, width: int) -> np.ndarray:
    """(M, A) float64 of a column of A numbers per row; one alone may be stored as a scalar, a missing one is NaN.

    Raises:
        DatasetError: The column holds something else, or rows of another length.
    """
    import pyarrow as pa

    column = table[name].combine_chunks()
    wrong = DatasetError(
        f"{path}: not every row of '{name}' has {width} numbers (it is stored as {column.type}); {FIX}"
    )
    try:
        while pa.types.is_list(column.type) or pa.types.is_large_list(column.type) or _fixed(column.type):
            column = column.flatten()
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
            raise wrong
        values = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    except (pa.ArrowException, AttributeError) as error:
        raise wrong from error
    if len(values) != table.num_rows * width:
        raise wrong
    return values.reshape(-1, width)


def read_tasks(root: Path) -> dict[int, str]:
    """Task index → instruction, from ``meta/tasks.parquet``.

    Raises:
        DatasetError: The file is missing or does not say so.
    """
    import pyarrow as pa

    path = root / "meta" / "tasks.parquet"
    if not path.is_file():
        raise DatasetError(
            f"{path} is missing, so nobody knows what was to be done in an episode. Copy it from where the dataset is "
            f"whole, or write it anew: lerobot-edit-dataset --repo_id local/{root.name} --root {root} --operation.type "
            'modify_tasks --operation.new_task "what the robot does"'
        )
    table = read_table(path)
    text = [
        name
        for name in table.column_names
        if _is_text(table.schema.field(name).type) and name in ("task", "__index_level_0__")
    ]
    if not text or "task_index" not in table.column_names:
        found = ", ".join(f"{field.name} ({field.type})" for field in table.schema)
        raise DatasetError(
            f"{path} needs a column 'task_index' and one of text, 'task'; it has {found or 'none'}. {FIX}"
        )
    indices = whole_numbers(path, table, "task_index").tolist()
    column = table[text[0]].combine_chunks()
    words = (column.dictionary_decode() if pa.types.is_dictionary(column.type) else column).to_pylist()
    if len(set(indices)) != len(indices) or None in words:
        raise DatasetError(f"{path}: a task_index occurs twice, or an instruction is missing; {FIX}")
    return dict(zip(indices, words, strict=True))


class DatasetFaults(DatasetError):
    """Several things that are wrong at once; ``args`` holds one text each."""

    def __str__(self) -> str:
        lines = "".join(f"\n  {number}. {text}" for number, text in enumerate(self.args, 1))
        return f"there are {len(self.args)} reasons against training on this:{lines}"


def raise_together(faults: Iterable[DatasetError]) -> None:
    """Raises what was found as one error; nothing if nothing was."""
    texts = list(dict.fromkeys(str(text) for fault in faults for text in fault.args))
    if texts:
        raise DatasetFaults(*texts) if len(texts) > 1 else DatasetError(texts[0])


def file_path(root: Path, info: Mapping[str, Any], template: str, **place: Any) -> Path:
    """A file of the dataset, by the template of ``info.json``."""
    return root / info[template].format(**place)


def _fixed(kind: Any) -> bool:
    import pyarrow as pa

    return pa.types.is_fixed_size_list(kind)


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _check_types(path: Path, info: Mapping[str, Any]) -> None:
    fps = info["fps"]
    wrong = []
    number = isinstance(fps, int | float) and not isinstance(fps, bool) and abs(fps) < ABSURD_RATE_HZ
    if not (number and math.isfinite(fps) and fps > 0):
        wrong.append(f"'fps' is {fps!r} but must be the frames per second, such as 30")
    for name in ("total_episodes", "total_frames"):
        if isinstance(info[name], bool) or not isinstance(info[name], int) or info[name] < 0:
            wrong.append(f"'{name}' is {info[name]!r} but must be a whole number")
    features = info["features"]
    if not isinstance(features, dict) or not all(isinstance(feature, dict) for feature in features.values()):
        wrong.append("'features' must be an object of objects, one per column")
    for name, places in PLACES.items():
        if not _is_template(info[name], places):
            wrong.append(f"'{name}' is {info[name]!r} but must be a path with {', '.join(places)} in braces")
    if wrong:
        raise DatasetError(f"{path}: {'; '.join(wrong)}. Correct the file, or {FIX}")


def _is_template(text: Any, places: Sequence[str]) -> bool:
    """A format string that names a file by exactly these places; any other could name none, or all the memory."""
    if not isinstance(text, str) or "\0" in text or len(text) > 1000:
        return False
    try:
        parts = [part for part in string.Formatter().parse(text) if part[1] is not None]
    except ValueError:
        return False
    plain = all(spec in ("", "03d", "04d", "05d", "06d", "02d", "d") and not change for _, _, spec, change in parts)
    return plain and {name for _, name, _, _ in parts} == set(places)


def _older_format(path: Path, root: Path, version: str) -> str:
    said = f"{path} says format {version} but only LeRobotDataset v3 is read"
    convert = (
        "python -m lerobot.scripts.convert_dataset_v21_to_v30 "
        f"--repo-id=local/{root.name} --root={root} --push-to-hub=false"
    )
    if version == "v2.1":
        return f"{said}. Convert it where it lies (the old one is kept beside it, as {root.name}_old): {convert}"
    return f"{said}: bring it to v2.1 with the LeRobot release that wrote it, then convert it with {convert}"
