"""Actions for video that has none (``wam label`` is ``sim.label``).

The inverse-dynamics head of a checkpoint names the actions between every frame and the one ``future_offset`` control
steps later; windows overlap, and the actions of a step are the mean of all windows that hold it.

Shape legend: M frames, K cameras, O steps of a window, A action width.
"""

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from wam.checkpoint import Checkpoint
from wam.dataset_files import raise_together
from wam.dataset_pictures import aspect_refusal
from wam.errors import ConfigError, DatasetError
from wam.films import frames_by_rate, read_header
from wam.inverse_dynamics import actions_between
from wam.picture_fit import same_aspect

__all__ = ["Views", "check_videos", "label_frames", "seen_frames", "videos_at_rate", "window_actions"]

BATCH = 64  # windows at a time

Views = Sequence[np.ndarray]  # K of (height, width, 3) uint8, of one frame, of their own sizes


def label_frames(checkpoint: Checkpoint, frames: np.ndarray) -> np.ndarray:
    """Labels one clip.

    Args:
        checkpoint: With an inverse-dynamics head, trained on absolute actions.
        frames: (M, K, height, width, 3) uint8 at the control rate and the model's size.

    Returns:
        (M − 1, A) float32 actions in the robot's units: the one in force from each frame to the next.

    Raises:
        ConfigError: There is no head, the clip is too short, or actions are relative to a proprio that video lacks.
    """
    if checkpoint.transforms.action_space != "absolute":
        raise ConfigError(
            "this checkpoint's actions are relative to proprio, which video does not have: train absolute."
        )
    windows = window_actions(checkpoint, frames)
    total = np.zeros((len(frames) - 1, checkpoint.config.action_dim))
    count = np.zeros(len(total))
    for first, actions in enumerate(windows):
        total[first : first + len(actions)] += actions
        count[first : first + len(actions)] += 1
    normalised = (total / count[:, None]).astype(np.float32)  # every step lies in at least one window
    return checkpoint.transforms.decode_actions(normalised[:, None], np.zeros_like(normalised))[:, 0]


def window_actions(checkpoint: Checkpoint, frames: np.ndarray) -> np.ndarray:
    """What the head names between every frame and the one O steps later.

    Args:
        checkpoint: With an inverse-dynamics head.
        frames: (M, K, height, width, 3) uint8 at the control rate and the model's size.

    Returns:
        (M − O, O, A) float32, normalised.

    Raises:
        ConfigError: There is no head, or the clip is too short.
    """
    offset = checkpoint.config.future_offset
    if len(frames) <= offset:
        raise ConfigError(
            f"the clip has {len(frames)} frames but the head looks {offset} steps ahead: give a longer one."
        )
    first, found = np.arange(len(frames) - offset), []
    for start in range(0, len(first), BATCH):
        some = first[start : start + BATCH]
        now, later = (torch.from_numpy(np.ascontiguousarray(frames[index])) for index in (some, some + offset))
        with torch.no_grad():
            found.append(actions_between(checkpoint.model, now, later).numpy())  # (B, O, A)
    return np.concatenate(found)


def check_videos(paths: Sequence[Path], checkpoint: Checkpoint, *, any_aspect: bool = False) -> None:
    """Looks at the heads of the videos: one for each camera, showing what it shows.

    Args:
        paths: One per camera, in the order of the robot file.
        checkpoint: Whose robot.
        any_aspect: Another aspect than the camera's is meant so.

    Raises:
        DatasetError: Another number of videos than cameras, one that cannot be read, or one of another aspect.
    """
    robot, faults = checkpoint.robot, []
    if len(paths) != len(robot.cameras):
        raise DatasetError(
            f"{len(paths)} video(s) given but robot '{robot.name}' has the cameras {', '.join(robot.camera_names)}: "
            "give one video for each, in this order."
        )
    for path, camera in zip(paths, robot.cameras, strict=True):
        found = read_header(path).size_px
        if not any_aspect and not same_aspect(found, (camera.width_px, camera.height_px)):
            fix = "if it is another camera's, change the order of --videos"
            faults.append(DatasetError(aspect_refusal(f"video {path}", found, camera, robot, fix)))
    raise_together(faults)


def videos_at_rate(paths: Sequence[Path], checkpoint: Checkpoint) -> Iterator[Views]:
    """Decodes one video per camera at the robot's control rate, as long as the shortest lasts.

    Raises:
        DatasetError: One cannot be decoded or is empty.
    """
    return zip(*(frames_by_rate(path, checkpoint.robot.control_dt) for path in paths), strict=False)


def seen_frames(views: Iterable[Views], checkpoint: Checkpoint, folder: Path) -> np.ndarray:
    """Brings a clip to the model's size; it lies in an unnamed file, not in memory.

    Args:
        views: Pictures of all cameras, frame by frame.
        checkpoint: Whose transforms.
        folder: Disk for the file.

    Returns:
        (M, K, height, width, 3) uint8.
    """
    transforms, names = checkpoint.transforms, checkpoint.robot.camera_names
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        for images in views:
            file.write(transforms.images(dict(zip(names, images, strict=True)), names).tobytes())
        file.flush()
        shape = (-1, len(names), *transforms.image_size_px, 3)
        return np.memmap(file, dtype=np.uint8, mode="r").reshape(shape)
