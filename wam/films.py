"""Pictures out of films, one at a time: of a film only the two frames around the time that is asked for are in memory.

Which frame belongs to a time is decided as in LeRobot's PyAV decoder, and its pixels are the same bit by bit: decoding
begins at the key frame before the first time, and the frame that is nearest in float32 is taken. LeRobot's decoder
returns all pictures at once: two minutes of 640 x 480 px are gigabytes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wam.errors import DatasetError

__all__ = ["FilmHeader", "frames_at", "frames_by_rate", "read_header", "tolerance_s"]

TOLERANCE_S = 1e-4  # by which a picture's time may differ from the one asked for [s]; LeRobot's own
CLOCK_ERROR_S = 1e-3  # rounding of time stamps in films that no robot's recorder wrote [s]


def tolerance_s(asked: Any) -> Any:
    """By how much a picture's time may differ from the one asked for [s]: LeRobot's tolerance, and float32's rounding.

    Times of rows are stored as float32, and LeRobot's decoder compares in it: twenty minutes into a film its steps are
    longer than LeRobot's tolerance.
    """
    return TOLERANCE_S + 4 * np.finfo(np.float32).eps * np.abs(asked)


@dataclass(frozen=True, kw_only=True)
class FilmHeader:
    """What a film says of its pictures before one is decoded."""

    size_px: tuple[int, int]  # (width, height), as people and robot files write it
    colours: bool  # False where only brightness is stored


def read_header(path: Path) -> FilmHeader:
    """Reads the head of a film.

    Raises:
        DatasetError: There is no film, or it does not say how large its pictures are.
    """
    import av

    try:
        with av.open(str(path)) as container:
            codec = container.streams.video[0].codec_context
            size_px, layout = (codec.width, codec.height), codec.pix_fmt or ""
    except (OSError, av.error.FFmpegError, IndexError) as error:
        raise DatasetError(f"video {path} cannot be read: {error}.") from error
    if 0 in size_px:
        raise DatasetError(f"video {path} does not say how large its pictures are: it was truncated or damaged.")
    return FilmHeader(size_px=size_px, colours=not layout.startswith("gray"))


def frames_at(path: Path, seconds: Sequence[float]) -> Iterator[np.ndarray]:
    """Decodes the pictures of some times, one after the other.

    Args:
        path: The film.
        seconds: Times in the film [s], ascending.

    Yields:
        (height, width, 3) rgb_hwc_u8, one for each time.

    Raises:
        DatasetError: The film is missing, damaged, or has no frame at one of the times.
    """
    frames = _decoded(path, first_s=seconds[0])
    before: tuple[float, Any] | None = None
    newest = next(frames, None)
    if newest is None:
        raise DatasetError(f"it has no frame at or after {seconds[0]:.4f} s")
    for asked in seconds:
        while newest[0] < asked and (following := next(frames, None)) is not None:
            before, newest = newest, following
        around = [newest] if before is None else [before, newest]
        distance, frame = min(((_apart(time, asked), frame) for time, frame in around), key=lambda pair: pair[0])
        if not distance < tolerance_s(asked):
            raise DatasetError(f"its frame nearest to {asked:.4f} s is {distance:.4f} s away")
        yield _rgb(frame)


def frames_by_rate(path: Path, step_s: float) -> Iterator[np.ndarray]:
    """Decodes a whole film at a fixed rate: at each instant the first frame that is not earlier.

    Args:
        path: The film, of any rate.
        step_s: Time between two pictures [s].

    Yields:
        (height, width, 3) rgb_hwc_u8.

    Raises:
        DatasetError: The film is missing, damaged or empty.
    """
    due = 0.0
    for time, frame in _decoded(path):
        while time >= due - CLOCK_ERROR_S:
            yield _rgb(frame)
            due += step_s
    if not due:
        raise DatasetError(f"video {path} holds no frame.")


def _decoded(path: Path, first_s: float | None = None) -> Iterator[tuple[float, Any]]:
    """Times [s] and frames of a film, from the key frame before a time on."""
    import av

    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            if first_s is not None:
                # One tick early, or a time between two ticks would begin at the key frame behind it
                container.seek(round(first_s / stream.time_base) - 1, backward=True, any_frame=False, stream=stream)
            for frame in container.decode(stream):
                if frame.pts is not None:
                    yield float(frame.pts * stream.time_base), frame
    except (OSError, av.error.FFmpegError, IndexError) as error:
        raise DatasetError(f"video {path} cannot be decoded ({type(error).__name__}: {error})") from error


def _apart(time: float, asked: float) -> float:
    """Distance as LeRobot's decoder computes it, so that the same frame is nearest."""
    return float(abs(np.float32(time) - np.float32(asked)))


def _rgb(frame: Any) -> np.ndarray:
    return frame.to_ndarray(format="rgb24")
