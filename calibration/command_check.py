"""``wam calibrate check``: has a camera moved since it was calibrated? Under a minute, with or without a board."""

import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import tyro

from calibration.check_robot import check_camera, with_reference
from calibration.daily_check import CheckResult, Tolerance
from calibration.errors import CalibrationError
from calibration.results import camera_of, read_robot, store, write_json
from calibration.robot_file import with_note
from calibration.sources import fresh_picture

__all__ = ["CheckConfig", "joint_angles", "main"]

EXIT_MOVED = 1


@dataclass(frozen=True, kw_only=True)
class CheckConfig:
    """What to compare."""

    robot: str  # robot name or file
    camera: str  # one of the robot's cameras
    source: str  # fresh picture: a file, or a live camera's number, device or stream address
    joints: str = ""  # reported joint angles [rad], for a camera on the arm: yaw=0.1,shoulder=-0.4,...
    position_mm: float = 5.0  # a camera that moved further has moved [mm]
    angle_deg: float = 0.5  # a camera that turned further has turned [degree]
    set_reference: bool = False  # store this picture as the reference instead of comparing
    board: str = ""  # with --set-reference: a board in the picture that will stay where it is
    json: Path | None = None  # file for the result as JSON


def main(argv: list[str]) -> int:
    """Command line of ``wam calibrate check``: 0 unmoved, 1 moved, 2 cannot be told."""
    config = tyro.cli(CheckConfig, args=argv, prog="wam calibrate check")
    begin = time.monotonic()
    robot, path = read_robot(config.robot)
    camera_of(robot, config.camera)
    image = fresh_picture(config.source)
    if config.set_reference:
        calibration, said = with_reference(robot, path, config.camera, image, board=config.board)
        print(said)
        print(store(path, with_note(calibration, f"reference picture of {config.camera}")))
        return 0
    if config.board:
        raise CalibrationError("--board goes with --set-reference; a check takes the board that the robot file holds.")
    joints = joint_angles(config.joints) if config.joints else None
    tolerance = replace(Tolerance(), position_mm=config.position_mm, angle_deg=config.angle_deg)
    result = check_camera(robot, path, config.camera, image, joints, tolerance)
    print(result.text())
    if config.json is not None:
        write_json(config.json, result_data(result, time.monotonic() - begin))
        print(f"wrote {config.json}")
    return 0 if result.ok else EXIT_MOVED


def joint_angles(text: str) -> dict[str, float]:
    """Reads ``name=angle,name=angle``.

    Raises:
        CalibrationError: Not of this form.
    """
    try:
        pairs = [part.split("=") for part in text.split(",") if part.strip()]
        return {name.strip(): float(value) for name, value in pairs}
    except ValueError as error:
        raise CalibrationError(f"joints '{text}' are not understood: write yaw=0.1,shoulder=-0.4 [rad].") from error


def result_data(result: CheckResult, seconds: float) -> dict[str, object]:
    """What the JSON holds."""
    return {
        "camera": result.camera,
        "ok": result.ok,
        "method": result.method,
        "moved_mm": result.moved_mm,
        "turned_deg": result.turned_deg,
        "shift_px": result.shift_px,
        "text": result.text(),
        "seconds": round(seconds, 2),
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
