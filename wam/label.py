"""Actions for video that has none (``wam label`` is ``sim.label``).

The inverse-dynamics head of a checkpoint names the actions between every frame and the one ``future_offset`` control
steps later; windows overlap, and the actions of a step are the mean of all windows that hold it.

Shape legend: M frames, K cameras, O steps of a window, A action width.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from wam.checkpoint import Checkpoint
from wam.errors import ConfigError, DatasetError
from wam.inverse_dynamics import actions_between

__all__ = ["label_frames", "read_videos", "window_actions"]

BATCH = 64  # windows at a time
CLOCK_ERROR_S = 1e-3  # rounding of time stamps in video files


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


def read_videos(paths: Sequence[Path], checkpoint: Checkpoint) -> list[np.ndarray]:
    """Decodes one video per camera at the robot's control rate: K of (M, height, width, 3) uint8, of their own sizes.

    Raises:
        DatasetError: Another number of videos than cameras, or one that cannot be read.
    """
    cameras = checkpoint.robot.camera_names
    if len(paths) != len(cameras):
        raise DatasetError(
            f"{len(paths)} video(s) given but robot '{checkpoint.robot.name}' has the cameras {', '.join(cameras)}: "
            "give one video for each, in this order."
        )
    clips = [_decode(path, checkpoint) for path in paths]
    length = min(map(len, clips))
    return [clip[:length] for clip in clips]


def _decode(path: Path, checkpoint: Checkpoint) -> np.ndarray:
    import av  # an extra; only videos need it

    step, found, due = checkpoint.robot.control_dt, [], 0.0
    try:
        with av.open(str(path)) as container:
            for frame in container.decode(video=0):
                while frame.time is not None and frame.time >= due - CLOCK_ERROR_S:
                    found.append(frame.to_ndarray(format="rgb24"))
                    due += step
    except (OSError, av.FFmpegError) as error:
        raise DatasetError(f"video {path} cannot be decoded: {error}.") from error
    if not found:
        raise DatasetError(f"video {path} holds no frame.")
    return np.stack(found)
