"""The thread between the executor and the disk: a bounded queue, so that a slow disk never stops a subscription.

What does not fit into the queue is refused and counted, never dropped in silence. The first error of the disk ends the
episode: what was written in whole chunks stays, and the error waits for whoever asks.
"""

import contextlib
import errno
import logging
import threading
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ros_nodes.episode_file import EpisodeFile, StoredMessage

__all__ = ["EpisodeWriter"]

OVERHEAD_BYTES = 200  # of a message in the queue, beside its data

logger = logging.getLogger(__name__)


class EpisodeWriter:
    """Writes one episode in a thread of its own.

    Args:
        file: The opened file; belongs to the thread from now on.
        queue_bytes: What may wait for the disk [bytes].
        flush_period_s: How long a message may wait in memory [s].
        sync_period_s: How long a message may wait in the operating system's cache [s]; 0: until the episode ends.
    """

    def __init__(
        self, file: EpisodeFile, *, queue_bytes: int, flush_period_s: float = 0.5, sync_period_s: float = 5.0
    ) -> None:
        self._file = file
        self._capacity, self._flush_period, self._sync_period = queue_bytes, flush_period_s, sync_period_s
        self._queue: deque[StoredMessage] = deque()
        self._waiting = 0  # bytes in the queue
        self._condition = threading.Condition()
        self._closing = False
        self._error: OSError | None = None
        self.most_waiting = 0  # high-water mark of the queue [bytes]
        self._thread = threading.Thread(target=self._run, name="episode-writer", daemon=True)
        self._thread.start()

    @property
    def error(self) -> OSError | None:
        """What the disk said, once it has failed."""
        return self._error

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return self._file.size

    @property
    def partial(self) -> Path:
        """Where the unfinished episode lies."""
        return self._file.partial

    def put(self, message: StoredMessage) -> bool:
        """Queues one message; False when the queue is full or the disk has failed, and the message is lost."""
        size = len(message.data) + OVERHEAD_BYTES
        with self._condition:
            if self._error is not None or self._waiting + size > self._capacity:
                return False
            self._queue.append(message)
            self._waiting += size
            self.most_waiting = max(self.most_waiting, self._waiting)
            self._condition.notify()
        return True

    def finish(self, summary: Mapping[str, Any]) -> Path:
        """Writes what waits, the index and the summary; blocks until all is on the disk.

        Raises:
            OSError: The disk failed, now or earlier; whole chunks are left under the partial name.
        """
        self._join()
        if self._error is not None:
            raise self._error
        try:
            return self._file.finish(summary)
        except OSError:
            self._file.abandon()
            raise

    def discard(self) -> None:
        """Removes the episode."""
        with self._condition:
            self._queue.clear()
            self._waiting = 0
        self._join()
        self._file.discard()

    def abandon(self) -> None:
        """Writes what waits and leaves the episode unfinished, as a crash would, but with nothing lost."""
        self._join()
        if self._error is None:
            with contextlib.suppress(OSError):
                self._file.flush()
            self._file.abandon()

    def _join(self) -> None:
        with self._condition:
            self._closing = True
            self._condition.notify()
        self._thread.join()

    def _run(self) -> None:
        failure: OSError | None = OSError(errno.EIO, "the writing thread died, its traceback is in the log")
        try:
            self._write_all()
            failure = None
        except OSError as error:
            failure = error
        finally:
            if failure is not None:
                self._give_up(failure)

    def _give_up(self, failure: OSError) -> None:
        logger.error("recording of %s stopped: %s", self._file.partial, failure)
        self._file.abandon()
        with self._condition:
            self._error = failure
            self._queue.clear()
            self._waiting = 0

    def _write_all(self) -> None:
        flushed = synced = time.monotonic()
        while True:
            batch = self._take(flushed + self._flush_period - time.monotonic())
            for message in batch:
                self._file.write(message)
                with self._condition:
                    self._waiting -= len(message.data) + OVERHEAD_BYTES
            now = time.monotonic()
            if now - flushed >= self._flush_period:
                self._file.flush()
                flushed = now
            if self._sync_period and now - synced >= self._sync_period:
                self._file.sync()
                synced = time.monotonic()
            if self._closing and not self._queue:
                return

    def _take(self, timeout: float) -> list[StoredMessage]:
        """Takes everything that waits; after the timeout [s], nothing."""
        with self._condition:
            self._condition.wait_for(lambda: self._queue or self._closing, timeout=max(0.0, timeout))
            batch = list(self._queue)
            self._queue.clear()
            return batch
