"""The records of an MCAP file, one after the other from the front, none of them believed before it is checked.

What a checksum covers is checked against it: chunks each by its own, metadata by ``metadata_checksum``, and the data of
a finished file as a whole. What none covers, the frame around every record, must fit: a kind that the recorder writes,
and a content that is used up exactly. A file may end anywhere, because its recorder may have been killed; a file in
which something does not fit is damaged, and is refused as a whole, so that nothing is left out in silence.
"""

import io
import json
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from wam.errors import DatasetError

__all__ = ["CHECKSUM", "damaged", "metadata_checksum", "whole_records"]

CHECKSUM = "crc32"  # key of a metadata record: checksum of all the others
MAGIC = b"\x89MCAP0\r\n"
FRAME_BYTES = 9  # opcode and length in front of every record
MESSAGE_BYTES = 22  # of a message without its data
MOST_BYTES = 1 << 29  # no record is larger: a chunk is 4 MiB and one message; a damaged length must not take all memory


def metadata_checksum(data: Mapping[str, str]) -> str:
    """Returns the checksum of a metadata record, without the entry that holds it."""
    rest = {key: value for key, value in data.items() if key != CHECKSUM}
    return f"{zlib.crc32(json.dumps(rest, sort_keys=True).encode()):08x}"


def damaged(path: Path, what: object) -> DatasetError:
    """The error of a file in which something does not fit."""
    return DatasetError(f"{path} is damaged ({what}): copy it again, or leave it out.")


def whole_records(path: Path) -> Iterator[Any]:
    """Records of the data section in order, those inside chunks one by one, up to the last one that is all there.

    Raises:
        DatasetError: No MCAP file, or one in which something does not fit.
    """
    from mcap.opcode import Opcode

    errors = _library_errors()
    for opcode, content, checksum in _frames(path):
        try:
            records = _parsed(opcode, content)
        except errors as error:
            raise damaged(path, _said(error)) from error
        yield from records
        if opcode == Opcode.DATA_END:
            told = records[0].data_section_crc
            if told not in (0, checksum):  # 0: not told
                raise damaged(path, f"its data has the checksum {checksum} but was written with {told}")
            return


def _frames(path: Path) -> Iterator[tuple[int, bytes, int]]:
    """Opcode and content of every whole record, and the checksum of the file before it; ends where the file does."""
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            if stream.read(len(MAGIC)) != MAGIC:
                raise DatasetError(f"{path} is not an MCAP file: only recordings made by the recorder are converted.")
            checksum = zlib.crc32(MAGIC)
            while frame := _frame(path, stream, size):
                yield frame[0], frame[2], checksum
                checksum = zlib.crc32(frame[2], zlib.crc32(frame[1], checksum))
    except OSError as error:
        raise DatasetError(f"{path} cannot be read ({error.strerror}).") from error


def _frame(path: Path, stream: IO[bytes], size: int) -> tuple[int, bytes, bytes] | None:
    """Opcode, frame and content of the next record; None where the file ends, or a disk left zeros at its end."""
    head = stream.read(FRAME_BYTES)
    if len(head) < FRAME_BYTES or head[0] == 0:
        return None
    length = int.from_bytes(head[1:], "little")
    if length > size - stream.tell():
        return None
    if length > MOST_BYTES:
        raise damaged(path, f"a record of {length} bytes at byte {stream.tell()}")
    return head[0], head, stream.read(length)


def _parsed(opcode: int, content: bytes) -> list[Any]:
    """The record, or the records of a chunk; raises whatever the library raises, or ``ValueError``."""
    from mcap.data_stream import ReadDataStream
    from mcap.opcode import Opcode
    from mcap.records import Attachment, Channel, Chunk, DataEnd, Header, Message, MessageIndex, Metadata, Schema
    from mcap.stream_reader import breakup_chunk

    kinds: dict[int, Callable[[Any], Any]] = {
        Opcode.HEADER: Header.read,
        Opcode.SCHEMA: Schema.read,
        Opcode.CHANNEL: Channel.read,
        Opcode.MESSAGE: lambda stream: Message.read(stream, max(MESSAGE_BYTES, len(content))),
        Opcode.CHUNK: Chunk.read,
        Opcode.MESSAGE_INDEX: MessageIndex.read,
        Opcode.ATTACHMENT: Attachment.read,
        Opcode.METADATA: Metadata.read,
        Opcode.DATA_END: DataEnd.read,
    }
    if opcode not in kinds:
        raise ValueError(f"a record of kind 0x{opcode:02x}, which no recorder writes there")
    stream = ReadDataStream(io.BytesIO(content))
    record = kinds[opcode](stream)
    if stream.count != len(content):
        raise ValueError(f"a {type(record).__name__} of {len(content)} bytes that ends after {stream.count}")
    if isinstance(record, Metadata) and record.metadata.get(CHECKSUM) not in (None, metadata_checksum(record.metadata)):
        raise ValueError(f"metadata '{record.name}' does not have the checksum it was written with")
    if not isinstance(record, Chunk):
        return [record]
    if record.uncompressed_size > MOST_BYTES:
        raise ValueError(f"a chunk of {record.uncompressed_size} bytes")
    return breakup_chunk(record, validate_crc=True)


def _library_errors() -> tuple[type[Exception], ...]:
    """What reading a damaged record may raise: the library checks little, and its decompressors have their own."""
    from mcap import stream_reader
    from mcap.exceptions import McapError

    errors: tuple[type[Exception], ...] = (
        McapError, ValueError, EOFError, RuntimeError, MemoryError, OverflowError, struct.error, KeyError
    )  # fmt: skip
    zstandard = getattr(stream_reader, "zstandard", None)  # the library's own, where it has one
    return errors if zstandard is None else (*errors, zstandard.ZstdError)


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__
