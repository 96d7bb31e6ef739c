"""``wam collect`` when something goes wrong: what is left on disk, what is said, and that the same command goes on."""

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest

from sim import collect as command
from sim import collection, workers
from sim.collect_config import CollectConfig
from sim.collection import collect
from sim.demonstrations import DemoSettings, record_demonstration
from sim.encoding import CODECS
from sim.errors import DiskFullError, SimError, is_disk_full
from sim.spool import Spool
from sim.stopping import InterruptedCollection, locked
from sim.workers import Recorder
from wam.dataset_check import check_dataset
from wam.dataset_meta import read_meta
from wam.robot import load_robot

pytest.importorskip("lerobot")
pq = pytest.importorskip("pyarrow.parquet")

ROBOT = load_robot("sim6")
FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Counter:
    """A progress display that counts, and may do something at a count."""

    def __init__(self, at: int = 0, action=None):
        self.recorded_count = self.written_count = 0
        self.at, self.action = at, action

    def recorded(self, success):
        self.recorded_count += 1
        if self.recorded_count == self.at:
            self.action()

    def written(self):
        self.written_count += 1


class InlinePool:
    """A worker pool without processes: records when asked, one after another."""

    def __init__(self, workers, setup):
        self.recorder = Recorder(setup)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.recorder._sim.close()

    def submit(self, seed):
        future = Future()
        try:
            future.set_result(self.recorder.record(seed))
        except (OSError, SimError) as error:
            future.set_exception(error)
        return future


@pytest.fixture
def inline(monkeypatch):
    monkeypatch.setattr(collection, "WorkerPool", InlinePool)


def config(out: Path, **changes) -> CollectConfig:
    return CollectConfig(**{"task": "reach", "out": out, "episodes": 3, "workers": 1, **changes})


def columns(root: Path) -> dict:
    table = pq.read_table(sorted((root / "data").glob("*/*.parquet")))
    return {name: table[name].to_pylist() for name in table.column_names}


def spooled(out: Path) -> list[str]:
    return sorted(path.name for path in (out.with_name(f"{out.name}.partial") / "episodes").glob("*"))


def test_failed_episodes_are_left_out_counted_and_replaced(tmp_path, monkeypatch, inline, capsys):
    fail_seeds(monkeypatch, {1, 3})
    arguments = ["--task", "reach", "--episodes", "3", "--out", str(tmp_path / "d")]
    assert command.main(arguments) == 0
    meta = read_meta(tmp_path / "d")
    assert [episode.seed for episode in meta.episodes] == [0, 2, 4]
    assert meta.failed_seeds == (1, 3)
    assert "solved 3 of 5 (60.0%)" in capsys.readouterr().out
    assert check_dataset(tmp_path / "d", ROBOT).episodes == 3


def test_weak_expert_ends_with_advice(tmp_path, monkeypatch, inline):
    fail_seeds(monkeypatch, set(range(1, 100)), steps=2)
    with pytest.raises(SimError, match="solved only 1 of 20 episodes.*Lower --noise"):
        collect(config(tmp_path / "d", episodes=4), Counter())


def fail_seeds(monkeypatch, seeds, steps=None):
    """Makes the expert fail, after a few steps, at these seeds."""

    def fails(simulation, settings, seed):
        if seed in seeds and steps:
            simulation.max_steps = steps
        demo = record_demonstration(simulation, settings, seed)
        if seed in seeds:
            object.__setattr__(demo, "success", False)
        return demo

    monkeypatch.setattr(workers, "record_demonstration", fails)


def test_result_depends_neither_on_workers_nor_on_interruptions(tmp_path, monkeypatch, inline):
    """Two spawned workers interrupted by SIGINT, one resumes; beside it one run without processes: the same tables."""
    settings = {"noise_fraction": 1.0, "noise": 0.03, "workers": 2}
    collect(config(tmp_path / "straight", **settings), Counter())
    monkeypatch.setattr(collection, "WorkerPool", workers.WorkerPool)
    out = tmp_path / "d"
    interrupt = Counter(1, lambda: os.kill(os.getpid(), signal.SIGINT))
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(
        InterruptedCollection, match="interrupted by SIGINT.*kept in .*the same command goes on"
    ) as info:
        collect(config(out, **settings), interrupt)
    assert info.value.status == 130
    assert signal.getsignal(signal.SIGINT) is handler
    kept = spooled(out)
    assert kept
    assert not out.exists()
    assert not any(name.startswith(".") for name in kept)
    times = {name: (out.with_name("d.partial") / "episodes" / name).stat().st_mtime_ns for name in kept}
    resumed = Counter(1, lambda: [times.pop(name) for name in kept if times[name] == mtime(out, name)])
    collect(config(out, **settings | {"workers": 1}), resumed)
    assert times == {}  # what was there was used, not recorded again
    assert columns(out) == columns(tmp_path / "straight")
    assert [episode.noise for episode in read_meta(out).episodes] == [0.03] * 3


def mtime(out, name):
    return (out.with_name(f"{out.name}.partial") / "episodes" / name).stat().st_mtime_ns


def test_ctrl_c_gives_the_shells_status_and_says_how_to_go_on(tmp_path, monkeypatch, inline, capsys):
    monkeypatch.setattr(collection, "import_lerobot", lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert command.main(["--task", "reach", "--episodes", "2", "--out", str(tmp_path / "d")]) == 143
    assert "interrupted by SIGTERM: every finished episode is kept in" in capsys.readouterr().out
    assert spooled(tmp_path / "d") == ["000000", "000001"]


def test_killed_command_loses_only_episodes_in_flight_and_leaves_no_processes(tmp_path, repository):
    out = tmp_path / "d"
    command_line = [sys.executable, "-m", "sim.collect", "--task", "reach", "--episodes", "5000", "--out", str(out)]
    process = subprocess.Popen([*command_line, "--workers", "1"], cwd=repository, stdout=subprocess.DEVNULL)
    wait_for(lambda: len(spooled(out)) >= 2)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.kill()
    process.wait()
    assert children
    wait_for(lambda: not any(running(pid) for pid in children))
    spool = Spool(out.with_name("d.partial") / "episodes")
    finished = [name for name in spooled(out) if not name.startswith(".")]
    assert all(spool.record(int(name)).steps == len(spool.arrays(int(name)).action) for name in finished)
    (spool.root / ".000099-1").mkdir()
    spool.clean()
    assert spooled(out) == finished


def running(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[-1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # gone before, or between opening and reading
        return False


def wait_for(condition, seconds=600.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def test_full_disk_while_recording_keeps_finished_episodes(tmp_path, monkeypatch, inline):
    write = Spool.write

    def full(self, demo, record, videos):
        if demo.seed == 2:
            raise FULL
        write(self, demo, record, videos)

    monkeypatch.setattr(Spool, "write", full)
    monkeypatch.setattr(collection, "import_lerobot", lambda: None)
    monkeypatch.setattr(collection, "DatasetRecorder", FakeDataset)
    with pytest.raises(DiskFullError, match=r"the disk of .*d\.partial is full \(.* MB free\).*run the same command"):
        collect(config(tmp_path / "d"), Counter())
    assert spooled(tmp_path / "d") == ["000000", "000001"]


class FakeDataset(contextlib.nullcontext):
    """Takes the place of the LeRobot dataset where only the spool matters."""

    def __init__(self, *_):
        super().__init__(self)

    def append(self, record):
        pass


def test_full_disk_while_writing_the_dataset_keeps_the_spool_and_resumes(tmp_path, monkeypatch, inline):
    class Full(collection.DatasetRecorder):
        def append(self, record):
            if record.seed == 1:
                # As lerobot wraps it: the number is gone, the words are left.
                raise RuntimeError(f"encoder failed: [Errno 28] {os.strerror(errno.ENOSPC)}")
            super().append(record)

    monkeypatch.setattr(collection, "DatasetRecorder", Full)
    with pytest.raises(DiskFullError, match="is full"):
        collect(config(tmp_path / "d"), Counter())
    assert spooled(tmp_path / "d") == ["000000", "000001", "000002"]
    assert not (tmp_path / "d.partial/dataset").exists()
    monkeypatch.undo()
    monkeypatch.setattr(collection, "WorkerPool", InlinePool)
    collect(config(tmp_path / "d"), Counter())
    assert check_dataset(tmp_path / "d", ROBOT).episodes == 3


def test_spool_leaves_nothing_of_an_episode_that_could_not_be_written(tmp_path, monkeypatch):
    settings = DemoSettings(task="reach", robot=ROBOT, noise_fraction=0.0, noise=0.0, distractors=0)
    setup = workers.WorkerSetup(settings=settings, codec=CODECS["exact"], spool=Spool(tmp_path / "e"))
    recorder = Recorder(setup)

    def full(*args, **kwargs):
        raise FULL

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(DiskFullError, match="no space left for episode 0"):
        recorder.record(0)
    recorder._sim.close()
    assert list((tmp_path / "e").iterdir()) == []


def test_disk_full_is_recognised_through_wrapping():
    outer = RuntimeError("writer failed")
    outer.__cause__ = FULL
    assert is_disk_full(outer)
    assert not is_disk_full(OSError(errno.EACCES, "permission denied"))


@pytest.mark.slow
def test_really_full_disk_gives_one_message_and_resumes(tmp_path, repository):
    """A file system of 700 kB in a user namespace; skipped where the system does not allow one."""
    if subprocess.run(["unshare", "-Urm", "true"], check=False, capture_output=True).returncode:
        pytest.skip("user namespaces are not allowed here")
    collect_line = f"{sys.executable} -m wam.cli collect --task reach --episodes 40 --workers 2 --out {tmp_path}/m/d"
    script = f"""
        mkdir {tmp_path}/m && mount -t tmpfs -o size=700k none {tmp_path}/m || exit 99
        {collect_line}; echo first $?; ls {tmp_path}/m/d.partial/episodes | wc -l
        mount -o remount,size=20m {tmp_path}/m; {collect_line}; echo second $?; ls {tmp_path}/m
    """
    done = subprocess.run(["unshare", "-Urm", "bash", "-c", script], cwd=repository, capture_output=True, text=True)
    if done.returncode == 99:
        pytest.skip("tmpfs cannot be mounted here")
    lines = done.stdout.splitlines()
    assert "first 2" in lines
    assert int(lines[lines.index("first 2") + 1]) >= 2
    assert done.stderr.count("is full") == 1
    assert "Traceback" not in done.stderr, done.stderr
    assert "second 0" in lines
    assert lines[-1] == "d"


def test_unfinished_recording_with_other_settings_is_explained(tmp_path):
    out = tmp_path / "d"
    partial = config(out).partial_folder
    partial.mkdir()
    asked = config(out, seed=7).settings(ROBOT)
    (partial / "settings.json").write_text(json.dumps(asked))
    with pytest.raises(SimError, match="unfinished recording with other settings.*seed is 7 there, 0 asked"):
        collect(config(out), Counter())
    (partial / "settings.json").write_text("{")
    with pytest.raises(SimError, match="settings.json is damaged.*remove"):
        collect(config(out), Counter())


def test_two_commands_do_not_share_a_folder(tmp_path):
    with locked(config(tmp_path / "d").partial_folder):
        code = (
            "import sys; from pathlib import Path; from sim.stopping import locked\n"
            "with locked(Path(sys.argv[1])): pass"
        )
        other = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "d.partial")],
            capture_output=True,
            text=True,
            cwd=Path(command.__file__).parent.parent,
        )
    assert other.returncode == 1
    assert "another command is recording into" in other.stderr


def test_folder_of_something_else_is_not_touched(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d/notes.txt").write_text("mine")
    with pytest.raises(SimError, match="exists but was not recorded by wam collect: choose another --out"):
        collect(config(tmp_path / "d"), Counter())
    assert (tmp_path / "d/notes.txt").read_text() == "mine"


def test_damaged_spool_names_the_folder_to_remove(tmp_path):
    spool = Spool(tmp_path)
    spool.folder(3).mkdir()
    (spool.folder(3) / "episode.json").write_text('{"seed": 3')
    (spool.folder(3) / "arrays.npz").write_bytes(b"PK\x03\x04")
    for read in (spool.record, spool.arrays):
        with pytest.raises(SimError, match="000003 is damaged.*remove that folder"):
            read(3)


def test_worker_that_dies_is_reported_with_what_to_do(tmp_path, monkeypatch):
    def kill_first_worker():
        threading.Thread(target=os.kill, args=(worker_pid(), signal.SIGKILL)).start()

    with pytest.raises(SimError, match="a recording process died.*kept in.*fewer --workers"):
        collect(config(tmp_path / "d", episodes=4000), Counter(2, kill_first_worker))
    assert len(spooled(tmp_path / "d")) >= 2


def worker_pid() -> int:
    import multiprocessing

    return next(child.pid for child in multiprocessing.active_children() if "Spawn" in child.name)
