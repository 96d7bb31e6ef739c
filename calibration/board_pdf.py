"""Boards as PDF files in true scale: vector rectangles, a 100 mm ruler to check the print, nothing to rasterise.

A PDF page is measured in points, 72 to the inch. Printers like to scale: the page says to print at 100 % and gives two
rulers, one each way, because some printers stretch the paper's direction of travel only.
"""

import re
from pathlib import Path

from calibration.boards import Board
from calibration.errors import CalibrationError
from wam.errors import unknown_name

__all__ = ["PAGES_MM", "board_pdf", "page_size_mm", "write_board_pdf"]

PAGES_MM = {"A2": (420.0, 594.0), "A3": (297.0, 420.0), "A4": (210.0, 297.0), "Letter": (215.9, 279.4)}
POINTS_PER_MM = 72 / 25.4
RULER_MM = 100.0
_EDGE_MM = 6.0  # what most printers cannot print on
_NOTE_MM = 8.0  # room for the text and the ruler, below and at the left


def page_size_mm(page: str, board: Board) -> tuple[float, float]:
    """Returns width and height of a page [mm], turned so that the board fits better.

    Args:
        page: A name of ``PAGES_MM`` or ``<width>x<height>mm``, which is not turned.
        board: What is to be printed.

    Raises:
        CalibrationError: No such page.
    """
    custom = re.fullmatch(r"(\d+(?:\.\d+)?)x(\d+(?:\.\d+)?)mm", page)
    if custom:
        return float(custom[1]), float(custom[2])
    known = {name.lower(): size for name, size in PAGES_MM.items()}
    if page.lower() not in known:
        raise CalibrationError(
            unknown_name("page", page, PAGES_MM, fix="Or <width>x<height>mm, for example 600x400mm.")
        )
    short, long = known[page.lower()]
    width, height = board.size_m
    return (long, short) if width >= height else (short, long)


def board_pdf(board: Board, page: str = "A4") -> bytes:
    """Draws a board in true scale.

    Args:
        board: The board.
        page: As for ``page_size_mm``.

    Returns:
        A PDF file of one page.

    Raises:
        CalibrationError: The board does not fit on the page; the message says which size would.
    """
    width, height = page_size_mm(page, board)
    board_width, board_height = (1e3 * side for side in board.size_m)
    room = (width - 2 * _EDGE_MM - _NOTE_MM, height - 2 * _EDGE_MM - _NOTE_MM)
    share = min(room[0] / board_width, room[1] / board_height)
    if share < 1:
        square = int(share * 1e3 * board.square_m)
        raise CalibrationError(
            f"board {board} is {board_width:g} x {board_height:g} mm but a page of {width:g} x {height:g} mm has "
            f"room for {room[0]:.0f} x {room[1]:.0f} mm: take a larger page, squares of at most "
            f"{square} mm, or fewer of them."
        )
    left = _EDGE_MM + _NOTE_MM + (room[0] - board_width) / 2
    top = _EDGE_MM + (room[1] - board_height) / 2
    content = [_fill(*_on_page(rectangle, left, top, height)) for rectangle in board.black_rectangles()]
    content += _rulers(width, height)
    return _document("\n".join(content), width * POINTS_PER_MM, height * POINTS_PER_MM, _notes(board, height))


def write_board_pdf(board: Board, path: Path, page: str = "A4") -> None:
    """Writes ``board_pdf`` to a file; raises what it raises."""
    data = board_pdf(board, page)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _on_page(
    rectangle: tuple[float, float, float, float], left: float, top: float, height: float
) -> tuple[float, float, float, float]:
    """From the board's frame [m], y down, to the page's [mm], y up from the bottom left."""
    x, y, across, down = (1e3 * value for value in rectangle)
    return left + x, height - top - y - down, across, down


def _fill(x: float, y: float, width: float, height: float) -> str:
    return " ".join(f"{value * POINTS_PER_MM:.4f}" for value in (x, y, width, height)) + " re f"


def _rulers(width: float, height: float) -> list[str]:
    thin, tick = 0.25, 3.0
    across = min(RULER_MM, 10 * int((width - 3 * _EDGE_MM) / 10))
    upright = min(RULER_MM, 10 * int((height - 3 * _EDGE_MM - _NOTE_MM) / 10))
    x, y = _EDGE_MM + _NOTE_MM, _EDGE_MM
    marks = [_fill(x, y, across, thin), _fill(_EDGE_MM, y + _NOTE_MM, thin, upright)]
    for step in range(0, int(across) + 1, 10):  # the first tick's left side is 0, the others' left sides 10 mm apart
        marks.append(_fill(x + step, y, thin, tick if step % 50 == 0 else tick / 2))
    for step in range(0, int(upright) + 1, 10):
        marks.append(_fill(_EDGE_MM, y + _NOTE_MM + step, tick if step % 50 == 0 else tick / 2, thin))
    return marks


def _notes(board: Board, height: float) -> str:
    text = f"{board}   print at 100 % (no 'fit to page'); the rulers' ticks must be 10 mm apart, both ways; this way up"
    x, y = (_EDGE_MM + _NOTE_MM) * POINTS_PER_MM, (_EDGE_MM + 4.2) * POINTS_PER_MM
    return f"BT /F1 7 Tf {x:.2f} {y:.2f} Td ({_escaped(text)}) Tj ET"


def _escaped(text: str) -> str:
    return re.sub(r"([\\()])", r"\\\1", text)


def _document(shapes: str, width: float, height: float, notes: str) -> bytes:
    """A PDF 1.4 file: catalogue, pages, page, its content, font; then the table of where each of them starts."""
    stream = f"0 g\n{shapes}\n{notes}\n".encode("ascii")
    page = (
        f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 {width:.4f} {height:.4f}] /Contents 4 0 R "
        "/Resources << /Font << /F1 5 0 R >> >> >>"
    )
    objects = [
        # PrintScaling None asks viewers not to offer "fit to page" first.
        b"<< /Type /Catalog /Pages 2 0 R /ViewerPreferences << /PrintScaling /None >> >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        page.encode("ascii"),
        b"<< /Length %d >>\nstream\n%sendstream" % (len(stream), stream),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    data, starts = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, start=1):
        starts.append(len(data))
        data += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % start for start in starts)
    trailer = b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, len(data))
    return data + b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1) + table + trailer
