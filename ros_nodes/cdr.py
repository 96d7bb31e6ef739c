"""The few bytes of a serialised message that a recorder looks at, without decoding the rest (OMG DDS-XTypes, CDR).

A message begins with four bytes that say how it is encoded; the second one is odd when numbers are little-endian.
"""

import struct

__all__ = ["header_stamp_ns", "string_data"]

ENCAPSULATION = 4  # bytes before the first field
NANO = 1_000_000_000


def header_stamp_ns(data: bytes) -> int:
    """Returns the stamp of a message that begins with a ``std_msgs/Header`` [ns]."""
    seconds, nanoseconds = struct.unpack_from(f"{_order(data)}iI", data, ENCAPSULATION)
    return seconds * NANO + nanoseconds


def string_data(data: bytes) -> str:
    """Returns the text of a ``std_msgs/String``."""
    (size,) = struct.unpack_from(f"{_order(data)}I", data, ENCAPSULATION)
    text = data[ENCAPSULATION + 4 : ENCAPSULATION + 4 + size]
    return text.rstrip(b"\0").decode(errors="replace")


def _order(data: bytes) -> str:
    return "<" if data[1] & 1 else ">"
