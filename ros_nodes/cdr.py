"""The few bytes of a serialised message that a recorder looks at, without decoding the rest (OMG DDS-XTypes, CDR).

A message begins with four bytes that say how it is encoded; the second one is odd when numbers are little-endian.
"""

import struct
from dataclasses import dataclass

__all__ = ["ImageHeader", "header_stamp_ns", "image_header", "named_positions", "string_data"]

ENCAPSULATION = 4  # bytes before the first field
STAMP_BYTES = 8
NANO = 1_000_000_000


@dataclass(frozen=True, kw_only=True)
class ImageHeader:
    """A ``sensor_msgs/Image`` without its pixels."""

    height: int
    width: int
    encoding: str
    step: int  # bytes per row
    size: int  # bytes of pixels


def header_stamp_ns(data: bytes) -> int:
    """Returns the stamp of a message that begins with a ``std_msgs/Header`` [ns]."""
    seconds, nanoseconds = struct.unpack_from(f"{_order(data)}iI", data, ENCAPSULATION)
    return seconds * NANO + nanoseconds


def string_data(data: bytes) -> str:
    """Returns the text of a ``std_msgs/String``."""
    return _Reader(data, 0).string()


def image_header(data: bytes) -> ImageHeader:
    """Reads a ``sensor_msgs/Image`` up to its pixels."""
    reader = _Reader(data, STAMP_BYTES)
    reader.string()  # frame_id
    height, width, encoding = reader.count(), reader.count(), reader.string()
    reader.skip(1)  # is_bigendian
    return ImageHeader(height=height, width=width, encoding=encoding, step=reader.count(), size=reader.count())


def named_positions(data: bytes) -> tuple[list[str], list[float]]:
    """Reads names and positions of a ``sensor_msgs/JointState``."""
    reader = _Reader(data, STAMP_BYTES)
    reader.string()  # frame_id
    names = [reader.string() for _ in range(reader.count())]
    return names, reader.doubles(reader.count())


class _Reader:
    """Goes through the fields of a message; places count from behind the encapsulation, and so does alignment."""

    def __init__(self, data: bytes, at: int) -> None:
        self._data, self._at, self._order = data, at, _order(data)

    def count(self) -> int:
        """A uint32."""
        self._align(4)
        (value,) = struct.unpack_from(f"{self._order}I", self._data, ENCAPSULATION + self._at)
        self._at += 4
        return int(value)

    def string(self) -> str:
        """A string, with its length in front and a zero behind."""
        size = self.count()
        begin = ENCAPSULATION + self._at
        self._at += size
        return self._data[begin : begin + size].rstrip(b"\0").decode(errors="replace")

    def doubles(self, count: int) -> list[float]:
        """So many float64."""
        if not count:
            return []
        self._align(8)
        return list(struct.unpack_from(f"{self._order}{count}d", self._data, ENCAPSULATION + self._at))

    def skip(self, size: int) -> None:
        """Passes over bytes."""
        self._at += size

    def _align(self, size: int) -> None:
        self._at += -self._at % size


def _order(data: bytes) -> str:
    return "<" if data[1] & 1 else ">"
