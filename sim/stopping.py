"""Stopping in an orderly way: signals become a request, and one folder has one writer."""

import fcntl
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from sim.errors import SimError

__all__ = ["InterruptedCollection", "StopRequest", "locked", "stop_requests"]


class InterruptedCollection(SimError):
    """Stopped by a signal; everything recorded so far is kept."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(signal_number).name}: {message}")
        self.status = 128 + signal_number  # exit status, as shells have it


class StopRequest:
    """Whether to stop, and why."""

    number: int | None = None  # the signal that asked for it


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Turns the first SIGINT or SIGTERM into a request; a second one acts at once, as if this were not here.

    Only for the main thread: Python allows no other to handle signals.
    """
    stop = StopRequest()
    before: dict[int, Any] = {}

    def restore() -> None:
        while before:
            number, handler = before.popitem()
            signal.signal(number, handler)

    def request(number: int, frame: FrameType | None) -> None:
        del frame
        stop.number = number
        restore()

    for number in (signal.SIGINT, signal.SIGTERM):
        before[number] = signal.signal(number, request)
    try:
        yield stop
    finally:
        restore()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps a second command off the same folder, which is made if need be.

    Raises:
        SimError: Another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SimError(
                f"another command is recording into {folder}: wait for it, or choose another --out."
            ) from error
        yield
