"""``wam calibrate <what>``: boards, lenses, hand-eye, joints, latency and the daily check.

Each command has its own module with ``main(argv) -> int``; a result goes into the robot file, a report beside it.
"""

import importlib
import sys
from collections.abc import Mapping

from wam.errors import unknown_name

__all__ = ["COMMANDS", "main"]

COMMANDS: Mapping[str, tuple[str, str]] = {  # name -> module, one line of help
    "board": ("calibration.command_board", "draw a board as a PDF in true scale"),
    "intrinsics": ("calibration.command_intrinsics", "calibrate a lens from pictures or a live camera"),
    "hand-eye": ("calibration.command_hand_eye", "find where a camera is on the arm or beside it, and joint zeros"),
    "joints": ("calibration.command_joints", "calibrate an SO-101's servos, or exchange files with LeRobot"),
    "time": ("calibration.command_time", "find a camera's latency against the joint states"),
    "check": ("calibration.command_check", "has a camera moved? Compare a fresh picture with what is stored"),
    "selftest": ("calibration.command_selftest", "calibrate random rigs of known truth, beside OpenCV's own functions"),
}
EXIT_USAGE = 2


def main(argv: list[str] | None = None) -> int:
    """Command line of ``wam calibrate``."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in {"-h", "--help"}:
        print(_usage())
        if arguments:
            _print_options()
        return 0 if arguments else EXIT_USAGE
    name, rest = arguments[0], arguments[1:]
    if name not in COMMANDS:
        print(f"wam calibrate: {unknown_name('command', name, COMMANDS)}", file=sys.stderr)
        return EXIT_USAGE
    return int(importlib.import_module(COMMANDS[name][0]).main(rest))


def _usage() -> str:
    width = max(map(len, COMMANDS))
    lines = "\n".join(f"  {name:<{width}}  {text}" for name, (_, text) in COMMANDS.items())
    return (
        "usage: wam calibrate <command> [options]\n\n"
        "Calibrate cameras, arm and time. The order for a new robot: board, intrinsics, hand-eye, time, check.\n\n"
        f"commands:\n{lines}\n"
    )


def _print_options() -> None:
    for name, (module, _) in COMMANDS.items():
        print(f"\nwam calibrate {name}")
        try:
            importlib.import_module(module).main(["--help"])
        except SystemExit:  # how a command line's help ends
            continue


if __name__ == "__main__":
    sys.exit(main())
