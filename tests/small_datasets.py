"""Small LeRobot v3 datasets of robot sim6, written without the lerobot library, for tests that spoil one of them."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from wam.robot import load_robot
from wam.spec import ACTION, OBS_STATE, image_key

ROBOT = load_robot("sim6")
FPS = 10
LENGTHS = (30, 25, 25)
SIZE_PX = 96
DATA, EPISODES, TASKS = (
    "data/chunk-000/file-000.parquet",
    "meta/episodes/chunk-000/file-000.parquet",
    "meta/tasks.parquet",
)


def write_dataset(
    root: Path,
    *,
    lengths: Sequence[int] = LENGTHS,
    extra_frames: int = 0,
    sizes_px: Sequence[tuple[int, int]] = ((SIZE_PX, SIZE_PX),) * 2,
) -> Path:
    """Writes a sound dataset: joints swing inside their ranges, and every action is the next state.

    Args:
        root: Folder to make.
        lengths: Frames of each episode.
        extra_frames: Frames that the films have beyond what the table uses.
        sizes_px: (width, height) of each camera's pictures.
    """
    for folder in ("meta/episodes/chunk-000", "data/chunk-000"):
        (root / folder).mkdir(parents=True)
    count = sum(lengths)
    frame = np.concatenate([np.arange(length) for length in lengths])
    episode = np.repeat(np.arange(len(lengths)), lengths)
    middle, half = (ROBOT.lower + ROBOT.upper) / 2, (ROBOT.upper - ROBOT.lower) / 2
    phase = frame[:, None] * np.linspace(0.15, 0.3, ROBOT.action_dim) + episode[:, None] * 1.3
    state = middle + 0.7 * half * np.sin(phase + np.arange(ROBOT.action_dim))
    action = middle + 0.7 * half * np.sin(
        phase + np.linspace(0.15, 0.3, ROBOT.action_dim) + np.arange(ROBOT.action_dim)
    )
    vectors = {
        key: pa.array(values.astype(np.float32).tolist(), pa.list_(pa.float32(), ROBOT.action_dim))
        for key, values in ((OBS_STATE, state), (ACTION, action))
    }
    columns = {"episode_index": episode, "frame_index": frame, "index": np.arange(count), "task_index": episode % 2}
    table = pa.table(
        vectors
        | {"timestamp": pa.array((frame / FPS).astype(np.float32))}
        | {k: pa.array(v) for k, v in columns.items()}
    )
    pq.write_table(table, root / DATA)
    pq.write_table(
        pa.table({"task_index": [0, 1], "__index_level_0__": ["lift the cube", "push the cube"]}), root / TASKS
    )
    pq.write_table(pa.Table.from_pylist(_episodes(lengths)), root / EPISODES)
    for camera, size in zip(ROBOT.camera_names, sizes_px, strict=True):
        _write_film(root / f"videos/{image_key(camera)}/chunk-000/file-000.mp4", count + extra_frames, size)
    (root / "meta/info.json").write_text(json.dumps(_info(lengths, sizes_px)))
    return root


def copy_dataset(source: Path, root: Path) -> Path:
    """Copies a dataset that a test is going to spoil."""
    return Path(shutil.copytree(source, root))


def edit_info(root: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Changes ``info.json`` in place."""
    path = root / "meta/info.json"
    info = json.loads(path.read_text())
    change(info)
    path.write_text(json.dumps(info))


def edit_rows(root: Path, file: str, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]] | None]) -> None:
    """Changes the rows of a parquet file, and lets pyarrow choose its types anew."""
    rows = pq.read_table(root / file).to_pylist()
    changed = change(rows)
    pq.write_table(pa.Table.from_pylist(rows if changed is None else changed), root / file)


def edit_axis(
    root: Path,
    change: Callable[[np.ndarray], np.ndarray],
    *,
    keys: Sequence[str] = (OBS_STATE, ACTION),
    axes: Sequence[int] = range(7),
) -> None:
    """Changes the numbers (M,) of some axes of state and action."""

    def apply(rows: list[dict[str, Any]]) -> None:
        for key in keys:
            values = np.array([row[key] for row in rows])
            for axis in axes:
                values[:, axis] = change(values[:, axis])
            for row, vector in zip(rows, values.tolist(), strict=True):
                row[key] = vector

    edit_rows(root, DATA, apply)


def _info(lengths: Sequence[int], sizes_px: Sequence[tuple[int, int]]) -> dict[str, Any]:
    vector = {"dtype": "float32", "shape": [ROBOT.action_dim], "names": list(ROBOT.action_names)}
    named = {"dtype": "video", "names": ["height", "width", "channels"]}
    films = {
        image_key(name): named | {"shape": [height, width, 3]}
        for name, (width, height) in zip(ROBOT.camera_names, sizes_px, strict=True)
    }
    return {
        "codebase_version": "v3.0",
        "robot_type": "sim6",
        "total_episodes": len(lengths),
        "total_frames": sum(lengths),
        "total_tasks": 2,
        "fps": FPS,
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
        "features": {OBS_STATE: vector, ACTION: vector, **films},
    }


def _episodes(lengths: Sequence[int]) -> list[dict[str, Any]]:
    rows = []
    for episode, length in enumerate(lengths):
        first = sum(lengths[:episode])
        row: dict[str, Any] = {"episode_index": episode, "length": length, "data/chunk_index": 0, "data/file_index": 0}
        row["tasks"] = ["push the cube" if episode % 2 else "lift the cube"]
        row |= {"dataset_from_index": first, "dataset_to_index": first + length}
        for name in ROBOT.camera_names:
            place = {
                "chunk_index": 0,
                "file_index": 0,
                "from_timestamp": first / FPS,
                "to_timestamp": (first + length) / FPS,
            }
            row |= {f"videos/{image_key(name)}/{key}": value for key, value in place.items()}
        rows.append(row)
    return rows


def _write_film(path: Path, frames: int, size_px: tuple[int, int]) -> None:
    path.parent.mkdir(parents=True)
    with av.open(str(path), "w") as film:
        stream = film.add_stream("mpeg4", rate=FPS)
        stream.width, stream.height = size_px
        stream.pix_fmt = "yuv420p"
        for number in range(frames):
            picture = np.full((*size_px[::-1], 3), number * 3 % 255, np.uint8)
            film.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        film.mux(stream.encode())
