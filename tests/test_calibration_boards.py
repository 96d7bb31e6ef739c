"""Boards: their description, their print in true scale, and finding them in pictures."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.board_pdf import PAGES_MM, board_pdf
from calibration.boards import DEFAULT_BOARD, Board, parse_board
from calibration.detection import check_detections, detect
from calibration.errors import CalibrationError
from calibration.main import main
from calibration.rigid import apply, exp, pose
from tests.board_pictures import photograph, straight_lens
from wam.lens import project

CHESSBOARD = "chessboard-9x6-25mm"
POINTS_PER_MM = 72 / 25.4


def facing(board: Board, distance: float, slant: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> np.ndarray:
    """``T_camera_board`` with the board's middle on the axis."""
    turn = exp(np.array([*slant, 0.0, 0.0, 0.0]))
    middle = np.array([*board.size_m, 0.0]) / 2
    return pose(turn[:3, :3], np.array([0.0, 0.0, distance]) - turn[:3, :3] @ middle)


# ------------------------------------------------------------------------------------------------ description


@given(
    kind=st.sampled_from(["charuco", "chessboard"]),
    columns=st.integers(3, 7),
    rows=st.integers(3, 7),
    square=st.integers(20, 80),
)
@settings(max_examples=40, deadline=None)
def test_a_description_reads_back(kind: str, columns: int, rows: int, square: int) -> None:
    marker = {"marker_m": round(0.75 * square) / 1e3, "dictionary": "4X4_50"} if kind == "charuco" else {}
    board = Board(kind=kind, columns=columns, rows=rows, square_m=square / 1e3, **marker)
    assert parse_board(str(board)) == board
    assert len(board.points) == (columns - 1) * (rows - 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("9x6", "board '9x6' is not understood: write charuco-"),
        ("charuco-9x6-28mm", "is not understood"),
        ("chessboard-2x6-28mm", "must have 3 to 60"),
        ("chessboard-9x6-0.2mm", "must be 1 to 1000 mm"),
        ("charuco-9x6-28mm-27.5mm-4X4_50", "a marker must be 30 to 95 % of its square"),
        ("charuco-9x6-28mm-21mm-4X4_5", "did you mean '4X4_50'"),
        ("charuco-12x12-28mm-21mm-4X4_50", "needs 72 markers but dictionary 4X4_50 has 50"),
    ],
)
def test_a_board_that_cannot_exist_is_refused(text: str, message: str) -> None:
    with pytest.raises(CalibrationError, match=re.escape(message)):
        parse_board(text)


# ------------------------------------------------------------------------------------------------ print


def page_of(pdf: bytes) -> tuple[tuple[float, float], np.ndarray]:
    """Page size [mm] and (N, 4) rectangles x, y, width, height [mm] from the bottom left."""
    box = re.search(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)\]", pdf)
    assert box
    stream = re.search(rb"stream\n(.*?)endstream", pdf, re.DOTALL)
    assert stream
    rectangles = [[float(n) for n in line.split()[:4]] for line in stream[1].splitlines() if line.endswith(b"re f")]
    width, height = (float(value) / POINTS_PER_MM for value in box.groups())
    return (width, height), np.array(rectangles) / POINTS_PER_MM


@pytest.mark.parametrize(
    ("text", "page"),
    [
        *((DEFAULT_BOARD, page) for page in ("A4", "A3", "Letter", "700x500mm")),
        pytest.param(CHESSBOARD, "A4", marks=pytest.mark.slow),
    ],
)
def test_the_print_is_in_true_scale(text: str, page: str) -> None:
    board = parse_board(text)
    size, rectangles = page_of(board_pdf(board, page))
    wanted = (700.0, 500.0) if page == "700x500mm" else PAGES_MM[page]
    assert sorted(size) == pytest.approx(sorted(wanted), abs=1e-3)
    dots_per_mm = 6
    paper = np.full((round(size[1] * dots_per_mm), round(size[0] * dots_per_mm)), 255, np.uint8)
    for x, y, across, down in rectangles:
        rows = slice(round((size[1] - y - down) * dots_per_mm), round((size[1] - y) * dots_per_mm))
        paper[rows, round(x * dots_per_mm) : round((x + across) * dots_per_mm)] = 0
    found = detect(board, paper)
    assert not found.problem
    assert len(found) == len(board.points)
    # What is printed, measured in millimetres on the paper: the board's own geometry, the right way up.
    measured = (found.pixels - found.pixels[0]) / dots_per_mm
    np.testing.assert_allclose(measured, 1e3 * (board.points - board.points[0])[found.ids, :2], atol=0.1)
    assert rectangles[:, :2].min() > 5
    assert (rectangles[:, :2] + rectangles[:, 2:] < np.array(size) - 5).all()


def test_ruler_ticks_are_ten_millimetres_apart_both_ways() -> None:
    _, rectangles = page_of(board_pdf(parse_board(DEFAULT_BOARD), "A4"))
    for axis in (0, 1):
        ticks = np.sort(rectangles[np.isclose(rectangles[:, 2 + axis], 0.25, atol=1e-3), axis])
        steps = np.diff(np.unique(ticks.round(3)))
        assert (np.isclose(steps, 10.0, atol=2e-3)).sum() >= 10


def test_the_pdf_is_whole() -> None:
    pdf = board_pdf(parse_board(DEFAULT_BOARD))
    start = int(re.search(rb"startxref\n(\d+)", pdf)[1])
    assert pdf[start:].startswith(b"xref")
    for number, offset in enumerate(re.findall(rb"(\d{10}) 00000 n", pdf), start=1):
        assert pdf[int(offset) :].startswith(b"%d 0 obj" % number)
    assert pdf.endswith(b"%%EOF\n")


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ("A5", "unknown page 'A5'"),
        ("A4", "take a larger page, squares of at most"),
    ],
)
def test_a_page_that_does_not_do_is_refused(page: str, message: str) -> None:
    with pytest.raises(CalibrationError, match=re.escape(message)):
        board_pdf(parse_board("chessboard-20x12-30mm"), page)


def test_the_command_writes_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["board", "--out", str(tmp_path / "board.pdf")]) == 0
    assert (tmp_path / "board.pdf").read_bytes().startswith(b"%PDF")
    assert "100 %" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------ in pictures


@pytest.mark.parametrize("text", [DEFAULT_BOARD, CHESSBOARD])
def test_corners_are_found_where_they_are(text: str) -> None:
    board, lens, errors = parse_board(text), straight_lens(), []
    for distance, slant in ((0.43, (0.0, 0.0, 0.3)), (0.41, (0.5, 0.2, 0.4)), (0.6, (-0.5, 0.3, -0.2))):
        at = facing(board, distance, slant)
        found = detect(board, photograph(board, lens, at))
        assert not found.problem
        assert len(found) == len(board.points)
        errors.append(found.pixels - project(lens, apply(at, board.points))[found.ids])
    together = np.concatenate(errors)
    assert np.sqrt((together**2).sum(axis=1).mean()) < 0.1
    assert np.abs(together.mean(axis=0)).max() < 0.03  # no bias of a fraction of a pixel


def test_blur_is_measured() -> None:
    board, lens = parse_board(DEFAULT_BOARD), straight_lens()
    sigmas = [detect(board, photograph(board, lens, facing(board, 0.4), blur_px=blur)).blur_px for blur in (0.6, 1.6)]
    assert sigmas[0] < 1.0
    assert sigmas[1] == pytest.approx(1.6, rel=0.3)


def problem_of(text: str, image: np.ndarray) -> str:
    return detect(parse_board(text), image).problem


def test_what_is_wrong_with_a_picture_is_said() -> None:
    board, lens = parse_board(DEFAULT_BOARD), straight_lens()
    image = photograph(board, lens, facing(board, 0.4))
    assert "mirrored" in problem_of(DEFAULT_BOARD, image[:, ::-1])
    assert "has 9 columns of squares but" in problem_of("charuco-7x6-28mm-21mm-4X4_50", image)
    assert "has more rows than described" in problem_of("charuco-9x4-28mm-21mm-4X4_50", image)
    assert "% of a square in the picture but 50 % in" in problem_of("charuco-9x6-28mm-14mm-4X4_50", image)
    assert f"describe it as {DEFAULT_BOARD}" in problem_of(f"{DEFAULT_BOARD}-legacy", image)
    assert "no marker of the board is visible" in problem_of(DEFAULT_BOARD, np.full((480, 640), 90, np.uint8))


@pytest.mark.slow
def test_a_chessboard_of_another_size_is_said() -> None:
    board, lens = parse_board(CHESSBOARD), straight_lens()
    image = photograph(board, lens, facing(board, 0.4))
    assert "a chessboard of 9 x 6 squares is visible where 8 x 5" in problem_of("chessboard-8x5-25mm", image)
    assert "no chessboard is visible" in problem_of(CHESSBOARD, np.full((480, 640), 90, np.uint8))


def test_pictures_of_several_sizes_and_too_few_are_refused() -> None:
    board, lens = parse_board(DEFAULT_BOARD), straight_lens()
    view = detect(board, photograph(board, lens, facing(board, 0.4)), "a.png")
    half = replace(view, size_px=(320, 240))
    with pytest.raises(CalibrationError, match=r"different sizes: 640 x 480 \(2\), 320 x 240 \(1\)"):
        check_detections(board, [view, view, half], needed=2)
    blank = detect(board, np.full((480, 640), 90, np.uint8))
    with pytest.raises(CalibrationError, match="found in 1 of 3 pictures but 6 are needed: 2 x no marker"):
        check_detections(board, [view, blank, blank], needed=6)


@pytest.mark.parametrize("there", ["5X5_100", "APRILTAG_36h11"])
def test_markers_of_another_dictionary_are_named(there: str) -> None:
    board, wanted = parse_board(f"charuco-7x5-24mm-18mm-{there}"), parse_board("charuco-7x5-24mm-18mm-4X4_50")
    image = photograph(board, straight_lens(), facing(board, 0.25, (0.2, 0.1, 0.0)))
    name = "5X5_50" if there.startswith("5") else there  # the smallest that holds the markers
    problem = detect(wanted, image).problem
    assert f"markers of dictionary {name} are visible, but none of 4X4_50" in problem
    assert not detect(parse_board(f"charuco-7x5-24mm-18mm-{name}"), image).problem


def test_a_negative_is_named() -> None:
    board = parse_board("charuco-7x5-24mm-18mm-4X4_50")
    image = photograph(board, straight_lens(), facing(board, 0.25, (0.2, 0.1, 0.0)))
    assert detect(board, 255 - image).problem.startswith("black and white are exchanged")
    assert detect(board, np.full_like(image, 90)).problem == "no marker of the board is visible"
