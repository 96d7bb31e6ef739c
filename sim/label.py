"""``wam label``: names the actions in video that has none, and writes a dataset that trains.

Sources are videos, one per camera, or a LeRobot dataset; where a dataset has actions of its own, the difference from
them is reported, which is how a head is judged before its labels are trusted. Beside the CSV files comes a LeRobot v3
dataset with the labels as actions, in which every episode ends one step earlier, because its last frame has no label.

Training also wants a proprio. A dataset has one and keeps it. Video has none: there the proprio of a frame is the label
before it, the target that the arm had just been given, and that of the first frame its own label.

Shape legend: M frames, K cameras, A action width, P proprio width.
"""

import csv
import dataclasses
import itertools
import shutil
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import numpy as np
import tyro

import wam
from sim.encoding import PixelStatistics, VideoEncoder, get_codec
from sim.recording import DatasetRecorder
from sim.spool import EpisodeArrays, EpisodeRecord, Spool
from wam.checkpoint import Checkpoint, load_checkpoint
from wam.dataset import camera_frames
from wam.dataset_check import check_dataset, check_written, say
from wam.dataset_meta import DatasetMeta, EpisodeMeta, write_meta
from wam.dataset_names import ReadAs
from wam.dataset_tables import DatasetTables
from wam.errors import ConfigError
from wam.label import Views, check_videos, label_frames, seen_frames, videos_at_rate, window_actions
from wam.picture_fit import fit_picture
from wam.robot import RobotSpec

__all__ = ["LabelConfig", "main"]

PROPRIO_OF_VIDEO = "the label before each frame"
PROPRIO_OF_DATASET = "as recorded"


@dataclass(frozen=True, kw_only=True)
class LabelConfig:
    """Name the actions in video that has none. Absolute joint targets, in the robot's units."""

    checkpoint: Path  # run folder of `wam train --stage inverse`, or one of its checkpoints
    videos: tuple[Path, ...] = ()  # one video per camera, in the order of the robot file
    dataset: Path | None = None  # or a LeRobot v3 dataset: labels every episode and compares with its own actions
    task: str = ""  # instruction of the videos; without it no dataset is written from them
    out: Path = Path("runs/labels")  # CSV files (time [s], then one column per joint) and dataset/ to train on
    any_aspect: bool = False  # pictures may have another aspect than the robot file's camera gives
    video: str = "exact"  # codec of the dataset's videos, exact or portable, as for `wam collect`

    def __post_init__(self) -> None:
        if bool(self.videos) == (self.dataset is not None):
            raise ConfigError(
                "give either --videos, one per camera, or --dataset, so that there is one thing to label."
            )
        if self.task and self.dataset is not None:
            raise ConfigError("--task is for --videos: a dataset brings its own instructions.")
        get_codec(self.video)


@dataclass(frozen=True, kw_only=True)
class Clip:
    """One labelled episode."""

    views: Iterable[Views]  # pictures of all cameras as recorded, frame by frame
    actions: np.ndarray  # (M − 1, A) float32 labels
    proprio: np.ndarray  # (M, P) float32
    task: str


@dataclass
class _Judgement:
    """How far labels are from recorded actions."""

    joints: list[np.ndarray] = field(default_factory=list)  # (A,) per episode [rad, opening]
    windows: list[np.ndarray] = field(default_factory=list)  # (windows,) normalised: the run-time consistency number


class LabelledDataset:
    """Writes clips into a LeRobot dataset; as a context manager it leaves no half of one behind.

    Args:
        config: Of the command.
        checkpoint: Whose robot.
        proprio: Where proprio comes from, in words, for the metadata.
    """

    def __init__(self, config: LabelConfig, checkpoint: Checkpoint, proprio: str) -> None:
        self._config, self._checkpoint, self._proprio = config, checkpoint, proprio
        self._robot = checkpoint.robot
        self._fps = round(self._robot.control_rate_hz)
        self._codec = get_codec(config.video)
        self._spool = Spool(config.out / "dataset.partial")
        self._records: list[EpisodeRecord] = []
        self.root = config.out / "dataset"
        if self.root.exists():
            raise ConfigError(f"{self.root} exists already: choose another --out, or remove it.")
        self._spool.clean()

    def __enter__(self) -> "LabelledDataset":
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._spool.root, ignore_errors=True)

    def add(self, clip: Clip) -> None:
        """Encodes one episode, frame by frame."""
        frames = len(clip.actions)
        encoders = {camera.name: VideoEncoder(self._fps, self._codec) for camera in self._robot.cameras}
        statistics = {camera.name: PixelStatistics() for camera in self._robot.cameras}
        try:
            for images in itertools.islice(clip.views, frames):
                for camera, image in zip(self._robot.cameras, images, strict=True):
                    view = fit_picture(image, (camera.height_px, camera.width_px), camera.fit)
                    encoders[camera.name].add(view)
                    statistics[camera.name].add(view)
            videos = {name: encoder.finish() for name, encoder in encoders.items()}
        finally:
            for encoder in encoders.values():
                encoder.close()
        record = EpisodeRecord(
            seed=len(self._records),
            task=clip.task,
            success=True,  # kept; whether the task was solved nobody said
            steps=frames,
            noise=0.0,
            simulation_cpu_s=0.0,
            encoding_cpu_s=0.0,
            image_statistics={name: found.result() for name, found in statistics.items()},
        )
        arrays = EpisodeArrays(
            proprio=clip.proprio[:frames], action=clip.actions, stamp=np.arange(frames) * self._robot.control_dt
        )
        self._spool.write(record, arrays, videos)
        self._records.append(record)

    def finish(self) -> None:
        """Writes the dataset and checks it."""
        with DatasetRecorder(self.root, self._robot, self._spool, self._codec) as recorder:
            for record in self._records:
                recorder.append(record)
            recorder.finish()
            write_meta(self.root, self._meta())
            say(check_written(self.root, self._robot))

    def _meta(self) -> DatasetMeta:
        tasks = list(dict.fromkeys(record.task for record in self._records))
        return DatasetMeta(
            robot=self._robot,
            task=tasks[0] if len(tasks) == 1 else f"{len(tasks)} tasks",
            episodes=tuple(
                EpisodeMeta(seed=record.seed, success=None, steps=record.steps, noise=0.0) for record in self._records
            ),
            settings={
                "command": "wam label",
                "source": "videos" if self._config.videos else str(self._config.dataset),
                "actions": "labels of an inverse-dynamics head",
                "proprio": self._proprio,
                "checkpoint_sha256": self._checkpoint.sha256(),
                "video": self._config.video,
            },
            versions={"wam": wam.__version__, **{name: version(name) for name in ("av", "lerobot", "numpy")}},
        )


def main(argv: list[str] | None = None) -> int:
    """Command line of ``wam label``."""
    config = tyro.cli(LabelConfig, args=argv, prog="wam label")
    checkpoint = load_checkpoint(config.checkpoint)
    if config.dataset is not None:
        _label_dataset(config, checkpoint)
    else:
        _label_videos(config, checkpoint)
    return 0


def _label_videos(config: LabelConfig, checkpoint: Checkpoint) -> None:
    check_videos(config.videos, checkpoint, any_aspect=config.any_aspect)
    actions = label_frames(checkpoint, seen_frames(videos_at_rate(config.videos, checkpoint), checkpoint, config.out))
    _write(config.out / "labels.csv", actions, checkpoint)
    print(f"labels:  {len(actions)} steps in {config.out / 'labels.csv'}")
    if not config.task:
        print("dataset: none; name the instruction with --task to get one that trains")
        return
    proprio = np.concatenate((actions[:1], actions))  # (M, P)
    with LabelledDataset(config, checkpoint, PROPRIO_OF_VIDEO) as dataset:
        views = videos_at_rate(config.videos, checkpoint)  # once more: decoding is cheap, and a film is large
        dataset.add(Clip(views=views, actions=actions, proprio=proprio, task=config.task))
        dataset.finish()
    print(f"dataset: {dataset.root}, 1 episode; its proprio is {PROPRIO_OF_VIDEO}")


def _label_dataset(config: LabelConfig, checkpoint: Checkpoint) -> None:
    root, robot = config.dataset, checkpoint.robot
    assert root is not None
    tables = check_dataset(root, robot, _read_as(config, checkpoint)).tables
    proprio, recorded = tables.proprio.astype(np.float32), tables.action.astype(np.float32)
    judged, skipped = _Judgement(), 0
    with LabelledDataset(config, checkpoint, PROPRIO_OF_DATASET) as dataset:
        for episode in range(len(tables.length)):
            span = tables.rows(episode)
            if span.stop - span.start <= checkpoint.config.future_offset:
                skipped += 1
                continue
            seen = seen_frames(_views(tables, episode, robot), checkpoint, config.out)
            actions = label_frames(checkpoint, seen)
            _write(config.out / f"episode_{episode:06d}.csv", actions, checkpoint)
            _compare(judged, checkpoint, seen, actions, recorded[span])
            task = tables.tasks[int(tables.task[span.start])]
            views = _views(tables, episode, robot)
            dataset.add(Clip(views=views, actions=actions, proprio=proprio[span], task=task))
        if not judged.joints:
            raise ConfigError(f"no episode of {root} is longer than {checkpoint.config.future_offset} steps.")
        dataset.finish()
    _report(config, checkpoint, judged, skipped)


def _compare(
    judged: _Judgement, checkpoint: Checkpoint, seen: np.ndarray, labels: np.ndarray, recorded: np.ndarray
) -> None:
    judged.joints.append(np.abs(labels - recorded[:-1]).mean(axis=0))
    found = window_actions(checkpoint, seen)  # (windows, O, A)
    told = checkpoint.transforms.encode_actions(recorded[None], np.zeros_like(recorded[:1]))[0]  # (M, A)
    wanted = np.stack([told[first : first + found.shape[1]] for first in range(len(found))])
    judged.windows.append(np.abs(found - wanted).mean(axis=(1, 2)))


def _report(config: LabelConfig, checkpoint: Checkpoint, judged: _Judgement, skipped: int) -> None:
    named = zip(checkpoint.robot.action_names, np.mean(judged.joints, axis=0), strict=True)
    p50, p95, p99 = np.percentile(np.concatenate(judged.windows), [50, 95, 99])
    short = f"; {skipped} too short to be labelled" if skipped else ""
    print(f"labels:  {len(judged.joints)} episodes in {config.out}{short}")
    print(f"dataset: {config.out / 'dataset'}; its proprio is {PROPRIO_OF_DATASET}")
    print("mean absolute difference from the recorded actions: " + ", ".join(f"{n} {v:.4f}" for n, v in named))
    print(f"the same per window, normalised (the run-time consistency): p50 {p50:.3f}, p95 {p95:.3f}, p99 {p99:.3f}")


def _read_as(config: LabelConfig, checkpoint: Checkpoint) -> ReadAs:
    told = checkpoint.read_as
    return dataclasses.replace(told, any_aspect=told.any_aspect or config.any_aspect)


def _views(tables: DatasetTables, episode: int, robot: RobotSpec) -> Iterator[Views]:
    return zip(*(camera_frames(tables, episode, name) for name in robot.camera_names), strict=True)


def _write(path: Path, actions: np.ndarray, checkpoint: Checkpoint) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["time_s", *checkpoint.robot.action_names])
        for index, action in enumerate(actions):
            writer.writerow([f"{index * checkpoint.robot.control_dt:.4f}", *(f"{value:.6f}" for value in action)])


if __name__ == "__main__":
    sys.exit(main())
