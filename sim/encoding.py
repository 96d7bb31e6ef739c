"""Video of one camera of one episode: frames → mp4 bytes, and the image statistics LeRobot stores; no torch.

Measured on 96 x 96 px frames of our scenes (one thread, PyAV 15): milliseconds of CPU per frame to encode, PSNR of the
decoded frames, kilobytes per episode of 40 steps and two cameras.

| codec                                | ms   | PSNR dB | kB |
|--------------------------------------|------|---------|----|
| h264 yuv444p crf 14 ultrafast g 10   | 0.12 | 48.5    | 73 |
| h264 yuv420p crf 14 ultrafast g 10   | 0.12 | 34.6    | 59 |
| h264 yuv420p crf 18 veryfast g 2     | 0.17 | 34.2    | 50 |
| hevc yuv444p crf 14 ultrafast g 10   | 0.56 | 42.3    | 67 |
| libsvtav1 yuv420p crf 30 preset 12   | 0.88 | 33.6    | 34 |

The last row is LeRobot's default. Halved chroma (4:2:0) costs 14 dB at the edges of small coloured things and shifts
colours by up to 2/255, whatever the bit rate: a policy would be trained on other colours than it sees. So full chroma
is the default; ``portable`` is for viewers in a browser, most of which show 4:2:0 only.

Shape legend: T frames.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from sim.errors import SimError
from wam.errors import unknown_name

__all__ = [
    "CODECS",
    "PixelStatistics",
    "VideoCodec",
    "VideoEncoder",
    "encode_video",
    "get_codec",
    "image_statistics",
    "join_videos",
]

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}  # those LeRobot keeps


@dataclass(frozen=True, kw_only=True)
class VideoCodec:
    """Encoder settings, in LeRobot's words; they are written into the dataset's info.json."""

    vcodec: str = "h264"  # read by every LeRobot back-end; seven times cheaper than AV1 at this size
    pix_fmt: str = "yuv444p"  # full chroma resolution
    g: int = 10  # frames from one key frame to the next; random access decodes at most these
    crf: int = 14  # quality; below this the rounding of RGB to YUV dominates the error
    preset: str = "ultrafast"  # has no B-frames, so packets keep the order of frames; slower ones only save disk

    def options(self) -> dict[str, str]:
        """Options for the encoder; one thread, because each worker has its own core."""
        return {"g": str(self.g), "crf": str(self.crf), "preset": self.preset, "threads": "1"}


CODECS: dict[str, VideoCodec] = {"exact": VideoCodec(), "portable": VideoCodec(pix_fmt="yuv420p")}


def get_codec(name: str) -> VideoCodec:
    """Returns a codec by name.

    Raises:
        SimError: No such codec.
    """
    if name not in CODECS:
        raise SimError(unknown_name("video codec", name, CODECS))
    return CODECS[name]


class VideoEncoder:
    """Encodes one camera of one episode, frame by frame, in memory: a full disk shows when the bytes are written.

    ``finish`` or ``close`` it: FFmpeg crashes the process when it is left to the garbage collector.

    Args:
        fps: Frames per second.
        codec: Encoder settings.
    """

    def __init__(self, fps: int, codec: VideoCodec) -> None:
        import av

        self._fps, self._codec, self._frames = fps, codec, 0
        self._buffer = io.BytesIO()
        self._container = av.open(self._buffer, "w", format="mp4")
        self._stream: Any = self._container.add_stream(codec.vcodec, fps, options=codec.options())
        self._stream.pix_fmt = codec.pix_fmt
        self._stream.time_base = Fraction(1, fps)

    def add(self, rgb_hwc_u8: np.ndarray) -> None:
        """Appends a frame, (height, width, 3); all have the size of the first."""
        import av

        if self._frames == 0:
            self._stream.height, self._stream.width = rgb_hwc_u8.shape[:2]
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb_hwc_u8), format="rgb24")
        frame.pts, frame.time_base = self._frames, Fraction(1, self._fps)
        self._container.mux(self._stream.encode(frame))
        self._frames += 1

    def finish(self) -> bytes:
        """Returns a complete mp4 file of at least one frame."""
        self._container.mux(self._stream.encode(None))
        self.close()
        return self._buffer.getvalue()

    def close(self) -> None:
        """Gives the video up; nothing happens when it is finished."""
        self._container.close()


def encode_video(frames: np.ndarray, fps: int, codec: VideoCodec) -> bytes:
    """Encodes one episode of one camera.

    Args:
        frames: (T, height, width, 3) rgb_hwc_u8.
        fps: Frames per second.
        codec: Encoder settings.

    Returns:
        A complete mp4 file.
    """
    encoder = VideoEncoder(fps, codec)
    try:
        for image in frames:
            encoder.add(image)
        return encoder.finish()
    finally:
        encoder.close()


def join_videos(parts: Sequence[Path], out: Path, fps: int) -> None:
    """Joins videos of one codec without decoding them; frame n of the result is at n / fps, exactly.

    FFmpeg's concat demuxer, which lerobot uses, counts durations in whole microseconds, so times would drift off at
    rates such as 30 frames per second.

    Args:
        parts: mp4 files made by ``encode_video`` with the same settings.
        out: mp4 file to write.
        fps: Frames per second.
    """
    import av

    av.logging.set_libav_level(av.logging.ERROR)  # once lerobot is loaded, FFmpeg's notes run through progress bars
    with av.open(str(out), "w", format="mp4", options={"movflags": "faststart"}) as joined:
        stream: Any = None
        count = 0
        for part in parts:
            with av.open(str(part)) as source:
                if stream is None:
                    stream = joined.add_stream_from_template(source.streams.video[0], opaque=True)
                    stream.time_base = Fraction(1, fps)
                for packet in source.demux(source.streams.video[0]):
                    if packet.size == 0:  # end of the file
                        continue
                    packet.stream, packet.time_base = stream, Fraction(1, fps)
                    packet.pts = packet.dts = count
                    packet.duration = 1
                    joined.mux(packet)
                    count += 1


class PixelStatistics:
    """Per-channel statistics of all pixels of an episode, exact because there are only 256 values."""

    def __init__(self) -> None:
        self._counts = np.zeros((3, 256), dtype=np.int64)
        self._frames = 0

    def add(self, frames: np.ndarray) -> None:
        """Counts the pixels of (..., height, width, 3) rgb_hwc_u8: one frame or many."""
        pixels = frames.reshape(-1, 3)
        self._counts += np.stack([np.bincount(pixels[:, channel], minlength=256) for channel in range(3)])  # (3, 256)
        self._frames += 1 if frames.ndim == 3 else len(frames)

    def result(self) -> dict[str, list[float]]:
        """Returns ``min max mean std q01 q10 q50 q90 q99`` as three numbers in [0, 255] each, and ``count``, frames."""
        levels = np.arange(256)
        share = self._counts / self._counts.sum(axis=1, keepdims=True)
        mean = share @ levels
        cumulative = np.cumsum(share, axis=1)
        statistics = {
            "min": [int(np.flatnonzero(row)[0]) for row in self._counts],
            "max": [int(np.flatnonzero(row)[-1]) for row in self._counts],
            "mean": mean.tolist(),
            "std": np.sqrt(np.maximum(0.0, share @ levels**2 - mean**2)).tolist(),
        }
        for name, quantile in QUANTILES.items():
            # A hair below the quantile, so that the last level is found in spite of rounding in the sum.
            statistics[name] = [int(np.searchsorted(row, quantile - 1e-12)) for row in cumulative]
        return {**statistics, "count": [self._frames]}


def image_statistics(frames: np.ndarray) -> dict[str, list[float]]:
    """Statistics of (T, height, width, 3) rgb_hwc_u8; see ``PixelStatistics``."""
    statistics = PixelStatistics()
    statistics.add(frames)
    return statistics.result()
