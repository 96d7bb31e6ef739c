"""Where pictures come from: a folder, one file, a live camera by number, device or address, or a film of one."""

import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from calibration.capture import load_picture
from calibration.errors import CalibrationError

__all__ = ["FILMS", "Camera", "fresh_picture", "is_film", "is_live"]

FILMS = (".mp4", ".mkv", ".avi", ".mov", ".webm")
_SETTLE_FRAMES = 10  # exposure and white balance need some pictures to settle
_USUAL_RATE_HZ = 30.0  # of a film that does not say its own


class Camera:
    """A live camera; a context manager that lets go of it."""

    def __init__(self, source: str, *, size_px: tuple[int, int] | None = None, device: Any = None) -> None:
        """Opens the camera.

        Args:
            source: Its number ("0"), device file, or stream address; or a film.
            size_px: Width and height to ask for; the driver's choice when None.
            device: Stands in for ``cv2.VideoCapture`` in tests.

        Raises:
            CalibrationError: It does not open or gives pictures of another size.
        """
        self._source = source
        self._device = device or cv2.VideoCapture(int(source) if source.isdigit() else source)
        if not self._device.isOpened():
            if is_film(source):
                raise CalibrationError(f"film {source} does not open: check its path, and that it plays elsewhere.")
            raise CalibrationError(
                f"camera '{source}' does not open: check its number (ls /dev/video*), that no other program uses it, "
                "and your rights (groups: video)."
            )
        if size_px is not None:
            self._device.set(cv2.CAP_PROP_FRAME_WIDTH, size_px[0])
            self._device.set(cv2.CAP_PROP_FRAME_HEIGHT, size_px[1])
            found = self.read().shape
            if (found[1], found[0]) != size_px:
                self._device.release()
                raise CalibrationError(
                    f"camera '{source}' gives {found[1]} x {found[0]} px but {size_px[0]} x {size_px[1]} were asked "
                    "for: calibrate at a size that it has and that the robot file names."
                )

    def __enter__(self) -> "Camera":
        return self

    def __exit__(self, *_: object) -> None:
        self._device.release()

    def read(self) -> np.ndarray:
        """The next picture, (height, width, 3) rgb_hwc_u8.

        Raises:
            CalibrationError: The camera gives none.
        """
        good, frame = self._device.read()
        if not good or frame is None:
            raise CalibrationError(f"camera '{self._source}' stopped giving pictures: check its cable.")
        return cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)

    def frames(self) -> Iterator[tuple[float, np.ndarray]]:
        """Pictures and when they were read [s], steady clock; endless, but for a film, which has its own time."""
        if not is_film(self._source):
            while True:
                image = self.read()
                yield time.monotonic(), image
        rate = self._device.get(cv2.CAP_PROP_FPS) or _USUAL_RATE_HZ
        for index in itertools.count():
            good, frame = self._device.read()
            if not good or frame is None:
                return
            yield index / rate, cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)


def is_film(source: str) -> bool:
    """Whether a source is a recorded film."""
    return Path(source).suffix.lower() in FILMS


def is_live(source: str) -> bool:
    """Whether a source is a camera, or a film of one, rather than pictures."""
    return source.isdigit() or source.startswith("/dev/") or "://" in source or is_film(source)


def fresh_picture(source: str, *, device: Any = None) -> np.ndarray:
    """One picture: from a camera, after it has settled, or from a file.

    Raises:
        CalibrationError: There is none.
    """
    if not is_live(source):
        return load_picture(Path(source))
    with Camera(source, device=device) as camera:
        for _ in range(_SETTLE_FRAMES):
            camera.read()
        return camera.read()
