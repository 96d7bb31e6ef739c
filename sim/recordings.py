"""Reads recorded episodes, finished or not: MCAP files of profile ``ros2`` as the recorder writes them.

A file is read from the front, record by record, so one whose recorder was killed gives everything up to its last whole
chunk. Messages come in the order they arrived at the recorder.
"""

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import yaml

from wam.errors import DatasetError, RobotSpecError
from wam.robot import RobotSpec

__all__ = ["PARTIAL_SUFFIX", "RecordedMessage", "Recording", "RecordingHeader", "read_header", "whole_records"]

METADATA_NAME = "wam.recording"  # metadata record in front of all messages
FORMAT = "1"
PARTIAL_SUFFIX = ".partial.mcap"  # of a file that its recorder did not finish
MAGIC = b"\x89MCAP0\r\n"
FRAME_BYTES = 9  # opcode and length in front of every record


@dataclass(frozen=True, kw_only=True)
class RecordingHeader:
    """What a recording says about itself before the first message."""

    path: Path
    robot: RobotSpec  # as its file said on the day
    calibration_hash: str  # empty without a calibration
    task: str  # instruction to use when no message gives one
    roles: Mapping[str, str]  # topic on the graph -> role, such as "state" or "image/front"
    started: str  # ISO 8601, UTC

    @property
    def finished(self) -> bool:
        """Whether its recorder completed it."""
        return not self.path.name.endswith(PARTIAL_SUFFIX)


@dataclass(frozen=True, kw_only=True)
class RecordedMessage:
    """One message, decoded."""

    role: str
    log_ns: int  # robot time of reception [ns]
    message: Any  # with the fields of its ROS type


@dataclass
class Recording:
    """One recorded episode.

    Args:
        header: From ``read_header``.
    """

    header: RecordingHeader
    truncated: bool = field(default=False, init=False)  # known once all messages were read

    def messages(self) -> Iterator[RecordedMessage]:
        """Decodes every message of a known role, in order of arrival.

        Raises:
            DatasetError: A chunk is damaged: its checksum is wrong.
        """
        from mcap.records import Channel, DataEnd, Message, Schema
        from mcap_ros2.decoder import DecoderFactory

        factory = DecoderFactory()
        schemas: dict[int, Schema] = {}
        channels: dict[int, Channel] = {}
        self.truncated = True  # until the end is seen
        for record in whole_records(self.header.path):
            if isinstance(record, DataEnd):
                self.truncated = False
            elif isinstance(record, Schema):
                schemas[record.id] = record
            elif isinstance(record, Channel):
                channels[record.id] = record
            elif isinstance(record, Message):
                channel = channels[record.channel_id]
                role = self.header.roles.get(channel.topic)
                decode = factory.decoder_for(channel.message_encoding, schemas[channel.schema_id])
                if role is not None and decode is not None:
                    yield RecordedMessage(role=role, log_ns=record.log_time, message=decode(record.data))


def read_header(path: Path) -> RecordingHeader:
    """Reads what a recording says about itself.

    Raises:
        DatasetError: It is no recording of ours, ends before its first record, or its robot is not valid.
    """
    from mcap.records import Metadata

    for record in whole_records(path):
        if isinstance(record, Metadata) and record.name == METADATA_NAME:
            return _header(path, record.metadata)
    raise DatasetError(
        f"{path} holds no '{METADATA_NAME}' record, so nothing says which robot it is of: it was written by another "
        "tool, or its recorder died at once. Leave it out."
    )


def whole_records(path: Path) -> Iterator[Any]:
    """Records of the data section in order, those inside chunks one by one, up to the last one that is all there.

    Raises:
        DatasetError: No MCAP file, or a chunk whose checksum is wrong.
    """
    for opcode, content in _frames(path):
        yield from _parsed(path, opcode, content)


def _header(path: Path, data: Mapping[str, str]) -> RecordingHeader:
    if data.get("format") != FORMAT:
        raise DatasetError(
            f"{path} has recording format {data.get('format')!r} but this version reads {FORMAT!r}: "
            "convert it with the version that wrote it."
        )
    try:
        robot = RobotSpec.from_dict(yaml.safe_load(data["robot"]), source=f"robot in {path}")
        topics = json.loads(data["topics"])
    except (KeyError, yaml.YAMLError, json.JSONDecodeError, RobotSpecError) as error:
        raise DatasetError(f"{path} says nothing usable about its robot or topics ({error}): leave it out.") from error
    return RecordingHeader(
        path=path,
        robot=robot,
        calibration_hash=data.get("calibration_hash", ""),
        task=data.get("task", ""),
        roles={topic: role for role, topic in topics.items()},
        started=data.get("started", ""),
    )


def _frames(path: Path) -> Iterator[tuple[int, bytes]]:
    """Opcode and content of every whole record; ends where the file does, in the middle of a record or not."""
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            if stream.read(len(MAGIC)) != MAGIC:
                raise DatasetError(f"{path} is not an MCAP file: only recordings made by the recorder are converted.")
            while frame := _frame(stream, size):
                yield frame
    except OSError as error:
        raise DatasetError(f"{path} cannot be read ({error.strerror}).") from error


def _frame(stream: IO[bytes], size: int) -> tuple[int, bytes] | None:
    head = stream.read(FRAME_BYTES)
    if len(head) < FRAME_BYTES:
        return None
    length = int.from_bytes(head[1:], "little")
    if length > size - stream.tell():
        return None
    return head[0], stream.read(length)


def _parsed(path: Path, opcode: int, content: bytes) -> Iterator[Any]:
    from mcap.data_stream import ReadDataStream
    from mcap.opcode import Opcode
    from mcap.records import Channel, Chunk, DataEnd, Message, Metadata, Schema
    from mcap.stream_reader import CRCValidationError, breakup_chunk

    stream = ReadDataStream(io.BytesIO(content))
    if opcode == Opcode.CHUNK:
        try:
            yield from breakup_chunk(Chunk.read(stream), validate_crc=True)
        except (CRCValidationError, EOFError, RuntimeError) as error:
            raise DatasetError(f"{path} is damaged ({error}): copy it again, or leave it out.") from error
    elif opcode == Opcode.MESSAGE:
        yield Message.read(stream, len(content))
    else:
        kinds: dict[int, Any] = {
            Opcode.SCHEMA: Schema,
            Opcode.CHANNEL: Channel,
            Opcode.METADATA: Metadata,
            Opcode.DATA_END: DataEnd,
        }
        if opcode in kinds:
            yield kinds[opcode].read(stream)
