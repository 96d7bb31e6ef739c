"""Running the stages of a demo so that an interruption costs nothing: what is done stays done, and time adds up.

Each stage is a command in a process of its own, so memory, threads and OpenGL contexts end with it. ``demo.json`` in
the demo's folder says with which settings it was begun, which stages are done and how long each has worked; it is
replaced in one piece, and every few seconds while a stage runs, so that even a killed demo knows its times.
"""

import fcntl
import hashlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sim.collect_config import settings_difference
from sim.errors import SimError
from sim.results import write_json
from sim.stopping import stop_requests

__all__ = ["DemoState", "InterruptedDemo", "StageCommand", "check_folder", "locked", "open_state", "run_stages"]

STATE_FILE = "demo.json"
LOCK_FILE = "demo.lock"
FORMAT = "wam-demo-state/1"
HEARTBEAT_SECONDS = 2.0  # how much working time a killed demo may forget


class InterruptedDemo(SimError):
    """Stopped by a signal; the same command goes on."""

    def __init__(self, stage: str, number: int) -> None:
        super().__init__(
            f"interrupted by {signal.Signals(number).name} while stage '{stage}' ran: nothing is lost, the same "
            "command goes on from here."
        )
        self.status = 128 + number  # exit status, as shells have it


@dataclass(frozen=True, kw_only=True)
class StageCommand:
    """One stage: a command that makes ``output``, and goes on where it was when it is run again."""

    name: str  # collect, train, export or evaluate
    argv: tuple[str, ...]  # program and arguments
    output: Path  # is there once the stage is done


class DemoState:
    """What ``demo.json`` holds."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], stages: Mapping[str, dict[str, Any]]) -> None:
        self.folder = folder
        self.settings = dict(settings)
        self._stages = {name: dict(stage) for name, stage in stages.items()}

    @property
    def wall_seconds(self) -> dict[str, float]:
        """Working time of each stage so far [s]; what lies between an interruption and its resumption is left out."""
        return {name: stage["wall_seconds"] for name, stage in self._stages.items()}

    def is_done(self, stage: StageCommand) -> bool:
        """Whether a stage was finished and what it made is still there."""
        return bool(self._stages.get(stage.name, {}).get("done")) and stage.output.exists()

    def begin(self, stage: StageCommand) -> None:
        """Notes one more attempt at a stage."""
        entry = self._stages.setdefault(stage.name, {"wall_seconds": 0.0, "attempts": 0})
        entry |= {"done": False, "attempts": entry["attempts"] + 1}
        self.save()

    def add_time(self, stage: StageCommand, seconds: float) -> None:
        """Adds working time to a stage."""
        entry = self._stages[stage.name]
        entry["wall_seconds"] = round(entry["wall_seconds"] + seconds, 3)
        self.save()

    def finish(self, stage: StageCommand) -> None:
        """Marks a stage as done."""
        self._stages[stage.name]["done"] = True
        self.save()

    def save(self) -> None:
        """Replaces ``demo.json``."""
        digest = _digest(self.settings)
        data = {"format": FORMAT, "settings": self.settings, "settings_sha256": digest, "stages": self._stages}
        write_json(self.folder / STATE_FILE, data)


def check_folder(folder: Path) -> None:
    """Refuses a folder that holds something other than a demo.

    Raises:
        SimError: It does; nothing there is touched.
    """
    if not folder.is_dir() or (folder / STATE_FILE).is_file():
        return
    foreign = sorted(item.name for item in folder.iterdir() if item.name != LOCK_FILE)
    if foreign:
        raise SimError(
            f"{folder} is not empty ({', '.join(foreign[:4])}) and was not made by wam demo, so nothing there is "
            "touched: choose another --out."
        )


def open_state(folder: Path, settings: Mapping[str, Any]) -> DemoState:
    """Begins a demo in a folder, or takes up the one that is there.

    Args:
        folder: The demo's, as ``check_folder`` allows it.
        settings: All that decides the result, as JSON data.

    Raises:
        SimError: The folder holds a demo with other settings, or one whose state cannot be read.
    """
    path = folder / STATE_FILE
    if not path.is_file():
        state = DemoState(folder, settings, {})
        state.save()
        return state
    try:
        found = json.loads(path.read_text())
        there, stages, digest = found["settings"], found["stages"], found["settings_sha256"]
    except (ValueError, KeyError, TypeError) as error:
        fix = "begin anew with --fresh, or choose another --out."
        raise SimError(f"{path} cannot be read ({error!r}): {fix}") from error
    differences = settings_difference(there, settings)
    if differences or digest != _digest(there):
        what = "; ".join(differences) or "its settings were edited"
        raise SimError(
            f"{folder} holds a demo with other settings ({what}): give the same settings to go on with it, another "
            "--out to keep it, or --fresh to delete it and begin anew."
        )
    return DemoState(folder, there, stages)


def run_stages(state: DemoState, stages: Sequence[StageCommand], lock: int, *, chained: bool = True) -> None:
    """Runs every stage that is not done, in order.

    Args:
        state: Of the demo.
        stages: In order.
        lock: What ``locked`` yielded.
        chained: A stage that has to run makes all later ones run again, because they read what it made.

    Raises:
        InterruptedDemo: SIGINT or SIGTERM; the running stage was told to stop and has saved what it had.
        SimError: A stage failed.
    """
    stale = False
    for number, stage in enumerate(stages, start=1):
        title = f"[{number}/{len(stages)}] {stage.name}"
        if state.is_done(stage) and not stale:
            print(f"{title}: done before, in {state.wall_seconds[stage.name]:.0f} s")
            continue
        stale = chained
        print(title, flush=True)
        _run(state, stage, lock)


@contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Keeps a second demo off a folder, which is made if need be; yields the file descriptor that holds the lock.

    Raises:
        SimError: Another demo, or a stage it left running, holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / LOCK_FILE, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SimError(
                f"another wam demo, or a stage that one left running, works in {folder}: wait for it or end it, or "
                "choose another --out."
            ) from error
        yield file.fileno()


def _run(state: DemoState, stage: StageCommand, lock: int) -> None:
    state.begin(stage)
    with stop_requests() as stop:
        # A process group of its own: a Ctrl-C reaches the stage once, through us, and not while it is already saving.
        # It inherits the lock, so that a stage that outlives a killed demo keeps a second one out.
        process = subprocess.Popen(stage.argv, stdin=subprocess.DEVNULL, process_group=0, pass_fds=(lock,))
        forwarded = False
        begun = time.monotonic()
        try:
            while (status := _poll(process)) is None:
                if stop.number is not None and not forwarded:
                    process.send_signal(signal.SIGINT)
                    forwarded = True
                now = time.monotonic()
                if now - begun >= HEARTBEAT_SECONDS:
                    state.add_time(stage, now - begun)
                    begun = now
        finally:
            if process.poll() is None:  # a second Ctrl-C: the stage has to go at once
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            state.add_time(stage, time.monotonic() - begun)
        if stop.number is not None:
            raise InterruptedDemo(stage.name, stop.number)
    if status != 0:
        raise SimError(
            f"stage '{stage.name}' failed with status {status}; its own message stands above. Put that right and give "
            "the same command: the stages before it are kept."
        )
    if not stage.output.exists():
        raise SimError(f"stage '{stage.name}' ended well but {stage.output} is not there: the disk may be failing.")
    state.finish(stage)


def _poll(process: subprocess.Popen[bytes]) -> int | None:
    try:
        return process.wait(timeout=0.2)
    except subprocess.TimeoutExpired:
        return None


def _digest(settings: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
