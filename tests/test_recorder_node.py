"""The recorder as a process among processes: nothing lost, one clear refusal, and files that outlive it."""

import json
import signal
from pathlib import Path

import pytest

pytest.importorskip("rclpy")

from diagnostic_msgs.msg import DiagnosticArray

from ros_nodes import qos
from ros_nodes.diagnostics import values_of
from sim.recordings import Recording, read_header
from tests.ros_graph import PATIENCE, Graph, Heard

pytestmark = pytest.mark.ros

TRAFFIC = "tests/recorder_traffic.py"
# Shared memory holds a third of a second of two cameras. A recorder that the machine did not run for longer cannot have
# what was overwritten meanwhile; the joint states that it received tell by their age how long that was.
PAUSE_MS = 250.0
# So many seconds of messages may wait in the recorder. One that had less of the machine than it takes for longer than
# that loses what waits, and says how long its messages waited.
WAIT_MS = 3500.0
# A disk that takes less than two cameras bring, 55 MB/s, for longer than the queue holds, loses what does not fit.
QUEUE_BYTES, IMAGE_BYTES = 256 << 20, 640 * 480 * 3 + 1000

ROLES = ("image/front", "image/wrist", "state", "command", "guard")


def graph(tmp_path: Path, *, shared_memory: bool) -> Graph:
    """With shared memory, images of 640 x 480 arrive; without, a killed recorder leaves no lock in it."""
    (tmp_path / "logs").mkdir()
    return Graph(tmp_path / "logs", shared_memory=shared_memory)


def start_recording(robots: Graph) -> None:
    """Calls the service until every stream is alive; what it says until then is a refusal."""
    *refusals, _ = robots.insist("recorder/start")
    assert all("required streams are not alive" in refusal for refusal in refusals)


def recorded(reports: Heard, role: str) -> int:
    """How many messages of a stream the recorder says it has in the episode."""
    for _, message in reversed(reports.items):
        for status in message.status:
            if status.name == "recorder":
                return int(values_of(status).get(role, "0/").split("/")[0])
    return 0


def roles(path: Path) -> tuple[list[str], bool]:
    recording = Recording(read_header(path))
    found = [message.role for message in recording.messages()]
    return found, recording.truncated


@pytest.mark.parametrize("seconds", [3, pytest.param(30, marks=pytest.mark.slow)])
def test_no_message_is_lost_at_two_cameras_and_100_hz_joints(tmp_path, seconds):
    with graph(tmp_path, shared_memory=True) as robots:
        robots.start(TRAFFIC, "robot:=so101")
        robots.start("recorder", "robot:=so101", f"folder:={tmp_path / 'out'}")
        reports = robots.hear(DiagnosticArray, "/diagnostics", qos.DIAGNOSTICS)
        start_recording(robots)
        wanted = {"image/front": 30 * seconds, "image/wrist": 30 * seconds, "state": 100 * seconds}
        robots.until(
            lambda: all(recorded(reports, role) >= count for role, count in wanted.items()),
            f"{seconds} seconds of messages are recorded",
            patience=PATIENCE + 5 * seconds,
        )
        answer = robots.call("recorder/stop")
        assert answer.success, answer.message
    summary = json.loads((tmp_path / "out/episode_000000.json").read_text())
    streams = summary["streams"]
    behind = max(stream["waited_max_ms"] for stream in streams.values() if stream["count"])
    assert not summary["lost"] or streams["state"]["latency_max_ms"] > PAUSE_MS or behind > WAIT_MS, summary
    assert not summary["overflowed"] or summary["queue_most_bytes"] > QUEUE_BYTES - IMAGE_BYTES, summary
    assert (summary["task"], summary["robot"]) == ("fold the towel", "so101")
    found, truncated = roles(tmp_path / "out/episode_000000.mcap")
    assert not truncated
    assert {role: found.count(role) for role in set(found)} == {
        role: stream["count"] - stream["overflowed"] for role, stream in streams.items() if stream["count"]
    }


def test_a_killed_recorder_leaves_both_episodes_readable(tmp_path):
    out = tmp_path / "out"
    with graph(tmp_path, shared_memory=False) as robots:
        robots.start(TRAFFIC, "robot:=sim6")
        recorder = robots.start("recorder", "robot:=sim6", f"folder:={out}", "flush_period_s:=0.1")
        reports = robots.hear(DiagnosticArray, "/diagnostics", qos.DIAGNOSTICS)
        start_recording(robots)
        every = (*ROLES, "task")
        robots.until(lambda: all(recorded(reports, role) for role in every), "every stream is in the first episode")
        assert robots.call("recorder/stop").success
        start_recording(robots)
        partial = out / "episode_000001.partial.mcap"
        on_disk = {"image/front", "state", "task"}
        robots.until(lambda: on_disk <= set(roles(partial)[0]), "a part of the second episode is on the disk")
        recorder.kill()
    assert sorted(path.name for path in out.iterdir()) == [
        "episode_000000.json",
        "episode_000000.mcap",
        "episode_000001.partial.mcap",
    ]
    finished, first_truncated = roles(out / "episode_000000.mcap")
    cut, second_truncated = roles(partial)
    assert (first_truncated, second_truncated) == (False, True)
    assert set(every) <= set(finished)
    assert on_disk <= set(cut)


@pytest.mark.slow
def test_kill_9_at_many_moments_costs_no_finished_episode_and_leaves_the_current_one_readable(tmp_path):
    out = tmp_path / "out"
    finished: dict[Path, bytes] = {}
    with graph(tmp_path, shared_memory=False) as robots:
        robots.start(TRAFFIC, "robot:=sim6")
        for index, count in enumerate((0, 1, 100, 500)):  # messages on the disk, when it is killed
            recorder = robots.start("recorder", "robot:=sim6", f"folder:={out}", "flush_period_s:=0.05")
            start_recording(robots)
            partial = out / f"episode_{2 * index:06d}.partial.mcap"
            on_disk: list[str] = []  # what a reader finds there, and not the size: a chunk may be half written

            def enough(file=partial, count=count, on_disk=on_disk) -> bool:
                on_disk[:] = roles(file)[0]
                return len(on_disk) >= count

            robots.until(enough, f"{count} messages are on the disk")
            recorder.kill()
            found, truncated = roles(partial)
            assert truncated
            assert found[: len(on_disk)] == on_disk
            robots.start("recorder", "robot:=sim6", f"folder:={out}")
            start_recording(robots)
            assert robots.call("recorder/stop").success
            finished[out / f"episode_{2 * index + 1:06d}.mcap"] = b""
            for path, content in finished.items():
                finished[path] = content or path.read_bytes()
                assert path.read_bytes() == finished[path]  # whatever happens to later ones
                assert not roles(path)[1]


@pytest.mark.slow
def test_a_start_without_streams_is_one_refusal_that_names_them(tmp_path):
    with graph(tmp_path, shared_memory=False) as robots:
        robots.start(TRAFFIC, "robot:=sim6", "silent:=images")
        robots.start("recorder", "robot:=sim6", f"folder:={tmp_path / 'out'}")
        answers = []

        def only_images_are_missing() -> bool:
            answers.append(robots.call("recorder/start"))
            return "2 required streams" in answers[-1].message

        robots.until(only_images_are_missing, "only the images are missing")
        assert not answers[-1].success
        assert "/front/image_raw (image/front): nobody publishes it" in answers[-1].message
        assert not robots.call("recorder/stop").success
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.slow
def test_sigterm_completes_the_episode(tmp_path):
    with graph(tmp_path, shared_memory=False) as robots:
        robots.start(TRAFFIC, "robot:=sim6")
        recorder = robots.start("recorder", "robot:=sim6", f"folder:={tmp_path / 'out'}")
        start_recording(robots)
        recorder.send(signal.SIGTERM)
        assert recorder.popen.wait(timeout=PATIENCE) == 0
        assert "lost" in recorder.output()
    assert not roles(tmp_path / "out/episode_000000.mcap")[1]


def test_nodes_share_memory_and_the_process_that_tests_them_does_not(tmp_path):
    def shared(maps: str) -> set[str]:
        return {line.split()[-1] for line in maps.splitlines() if "/dev/shm/fast" in line}

    own = Path("/proc/self/maps")
    before = shared(own.read_text())
    with graph(tmp_path, shared_memory=True) as robots:
        recorder = robots.start("recorder", "robot:=sim6", f"folder:={tmp_path / 'out'}")
        reports = robots.hear(DiagnosticArray, "/diagnostics", qos.DIAGNOSTICS)
        robots.until(lambda: len(reports) > 0, "the recorder is heard")
        assert shared(recorder.mapped_files())
        assert shared(own.read_text()) <= before


def test_an_unwritable_folder_ends_the_node_with_one_message(tmp_path):
    (tmp_path / "file").write_text("")
    with graph(tmp_path, shared_memory=False) as robots:
        recorder = robots.start("recorder", "robot:=sim6", f"folder:={tmp_path / 'file/out'}")
        assert recorder.popen.wait(timeout=PATIENCE) == 2
        assert "file/out cannot be written (Not a directory): choose another one" in recorder.output()
        assert "Traceback" not in recorder.output()
