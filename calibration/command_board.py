"""``wam calibrate board``: a printable board as a PDF in true scale."""

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from calibration.board_pdf import write_board_pdf
from calibration.boards import DEFAULT_BOARD, parse_board

__all__ = ["BoardConfig", "main"]


@dataclass(frozen=True, kw_only=True)
class BoardConfig:
    """What to print."""

    board: str = DEFAULT_BOARD  # kind-columns x rows-square-marker-dictionary, counting squares; or chessboard-9x6-30mm
    page: str = "A4"  # A4, A3, A2, Letter, or <width>x<height>mm
    out: Path = Path("board.pdf")  # file to write


def main(argv: list[str]) -> int:
    """Command line of ``wam calibrate board``."""
    config = tyro.cli(BoardConfig, args=argv, prog="wam calibrate board")
    board = parse_board(config.board)
    write_board_pdf(board, config.out, config.page)
    width, height = (1e3 * side for side in board.size_m)
    print(
        f"wrote {config.out}: {board}, {width:g} x {height:g} mm\n"
        "Print it at 100 % (no 'fit to page'), check both rulers, glue it to something flat and stiff,\n"
        "measure ten squares with a ruler, and give the measured size in --board from then on."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
