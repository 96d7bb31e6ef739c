"""The recorder's core: when an episode may begin, what is counted, what an episode contains. No ROS, no clock."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("mcap")

from ros_nodes.errors import NodeError
from ros_nodes.recorded_topics import RecordedTopic, contract_topics
from ros_nodes.recording import RecorderSettings, Recording
from ros_nodes.stream_watch import Arrival, StreamWatch
from sim.recordings import Recording as ReadRecording
from sim.recordings import read_header
from tests import wire_messages as wire
from wam.robot import load_robot, robot_file

ROBOT = load_robot("sim6")
TOPICS = contract_topics(ROBOT, image_late_s=0.15, state_late_s=0.1)
PIXELS = np.zeros((96, 96, 3), np.uint8)
MS = 1_000_000


def recording(folder: Path, **options) -> Recording:
    resolved = {topic.role: "/" + topic.topic.lstrip("/") for topic in TOPICS}
    return Recording(
        RecorderSettings(folder=folder, min_free_bytes=0, **options),
        ROBOT,
        robot_file("sim6").read_text(),
        TOPICS,
        resolved,
    )


class Streams:
    """Sends the required streams, and counts robot time and sequences."""

    def __init__(self, core: Recording) -> None:
        self.core, self.number = core, 0

    def tick(self, *, without: str = "", front_ns: int | None = None) -> None:
        """One message of each; ``front_ns`` is another stamp of the front camera."""
        now_ns = 1_000_000 * MS + self.number * 33 * MS
        messages = {
            "image/front": wire.image(now_ns if front_ns is None else front_ns, PIXELS),
            "image/wrist": wire.image(now_ns, PIXELS),
            "state": wire.joint_state(now_ns, ROBOT.action_names, [0.0] * 7),
            "command": wire.forward_command(ROBOT.action_names, [0.0] * 7),
            "guard": wire.status("guard", state="HOLD"),
        }
        self.number += 1
        for role, data in messages.items():
            if role != without:
                self.core.saw(role, data, now=self.now, received_ns=now_ns + 5 * MS, sequence=self.number)

    @property
    def now(self) -> float:
        return self.number * 0.033

    @property
    def now_ns(self) -> int:
        return 1_000_000 * MS + self.number * 33 * MS

    def start(self) -> tuple[bool, str]:
        return self.core.start(now=self.now, now_ns=self.now_ns)


@pytest.fixture
def streams(tmp_path) -> Streams:
    return Streams(recording(tmp_path))


def test_an_episode_holds_what_arrived_between_start_and_stop(streams, tmp_path):
    streams.tick()
    assert streams.start()[0]
    for _ in range(30):
        streams.tick()
    ok, message = streams.core.stop()
    assert ok, message
    assert "150 messages in 1.0 s, 0 lost, 0 overflowed" in message
    streams.tick()

    header = read_header(tmp_path / "episode_000000.mcap")
    assert header.robot == ROBOT
    assert {"/front/image_raw": "image/front", "/joint_states": "state"}.items() <= header.roles.items()
    episode = ReadRecording(header)
    roles = [found.role for found in episode.messages()]
    assert not episode.truncated
    assert len(roles) == 150
    summary = json.loads((tmp_path / "episode_000000.json").read_text())
    assert summary["streams"]["image/front"] == {
        "topic": "/front/image_raw",
        "count": 30,
        "rate_hz": 30.303,
        "lost": 0,
        "missing": 0,
        "late": 0,
        "overflowed": 0,
        "latency_p50_ms": 5.0,
        "latency_p95_ms": 5.0,
        "latency_p99_ms": 5.0,
        "waited_max_ms": 0.0,
        "latency_max_ms": 5.0,
    }


def test_a_start_is_refused_with_all_that_is_stale_or_missing(tmp_path):
    streams = Streams(recording(tmp_path))
    streams.core.watches["guard"].publishers = 1
    ok, message = streams.start()
    assert not ok
    assert "5 required streams are not alive" in message
    assert "/front/image_raw (image/front): nobody publishes it" in message
    assert "/guard/state (guard): no message has arrived yet" in message
    streams.tick()
    for _ in range(31):
        streams.tick(without="image/wrist")
    ok, message = streams.start()
    assert not ok
    assert "1 required streams are not alive or usable: /wrist/" in message
    assert message.endswith("/wrist/image_raw (image/wrist): last message 1.02 s ago")
    assert not list(tmp_path.iterdir())


def test_a_start_is_refused_when_clocks_differ(streams):
    streams.tick()
    late = wire.joint_state(streams.now_ns - 7_000 * MS, ROBOT.action_names, [0.0] * 7)
    streams.core.saw("state", late, now=streams.now, received_ns=streams.now_ns, sequence=2)
    assert "/joint_states (state): stamps lie 7.00 s in the past, clocks differ" in streams.start()[1]


def test_a_start_is_refused_when_a_clock_leads_and_the_lead_is_told(streams):
    for _ in range(10):
        streams.tick(front_ns=streams.now_ns + 205 * MS)
    ok, message = streams.start()
    assert not ok
    assert "1 required streams" in message
    assert "/front/image_raw (image/front): image/front is stamped by a clock that is 0.200 s ahead" in message
    assert "chronyc" in message
    for _ in range(20):
        streams.tick(front_ns=streams.now_ns + 40 * MS)  # jitter
    assert streams.start()[0]


def test_a_lead_that_begins_while_recording_is_told_in_state_and_summary(streams, tmp_path):
    streams.tick()
    assert streams.start()[0]
    assert streams.core.problems() == []
    for _ in range(20):
        streams.tick(front_ns=streams.now_ns + 205 * MS)
    (problem,) = streams.core.problems()
    assert "messages of /front/image_raw (image/front): image/front is stamped by a clock that is 0.200 s" in problem
    assert streams.core.values()["unusable"] > 0
    assert problem in streams.core.stop()[1]
    summary = json.loads((tmp_path / "episode_000000.json").read_text())
    assert summary["problems"] == [problem]
    assert summary["streams"]["image/front"]["unusable"] > 0
    assert "problem" not in summary["streams"]["image/wrist"]


@pytest.mark.parametrize("role", ["image/front", "state"])
def test_a_driver_that_does_not_stamp_is_refused_with_the_reason(streams, role):
    streams.tick()
    data = wire.image(0, PIXELS) if role == "image/front" else wire.joint_state(0, ROBOT.action_names, [0.0] * 7)
    streams.core.saw(role, data, now=streams.now, received_ns=streams.now_ns, sequence=2)
    assert "the driver publishes header.stamp 0, which means that it does not stamp" in streams.start()[1]


@pytest.mark.parametrize("role", ["teleop", "chunk"])
def test_what_nobody_stamps_is_said_of_streams_that_may_be_absent_too(streams, role):
    streams.tick()
    assert streams.start()[0]
    data = wire.trajectory(0, ROBOT.action_names, [[0.0] * 7])
    streams.core.saw(role, data, now=streams.now, received_ns=streams.now_ns, sequence=2)
    assert "does not stamp" in streams.core.problems()[0]


def yuyv(stamp_ns: int, encoding: str) -> bytes:
    fields = {"height": 96, "width": 96, "encoding": encoding, "is_bigendian": 0, "step": 192}
    data = np.zeros(96 * 192, np.uint8)
    return wire.serialise("sensor_msgs/msg/Image", header=wire.header(stamp_ns, "cam"), data=data, **fields)


def test_what_conversion_cannot_read_is_refused_in_its_words(streams):
    now_ns = streams.now_ns
    unreadable = {
        "image/front": [
            (yuyv(now_ns, "mono16"), "image encoding 'mono16' cannot be used: it is grey or depth"),
            (wire.image(now_ns, PIXELS[:50]), "the image is (50, 96, 3) uint8 but the robot file promises (96, 96, 3)"),
        ],
        "state": [
            (wire.joint_state(now_ns, ["elbow"] * 2, [0.0, 0.0]), "names elbow twice"),
            (wire.joint_state(now_ns, ROBOT.action_names, [np.nan] * 7), "is not finite for yaw"),
            (wire.joint_state(now_ns, ROBOT.action_names, [0.0] * 3), "has 7 names"),
        ],
    }
    for role, messages in unreadable.items():
        for data, sentence in messages:
            streams.tick()
            streams.core.saw(role, data, now=streams.now, received_ns=streams.now_ns, sequence=2)
            ok, answer = streams.start()
            assert not ok
            assert sentence in answer
    for ms in range(30):
        lacking = wire.joint_state(streams.now_ns + ms * 10 * MS, ["elbow"], [0.0])
        streams.core.saw("state", lacking, now=streams.now, received_ns=streams.now_ns + ms * 10 * MS, sequence=2)
    assert "lacks yaw, shoulder" in streams.start()[1]


def test_what_conversion_reads_is_recorded_and_grey_is_said(streams):
    streams.tick()
    streams.core.saw(
        "image/front", yuyv(streams.now_ns, "yuyv"), now=streams.now, received_ns=streams.now_ns, sequence=2
    )
    ok, answer = streams.start()
    assert ok, answer
    assert "colours" not in answer
    streams.core.stop()
    streams.core.saw(
        "image/front", yuyv(streams.now_ns, "mono8"), now=streams.now, received_ns=streams.now_ns, sequence=3
    )
    assert "image/front is mono8: its pictures have no colours" in streams.start()[1]


def test_an_encoding_that_changes_while_recording_is_told(streams):
    streams.tick()
    assert streams.start()[0]
    streams.core.saw(
        "image/front", yuyv(streams.now_ns, "16UC1"), now=streams.now, received_ns=streams.now_ns, sequence=2
    )
    assert "1 of 1 messages of /front/image_raw (image/front): image encoding '16UC1'" in streams.core.problems()[0]


def test_every_episode_begins_with_the_latched_messages(streams, tmp_path):
    streams.core.saw("task", wire.text("lift the red cube"), now=0.0, received_ns=5, sequence=1)
    for _ in range(2):
        streams.tick()
        assert streams.start()[0]
        streams.tick()
        assert streams.core.stop()[0]
    for path in (tmp_path / "episode_000000.mcap", tmp_path / "episode_000001.mcap"):
        first = next(ReadRecording(read_header(path)).messages())
        assert (first.role, first.message.data) == ("task", "lift the red cube")
        assert first.log_ns > 5
        assert json.loads(path.with_suffix(".json").read_text())["task"] == "lift the red cube"


def test_discard_leaves_nothing(streams, tmp_path):
    streams.tick()
    streams.start()
    streams.tick()
    assert streams.core.discard() == (True, "discarded episode_000000.partial.mcap")
    assert not list(tmp_path.iterdir())
    assert streams.core.discard()[1].startswith("no episode is being recorded")
    assert streams.core.stop()[1].startswith("no episode is being recorded")


def test_a_second_start_is_refused(streams):
    streams.tick()
    streams.start()
    assert "recorded already (episode_000000.partial.mcap)" in streams.start()[1]
    assert streams.core.close().endswith("MB")


def test_leaving_in_good_order_completes_the_episode(streams, tmp_path):
    streams.tick()
    streams.start()
    streams.tick()
    streams.core.close()
    assert (tmp_path / "episode_000000.mcap").is_file()
    assert streams.core.close() == ""


def test_overflow_is_counted_in_the_summary(tmp_path):
    streams = Streams(recording(tmp_path, queue_bytes=20_000))  # smaller than one image
    streams.tick()
    streams.start()
    for _ in range(5):
        streams.tick()
    assert streams.core.values()["overflowed"] == 10
    assert ", 10 overflowed" in streams.core.stop()[1]
    summary = json.loads((tmp_path / "episode_000000.json").read_text())
    assert summary["streams"]["image/front"]["overflowed"] == 5


def test_an_unwritable_folder_is_refused_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NodeError, match=r"the folder .*file/episodes cannot be written \(Not a directory\)"):
        recording(tmp_path / "file/episodes")


def test_a_full_disk_is_refused_before_anything_is_written(tmp_path):
    core = recording(tmp_path)
    core._settings = RecorderSettings(folder=tmp_path, min_free_bytes=10**21)
    streams = Streams(core)
    streams.tick()
    assert "GB left, less than the 1e+12 GB" in streams.start()[1]
    assert not list(tmp_path.iterdir())


def test_a_failed_episode_says_so_and_the_next_one_can_begin(streams, tmp_path):
    streams.tick()
    streams.start()
    streams.core._writer._give_up(OSError(28, "No space left on device"))
    streams.tick()
    assert "(No space left on device): " in streams.core.failure()
    assert streams.core.values()["overflowed"] == 5
    assert streams.start()[0]
    assert streams.core.failure() == ""
    streams.core.discard()


@given(st.lists(st.integers(1, 4), min_size=1, max_size=30))
def test_lost_and_missing_are_what_was_left_out(steps):
    topic = RecordedTopic(role="image/front", topic="/x", type_name="", stamped=True, period_s=0.033, late_s=0.15)
    watch, number = StreamWatch(topic), 1
    watch.saw(_arrival(number), counted=True)
    for step in steps:
        number += step
        watch.saw(_arrival(number), counted=True)
    left_out = number - 1 - len(steps)
    assert (watch.count, watch.lost, watch.missing, watch.late) == (len(steps) + 1, left_out, left_out, 0)


def test_a_restarted_publisher_is_no_loss_and_two_publishers_cannot_be_counted():
    watch = StreamWatch(RecordedTopic(role="state", topic="/x", type_name=""))
    for sequence in (7, 8, 1, 2):
        watch.saw(Arrival(now=0.0, received_ns=0, sequence=sequence), counted=True)
    assert watch.lost == 0
    watch.publishers = 2
    watch.saw(Arrival(now=0.0, received_ns=0, sequence=900), counted=True)
    assert watch.lost is None


def test_late_messages_are_counted_against_their_stamp():
    watch = StreamWatch(RecordedTopic(role="state", topic="/x", type_name="", stamped=True, late_s=0.1))
    for delay_ms in (10, 99, 101, 400):
        watch.saw(Arrival(now=0.0, received_ns=delay_ms * MS, stamp_ns=0), counted=True)
    assert watch.late == 2
    assert watch.summary()["latency_max_ms"] == 400.0
    watch.saw(Arrival(now=0.0, received_ns=0, stamp_ns=0, waited_s=1.5), counted=True)
    watch.saw(Arrival(now=0.0, received_ns=0, stamp_ns=0, waited_s=0.5), counted=True)
    assert watch.summary()["waited_max_ms"] == 1500.0


def _arrival(number: int) -> Arrival:
    stamp = number * 33 * MS
    return Arrival(now=0.0, received_ns=stamp + 5 * MS, stamp_ns=stamp, sequence=number)
