"""Writes spooled episodes into a LeRobotDataset v3 with the ``lerobot`` library.

LeRobot's metadata, statistics and column types are used as they are; a test shows that its own writer makes the same
tables. Its frame-by-frame writer is not used: it encodes video itself, through PNG files or threads that may drop
frames, and takes longer than the simulation. torch and lerobot are imported on use.
"""

import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sim.encoding import VideoCodec, join_videos
from sim.spool import EpisodeArrays, EpisodeRecord, Spool
from wam.robot import RobotSpec
from wam.spec import ACTION, OBS_STATE, STAMP, image_key

__all__ = ["DatasetRecorder", "dataset_features", "import_lerobot"]

BYTES_PER_MB = 1 << 20


def dataset_features(robot: RobotSpec) -> dict[str, dict[str, Any]]:
    """Returns LeRobot's feature table for a robot; ``names`` are the robot's own, in order."""
    vector = {"dtype": "float32", "shape": (robot.action_dim,), "names": list(robot.action_names)}
    features: dict[str, dict[str, Any]] = {
        image_key(camera.name): {
            "dtype": "video",
            "shape": (camera.height_px, camera.width_px, 3),
            "names": ["height", "width", "channels"],
        }
        for camera in robot.cameras
    }
    stamp = {"dtype": "float64", "shape": (1,), "names": None}
    return {OBS_STATE: dict(vector), ACTION: dict(vector), **features, STAMP: stamp}


def import_lerobot() -> None:
    """Imports what ``DatasetRecorder`` uses; it takes eight seconds, most of them torch."""
    import lerobot.configs
    import lerobot.datasets.dataset_metadata  # noqa: F401  # what matters is that it is loaded


@dataclass
class _VideoFile:
    """One mp4 of the dataset, while episodes are still assigned to it."""

    chunk: int = 0
    file: int = 0
    frames: int = 0
    size: int = 0  # of its parts [bytes]
    parts: list[Path] = field(default_factory=list)


class DatasetRecorder:
    """Appends spooled episodes to a new dataset folder; as a context manager it leaves no half of one behind."""

    def __init__(self, root: Path, robot: RobotSpec, spool: Spool, codec: VideoCodec) -> None:
        """Creates the dataset.

        Args:
            root: Folder to create; what an interrupted run left there is removed.
            robot: The recorded robot.
            spool: Where the episodes are.
            codec: How their videos were encoded, for info.json.
        """
        from lerobot.configs import RGBEncoderConfig
        from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
        from lerobot.datasets.feature_utils import get_hf_features_from_features

        shutil.rmtree(root, ignore_errors=True)
        self._robot, self._spool, self._codec = robot, spool, codec
        self._fps = round(robot.control_rate_hz)
        self._meta = LeRobotDatasetMetadata.create(
            repo_id=f"local/{robot.name}",
            fps=self._fps,
            features=dataset_features(robot),
            robot_type=robot.name,
            root=root,
        )
        self._encoder = RGBEncoderConfig(
            vcodec=codec.vcodec, pix_fmt=codec.pix_fmt, g=codec.g, crf=codec.crf, preset=codec.preset
        )
        self._schema = get_hf_features_from_features(self._meta.features).arrow_schema
        self._tables: Any = None  # pyarrow's ParquetWriter, from the first episode on
        self._videos = {image_key(camera.name): [_VideoFile()] for camera in robot.cameras}

    def __enter__(self) -> "DatasetRecorder":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Removes the dataset when something went wrong: the spool has everything, and a full disk needs the room."""
        if kind is None:
            return
        # Closing writes last pages, and lerobot would do it, folder and all, when it is collected as garbage. So make
        # room, close, and remove what that wrote.
        shutil.rmtree(self._meta.root, ignore_errors=True)
        with suppress(OSError):
            self._meta.finalize()
            if self._tables is not None:
                self._tables.close()
        shutil.rmtree(self._meta.root, ignore_errors=True)

    def append(self, record: EpisodeRecord) -> None:
        """Adds one episode."""
        from lerobot.datasets.compute_stats import compute_episode_stats

        meta, index, start = self._meta, self._meta.total_episodes, self._meta.total_frames
        meta.save_episode_tasks([record.task])
        columns = self._columns(self._spool.arrays(record.seed), index, start, meta.get_task_index(record.task))
        self._write_table(columns)
        statistics = compute_episode_stats(columns, {key: meta.features[key] for key in columns})
        place: dict[str, Any] = {
            "data/chunk_index": 0,
            "data/file_index": 0,
            "dataset_from_index": start,
            "dataset_to_index": start + record.steps,
        }
        for camera, values in record.image_statistics.items():
            statistics[image_key(camera)] = _image_statistics(values)
            place |= self._place_video(image_key(camera), self._spool.video(record.seed, camera), record.steps)
        meta.save_episode(index, record.steps, [record.task], statistics, place)

    def finish(self) -> None:
        """Joins the videos and completes the metadata; nothing can be appended after it."""
        from lerobot.datasets.io_utils import write_info

        self._tables.close()
        for key, files in self._videos.items():
            for file in files:
                join_videos(file.parts, self._path(self._meta.video_path, file, video_key=key), self._fps)
        self._meta.update_video_info(video_encoder=self._encoder)
        write_info(self._meta.info, self._meta.root)
        self._meta.finalize()

    def _columns(self, arrays: EpisodeArrays, episode: int, start: int, task_index: int) -> dict[str, np.ndarray]:
        """The episode as columns: ours, then the bookkeeping that LeRobot adds to every dataset."""
        steps = np.arange(len(arrays.action))
        return {
            OBS_STATE: arrays.proprio,
            ACTION: arrays.action,
            STAMP: arrays.stamp,
            "timestamp": steps / self._fps,
            "frame_index": steps,
            "episode_index": np.full_like(steps, episode),
            "index": start + steps,
            "task_index": np.full_like(steps, task_index),
        }

    def _write_table(self, columns: Mapping[str, np.ndarray]) -> None:
        """Appends one row group; all data stays in one file, about 100 bytes per frame."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        fields = {name: self._schema.field(name).type for name in self._schema.names}
        arrays = [pa.array(columns[name].tolist(), type=kind) for name, kind in fields.items()]
        if self._tables is None:
            path = self._path(self._meta.data_path, _VideoFile())
            self._tables = pq.ParquetWriter(path, schema=self._schema, compression="snappy", use_dictionary=True)
        self._tables.write_table(pa.Table.from_arrays(arrays, schema=self._schema))

    def _place_video(self, key: str, video: Path, frames: int) -> dict[str, Any]:
        """Assigns an episode's video to the last file, or to a new one when that is full."""
        from lerobot.datasets.utils import update_chunk_file_indices

        size, last = video.stat().st_size, self._videos[key][-1]
        if last.parts and last.size + size > self._meta.video_files_size_in_mb * BYTES_PER_MB:
            chunk, file = update_chunk_file_indices(last.chunk, last.file, self._meta.chunks_size)
            last = _VideoFile(chunk=chunk, file=file)
            self._videos[key].append(last)
        first = last.frames
        last.parts.append(video)
        last.frames += frames
        last.size += size
        return {
            f"videos/{key}/chunk_index": last.chunk,
            f"videos/{key}/file_index": last.file,
            f"videos/{key}/from_timestamp": first / self._fps,
            f"videos/{key}/to_timestamp": last.frames / self._fps,
        }

    def _path(self, template: str, file: _VideoFile, **names: str) -> Path:
        path = self._meta.root / template.format(chunk_index=file.chunk, file_index=file.file, **names)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def _image_statistics(values: Mapping[str, list[float]]) -> dict[str, np.ndarray]:
    """From [0, 255] to LeRobot's [0, 1] with a place for height and width; counts stay."""
    return {
        name: np.array(numbers) if name == "count" else np.array(numbers).reshape(3, 1, 1) / 255.0
        for name, numbers in values.items()
    }
