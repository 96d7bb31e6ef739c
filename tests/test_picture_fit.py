"""Fits: where things of a picture come to lie in the model's, what is lost, and what is said about it."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from wam.picture_fit import FITS, fit_note, fit_picture, same_aspect

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def wide() -> np.ndarray:
    """640 x 480 px: 80 px of red and of blue at the sides, green between, and a dot of 40 px white in the middle."""
    picture = np.zeros((480, 640, 3), np.uint8)
    picture[:, :80], picture[:, 80:560], picture[:, 560:] = RED, GREEN, BLUE
    picture[220:260, 300:340] = 255
    return picture


def whites(picture: np.ndarray) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(height, width) of the white dot and the pixel it begins at."""
    rows, columns = np.nonzero(picture.min(axis=2) > 250)
    return (int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1), (int(rows.min()), int(columns.min()))


def test_crop_keeps_the_middle_and_loses_the_sides():
    small = fit_picture(wide(), (96, 96), "crop")
    assert whites(small) == ((8, 8), (44, 44))
    assert (tuple(small[0, 0]), tuple(small[0, -1])) == (GREEN, GREEN)


def test_pad_keeps_everything_and_its_proportions():
    small = fit_picture(wide(), (96, 96), "pad")
    assert whites(small) == ((6, 6), (45, 45))
    assert not small[:12].any()
    assert not small[-12:].any()
    assert (tuple(small[12, 0]), tuple(small[-13, -1])) == (RED, BLUE)


def test_stretch_keeps_everything_but_its_proportions():
    small = fit_picture(wide(), (96, 96), "stretch")
    assert whites(small) == ((8, 6), (44, 45))
    assert (tuple(small[0, 0]), tuple(small[-1, -1])) == (RED, BLUE)
    assert (tuple(small[0, 11]), tuple(small[0, 12])) == (RED, GREEN)


def test_stretch_averages_the_side_that_shrinks_though_the_other_grows():
    stripes = np.zeros((10, 400, 3), np.uint8)
    stripes[:, ::2] = 200
    small = fit_picture(stripes, (50, 50), "stretch")
    assert small.min() == small.max() == 100


def test_high_pictures_are_treated_like_wide_ones():
    for fit in FITS:
        turned = fit_picture(np.ascontiguousarray(wide().transpose(1, 0, 2)), (96, 96), fit)
        assert np.array_equal(turned, fit_picture(wide(), (96, 96), fit).transpose(1, 0, 2))


@given(
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    target=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    fit=st.sampled_from(FITS),
)
def test_every_fit_gives_the_size_that_was_asked_for(size, target, fit):
    picture = np.full((*size, 3), 77, np.uint8)
    out = fit_picture(picture, target, fit)
    assert (out.shape, out.dtype) == ((*target, 3), np.uint8)
    assert set(np.unique(out)) <= ({0, 77} if fit == "pad" else {77})
    if size == target:
        assert np.array_equal(out, picture)


def test_what_a_fit_does_is_said_in_pixels():
    said = fit_note("front", (480, 640), (96, 96), "crop")
    assert "gives 640x480 px and the model sees 96x96: fit crop cuts off 80 px of its pictures on each side" in said
    assert "left and right (fit: pad or fit: stretch" in said
    assert "cuts off 80 px of its pictures on each side, top and bottom" in fit_note("f", (640, 480), (96, 96), "crop")
    assert "adds 12 black px of the model's on each side, top and bottom" in fit_note("f", (480, 640), (96, 96), "pad")
    assert "1.33 times narrower" in fit_note("f", (480, 640), (96, 96), "stretch")
    assert "1.33 times flatter" in fit_note("f", (640, 480), (96, 96), "stretch")
    for fit in FITS:
        assert fit_note("front", (480, 480), (96, 96), fit) == ""
        assert fit_note("front", (96, 128), (480, 640), fit) == ""


def test_an_aspect_is_the_same_but_for_rounding():
    assert same_aspect((640, 480), (320, 240))
    assert same_aspect((848, 480), (1920, 1080))
    assert not same_aspect((640, 480), (1280, 720))
    assert not same_aspect((640, 480), (480, 640))
