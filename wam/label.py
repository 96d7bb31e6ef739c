"""``wam label``: actions for video that has none.

The inverse-dynamics head of a checkpoint names the actions between every frame and the one ``future_offset`` control
steps later; windows overlap, and the actions of a step are the mean of all windows that hold it. Sources are videos,
one per camera, or a dataset; where a dataset has actions of its own, the difference from them is reported, which is how
a head is judged before its labels are trusted.

Shape legend: M frames, K cameras, O steps of a window, A action width.
"""

import csv
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro

from wam.checkpoint import Checkpoint, load_checkpoint
from wam.dataset import load_episodes
from wam.errors import ConfigError, DatasetError
from wam.inverse_dynamics import actions_between
from wam.transforms import resize_image

__all__ = ["LabelConfig", "label_frames", "main", "read_videos"]

BATCH = 64  # windows at a time
CLOCK_ERROR_S = 1e-3  # rounding of time stamps in video files


@dataclass(frozen=True, kw_only=True)
class LabelConfig:
    """Name the actions in video that has none. Absolute joint targets, in the robot's units."""

    checkpoint: Path  # run folder of `wam train --stage inverse`, or one of its checkpoints
    videos: tuple[Path, ...] = ()  # one video per camera, in the order of the robot file
    dataset: Path | None = None  # or a LeRobot v3 dataset: labels every episode and compares with its own actions
    out: Path = Path("outputs/labels")  # folder of the CSV files: time [s], then one column per joint

    def __post_init__(self) -> None:
        if bool(self.videos) == (self.dataset is not None):
            raise ConfigError(
                "give either --videos, one per camera, or --dataset, so that there is one thing to label."
            )


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
    offset = checkpoint.config.future_offset
    if len(frames) <= offset:
        raise ConfigError(
            f"the clip has {len(frames)} frames but the head looks {offset} steps ahead: give a longer one."
        )
    total = np.zeros((len(frames) - 1, checkpoint.config.action_dim))
    count = np.zeros(len(total))
    first = np.arange(len(frames) - offset)
    for start in range(0, len(first), BATCH):
        some = first[start : start + BATCH]
        now, later = (torch.from_numpy(np.ascontiguousarray(frames[index])) for index in (some, some + offset))
        with torch.no_grad():
            found = actions_between(checkpoint.model, now, later).numpy()  # (B, O, A)
        for window, actions in zip(some, found, strict=True):
            total[window : window + offset] += actions
            count[window : window + offset] += 1
    normalised = (total / count[:, None]).astype(np.float32)  # every step lies in at least one window
    return checkpoint.transforms.decode_actions(normalised[:, None], np.zeros_like(normalised))[:, 0]


def read_videos(paths: Sequence[Path], checkpoint: Checkpoint) -> np.ndarray:
    """Decodes one video per camera at the robot's control rate: (M, K, height, width, 3) uint8.

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
    return np.stack([clip[:length] for clip in clips], axis=1)


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
    return np.stack([resize_image(image, checkpoint.config.image_size_px) for image in found])


def _write(path: Path, actions: np.ndarray, checkpoint: Checkpoint) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["time_s", *checkpoint.robot.action_names])
        for index, action in enumerate(actions):
            writer.writerow([f"{index * checkpoint.robot.control_dt:.4f}", *(f"{value:.6f}" for value in action)])


def _label_dataset(config: LabelConfig, checkpoint: Checkpoint) -> None:
    height, width = checkpoint.config.image_size_px
    cache = config.out / "cache" / f"frames_{height}x{width}.u8"
    episodes = load_episodes(config.dataset, checkpoint.robot, checkpoint.config.image_size_px, cache=cache)
    errors = []
    for episode, (first, count) in enumerate(zip(episodes.start, episodes.length, strict=True)):
        if count > checkpoint.config.future_offset:
            actions = label_frames(checkpoint, np.asarray(episodes.frames[np.arange(first, first + count)]))
            _write(config.out / f"episode_{episode:06d}.csv", actions, checkpoint)
            errors.append(np.abs(actions - episodes.action[first : first + count - 1]).mean(axis=0))
    if not errors:
        raise ConfigError(f"no episode of {config.dataset} is longer than {checkpoint.config.future_offset} steps.")
    named = zip(checkpoint.robot.action_names, np.mean(errors, axis=0), strict=True)
    print(f"labels:  {len(errors)} episodes in {config.out}")
    print("mean absolute difference from the recorded actions: " + ", ".join(f"{n} {v:.4f}" for n, v in named))


def main(argv: list[str] | None = None) -> int:
    """Command line of ``wam label``."""
    config = tyro.cli(LabelConfig, args=argv, prog="wam label")
    checkpoint = load_checkpoint(config.checkpoint)
    if config.dataset is not None:
        _label_dataset(config, checkpoint)
        return 0
    actions = label_frames(checkpoint, read_videos(config.videos, checkpoint))
    _write(config.out / "labels.csv", actions, checkpoint)
    print(f"labels:  {len(actions)} steps in {config.out / 'labels.csv'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
