"""Writes spooled episodes into a LeRobotDataset v3 with the ``lerobot`` library.

LeRobot's writer normally encodes frames itself, through PNG files or encoder threads that may drop frames. Here the
episodes come with their videos, so the writer is given ``SpooledVideos`` in the place of its streaming encoder: the same
files, joined and indexed by lerobot, at none of the cost. torch and lerobot are imported on use.
"""

import logging
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from sim.encoding import VideoCodec
from sim.spool import EpisodeRecord, Spool
from wam.dataset_meta import STAMP
from wam.robot import RobotSpec
from wam.spec import ACTION, OBS_STATE, TASK, image_key

__all__ = ["DatasetRecorder", "dataset_features"]

# Joining an episode to a video file copies the file, so files stay small: about a hundred episodes at 96 x 96 px.
VIDEO_FILE_MB = 4

logger = logging.getLogger(__name__)


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


class DatasetRecorder:
    """Appends spooled episodes to a new dataset folder."""

    def __init__(self, root: Path, robot: RobotSpec, spool: Spool, codec: VideoCodec) -> None:
        """Creates the dataset.

        Args:
            root: Folder to create; what an interrupted run left there is removed.
            robot: The recorded robot.
            spool: Where the episodes are.
            codec: How their videos were encoded, for info.json.
        """
        from lerobot.configs import RGBEncoderConfig
        from lerobot.datasets.dataset_writer import DatasetWriter
        from lerobot.datasets.lerobot_dataset import LeRobotDataset

        shutil.rmtree(root, ignore_errors=True)
        self._robot, self._spool = robot, spool
        self._videos = SpooledVideos(root, spool)
        self._dataset = LeRobotDataset.create(
            repo_id=f"local/{robot.name}",
            fps=round(robot.control_rate_hz),
            features=dataset_features(robot),
            root=root,
            robot_type=robot.name,
            video_backend="pyav",
            video_files_size_in_mb=VIDEO_FILE_MB,
        )
        encoder = RGBEncoderConfig(
            vcodec=codec.vcodec, pix_fmt=codec.pix_fmt, g=codec.g, crf=codec.crf, preset=codec.preset
        )
        self._dataset.writer = DatasetWriter(
            meta=self._dataset.meta,
            root=self._dataset.root,
            rgb_encoder=encoder,
            depth_encoder=None,
            encoder_threads=1,
            batch_encoding_size=1,
            streaming_encoder=self._videos,  # type: ignore[arg-type]  # the five methods the writer calls
        )

    def append(self, record: EpisodeRecord) -> None:
        """Adds one episode."""
        arrays = self._spool.arrays(record.seed)
        self._videos.episode = record
        blank = {image_key(c.name): np.zeros((c.height_px, c.width_px, 3), np.uint8) for c in self._robot.cameras}
        with quiet_libraries(self._spool.root):
            for proprio, action, stamp in zip(arrays.proprio, arrays.action, arrays.stamp, strict=True):
                frame = {OBS_STATE: proprio, ACTION: action, STAMP: np.array([stamp]), TASK: record.task, **blank}
                self._dataset.add_frame(frame)
            self._dataset.save_episode(parallel_encoding=False)

    def finish(self) -> None:
        """Completes the files; nothing can be appended after it."""
        self._dataset.finalize()


class SpooledVideos:
    """Stands in for LeRobot's ``StreamingVideoEncoder``: its videos are already encoded."""

    def __init__(self, root: Path, spool: Spool) -> None:
        self.episode: EpisodeRecord | None = None
        self._root, self._spool = root, spool
        self._keys: Sequence[str] = ()

    def start_episode(self, video_keys: Sequence[str], temp_dir: Path, depth_video_keys: Sequence[str] = ()) -> None:
        """Notes which videos will be asked for."""
        self._keys = video_keys

    def feed_frame(self, video_key: str, image: np.ndarray) -> None:
        """Ignores the blank frame: the real one is in the spooled video."""

    def finish_episode(self) -> dict[str, tuple[Path, dict[str, np.ndarray]]]:
        """Returns key -> (video, statistics in [0, 255]); the writer moves the video and removes its folder."""
        episode = self.episode
        if episode is None:
            raise RuntimeError("finish_episode without an episode")
        results = {}
        for camera, statistics in episode.image_statistics.items():
            copy = Path(tempfile.mkdtemp(dir=self._root)) / f"{camera}.mp4"
            shutil.copyfile(self._spool.video(episode.seed, camera), copy)
            results[image_key(camera)] = (copy, {name: np.array(value) for name, value in statistics.items()})
        return results

    def cancel_episode(self) -> None:
        """Has nothing to cancel."""

    def close(self) -> None:
        """Has nothing to close."""


@contextmanager
def quiet_libraries(folder: Path) -> Iterator[None]:
    """Keeps lerobot's helpers off the progress bar, and their temporary files on the dataset's disk.

    Joining videos goes through ``tempfile``, whose default folder may be on another disk, small or in memory.
    """
    import av
    import datasets

    bars = datasets.are_progress_bars_disabled()
    before = tempfile.tempdir
    datasets.disable_progress_bars()
    av.logging.set_libav_level(av.logging.ERROR)
    tempfile.tempdir = str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before
        if not bars:
            datasets.enable_progress_bars()
