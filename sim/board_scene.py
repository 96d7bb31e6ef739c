"""A calibration board in a simulated scene, where a person would put it: flat on the table, or held by the arm."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from calibration.boards import Board
from calibration.rigid import inverse, pose
from sim.errors import SimError
from sim.fixtures import Box, Fixture
from wam.errors import unknown_name

__all__ = ["BOARD_BODY", "PLACES", "Place", "board_fixture"]

BOARD_BODY = "calibration_board"
_INK, _PAPER = (0.06, 0.06, 0.06, 1.0), (0.95, 0.95, 0.95, 1.0)
_MARGIN_SQUARES = 0.75
_THICK_M = 1e-4  # half thickness of ink and paper, and how far the ink stands out: depth buffers tell that apart [m]
_FACE_AGAINST_Z = np.diag([1.0, -1.0, -1.0])  # a board is looked at along its z axis


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a board is."""

    body: str  # of the simulated robot; "" is the world
    center: tuple[float, float, float]  # of the board in that body's frame [m]; its face looks along the body's z axis


PLACES: Mapping[str, Place] = {
    "table": Place(body="", center=(0.36, 0.0, 0.002)),  # for a camera on the arm
    "hand": Place(body="hand", center=(0.0, 0.0, 0.15)),  # for a camera that stands still; beyond the fingertips
}


def board_fixture(board: Board, place: str) -> Fixture:
    """Returns a board at one of ``PLACES``; the fixture's frame is the board's.

    Raises:
        SimError: There is no such place.
    """
    if place not in PLACES:
        raise SimError(unknown_name("place of a board", place, PLACES))
    where = PLACES[place]
    middle = pose(np.eye(3), np.array([*board.size_m, 0.0]) / 2)
    return Fixture(
        name=BOARD_BODY,
        body=where.body,
        pose=pose(_FACE_AGAINST_Z, np.array(where.center)) @ inverse(middle),
        boxes=(_paper(board), *_ink(board)),
    )


def _paper(board: Board) -> Box:
    width, height = board.size_m
    margin = _MARGIN_SQUARES * board.square_m
    half = (width / 2 + margin, height / 2 + margin, _THICK_M)
    return Box(center=(width / 2, height / 2, 2 * _THICK_M), half=half, rgba=_PAPER)


def _ink(board: Board) -> list[Box]:
    """Boxes whose faces lie in the board's plane."""
    return [
        Box(center=(x + across / 2, y + down / 2, _THICK_M), half=(across / 2, down / 2, _THICK_M), rgba=_INK)
        for x, y, across, down in board.black_rectangles()
    ]
