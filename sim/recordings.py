"""Reads recorded episodes, finished or not: MCAP files of profile ``ros2`` as the recorder writes them.

A file is read from the front, record by record, so one whose recorder was killed gives everything up to its last whole
chunk. Messages come in the order they arrived at the recorder.
"""

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sim.mcap_records import damaged, whole_records
from wam.errors import DatasetError, RobotSpecError
from wam.robot import RobotSpec
from wam.strict_yaml import parse_yaml

__all__ = ["PARTIAL_SUFFIX", "RecordedMessage", "Recording", "RecordingHeader", "read_header"]

METADATA_NAME = "wam.recording"  # metadata record in front of all messages
FORMAT = "1"
PARTIAL_SUFFIX = ".partial.mcap"  # of a file that its recorder did not finish


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
            DatasetError: The file is damaged.
        """
        from mcap.exceptions import McapError
        from mcap.records import Channel, DataEnd, Message, Schema

        decoder = _Decoder()
        self.truncated = True  # until the end is seen
        for record in whole_records(self.header.path):
            if isinstance(record, DataEnd):
                self.truncated = False
            elif isinstance(record, Schema):
                decoder.schemas[record.id] = record
            elif isinstance(record, Channel):
                decoder.channels[record.id] = record
            elif isinstance(record, Message):
                try:
                    role = self.header.roles.get(decoder.topic(record))
                    message = None if role is None else decoder.decode(record)
                except (McapError, ValueError, LookupError, EOFError, TypeError, struct.error) as error:
                    raise damaged(self.header.path, f"a message that cannot be decoded: {error!r}") from error
                if role is not None and message is not None:
                    yield RecordedMessage(role=role, log_ns=record.log_time, message=message)


class _Decoder:
    """Knows the channels and message definitions so far."""

    def __init__(self) -> None:
        from mcap_ros2.decoder import DecoderFactory

        self._factory = DecoderFactory()
        self.schemas: dict[int, Any] = {}
        self.channels: dict[int, Any] = {}

    def topic(self, record: Any) -> str:
        """On which topic a message came."""
        return self.channels[record.channel_id].topic

    def decode(self, record: Any) -> Any:
        """The message, or None where its encoding is none of ROS 2."""
        channel = self.channels[record.channel_id]
        decode = self._factory.decoder_for(channel.message_encoding, self.schemas[channel.schema_id])
        return None if decode is None else decode(record.data)


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


def _header(path: Path, data: Mapping[str, str]) -> RecordingHeader:
    if data.get("format") != FORMAT:
        raise DatasetError(
            f"{path} has recording format {data.get('format')!r} but this version reads {FORMAT!r}: "
            "convert it with the version that wrote it."
        )
    try:
        robot = RobotSpec.from_dict(parse_yaml(data["robot"]), source=f"robot in {path}")
        roles = {str(topic): str(role) for role, topic in json.loads(data["topics"]).items()}
    except (KeyError, ValueError, TypeError, AttributeError, RobotSpecError) as error:
        raise DatasetError(f"{path} says nothing usable about its robot or topics ({error}): leave it out.") from error
    return RecordingHeader(
        path=path,
        robot=robot,
        calibration_hash=data.get("calibration_hash", ""),
        task=data.get("task", ""),
        roles=roles,
        started=data.get("started", ""),
    )
