"""Video encoding of demonstrations: colours survive, frames keep their places, statistics are exact."""

import io
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sim.encoding import QUANTILES, encode_video, get_codec, image_statistics, join_videos
from sim.errors import SimError

av = pytest.importorskip("av")


def scene(frames: int, side: int = 96) -> np.ndarray:
    """(T, side, side, 3) a shaded table on which a small saturated square moves: the hard case for halved chroma."""
    images = np.empty((frames, side, side, 3), np.uint8)
    images[...] = np.linspace(90, 160, side).astype(np.uint8)[:, None, None]
    for t in range(frames):
        images[t, 30:42, 5 + t : 17 + t] = (220, 25, 25)
        images[t, 50 + t % 20 : 62 + t % 20, 60:72] = (20, 60, 225)
    return images


def decode(video) -> tuple[np.ndarray, list[Fraction]]:
    with av.open(video) as container:
        frames = list(container.decode(video=0))
    return np.stack([f.to_ndarray(format="rgb24") for f in frames]), [f.pts * f.time_base for f in frames]


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2)))


def test_default_codec_keeps_colours_and_portable_does_not():
    images = scene(20)
    exact, _ = decode(io.BytesIO(encode_video(images, 10, get_codec("exact"))))
    portable, _ = decode(io.BytesIO(encode_video(images, 10, get_codec("portable"))))
    assert psnr(images, exact) > 44
    assert psnr(images, exact) > psnr(images, portable) + 5
    inside = (exact[:, 32:40, 30:34].astype(float) - images[:, 32:40, 30:34]).mean(axis=(0, 1, 2))
    assert np.abs(inside).max() < 1.5


@pytest.mark.parametrize("fps", [7, 10, 30])
def test_joined_videos_keep_every_frame_at_its_exact_time(tmp_path, fps):
    parts, expected = [], []
    for index, length in enumerate((1, 12, 5, 30)):
        part = tmp_path / f"{index}.mp4"
        part.write_bytes(encode_video(scene(length), fps, get_codec("exact")))
        parts.append(part)
        expected.append(decode(str(part))[0])
    join_videos(parts, tmp_path / "joined.mp4", fps)
    images, seconds = decode(str(tmp_path / "joined.mp4"))
    assert np.array_equal(images, np.concatenate(expected))
    assert seconds == [Fraction(n, fps) for n in range(48)]


@settings(max_examples=30)
@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 6), st.just(3))))
def test_image_statistics_agree_with_numpy(images):
    pixels = images.reshape(-1, 3)
    found = image_statistics(images)
    assert found["count"] == [len(images)]
    for name, function in {"min": np.min, "max": np.max, "mean": np.mean, "std": np.std}.items():
        np.testing.assert_allclose(found[name], function(pixels, axis=0), atol=1e-5)
    for name, quantile in QUANTILES.items():
        np.testing.assert_array_equal(found[name], np.quantile(pixels, quantile, axis=0, method="inverted_cdf"))


def test_unknown_codec_suggests_the_closest():
    with pytest.raises(SimError, match="unknown video codec 'exakt'.*did you mean 'exact'.*portable"):
        get_codec("exakt")
