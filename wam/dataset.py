"""LeRobotDataset v3 → arrays for training.

The dataset is read with the ``lerobot`` library; every frame is decoded once, resized with the model's own image
transform and kept in one memory-mapped file, so a training step never decodes video and a data set larger than memory
still trains.

Shape legend: M frames of all episodes, E episodes, K cameras, A action width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wam.dataset_check import check_dataset
from wam.errors import DatasetError
from wam.joined_frames import JoinedFrames
from wam.robot import RobotSpec
from wam.spec import ACTION, OBS_STATE, image_key
from wam.transforms import resize_image

__all__ = ["Episodes", "decode_camera", "join_episodes", "load_episodes", "open_dataset"]


@dataclass(frozen=True, kw_only=True)
class Episodes:
    """All frames of a dataset, in recording order."""

    frames: np.ndarray | JoinedFrames  # (M, K, height, width, 3) uint8 RGB at the model's size
    proprio: np.ndarray  # (M, A) float32 measured positions
    action: np.ndarray  # (M, A) float32 absolute targets
    task_index: np.ndarray  # (M,) int64 into tasks
    tasks: tuple[str, ...]  # instructions
    start: np.ndarray  # (E,) int64 first frame of each episode
    length: np.ndarray  # (E,) int64 frames of each episode

    @property
    def episode_of_frame(self) -> np.ndarray:
        """(M,) int64 episode of each frame."""
        return np.repeat(np.arange(len(self.length)), self.length)

    def ends(self, frames: np.ndarray) -> np.ndarray:
        """(B,) int64 first frame after the episode of each of (B,) frames."""
        episode = np.searchsorted(self.start, frames, side="right") - 1
        return (self.start + self.length)[episode]

    def chunks(self, frames: np.ndarray, chunk_length: int) -> tuple[np.ndarray, np.ndarray]:
        """Action chunks that start at (B,) frames.

        Returns:
            (B, H, A) float32 absolute targets, the last one repeated past the end, and (B, H) bool ``is_pad``.
        """
        ends = self.ends(frames)[:, None]
        steps = frames[:, None] + np.arange(chunk_length)  # (B, H)
        return self.action[np.minimum(steps, ends - 1)], steps >= ends


def load_episodes(
    root: Path,
    robot: RobotSpec,
    image_size_px: tuple[int, int],
    *,
    cache: Path,
    progress: Callable[[int, int], None] | None = None,
) -> Episodes:
    """Reads a dataset and decodes its frames into a memory-mapped cache.

    Args:
        root: Dataset folder.
        robot: Its joints and cameras say what must be in the dataset.
        image_size_px: (height, width) of the model's images.
        cache: File for the decoded frames; reused when it is complete.
        progress: Called with (episodes done, episodes in all).

    Raises:
        DatasetError: The dataset is damaged or of another robot (``wam.dataset_check``), or a video does not decode.
    """
    check_dataset(root, robot)
    dataset = open_dataset(root)
    table = dataset.hf_dataset.with_format("numpy")
    columns = {key: np.stack(table[key][:]).astype(np.float32) for key in (OBS_STATE, ACTION)}
    episode = np.asarray(table["episode_index"][:]).astype(np.int64)
    length = np.bincount(episode, minlength=dataset.num_episodes)
    start = np.concatenate(([0], np.cumsum(length)[:-1]))
    seconds = np.asarray(table["timestamp"][:], dtype=np.float64)
    frames = _decoded_frames(dataset, robot, image_size_px, (start, length, seconds), cache, progress)
    return Episodes(
        frames=frames,
        proprio=columns[OBS_STATE],
        action=columns[ACTION],
        task_index=np.asarray(table["task_index"][:]).astype(np.int64),
        tasks=tuple(dataset.meta.tasks.sort_values("task_index").index),
        start=start,
        length=length,
    )


def join_episodes(parts: Sequence[Episodes]) -> Episodes:
    """Puts the episodes of several datasets behind one another.

    Args:
        parts: Datasets of one robot, decoded at one size.

    Returns:
        All episodes; instructions that several datasets share become one. A single part is returned as it is.
    """
    if len(parts) == 1:
        return parts[0]
    tasks = tuple(dict.fromkeys(task for part in parts for task in part.tasks))
    offsets = np.cumsum([0, *(len(part.proprio) for part in parts[:-1])])
    return Episodes(
        frames=JoinedFrames([part.frames for part in parts]),
        proprio=np.concatenate([part.proprio for part in parts]),
        action=np.concatenate([part.action for part in parts]),
        task_index=np.concatenate([np.array([tasks.index(t) for t in p.tasks])[p.task_index] for p in parts]),
        tasks=tasks,
        start=np.concatenate([part.start + offset for part, offset in zip(parts, offsets, strict=True)]),
        length=np.concatenate([part.length for part in parts]),
    )


def open_dataset(root: Path) -> Any:
    """Opens a dataset with the ``lerobot`` library: a ``LeRobotDataset``.

    Raises:
        DatasetError: A file is missing or cut short.
    """
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    try:
        # torchcodec needs the system's ffmpeg and does not load everywhere; PyAV brings its own
        return LeRobotDataset(f"local/{root.name}", root=root, video_backend="pyav", return_uint8=True)
    except Exception as error:
        raise DatasetError(
            f"dataset {root} cannot be opened ({type(error).__name__}: {error}): a file is missing or cut short. Copy "
            "it again, or collect it again."
        ) from error


def _decoded_frames(
    dataset: Any,
    robot: RobotSpec,
    image_size_px: tuple[int, int],
    index: tuple[np.ndarray, np.ndarray, np.ndarray],
    cache: Path,
    progress: Callable[[int, int], None] | None,
) -> np.ndarray:
    start, length, seconds = index
    shape = (int(length.sum()), len(robot.cameras), *image_size_px, 3)
    if cache.is_file() and cache.stat().st_size == int(np.prod(shape)):
        return np.memmap(cache, dtype=np.uint8, mode="r", shape=shape)
    cache.parent.mkdir(parents=True, exist_ok=True)
    partial = cache.with_suffix(".partial")
    frames = np.memmap(partial, dtype=np.uint8, mode="w+", shape=shape)
    for episode, (first, count) in enumerate(zip(start, length, strict=True)):
        for k, camera in enumerate(robot.cameras):
            images = decode_camera(dataset, episode, image_key(camera.name), seconds[first : first + count])
            frames[first : first + count, k] = np.stack([resize_image(image, image_size_px) for image in images])
        if progress is not None:
            progress(episode + 1, len(length))
    frames.flush()
    partial.replace(cache)
    return np.memmap(cache, dtype=np.uint8, mode="r", shape=shape)


def decode_camera(dataset: Any, episode: int, key: str, seconds: np.ndarray) -> np.ndarray:
    """Decodes one camera of one episode.

    Args:
        dataset: What ``open_dataset`` returned.
        episode: Its number.
        key: Of the camera's frames, such as ``observation.images.front``.
        seconds: (frames,) times within the episode [s].

    Returns:
        (frames, height, width, 3) uint8 at the recorded size.

    Raises:
        DatasetError: The video is missing or cut short.
    """
    from lerobot.datasets.video_utils import decode_video_frames

    path = dataset.root / dataset.meta.get_video_file_path(episode, key)
    offset = dataset.meta.episodes[episode][f"videos/{key}/from_timestamp"]
    try:
        chw = decode_video_frames(path, (seconds + offset).tolist(), dataset.tolerance_s, "pyav", return_uint8=True)
    except Exception as error:
        raise DatasetError(
            f"video '{key}' of episode {episode} cannot be decoded ({type(error).__name__}: {error}): {path} is "
            "missing or cut short. Copy the dataset again, or collect it again."
        ) from error
    return chw.permute(0, 2, 3, 1).numpy()
