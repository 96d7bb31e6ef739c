"""Collects a dataset: seeds → spooled episodes → LeRobotDataset, resumable at every point.

The dataset holds the first N seeds, from the given one on, at which the expert succeeds. Workers fill the spool in any
order; this process writes episodes in the order of their seeds. So the result depends neither on the number of workers
nor on interruptions. Everything lies in ``<out>.partial`` until it is complete and checked, then moves in one rename.
"""

import json
import os
import shutil
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import wam
from sim.collect_config import CollectConfig, settings_difference
from sim.encoding import get_codec
from sim.errors import DiskFullError, SimError, is_disk_full
from sim.gl import GL_BACKEND
from sim.recording import DatasetRecorder, import_lerobot
from sim.splits import SPLITS
from sim.spool import EpisodeRecord, Spool
from sim.stopping import InterruptedCollection, StopRequest, locked, stop_requests
from sim.workers import WorkerPool, WorkerSetup
from wam.dataset_check import check_dataset
from wam.dataset_meta import DatasetMeta, EpisodeMeta, read_meta, write_json, write_meta
from wam.robot import RobotSpec
from wam.robot_identity import behaviour_hash

__all__ = ["Collected", "Progress", "collect", "software_versions"]

SETTINGS_FILE = "settings.json"
MIN_ATTEMPTS = 20  # attempts before a weak expert is called one
MIN_SUCCESS_RATE = 0.5  # below this the dataset would take for ever, and would not show what was meant
POLL_SECONDS = 0.2  # how long a stop request may go unseen


class Progress(Protocol):
    """What a progress display is told."""

    def recorded(self, success: bool) -> None:
        """An episode was simulated, or found in the spool."""

    def written(self) -> None:
        """An episode went into the dataset."""


@dataclass(frozen=True, kw_only=True)
class Collected:
    """What a finished collection reports."""

    out: Path  # the dataset
    episodes: int  # episodes in it
    frames: int  # frames in it
    attempted: int  # episodes the expert tried
    wall_s: float  # wall time of this command [s]
    simulation_cpu_s: float  # CPU time of physics, expert and rendering, over all processes and runs [s]
    encoding_cpu_s: float  # CPU time of video encoding, over all processes and runs [s]
    writing_cpu_s: float  # CPU time of this process: importing lerobot, writing tables, joining videos [s]
    already_there: bool  # the dataset was complete before this command

    @property
    def success_rate(self) -> float:
        """Share of the attempts that the expert solved."""
        return self.episodes / self.attempted


def collect(config: CollectConfig, progress: Progress) -> Collected:
    """Records a dataset, or goes on where an earlier run with the same settings stopped.

    Args:
        config: What to record.
        progress: Told about every episode.

    Raises:
        InterruptedCollection: SIGINT or SIGTERM came.
        SimError: Other settings are on disk, the disk is full, the expert is too weak, or a worker died.
        RobotSpecError: Unknown robot.
    """
    started, cpu = time.perf_counter(), time.process_time()
    robot = config.load_robot()
    meta = _finished(config, robot)
    already = meta is not None
    if meta is None:
        try:
            with locked(config.partial_folder), stop_requests() as stop:
                meta = _Collection(config, robot, stop, progress).run()
        except (OSError, RuntimeError, SimError) as error:  # each library wraps a full disk in its own way
            if is_disk_full(error):
                raise _disk_full(config) from error
            raise
    shutil.rmtree(config.partial_folder, ignore_errors=True)
    return _report(config, meta, time.perf_counter() - started, time.process_time() - cpu, already)


def software_versions() -> dict[str, str]:
    """Returns the versions that shape a dataset."""
    packages = {name: version(name) for name in ("lerobot", "mujoco", "numpy")}
    return {"wam": wam.__version__, **packages, "gl": GL_BACKEND}


class _Collection:
    """One run over the partial folder."""

    def __init__(self, config: CollectConfig, robot: RobotSpec, stop: StopRequest, progress: Progress) -> None:
        self.config, self.robot, self.stop, self.progress = config, robot, stop, progress
        self.partial = config.partial_folder
        self.spool = Spool(self.partial / "episodes")
        self.codec = get_codec(config.video)
        self.kept: list[EpisodeRecord] = []
        self.failed: list[EpisodeRecord] = []
        self.waiting: deque[Future[EpisodeRecord]] = deque()  # asked for, in the order of their seeds
        self.next_seed = config.seed

    def run(self) -> DatasetMeta:
        """Fills the spool, writes the dataset, moves it into place."""
        self._check_settings()
        self.spool.clean()
        setup = WorkerSetup(settings=self.config.demo_settings(self.robot), codec=self.codec, spool=self.spool)
        with WorkerPool(self.config.processes, setup) as pool:
            self._ask(pool)
            # Importing lerobot takes as long as recording a hundred episodes: do it meanwhile, and stay able to stop.
            loader = ThreadPoolExecutor(1)
            loading = loader.submit(import_lerobot)
            loader.shutdown(wait=False)
            self._wait(loading)
            with DatasetRecorder(self.partial / "dataset", self.robot, self.spool, self.codec) as recorder:
                while len(self.kept) < self.config.episodes:
                    self._take(self._wait(self.waiting.popleft()), recorder)
                    self._ask(pool)
                recorder.finish()
        return self._publish()

    def _check_settings(self) -> None:
        """The partial folder may be asked for another number of episodes, but for nothing else."""
        path, asked = self.partial / SETTINGS_FILE, self.config.settings(self.robot)
        if path.is_file():
            differences = settings_difference({**_read_json(path), "episodes": asked["episodes"]}, asked)
            if differences:
                raise SimError(
                    f"{self.partial} holds an unfinished recording with other settings ({'; '.join(differences)}): "
                    "give those settings to go on with it, choose another --out, or remove that folder."
                )
        write_json(path, asked)

    def _ask(self, pool: WorkerPool) -> None:
        """Asks for as many episodes as are needed if all succeed: which seeds are tried must not depend on timing."""
        while len(self.kept) + len(self.waiting) < self.config.episodes:
            self.waiting.append(self._episode(self.next_seed, pool))
            self.next_seed += 1

    def _take(self, record: EpisodeRecord, recorder: DatasetRecorder) -> None:
        """Puts one episode, the next in the order of seeds, where it belongs."""
        if record.success:
            recorder.append(record)
            self.kept.append(record)
            self.progress.written()
        else:
            self.failed.append(record)
            self._check_expert()

    def _episode(self, seed: int, pool: WorkerPool) -> Future[EpisodeRecord]:
        if seed not in SPLITS["demos"]:
            raise SimError(
                f"the expert failed so often that seed {seed} would be needed, beyond those of demonstrations: "
                "start at a lower --seed or ask for fewer --episodes."
            )
        record = self.spool.record(seed)
        future: Future[EpisodeRecord]
        if record is None:
            future = pool.submit(seed)
        else:
            future = Future()
            future.set_result(record)
        future.add_done_callback(self._show)
        return future

    def _show(self, future: Future[EpisodeRecord]) -> None:
        if not future.cancelled() and future.exception() is None:
            self.progress.recorded(future.result().success)

    def _wait[T](self, future: Future[T]) -> T:
        """Waits for a result, but no longer than until someone wants to stop."""
        while True:
            if self.stop.number is not None:
                raise self._interrupted(self.stop.number)
            try:
                return future.result(timeout=POLL_SECONDS)
            except TimeoutError:
                continue
            except BrokenProcessPool as error:
                if self.stop.number is not None:  # the signal went to the workers too
                    raise self._interrupted(self.stop.number) from error
                raise SimError(
                    "a recording process died, as when memory runs out or it is killed; finished episodes are kept in "
                    f"{self.partial}. Run the same command again, with fewer --workers if it was memory."
                ) from error

    def _interrupted(self, number: int) -> InterruptedCollection:
        return InterruptedCollection(
            f"every finished episode is kept in {self.partial}; the same command goes on from there.", number
        )

    def _check_expert(self) -> None:
        attempts = len(self.kept) + len(self.failed)
        if attempts >= MIN_ATTEMPTS and len(self.kept) < MIN_SUCCESS_RATE * attempts:
            raise SimError(
                f"the expert solved only {len(self.kept)} of {attempts} episodes of '{self.config.task}': with noise "
                f"{self.config.noise} rad in {self.config.noise_fraction:.0%} of them it may be pushed off too far. "
                "Lower --noise or --noise-fraction."
            )

    def _publish(self) -> DatasetMeta:
        root = self.partial / "dataset"
        meta = DatasetMeta(
            robot=self.robot,
            task=self.config.task,
            episodes=tuple(EpisodeMeta(seed=r.seed, success=True, steps=r.steps, noise=r.noise) for r in self.kept),
            failed_seeds=tuple(record.seed for record in self.failed),
            settings=self.config.settings(self.robot),
            versions=software_versions(),
            cpu_seconds={
                "simulation": sum(record.simulation_cpu_s for record in self.kept + self.failed),
                "encoding": sum(record.encoding_cpu_s for record in self.kept),
            },
        )
        write_meta(root, meta)
        check_dataset(root, self.robot)
        os.rename(root, self.config.folder)
        return meta


def _finished(config: CollectConfig, robot: RobotSpec) -> DatasetMeta | None:
    """Returns the metadata of a complete dataset with these settings, or None when there is none yet."""
    out = config.folder
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    meta = read_meta(out) if out.is_dir() else None
    if meta is None:
        raise SimError(f"{out} exists but was not recorded by wam collect: choose another --out, or remove it.")
    # Not the hash it holds, which an older version made in another way, but that of what it describes
    recorded = {**meta.settings, "robot_fingerprint": behaviour_hash(meta.robot.to_dict())}
    differences = settings_difference(recorded, config.settings(robot))
    if differences:
        raise SimError(
            f"{out} already holds a dataset with other settings ({'; '.join(differences)}): choose another --out, ask "
            "for the same settings, or remove that folder."
        )
    return meta


def _disk_full(config: CollectConfig) -> DiskFullError:
    folder = next(path for path in config.partial_folder.absolute().parents if path.exists())
    free_mb = shutil.disk_usage(folder).free / 1e6
    return DiskFullError(
        f"the disk of {config.partial_folder} is full ({free_mb:.1f} MB free). Every finished episode is kept there: "
        "free some space (a dataset needs twice its size while it is made) and run the same command again."
    )


def _report(config: CollectConfig, meta: DatasetMeta, wall_s: float, cpu_s: float, already: bool) -> Collected:
    return Collected(
        out=config.folder,
        episodes=len(meta.episodes),
        frames=sum(episode.steps for episode in meta.episodes),
        attempted=len(meta.episodes) + len(meta.failed_seeds),
        wall_s=wall_s,
        simulation_cpu_s=meta.cpu_seconds.get("simulation", 0.0),
        encoding_cpu_s=meta.cpu_seconds.get("encoding", 0.0),
        writing_cpu_s=cpu_s,
        already_there=already,
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise SimError(f"{path} is damaged ({error}): remove {path.parent} and start again.") from error
