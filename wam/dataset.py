"""LeRobotDataset v3 → arrays for training.

The numbers are those that ``wam.dataset_check`` has read and checked. Every frame is decoded once, resized at once with
the model's own image transform and kept in one memory-mapped file, so a training step never decodes video and a data
set or a film larger than memory still trains.

Shape legend: M frames of all episodes, E episodes, K cameras, A action width.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wam.dataset_check import DatasetSummary, check_dataset, say
from wam.dataset_files import FIX
from wam.dataset_names import ReadAs
from wam.dataset_tables import DatasetTables
from wam.dataset_times import check_videos
from wam.dataset_words import joined_instructions
from wam.errors import DatasetError
from wam.films import frames_at
from wam.frame_cache import content_digest, frames_identity, is_complete, new_cache
from wam.joined_frames import JoinedFrames
from wam.picture_fit import fit_picture
from wam.robot import RobotSpec
from wam.spec import image_key

__all__ = ["Episodes", "camera_frames", "join_episodes", "load_episodes"]


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
    content: str = ""  # sha256 of all that was recorded in it; "" of several datasets

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
    checked: DatasetSummary | None = None,
    read_as: ReadAs | None = None,
) -> Episodes:
    """Reads a dataset and decodes its frames into a memory-mapped cache.

    Args:
        root: Dataset folder.
        robot: Its joints and cameras say what must be in the dataset.
        image_size_px: (height, width) of the model's images; each camera's ``fit`` says how its pictures get there.
        cache: File for the decoded frames; reused when it holds the same pictures (``wam.frame_cache``).
        progress: Called with (episodes done, episodes in all).
        checked: What ``check_numbers`` found, if it was asked before; its notes are then said already.
        read_as: What a person says about the dataset, if it was not checked before.

    Raises:
        DatasetError: The dataset is damaged or of another robot (``wam.dataset_check``), or a video does not decode.
    """
    if checked is None:
        checked = check_dataset(root, robot, read_as)
        say(checked)
    else:
        check_videos(checked.tables)
    tables = checked.tables
    identity = frames_identity(tables, robot, image_size_px)
    return Episodes(
        frames=_decoded_frames(tables, robot, identity, cache, progress),
        proprio=tables.proprio.astype(np.float32),
        action=tables.action.astype(np.float32),
        task_index=tables.task_places,
        tasks=tables.instructions,
        start=np.cumsum(tables.length) - tables.length,
        length=tables.length,
        content=content_digest(identity, tables),
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
    tasks = joined_instructions([part.tasks for part in parts])
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


def camera_frames(tables: DatasetTables, episode: int, camera: str) -> Iterator[np.ndarray]:
    """Decodes one camera of one episode, picture by picture.

    Args:
        tables: Of the dataset.
        episode: Its number.
        camera: Its name in the robot file.

    Yields:
        (height, width, 3) uint8 at the recorded size, one for each frame of the episode.

    Raises:
        DatasetError: The video is missing or cut short.
    """
    part, rows = tables.videos[camera][episode], tables.rows(episode)
    try:
        yield from frames_at(part.path, (tables.seconds[rows] + part.begin_s).tolist())
    except DatasetError as error:
        raise DatasetError(
            f"video '{image_key(camera)}' of episode {episode} cannot be decoded ({error}): {part.path} is missing or "
            f"cut short; {FIX}"
        ) from error


def _decoded_frames(
    tables: DatasetTables,
    robot: RobotSpec,
    identity: Mapping[str, Any],
    cache: Path,
    progress: Callable[[int, int], None] | None,
) -> np.ndarray:
    image_size_px = (identity["size_px"][0], identity["size_px"][1])
    shape = (int(tables.length.sum()), len(robot.cameras), *image_size_px, 3)
    if not is_complete(cache, identity, int(np.prod(shape))):
        with new_cache(cache, identity) as partial:
            frames = np.memmap(partial, dtype=np.uint8, mode="w+", shape=shape)
            for episode in range(len(tables.length)):
                for place, camera in enumerate(robot.cameras):
                    images = camera_frames(tables, episode, camera.name)
                    first = tables.rows(episode).start
                    for row, image in enumerate(images, first):
                        frames[row, place] = fit_picture(image, image_size_px, camera.fit)
                if progress is not None:
                    progress(episode + 1, len(tables.length))
            frames.flush()
    return np.memmap(cache, dtype=np.uint8, mode="r", shape=shape)
