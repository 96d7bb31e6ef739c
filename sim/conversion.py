"""Recorded episodes → LeRobotDataset: one recording after another, tick by tick, in one pass.

A recording gives one episode for every uninterrupted run of usable ticks: a dropped tick in the middle would make
actions last longer than they did, so it ends the piece. Everything lies in ``<out>.partial`` until it is complete and
checked, then moves in one rename.
"""

import logging
import os
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import wam
from sim.convert_config import ConvertConfig, recording_files
from sim.encoding import get_codec
from sim.errors import DiskFullError, SimError, is_disk_full
from sim.pieces import Piece
from sim.recording import DatasetRecorder
from sim.recordings import Recording, RecordingHeader, read_header
from sim.spool import EpisodeRecord, Spool
from sim.stopping import locked
from sim.ticks import ticks
from wam.dataset_check import check_written, say
from wam.dataset_meta import DatasetMeta, EpisodeMeta, write_meta
from wam.errors import DatasetError
from wam.robot import RobotSpec
from wam.robot_identity import data_differences

__all__ = ["Converted", "ConvertedFile", "convert"]

logger = logging.getLogger(__name__)

SHORT = "in a piece shorter than"
# What to do where nothing at all could be used: words of the commonest reason -> the way out
_ADVICE = {
    "no instruction": 'Say what was done: wam convert ... --task "put the cup on the plate"',
    "guard was silent": "Record with the guard running, as the launch files start it: wam up teleop_record robot:=...",
    "the guard w": "Engage the guard and drive the arm while it records: wam call guard/engage. Whose motion is kept "
    "says --source teleop, policy or both.",
    "commanded": "Record while the guard commands the arm: the topic of its commands must be among what is recorded.",
    "safety.": "The policy would refuse these as well. `wam top` shows on the robot what is late: a busy computer, a "
    "slow camera or a clock; if it has to be so, raise that number under safety in the robot file and record again.",
    SHORT: "Keep shorter pieces with wam convert ... --min-seconds 0.3, or record longer ones.",
}


@dataclass
class ConvertedFile:
    """What became of one recording."""

    path: Path
    started: str  # ISO 8601, UTC
    finished: bool  # whether its recorder completed it
    ticks: int = 0  # control steps in it
    frames: int = 0  # of them in the dataset
    episodes: int = 0  # pieces in the dataset
    dropped: Counter[str] = field(default_factory=Counter)  # reason without its numbers -> control steps
    examples: dict[str, str] = field(default_factory=dict)  # the same -> the first of these reasons, with its numbers
    notes: list[str] = field(default_factory=list)  # what in the file could not be used, one sentence each

    def to_dict(self) -> dict[str, object]:
        """Returns JSON data."""
        return {
            "file": self.path.name,
            "started": self.started,
            "finished": self.finished,
            "ticks": self.ticks,
            "frames": self.frames,
            "episodes": self.episodes,
            "dropped": dict(self.dropped.most_common()),
            "notes": self.notes,
        }

    def drop(self, category: str, reason: str, steps: int = 1) -> None:
        """Counts control steps that are not in the dataset."""
        self.dropped[category] += steps
        self.examples.setdefault(category, reason)

    def reasons(self) -> list[tuple[int, str]]:
        """How many control steps were dropped and why, most first; the numbers of a reason are those of its first."""
        return [(count, self.examples[category]) for category, count in self.dropped.most_common()]


@dataclass(frozen=True, kw_only=True)
class Converted:
    """What a conversion reports."""

    out: Path  # the dataset
    robot: RobotSpec  # whose it is
    files: tuple[ConvertedFile, ...]
    episodes: int
    frames: int


def convert(config: ConvertConfig, progress: Callable[[ConvertedFile], None] = lambda file: None) -> Converted:
    """Converts recordings into a new dataset.

    Args:
        config: What to convert.
        progress: Called after each recording.

    Raises:
        SimError: Nothing to convert, the output exists, the disk is full, or nothing usable was recorded.
        DatasetError: Recordings are damaged or of different robots or calibrations.
    """
    files = recording_files(config.recordings)
    headers = [read_header(path) for path in files]
    _check_one_robot(headers)
    if config.out.exists() and (not config.out.is_dir() or any(config.out.iterdir())):
        raise SimError(f"{config.out} exists already: choose another --out, or remove it.")
    try:
        with locked(config.partial_folder):
            result = _Conversion(config, headers[0].robot).run(headers, progress)
    except (OSError, RuntimeError, SimError) as error:  # each library wraps a full disk in its own way
        if is_disk_full(error):
            raise DiskFullError(
                f"the disk of {config.partial_folder} is full: a dataset needs twice its size while it is made. "
                "Free some space, remove that folder and run the same command again; the recordings are untouched."
            ) from error
        raise
    shutil.rmtree(config.partial_folder, ignore_errors=True)
    return result


class _Conversion:
    """One run over the partial folder."""

    def __init__(self, config: ConvertConfig, robot: RobotSpec) -> None:
        self._config, self._robot = config, robot
        self._fps = round(robot.control_rate_hz)
        if self._fps != robot.control_rate_hz:
            raise SimError(
                f"robot '{robot.name}' is controlled at {robot.control_rate_hz:g} Hz but LeRobot datasets have whole "
                "frames per second: choose such a control rate in the robot file."
            )
        for leftover in ("episodes", "dataset"):
            shutil.rmtree(config.partial_folder / leftover, ignore_errors=True)
        self._spool = Spool(config.partial_folder / "episodes")
        self._codec = get_codec(config.video)
        self._records: list[EpisodeRecord] = []
        self._successes: list[bool | None] = []

    def run(self, headers: Sequence[RecordingHeader], progress: Callable[[ConvertedFile], None]) -> Converted:
        """Spools every recording, writes the dataset, moves it into place."""
        self._spool.clean()
        files = []
        for header in headers:
            files.append(self._read(header))
            progress(files[-1])
        if not self._records:
            raise SimError(_nothing_usable(files))
        root = self._config.partial_folder / "dataset"
        with DatasetRecorder(root, self._robot, self._spool, self._codec) as recorder:
            for record in self._records:
                recorder.append(record)
            recorder.finish()
        write_meta(root, self._meta(files))
        summary = check_written(root, self._robot)
        say(summary)
        if self._config.out.is_dir():
            self._config.out.rmdir()  # it is empty
        self._config.out.parent.mkdir(parents=True, exist_ok=True)
        os.rename(root, self._config.out)
        return Converted(
            out=self._config.out,
            robot=self._robot,
            files=tuple(files),
            episodes=summary.episodes,
            frames=summary.frames,
        )

    def _read(self, header: RecordingHeader) -> ConvertedFile:
        recording = Recording(header)
        file = ConvertedFile(path=header.path, started=header.started, finished=header.finished)
        piece: Piece | None = None
        try:
            settings = self._config.tick_settings()
            for tick in ticks(header, recording.messages(), settings, notes=file.notes):
                file.ticks += 1
                if piece is not None and not piece.continued_by(tick):
                    self._keep(piece, file)
                    piece = None
                if tick.reason:
                    file.drop(tick.category, tick.reason)
                else:
                    piece = piece or Piece(self._robot, self._fps, self._codec)
                    piece.add(tick)
            if piece is not None:
                self._keep(piece, file)
        finally:
            if piece is not None:
                piece.close()
        file.finished &= not recording.truncated
        if recording.truncated:
            logger.warning(
                "%s was not finished by its recorder, or lost its end: converted up to its last whole chunk.",
                header.path,
            )
        for note in file.notes:
            logger.warning("%s: %s", header.path, note)
        return file

    def _keep(self, piece: Piece, file: ConvertedFile) -> None:
        """Spools one piece, unless it is too short."""
        steps = len(piece.actions)
        if steps < self._config.min_seconds * self._fps:
            reason = f"{SHORT} {self._config.min_seconds:g} s"
            file.drop(reason, reason, steps)
            piece.close()
            return
        videos, statistics = piece.encoded()
        record = EpisodeRecord(
            seed=len(self._records),
            task=piece.task,
            success=True,  # kept; what the task's outcome was stands in the metadata
            steps=steps,
            noise=0.0,
            simulation_cpu_s=0.0,
            encoding_cpu_s=0.0,
            image_statistics=statistics,
        )
        self._spool.write(record, piece.arrays(), videos)
        self._records.append(record)
        self._successes.append(piece.success)
        file.frames += steps
        file.episodes += 1

    def _meta(self, files: Sequence[ConvertedFile]) -> DatasetMeta:
        episodes = zip(self._records, self._successes, strict=True)
        tasks = list(dict.fromkeys(record.task for record in self._records))
        return DatasetMeta(
            robot=self._robot,
            task=tasks[0] if len(tasks) == 1 else f"{len(tasks)} tasks",
            episodes=tuple(
                EpisodeMeta(seed=record.seed, success=success, steps=record.steps, noise=0.0)
                for record, success in episodes
            ),
            settings={
                "command": "wam convert",
                "source": self._config.source,
                "reach_steps": self._config.reach_steps,
                "min_seconds": self._config.min_seconds,
                "video": self._config.video,
                "calibration_hash": self._robot.calibration_hash(),
                "recordings": [file.to_dict() for file in files],
            },
            versions={"wam": wam.__version__, **{name: version(name) for name in ("av", "lerobot", "mcap", "numpy")}},
        )


def _nothing_usable(files: Sequence[ConvertedFile]) -> str:
    total, examples = Counter[str](), dict[str, str]()
    for file in files:
        total += file.dropped
        examples |= file.examples
    most = "; ".join(f"{count} × {examples[category]}" for category, count in total.most_common(3))
    notes = "".join(f" {file.path.name}: {note}." for file in files[:3] for note in file.notes[:3])
    # Pieces are short because something else interrupts them, if it is more than the first and the last tick
    often = [category for category in total if not category.startswith(SHORT) and total[category] > total.total() / 4]
    causes = [*sorted(often, key=total.get, reverse=True), SHORT]
    advice = next((_ADVICE[word] for category in causes for word in _ADVICE if word in category), "")
    count = sum(file.ticks for file in files)
    return f"nothing usable in {len(files)} recordings: {count} ticks, {most}.{notes} {advice}".rstrip()


def _check_one_robot(headers: Sequence[RecordingHeader]) -> None:
    first = headers[0]
    for header in headers[1:]:
        # The robots as described, and not the hashes beside them, which older recorders made in another way
        different = data_differences(first.robot.to_dict(), header.robot.to_dict())
        if first.calibration_hash != header.calibration_hash:
            was, now = first.calibration_hash[:12] or "none", header.calibration_hash[:12] or "none"
            different.append(f"calibration hash ({was} and {now})")
        if different:
            raise DatasetError(
                f"{first.path} and {header.path} do not belong together: they differ in {', '.join(different)}. One "
                "dataset is of one robot in one state, or joints and pictures would not mean the same: convert them "
                "separately."
            )
