"""Processes that record episodes into the spool; each holds one simulation and its own renderer.

Processes are spawned, never forked: a forked OpenGL context or thread pool is broken in ways that show much later.
They import neither torch nor lerobot, so they start in half a second.
"""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait

from sim.arm_sim import ArmSim
from sim.demonstrations import Demonstration, DemoSettings, record_demonstration
from sim.encoding import VideoCodec, encode_video, image_statistics
from sim.errors import DiskFullError, is_disk_full
from sim.spool import EpisodeArrays, EpisodeRecord, Spool

__all__ = ["Recorder", "WorkerPool", "WorkerSetup"]


@dataclass(frozen=True, kw_only=True)
class WorkerSetup:
    """What a worker needs; it is sent to each once."""

    settings: DemoSettings  # what to record
    codec: VideoCodec  # how to encode it
    spool: Spool  # where to put it


class Recorder:
    """Records episodes one after another with one simulation."""

    def __init__(self, setup: WorkerSetup) -> None:
        self._setup = setup
        settings = setup.settings
        self._sim = ArmSim(
            settings.task,
            settings.robot,
            distractors=settings.distractors,
            calibrated_cameras=settings.calibrated_cameras,
        )

    def record(self, seed: int) -> EpisodeRecord:
        """Simulates, encodes and spools the episode of a seed.

        Raises:
            DiskFullError: No room for it.
        """
        started = time.process_time()
        demo = record_demonstration(self._sim, self._setup.settings, seed)
        simulated = time.process_time()
        videos, statistics = self._encode(demo) if demo.success else ({}, {})
        record = EpisodeRecord(
            seed=seed,
            task=demo.instruction,
            success=demo.success,
            steps=len(demo.action),
            noise=demo.noise,
            simulation_cpu_s=simulated - started,
            encoding_cpu_s=time.process_time() - simulated,
            image_statistics=statistics,
        )
        arrays = EpisodeArrays(proprio=demo.proprio, action=demo.action, stamp=demo.stamp) if demo.success else None
        try:
            self._setup.spool.write(record, arrays, videos)
        except OSError as error:
            if is_disk_full(error):
                raise DiskFullError(f"no space left for episode {seed}") from error
            raise
        return record

    def _encode(self, demo: Demonstration) -> tuple[dict[str, bytes], dict[str, dict[str, list[float]]]]:
        fps = round(self._setup.settings.robot.control_rate_hz)
        videos = {camera: encode_video(frames, fps, self._setup.codec) for camera, frames in demo.images.items()}
        return videos, {camera: image_statistics(frames) for camera, frames in demo.images.items()}


class WorkerPool:
    """Spawned recorders behind ``submit``; use as a context manager."""

    def __init__(self, workers: int, setup: WorkerSetup) -> None:
        self._executor = ProcessPoolExecutor(
            max_workers=workers,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_start_worker,
            initargs=(setup,),
        )

    def __enter__(self) -> "WorkerPool":
        return self

    def __exit__(self, *_: object) -> None:
        """Drops what has not begun and waits for what has: episodes take a second."""
        self._executor.shutdown(wait=True, cancel_futures=True)

    def submit(self, seed: int) -> Future[EpisodeRecord]:
        """Asks for the episode of a seed; when a worker has died, whoever waits for the episode is told."""
        try:
            with _children_ignore_ctrl_c():
                return self._executor.submit(_record, seed)
        except BrokenProcessPool as error:
            refused: Future[EpisodeRecord] = Future()
            refused.set_exception(error)
            return refused


_setup: WorkerSetup | None = None  # of this worker process
_recorder: Recorder | None = None  # made by the first episode, so that its errors reach the parent as they are


def _start_worker(setup: WorkerSetup) -> None:
    global _setup
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    _setup = setup


def _record(seed: int) -> EpisodeRecord:
    global _recorder
    if _setup is None:
        raise RuntimeError("worker used before its initialiser ran")
    if _recorder is None:
        _recorder = Recorder(_setup)
    return _recorder.record(seed)


def _exit_with_parent() -> None:
    """Ends this process when its parent was killed; the executor alone would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


@contextmanager
def _children_ignore_ctrl_c() -> Iterator[None]:
    """Ctrl-C goes to the whole process group, but only the parent decides what it means.

    Processes inherit the set of blocked signals, so blocking around the start of a worker blocks it there for good. A
    Ctrl-C in this moment reaches the parent right after it.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
