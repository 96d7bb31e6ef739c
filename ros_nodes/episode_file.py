"""One episode on disk: an MCAP file that is readable whatever happens to the process that writes it.

While it grows it is called ``episode_000007.partial.mcap``. Messages are gathered into chunks, and a chunk goes to the
operating system a fraction of a second after its first message: killing the process loses only the chunk in the making
or being written, and every MCAP reader that goes through a file from the front reads the rest. A finished file gets its
index and loses ``.partial`` in one rename, so a file without it is complete.

No ROS: messages are bytes with a channel.
"""

import contextlib
import errno
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ros_nodes.errors import NodeError
from sim.mcap_records import CHECKSUM, metadata_checksum
from wam.errors import unknown_name

__all__ = [
    "COMPRESSIONS",
    "METADATA_NAME",
    "SUMMARY_NAME",
    "EpisodeFile",
    "StoredMessage",
    "check_folder",
    "next_index",
]

COMPRESSIONS = ("none", "lz4", "zstd")
METADATA_NAME = "wam.recording"  # metadata record at the front: robot, task, topics
SUMMARY_NAME = "wam.summary"  # metadata record at the end of a finished file: counts per topic
CHUNK_BYTES = 4 << 20  # four images of 640 x 480; larger chunks only delay what a crash may cost
NAME = re.compile(r"episode_(\d{6,})(\.partial)?\.mcap")


@dataclass(frozen=True, kw_only=True)
class StoredMessage:
    """One message on its way to the disk."""

    role: str  # channel
    data: bytes  # CDR, with its four bytes of encapsulation
    log_ns: int  # robot time of reception [ns]
    publish_ns: int  # its stamp; the time of reception when it has none [ns]
    sequence: int  # the publisher's count, 0 when unknown


class EpisodeFile:
    """An episode being written; every method may raise ``OSError``, after which only ``abandon`` makes sense.

    Args:
        folder: Where it goes.
        index: Its number; must not be there yet.
        metadata: Written in front of all messages.
        channels: role -> (resolved topic, type name, schema text).
        compression: One of ``COMPRESSIONS``.
    """

    def __init__(
        self,
        folder: Path,
        index: int,
        *,
        metadata: Mapping[str, str],
        channels: Mapping[str, tuple[str, str, str]],
        compression: str = "none",
    ) -> None:
        from mcap.well_known import MessageEncoding, SchemaEncoding
        from mcap.writer import CompressionType, Writer

        if compression not in COMPRESSIONS:
            raise NodeError(unknown_name("compression", compression, COMPRESSIONS))
        self.partial = folder / f"episode_{index:06d}.partial.mcap"
        self.final = folder / f"episode_{index:06d}.mcap"
        self._out = _Whole(self.partial)
        self._writer = Writer(
            self._out,  # type: ignore[arg-type]
            chunk_size=CHUNK_BYTES,
            compression=CompressionType[compression.upper()],
            enable_data_crcs=True,  # what lies around the chunks has no checksum of its own
        )
        try:
            self._writer.start(profile="ros2", library="world_action_model")
            self._writer.add_metadata(METADATA_NAME, {**metadata, CHECKSUM: metadata_checksum(metadata)})
            schemas: dict[str, int] = {}
            self._channels: dict[str, int] = {}
            for role, (topic, type_name, text) in channels.items():
                if type_name not in schemas:
                    schemas[type_name] = self._writer.register_schema(type_name, SchemaEncoding.ROS2, text.encode())
                self._channels[role] = self._writer.register_channel(topic, MessageEncoding.CDR, schemas[type_name])
        except OSError:
            self.discard()
            raise
        self.messages = 0  # written so far, those in the unfinished chunk included

    @property
    def size(self) -> int:
        """Bytes handed to the operating system."""
        return self._out.position

    def write(self, message: StoredMessage) -> None:
        """Adds one message to the chunk in the making; a full chunk is written."""
        self._writer.add_message(
            self._channels[message.role],
            log_time=message.log_ns,
            data=message.data,
            publish_time=message.publish_ns,
            sequence=message.sequence,
        )
        self.messages += 1
        self._out.mark()

    def flush(self) -> None:
        """Writes the chunk in the making; from here on the death of this process cannot take it back."""
        self._writer.flush()
        self._out.mark()

    def sync(self) -> None:
        """Waits until everything flushed is on the disk; from here on not even a power cut takes it back."""
        os.fdatasync(self._out.descriptor)

    def finish(self, summary: Mapping[str, Any]) -> Path:
        """Writes index and summary, and gives the file its final name.

        Returns:
            Where it is now.
        """
        self._writer.flush()
        self._writer.add_metadata(SUMMARY_NAME, {"json": json.dumps(summary)})
        self._writer.finish()
        os.fsync(self._out.descriptor)
        self._out.close()
        os.rename(self.partial, self.final)
        _sync_folder(self.final.parent)
        return self.final

    def abandon(self) -> None:
        """Leaves what was written in whole chunks, under the partial name, and nothing after it."""
        self._out.truncate_to_mark()
        self._out.close()

    def discard(self) -> None:
        """Removes the file."""
        self._out.close()
        self.partial.unlink(missing_ok=True)


def next_index(folder: Path) -> int:
    """Number after the highest one that any episode in the folder has, finished or not."""
    found = (NAME.fullmatch(path.name) for path in folder.iterdir())
    return max((int(match.group(1)) for match in found if match), default=-1) + 1


def check_folder(folder: Path, *, min_free_bytes: int) -> str:
    """Makes the folder and tries it out.

    Returns:
        Why nothing can be recorded there, in words; empty when it can.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{os.getpid()}"
        probe.write_bytes(b"wam")
        probe.unlink()
        free = os.statvfs(folder)
    except OSError as error:
        return f"the folder {folder} cannot be written ({error.strerror}): choose another one, or mend its permissions"
    free_bytes = free.f_bavail * free.f_frsize
    if free_bytes < min_free_bytes:
        return (
            f"the disk of {folder} has {free_bytes / 1e9:.1f} GB left, less than the {min_free_bytes / 1e9:g} GB that "
            "parameter min_free_gb asks for: free some space, or choose a folder on another disk"
        )
    return ""


class _Whole:
    """An unbuffered file that writes everything or raises, and knows up to where it is sound."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        self.position = 0
        self._marked = 0
        self._open = True

    def write(self, data: bytes | bytearray | memoryview) -> int:
        view = memoryview(data)
        while view:
            done = os.write(self.descriptor, view)
            if done == 0:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            self.position += done
            view = view[done:]
        return len(data)

    def tell(self) -> int:
        return self.position

    def flush(self) -> None:
        """Nothing is held back."""

    def mark(self) -> None:
        """Everything so far is whole records."""
        self._marked = self.position

    def truncate_to_mark(self) -> None:
        if self._open:
            with contextlib.suppress(OSError):  # a reader copes with half a record at the end, too
                os.ftruncate(self.descriptor, self._marked)

    def close(self) -> None:
        if self._open:
            self._open = False
            with contextlib.suppress(OSError):  # a full network disk reports its error once more
                os.close(self.descriptor)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
