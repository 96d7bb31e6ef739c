"""Boards to calibrate with: ChArUco (preferred) and chessboard, as one line of text and as geometry.

A board is written ``charuco-9x6-30mm-22mm-4X4_50`` or ``chessboard-9x6-30mm``: squares across and down (squares, not
inner corners), side of a square, side of a marker, dictionary. Board frame: origin at the outer corner of the top-left
square, x to the right, y down, z into the paper, metres. Point i is an inner corner, row by row from the top left; the
top-left square is black.
"""

import re
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from calibration.errors import CalibrationError
from wam.errors import unknown_name

__all__ = ["DEFAULT_BOARD", "FORMS", "Board", "dictionary_names", "parse_board"]

DEFAULT_BOARD = "charuco-9x6-28mm-21mm-4X4_50"  # fits A4 and Letter across
FORMS = "charuco-<columns>x<rows>-<square>mm-<marker>mm-<dictionary>[-legacy] or chessboard-<columns>x<rows>-<square>mm"
_TEXT = re.compile(
    r"(?P<kind>charuco|chessboard)-(?P<columns>\d+)x(?P<rows>\d+)-(?P<square>[\d.]+)mm"
    r"(?:-(?P<marker>[\d.]+)mm-(?P<dictionary>\w+?)(?P<legacy>-legacy)?)?"
)
_MIN_SQUARES = 3
_MAX_SQUARES = 60


@dataclass(frozen=True, kw_only=True)
class Board:
    """One board; ``parse_board`` makes it from text and ``str`` turns it back."""

    kind: str  # charuco or chessboard
    columns: int  # squares across
    rows: int  # squares down
    square_m: float  # side of a square [m]
    marker_m: float = 0.0  # side of a marker [m]; ChArUco only
    dictionary: str = ""  # of the markers, OpenCV's name without DICT_; ChArUco only
    legacy: bool = False  # pattern of OpenCV before 4.6, which differs when the number of rows is even

    def __post_init__(self) -> None:
        if not (_MIN_SQUARES <= self.columns <= _MAX_SQUARES and _MIN_SQUARES <= self.rows <= _MAX_SQUARES):
            raise CalibrationError(
                f"board has {self.columns} x {self.rows} squares but must have {_MIN_SQUARES} to {_MAX_SQUARES} "
                "each way."
            )
        if not 1e-3 <= self.square_m <= 1.0:
            raise CalibrationError(f"board squares of {1e3 * self.square_m:g} mm: they must be 1 to 1000 mm wide.")
        if self.kind == "charuco":
            self._check_markers()

    def __str__(self) -> str:
        text = f"{self.kind}-{self.columns}x{self.rows}-{1e3 * self.square_m:g}mm"
        if self.kind == "charuco":
            text += f"-{1e3 * self.marker_m:g}mm-{self.dictionary}" + ("-legacy" if self.legacy else "")
        return text

    @property
    def size_m(self) -> tuple[float, float]:
        """Width and height of the pattern [m]."""
        return self.columns * self.square_m, self.rows * self.square_m

    @property
    def inner(self) -> tuple[int, int]:
        """Inner corners across and down."""
        return self.columns - 1, self.rows - 1

    @cached_property
    def points(self) -> np.ndarray:
        """(N, 3) float64 inner corners in the board frame [m]."""
        across, down = self.inner
        grid = np.mgrid[1 : down + 1, 1 : across + 1]
        return np.stack([grid[1].ravel(), grid[0].ravel(), np.zeros(across * down)], axis=-1) * self.square_m

    @property
    def one_way_up(self) -> bool:
        """Half a turn cannot be mistaken: always so with markers, otherwise with an odd sum of columns and rows."""
        return self.kind == "charuco" or (self.columns + self.rows) % 2 == 1

    @cached_property
    def charuco(self) -> cv2.aruco.CharucoBoard:
        """OpenCV's board object."""
        dictionary = cv2.aruco.getPredefinedDictionary(getattr(cv2.aruco, f"DICT_{self.dictionary}"))
        board = cv2.aruco.CharucoBoard((self.columns, self.rows), self.square_m, self.marker_m, dictionary)
        board.setLegacyPattern(self.legacy)
        return board

    def picture(self, pixels_per_square: int, *, margin_squares: float = 0.0) -> np.ndarray:
        """Draws the board from above.

        Args:
            pixels_per_square: Resolution; a multiple of 20 keeps marker cells on whole pixels for usual sizes.
            margin_squares: White margin on each side, in squares.

        Returns:
            (height, width) uint8, 0 black, 255 white.
        """
        margin = round(margin_squares * pixels_per_square)
        height, width = self.rows * pixels_per_square, self.columns * pixels_per_square
        image = np.full((height + 2 * margin, width + 2 * margin), 255, np.uint8)
        for x, y, side_x, side_y in self.black_rectangles():
            scale = pixels_per_square / self.square_m
            left, top = round(x * scale) + margin, round(y * scale) + margin
            right, bottom = round((x + side_x) * scale) + margin, round((y + side_y) * scale) + margin
            image[top:bottom, left:right] = 0
        return image

    def black_rectangles(self) -> list[tuple[float, float, float, float]]:
        """Everything that is black, as (x, y, width, height) in the board frame [m]; what is printed and rendered."""
        side = self.square_m
        squares = [
            (column * side, row * side, side, side)
            for row in range(self.rows)
            for column in range(self.columns)
            if (row + column) % 2 == self._black_parity
        ]
        if self.kind == "chessboard":
            return squares
        return squares + [cell for index in range(len(self.marker_corners)) for cell in self._marker_cells(index)]

    @cached_property
    def marker_corners(self) -> np.ndarray:
        """(M, 4, 3) float64 corners of the markers in the board frame [m], clockwise from the top left."""
        return np.array(self.charuco.getObjPoints(), dtype=float)

    @property
    def _black_parity(self) -> int:
        # OpenCV before 4.6 began boards of an even number of rows with a white square.
        return 1 if self.legacy and self.rows % 2 == 0 else 0

    def _marker_cells(self, index: int) -> list[tuple[float, float, float, float]]:
        dictionary = self.charuco.getDictionary()
        cells = dictionary.markerSize + 2
        side = self.marker_m / cells
        image = cv2.aruco.generateImageMarker(dictionary, int(self.charuco.getIds()[index]), cells)
        left, top = self.marker_corners[index, 0, :2]
        return [(left + column * side, top + row * side, side, side) for row, column in np.argwhere(image == 0)]

    def _check_markers(self) -> None:
        if self.dictionary not in dictionary_names():
            raise CalibrationError(unknown_name("marker dictionary", self.dictionary, dictionary_names()))
        if not 0.3 * self.square_m <= self.marker_m <= 0.95 * self.square_m:
            raise CalibrationError(
                f"board markers of {1e3 * self.marker_m:g} mm in squares of {1e3 * self.square_m:g} mm: a marker must "
                "be 30 to 95 % of its square; 75 % is usual."
            )
        dictionary = cv2.aruco.getPredefinedDictionary(getattr(cv2.aruco, f"DICT_{self.dictionary}"))
        wanted, present = self.columns * self.rows // 2, len(dictionary.bytesList)
        if wanted > present:
            raise CalibrationError(
                f"board of {self.columns} x {self.rows} squares needs {wanted} markers but dictionary "
                f"{self.dictionary} has {present}: choose a larger dictionary of that kind or fewer squares."
            )


def dictionary_names() -> tuple[str, ...]:
    """Names of OpenCV's marker dictionaries, without DICT_."""
    return tuple(name.removeprefix("DICT_") for name in dir(cv2.aruco) if name.startswith("DICT_"))


def parse_board(text: str) -> Board:
    """Reads a board's description.

    Args:
        text: For example ``charuco-9x6-30mm-22mm-4X4_50``.

    Raises:
        CalibrationError: Not such a text, or a board that cannot exist.
    """
    found = _TEXT.fullmatch(text.strip())
    charuco = found is not None and found["kind"] == "charuco"
    if found is None or charuco != (found["marker"] is not None):
        raise CalibrationError(f"board '{text}' is not understood: write {FORMS}, for example {DEFAULT_BOARD}.")
    numbers = {"square_m": found["square"], "marker_m": found["marker"] or "0"}
    try:
        lengths = {name: float(value) / 1e3 for name, value in numbers.items()}
    except ValueError as error:
        raise CalibrationError(f"board '{text}' is not understood: {error}; write {FORMS}.") from error
    return Board(
        kind=found["kind"],
        columns=int(found["columns"]),
        rows=int(found["rows"]),
        dictionary=found["dictionary"] or "",
        legacy=found["legacy"] is not None,
        **lengths,
    )
