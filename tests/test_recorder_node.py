"""The recorder as a process among processes: nothing lost, one clear refusal, and files that outlive it."""

import json
import os
import signal
from pathlib import Path

import pytest

from ros_nodes.distribution import distribution
from sim.recordings import Recording, read_header
from tests.ros_graph import Graph

pytestmark = pytest.mark.ros

TRAFFIC = "tests/recorder_traffic.py"


def graph(tmp_path: Path, repository: Path) -> Graph:
    (tmp_path / "logs").mkdir()
    # Without the profile's shared memory, images of 640 x 480 are lost in silence.
    here = distribution(os.environ)
    return Graph(tmp_path / "logs", environment={here.variable: str(repository / "config" / here.profile)})


def start_recording(robots: Graph) -> None:
    """Calls the service until every stream is alive; what it says until then is a refusal."""
    answers = []

    def started() -> bool:
        answers.append(robots.call("recorder/start"))
        return answers[-1].success

    robots.until(started, "the recorder starts")
    assert all("required streams are not alive" in answer.message for answer in answers[:-1])


def roles(path: Path) -> tuple[list[str], bool]:
    recording = Recording(read_header(path))
    found = [message.role for message in recording.messages()]
    return found, recording.truncated


@pytest.mark.parametrize("seconds", [3, pytest.param(30, marks=pytest.mark.slow)])
def test_no_message_is_lost_at_two_cameras_and_100_hz_joints(tmp_path, repository, seconds):
    with graph(tmp_path, repository) as robots:
        robots.start(TRAFFIC, "robot:=so101")
        robots.start("recorder", "robot:=so101", f"folder:={tmp_path / 'out'}")
        start_recording(robots)
        robots.spin(seconds)
        answer = robots.call("recorder/stop")
        assert answer.success, answer.message
    summary = json.loads((tmp_path / "out/episode_000000.json").read_text())
    streams = summary["streams"]
    assert (summary["lost"], summary["overflowed"]) == (0, 0), summary
    # A busy machine may delay the publisher's timers, never the count of what it has published.
    assert streams["image/front"]["count"] > 15 * seconds
    assert streams["state"]["count"] > 50 * seconds
    assert (summary["task"], summary["robot"]) == ("fold the towel", "so101")
    found, truncated = roles(tmp_path / "out/episode_000000.mcap")
    assert not truncated
    assert {role: found.count(role) for role in set(found)} == {
        role: stream["count"] for role, stream in streams.items() if stream["count"]
    }


def test_a_killed_recorder_leaves_both_episodes_readable(tmp_path, repository):
    out = tmp_path / "out"
    with graph(tmp_path, repository) as robots:
        robots.start(TRAFFIC, "robot:=sim6")
        recorder = robots.start("recorder", "robot:=sim6", f"folder:={out}", "flush_period_s:=0.1")
        start_recording(robots)
        robots.spin(0.5)
        assert robots.call("recorder/stop").success
        start_recording(robots)
        partial = out / "episode_000001.partial.mcap"
        robots.until(lambda: partial.stat().st_size > 300_000, "a part of the second episode is on the disk")
        recorder.kill()
    assert sorted(path.name for path in out.iterdir()) == [
        "episode_000000.json",
        "episode_000000.mcap",
        "episode_000001.partial.mcap",
    ]
    finished, first_truncated = roles(out / "episode_000000.mcap")
    cut, second_truncated = roles(partial)
    assert (first_truncated, second_truncated) == (False, True)
    for found in (finished, cut):
        assert {"image/front", "image/wrist", "state", "command", "guard", "task"} <= set(found)


@pytest.mark.slow
def test_a_start_without_streams_is_one_refusal_that_names_them(tmp_path, repository):
    with graph(tmp_path, repository) as robots:
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
def test_sigterm_completes_the_episode(tmp_path, repository):
    with graph(tmp_path, repository) as robots:
        robots.start(TRAFFIC, "robot:=sim6")
        recorder = robots.start("recorder", "robot:=sim6", f"folder:={tmp_path / 'out'}")
        start_recording(robots)
        recorder.send(signal.SIGTERM)
        assert recorder.popen.wait(timeout=30) == 0
        assert "lost" in recorder.output()
    assert not roles(tmp_path / "out/episode_000000.mcap")[1]


def test_an_unwritable_folder_ends_the_node_with_one_message(tmp_path, repository):
    (tmp_path / "file").write_text("")
    with graph(tmp_path, repository) as robots:
        recorder = robots.start("recorder", "robot:=sim6", f"folder:={tmp_path / 'file/out'}")
        assert recorder.popen.wait(timeout=60) == 2
        assert "file/out cannot be written (Not a directory): choose another one" in recorder.output()
        assert "Traceback" not in recorder.output()
