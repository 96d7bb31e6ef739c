"""Episodes on disk: what is in them, and what is left of them when the process, the disk or the queue gives up."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("mcap_ros2")

from mcap.reader import make_reader
from mcap.records import Message
from mcap_ros2.decoder import DecoderFactory
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from ros_nodes.cdr import header_stamp_ns, string_data
from ros_nodes.episode_file import (
    CHUNK_BYTES,
    METADATA_NAME,
    SUMMARY_NAME,
    EpisodeFile,
    StoredMessage,
    check_folder,
    next_index,
)
from ros_nodes.episode_writer import EpisodeWriter
from ros_nodes.errors import NodeError
from ros_nodes.recorded_topics import contract_topics, schema_text
from sim.mcap_records import CHECKSUM, metadata_checksum, whole_records
from tests import wire_messages as wire
from wam.robot import load_robot

CHANNELS = {
    "state": ("/joint_states", "sensor_msgs/msg/JointState", schema_text("sensor_msgs/msg/JointState")),
    "image/front": ("/front/image_raw", "sensor_msgs/msg/Image", schema_text("sensor_msgs/msg/Image")),
}


def new_file(folder: Path, index: int = 0, **options) -> EpisodeFile:
    return EpisodeFile(folder, index, metadata={"format": "1", "task": "wave"}, channels=CHANNELS, **options)


def state(number: int) -> StoredMessage:
    data = wire.joint_state(number * 10_000_000, ["yaw"], [number / 10])
    return StoredMessage(
        role="state", data=data, log_ns=number * 10_000_000 + 5, publish_ns=number * 10_000_000, sequence=number
    )


def image(number: int, size: int = 64) -> StoredMessage:
    pixels = np.random.default_rng(number).integers(0, 256, (size, size, 3), dtype=np.uint8)
    data = wire.image(number * 33_000_000, pixels)
    return StoredMessage(role="image/front", data=data, log_ns=number * 33_000_000, publish_ns=0, sequence=number)


def readable(path: Path) -> list[Message]:
    """Messages a reader gets that goes through the file from the front until it ends."""
    return [record for record in whole_records(path) if isinstance(record, Message)]


@pytest.mark.parametrize("compression", ["none", "lz4", "zstd"])
def test_a_finished_episode_opens_in_independent_readers(tmp_path, compression):
    file = new_file(tmp_path, compression=compression)
    for number in range(20):
        file.write(state(number))
    file.write(image(0))
    path = file.finish({"messages": 21})
    assert [found.name for found in tmp_path.iterdir()] == ["episode_000000.mcap"]

    with path.open("rb") as stream:
        reader = make_reader(stream, validate_crcs=True, decoder_factories=[DecoderFactory()])
        decoded = list(reader.iter_decoded_messages())
        metadata = {record.name: record.metadata for record in reader.iter_metadata()}
        assert reader.get_header().profile == "ros2"
    assert [message.position[0] for _, channel, _, message in decoded if channel.topic == "/joint_states"] == [
        number / 10 for number in range(20)
    ]
    told = metadata[METADATA_NAME]
    assert told == {"format": "1", "task": "wave", CHECKSUM: metadata_checksum(told)}
    assert json.loads(metadata[SUMMARY_NAME]["json"]) == {"messages": 21}
    with AnyReader([path]) as bag:
        counts = {connection.topic: connection.msgcount for connection in bag.connections}
        names = [bag.deserialize(raw, c.msgtype).name for c, _, raw in bag.messages() if c.topic == "/joint_states"]
    assert counts == {"/joint_states": 20, "/front/image_raw": 1}
    assert names == [["yaw"]] * 20


@settings(max_examples=30)
@given(flushed=st.integers(0, 12), more=st.integers(0, 12), cut=st.integers(0, 400))
def test_whatever_was_flushed_is_readable_wherever_the_file_ends(tmp_path_factory, flushed, more, cut):
    file = new_file(tmp_path_factory.mktemp("episode"))
    for number in range(flushed):
        file.write(state(number))
    file.flush()
    sound = file.size
    for number in range(flushed, flushed + more):
        file.write(state(number))
    file.flush()
    content = file.partial.read_bytes()[: sound + cut]
    file.discard()
    copy = file.partial.with_name("copy.mcap")
    copy.write_bytes(content)
    found = [message.sequence for message in readable(copy)]
    assert found[:flushed] == list(range(flushed))
    assert found == list(range(len(found)))


# A process of its own; the bytes of its messages mean nothing.
WRITER = """
import sys
from pathlib import Path
from ros_nodes.episode_file import EpisodeFile, StoredMessage
from ros_nodes.episode_writer import EpisodeWriter
def new_writer(index):
    channels = {"state": ("/joint_states", "std_msgs/msg/Empty", "")}
    file = EpisodeFile(Path(sys.argv[1]), index, metadata={}, channels=channels)
    return EpisodeWriter(file, queue_bytes=1 << 28, flush_period_s=0.05)
def message(number, size=100):
    return StoredMessage(role="state", data=bytes(size), log_ns=number, publish_ns=0, sequence=number)
"""
KILLED = """
import time
writer = new_writer(0)
for number in range(50):
    writer.put(message(number))
writer.finish({})
writer, number = new_writer(1), 0
while True:
    writer.put(message(number, 100_000))
    number += 1
    print(number, writer.size, flush=True)
    time.sleep(0.001)
"""
LIMITED = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000_000, 10_000_000))
writer, number = new_writer(0), 0
while writer.error is None:
    writer.put(message(number, 100_000))
    number += 1
try:
    writer.finish({})
except OSError as error:
    print("refused:", error.strerror)
"""


def test_kill_9_leaves_every_episode_readable(tmp_path, repository):
    command = [sys.executable, "-c", WRITER + KILLED, str(tmp_path)]
    process = subprocess.Popen(command, cwd=repository, stdout=subprocess.PIPE, text=True)
    written = handed_over = 0  # messages, bytes
    for line in process.stdout:
        written, handed_over = map(int, line.split())
        if handed_over > 6_000_000:
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    written = max([written, *(int(line.split()[0]) for line in process.stdout)])
    process.stdout.close()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["episode_000000.mcap", "episode_000001.partial.mcap"]
    assert [message.sequence for message in readable(tmp_path / names[0])] == list(range(50))
    partial = readable(tmp_path / names[1])
    assert [message.sequence for message in partial] == list(range(len(partial)))
    assert 0 < len(partial) <= written + 1
    size = (tmp_path / names[1]).stat().st_size
    assert size >= handed_over
    assert size - 100_000 * len(partial) < CHUNK_BYTES + 1_000_000  # only the chunk being written may be missing
    assert next_index(tmp_path) == 2


def test_a_full_disk_ends_the_episode_at_a_whole_chunk(tmp_path, monkeypatch):
    limit = 10_000_000
    writer = EpisodeWriter(new_file(tmp_path), queue_bytes=1 << 28, flush_period_s=0.01)
    real = os.write

    def full(descriptor: int, data: memoryview) -> int:
        room = limit - writer.size
        if room <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor, data[:room])  # a full disk takes what fits

    monkeypatch.setattr(os, "write", full)
    sent = 0
    while writer.error is None:
        writer.put(image(sent, 300))
        sent += 1
    monkeypatch.setattr(os, "write", real)
    assert not writer.put(image(sent))
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        writer.finish({})
    assert [path.name for path in tmp_path.iterdir()] == ["episode_000000.partial.mcap"]
    found = [message.sequence for message in readable(writer.partial)]
    assert 0 < len(found) < sent
    assert found == list(range(len(found)))
    assert writer.partial.stat().st_size < limit  # the half chunk is gone


def test_a_file_size_limit_is_a_full_disk_too(tmp_path, repository):
    command = [sys.executable, "-c", WRITER + LIMITED, str(tmp_path)]
    result = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=120, check=True)
    assert result.stdout == f"refused: {os.strerror(errno.EFBIG)}\n"
    assert len(readable(tmp_path / "episode_000000.partial.mcap")) > 0


def test_overflow_is_refused_not_dropped_in_silence(tmp_path, monkeypatch):
    release = threading.Event()
    writer = EpisodeWriter(new_file(tmp_path), queue_bytes=40_000)
    monkeypatch.setattr(
        writer._file, "write", lambda message: (release.wait(), EpisodeFile.write(writer._file, message))
    )
    taken = [writer.put(image(number)) for number in range(10)]
    release.set()
    path = writer.finish({})
    assert False in taken
    assert writer.most_waiting <= 40_000
    assert len(readable(path)) == sum(taken)


def test_messages_reach_the_disk_without_more_of_them(tmp_path):
    writer = EpisodeWriter(new_file(tmp_path), queue_bytes=1 << 20, flush_period_s=0.05)
    writer.put(state(0))
    end = time.monotonic() + 120
    while not readable(writer.partial) and time.monotonic() < end:
        threading.Event().wait(0.01)
    assert len(readable(writer.partial)) == 1
    writer.discard()


def test_a_discarded_episode_is_gone(tmp_path):
    writer = EpisodeWriter(new_file(tmp_path), queue_bytes=1 << 20)
    writer.put(state(0))
    writer.discard()
    assert not list(tmp_path.iterdir())


def test_an_existing_episode_is_never_overwritten(tmp_path):
    new_file(tmp_path).finish({})
    again = new_file(tmp_path, next_index(tmp_path))
    assert again.partial.name == "episode_000001.partial.mcap"
    with pytest.raises(FileExistsError):
        new_file(tmp_path, 1)
    again.discard()


def test_an_unknown_compression_is_refused(tmp_path):
    with pytest.raises(NodeError, match="unknown compression 'lz5'.*lz4"):
        new_file(tmp_path, compression="lz5")


def test_a_folder_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    assert "file/sub cannot be written (Not a directory)" in check_folder(tmp_path / "file" / "sub", min_free_bytes=0)
    assert "GB left, less than the 1e+12 GB" in check_folder(tmp_path, min_free_bytes=10**21)
    assert check_folder(tmp_path / "new", min_free_bytes=1) == ""
    assert not list((tmp_path / "new").iterdir())


def test_every_schema_of_the_contract_is_complete():
    known = get_typestore(Stores.ROS2_JAZZY).fielddefs
    for topic in contract_topics(load_robot("sim6"), image_late_s=0.15, state_late_s=0.1):
        found = get_types_from_msg(schema_text(topic.type_name), topic.type_name)
        assert found == {name: known[name] for name in found}
        assert topic.type_name in found


def test_an_unknown_message_type_names_its_package():
    with pytest.raises(NodeError, match="'control_msgs/msg/Nothing' is not installed.*package 'control_msgs'"):
        schema_text("control_msgs/msg/Nothing")


def test_peeking_into_messages_agrees_with_their_maker():
    assert header_stamp_ns(wire.image(123_456_789_012, np.zeros((1, 1, 3), np.uint8))) == 123_456_789_012
    assert string_data(wire.text("put the red cube — there")) == "put the red cube — there"
    assert string_data(wire.text("")) == ""
