"""One time-stamped stream of messages: newest at or before an instant, whatever order they arrived in.

Time is the header stamp, robot time in seconds; the order of arrival plays no part, so a recording replays to the same
values.
"""

import bisect
import zlib
from dataclasses import dataclass

import numpy as np

from wam.history import pick

__all__ = ["Entry", "ImageWatch", "Stream", "StreamCounts", "fingerprint_pixels"]

HISTORY_S = 1.0  # messages kept behind the newest one [s]: several times any age limit
HASHED_SIDE_PX = 128  # images are hashed on a grid of about this many pixels per side: 0.05 ms instead of 1 ms
FROZEN_FRAMES = 5  # frames with the same pixels before a camera can count as frozen
FROZEN_MOTION = 0.1  # ... if some axis moved by this much meanwhile [rad, opening]: a still scene may look the same


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One message."""

    stamp: float  # robot time [s]
    value: np.ndarray  # image or proprio


@dataclass(frozen=True, kw_only=True)
class StreamCounts:
    """What arrived on a stream since construction or ``clear``."""

    received: int = 0  # messages, refused ones included
    duplicates: int = 0  # the stamp was there already
    out_of_order: int = 0  # older than the newest; kept, in its place
    late: int = 0  # older than everything that is kept; dropped
    malformed: int = 0  # wrong shape or type, or not finite; dropped
    same_pixels: int = 0  # new stamp, same pixels as the frame before


class Stream:
    """The newest messages in order of their stamps.

    Args:
        history_s: How long messages are kept behind the newest one [s].
    """

    def __init__(self, history_s: float = HISTORY_S) -> None:
        self._history_s = history_s
        self._stamps: list[float] = []
        self._entries: list[Entry] = []
        self._last: Entry | None = None  # that was inserted
        self.counts = StreamCounts()
        self.refusal = ""  # why the last malformed message was dropped

    @property
    def newest(self) -> Entry | None:
        """The message with the largest stamp."""
        return self._entries[-1] if self._entries else None

    @property
    def newest_is_last(self) -> bool:
        """Whether the message that was inserted last is the newest."""
        return self.newest is not None and self.newest is self._last

    def add(self, stamp: float, value: np.ndarray) -> bool:
        """Inserts a message; False if it was a duplicate or too old to matter."""
        self.count(received=1)
        place = bisect.bisect_left(self._stamps, stamp)
        if place < len(self._stamps) and self._stamps[place] == stamp:
            self.count(duplicates=1)
            return False
        if self._stamps and stamp < self._stamps[-1] - self._history_s:
            self.count(late=1)
            return False
        self.count(out_of_order=int(place < len(self._stamps)))
        self._stamps.insert(place, stamp)
        self._last = Entry(stamp=stamp, value=value)
        self._entries.insert(place, self._last)
        expired = bisect.bisect_left(self._stamps, self._stamps[-1] - self._history_s)
        del self._stamps[:expired], self._entries[:expired]
        return True

    def refuse(self, reason: str) -> None:
        """Counts a message that cannot be used."""
        self.count(received=1, malformed=1)
        self.refusal = reason

    def at(self, t: float) -> Entry | None:
        """The newest message with stamp <= t, as ``wam.history`` picks it in a dataset."""
        if not self._stamps:
            return None
        picked = pick(self._stamps, (t,))
        return self._entries[int(picked.places[0])] if picked.ages[0] >= 0 else None

    def between(self, first: float, last: float) -> list[Entry]:
        """The messages with first <= stamp <= last, of those that are kept."""
        return self._entries[bisect.bisect_left(self._stamps, first) : bisect.bisect_right(self._stamps, last)]

    def clear(self) -> None:
        """Forgets messages, not counts."""
        self._stamps.clear()
        self._entries.clear()

    def count(self, **increments: int) -> None:
        """Adds to the counts."""
        now = vars(self.counts)
        self.counts = StreamCounts(**{name: value + increments.get(name, 0) for name, value in now.items()})


class ImageWatch:
    """Notices a camera that goes on stamping the same picture.

    Identical pixels alone prove nothing: a simulated camera draws a still scene twice alike. Identical pixels while
    the arm moved do, and when it moved is a matter of stamps: messages of joint states that come later than the picture
    of the same moment, as on a busy computer, must not count as motion that the picture does not show. An arm that is
    held because of it would never move again, and so never show another picture.
    """

    def __init__(self) -> None:
        self.frames = 0  # frames in a row with the same pixels, after the first of them
        self._fingerprint: int | None = None
        self._looked, self._last = np.inf, -np.inf  # stamps [s]: of the state last looked at; of the newest frame
        self._low = self._high = np.zeros(0)  # (P,) of the states since the first of the frames, empty without any

    def add(self, image: np.ndarray, stamp: float) -> bool:
        """Looks at a frame that is newer than those before; True if it has the pixels of the last one."""
        fingerprint = fingerprint_pixels(image)
        same = fingerprint == self._fingerprint
        self.frames = self.frames + 1 if same else 0
        if not same:
            self._fingerprint, self._looked = fingerprint, stamp
            self._low = self._high = np.zeros(0)
        self._last = stamp
        return same

    def look(self, states: Stream) -> None:
        """Takes in where the arm was from the first frame with these pixels to the newest."""
        for entry in states.between(self._looked, self._last):
            self._low = np.minimum(self._low, entry.value) if self._low.size else entry.value
            self._high = np.maximum(self._high, entry.value) if self._high.size else entry.value
            self._looked = entry.stamp  # those of the time up to the newest frame may still be on their way

    @property
    def frozen(self) -> bool:
        """Whether the arm moved behind pixels that did not."""
        if self.frames < FROZEN_FRAMES or not self._low.size:
            return False
        return bool((self._high - self._low).max() > FROZEN_MOTION)


def fingerprint_pixels(image: np.ndarray) -> int:
    """Returns a checksum of (height, width, 3) pixels on a coarse grid."""
    step = max(1, min(image.shape[:2]) // HASHED_SIDE_PX)
    return zlib.crc32(np.ascontiguousarray(image[::step, ::step]))
