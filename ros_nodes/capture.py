"""Frames from a camera, a video file or a folder of pictures, each with the steady time it was taken at. No ROS.

A device is read in a thread of its own, because a read blocks until the next frame, or for seconds once the cable is
out. The time of a frame is the driver's own where it tells one (V4L2 does, on the steady clock), else the moment the
read returned. A source that fails is closed and opened again, for as long as it takes.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from policy.streams import fingerprint_pixels
from ros_nodes.errors import NodeError

__all__ = ["Capture", "CaptureState", "Frame", "Source", "open_source"]

PICTURES = (".png", ".jpg", ".jpeg", ".bmp")
DRIVER_TIME_S = 1.0  # a driver's time stamp that is older than this is not on the steady clock


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One frame."""

    rgb: np.ndarray  # (height, width, 3) rgb_hwc_u8
    taken: float  # steady time, time.monotonic() [s]


@dataclass(frozen=True, kw_only=True)
class CaptureState:
    """How a capture goes."""

    frames: int = 0  # read since the start
    reconnects: int = 0  # times the source was opened again
    same_pixels: int = 0  # frames in a row with the pixels of the one before; a live sensor always has some noise
    newest: float = 0.0  # steady time of the newest frame [s]
    problem: str = ""  # why there is no frame now


class Source(Protocol):
    """An open source."""

    def read(self) -> Frame | None:
        """Waits for the next frame; None when there will be no more."""

    def close(self) -> None:
        """Lets go of it."""


class Capture:
    """Reads a source in a thread and hands every frame on.

    Args:
        open_it: Opens the source; raises ``NodeError`` when it cannot.
        on_frame: Called in the thread with every frame.
        retry_s: Time between two attempts to open [s].
    """

    def __init__(
        self, open_it: Callable[[], Source], on_frame: Callable[[Frame], None], *, retry_s: float = 1.0
    ) -> None:
        self._open, self._on_frame, self._retry_s = open_it, on_frame, retry_s
        self.state = CaptureState()
        self._again = threading.Event()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._work, name="capture", daemon=True)
        self._thread.start()

    def reconnect(self) -> None:
        """Closes the source after the current read and opens it again: for one that is frozen."""
        self._again.set()

    def close(self, patience_s: float = 2.0) -> None:
        """Ends; a driver that hangs is left behind in its thread."""
        self._end.set()
        self._thread.join(timeout=patience_s)

    def _work(self) -> None:
        while not self._end.is_set():
            self._again.clear()
            try:
                with contextlib.closing(self._open()) as source:
                    self._read(source)
            except NodeError as error:
                self._note(problem=str(error))
            if not self._end.is_set():
                self._end.wait(self._retry_s)
                self._note(reconnects=self.state.reconnects + 1)

    def _read(self, source: Source) -> None:
        last = None
        while not (self._end.is_set() or self._again.is_set()):
            frame = source.read()
            if frame is None:
                self._note(problem="the source gives no more frames")
                return
            fingerprint = fingerprint_pixels(frame.rgb)
            same = self.state.same_pixels + 1 if fingerprint == last else 0
            last = fingerprint
            self._note(frames=self.state.frames + 1, same_pixels=same, newest=frame.taken, problem="")
            self._on_frame(frame)

    def _note(self, **changes: object) -> None:
        self.state = CaptureState(**{**vars(self.state), **changes})


def open_source(device: str, *, width_px: int, height_px: int, rate_hz: float, fourcc: str, loop: bool) -> Source:
    """Opens a camera, a video file or a folder of pictures.

    Args:
        device: Index ("0"), device file, video file or folder.
        width_px: Asked of a device.
        height_px: Asked of a device.
        rate_hz: Asked of a device; the speed at which files are played.
        fourcc: Pixel format asked of a device, such as "MJPG"; "" leaves it.
        loop: Begin again at the end of a file or folder.

    Raises:
        NodeError: It cannot be opened.
    """
    path = Path(device)
    if path.is_dir():
        return _Played(_pictures(path, loop), rate_hz)
    if path.is_file():
        return _Played(_video(path, loop), rate_hz)
    capture = cv2.VideoCapture(int(device) if device.isdigit() else device)
    if not capture.isOpened():
        raise NodeError(
            f"camera '{device}' cannot be opened: it is not plugged in, is used by another program, or this user may "
            "not read it (group 'video'); v4l2-ctl --list-devices shows what there is."
        )
    if fourcc:
        capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*fourcc))
    for what, value in (
        (cv2.CAP_PROP_FRAME_WIDTH, width_px),
        (cv2.CAP_PROP_FRAME_HEIGHT, height_px),
        (cv2.CAP_PROP_FPS, rate_hz),
        (cv2.CAP_PROP_BUFFERSIZE, 1),  # an old frame is worth nothing
    ):
        capture.set(what, value)
    return _Device(capture)


class _Device:
    """A camera."""

    def __init__(self, capture: cv2.VideoCapture) -> None:
        self._capture = capture

    def read(self) -> Frame | None:
        if not self._capture.grab():
            return None
        now = time.monotonic()
        driver = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1e3
        taken = driver if 0 <= now - driver < DRIVER_TIME_S else now
        done, bgr = self._capture.retrieve()
        return Frame(rgb=cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), taken=taken) if done else None

    def close(self) -> None:
        self._capture.release()


class _Played:
    """Frames of a file, at a steady rate."""

    def __init__(self, frames: Iterator[np.ndarray], rate_hz: float) -> None:
        self._frames, self._period = frames, 1.0 / rate_hz
        self._due = time.monotonic()

    def read(self) -> Frame | None:
        bgr = next(self._frames, None)
        if bgr is None:
            return None
        time.sleep(max(0.0, self._due - time.monotonic()))
        self._due = max(self._due + self._period, time.monotonic())
        return Frame(rgb=cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), taken=time.monotonic())

    def close(self) -> None:
        pass


def _pictures(folder: Path, loop: bool) -> Iterator[np.ndarray]:
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES)
    if not paths:
        raise NodeError(f"folder {folder} holds no pictures ({', '.join(PICTURES)}).")
    return _again_and_again(lambda: (_picture(path) for path in paths), loop)


def _picture(path: Path) -> np.ndarray:
    bgr = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if bgr is None:
        raise NodeError(f"{path} is not a picture that OpenCV can read.")
    return bgr


def _video(path: Path, loop: bool) -> Iterator[np.ndarray]:
    capture = cv2.VideoCapture(str(path))
    if not capture.isOpened():
        raise NodeError(f"{path} is not a video that OpenCV can read.")
    capture.release()

    def frames() -> Iterator[np.ndarray]:
        capture = cv2.VideoCapture(str(path))
        while (read := capture.read())[0]:
            yield read[1]
        capture.release()

    return _again_and_again(frames, loop)


def _again_and_again(frames: Callable[[], Iterator[np.ndarray]], loop: bool) -> Iterator[np.ndarray]:
    yield from frames()
    while loop:
        yield from frames()
