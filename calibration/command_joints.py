"""``wam calibrate joints``: an SO-101-class arm's servos, or the exchange of calibration files with LeRobot."""

import select
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console
from rich.live import Live
from rich.table import Table

from calibration.errors import CalibrationError
from calibration.feetech import SO101_IDS, FeetechBus
from calibration.results import read_robot, store
from calibration.robot_file import with_note
from calibration.servos import (
    MAX_TICK,
    RangeRecorder,
    ServoBus,
    homing_offsets,
    read_lerobot,
    with_servos,
    write_lerobot,
)
from wam.calibration_spec import RobotCalibration, ServoCalibration

__all__ = ["JointsConfig", "LiveRanges", "calibrate_servos", "main"]


@dataclass(frozen=True, kw_only=True)
class JointsConfig:
    """What to do; exactly one of port, lerobot_in and lerobot_out."""

    robot: str  # robot name or file, with LeRobot's joint names; it gets or gives the result
    port: str = ""  # serial port of the servos, to calibrate them anew, for example /dev/ttyACM0
    lerobot_in: Path | None = None  # LeRobot calibration file to take over into the robot file
    lerobot_out: Path | None = None  # LeRobot calibration file to write from the robot file, or with --port
    full_turn: str = "wrist_roll"  # joints without end stops, commas between; their range is a whole turn


def main(argv: list[str]) -> int:
    """Command line of ``wam calibrate joints``."""
    config = tyro.cli(JointsConfig, args=argv, prog="wam calibrate joints")
    robot, path = read_robot(config.robot)
    if bool(config.port) + (config.lerobot_in is not None) > 1 or not (
        config.port or config.lerobot_in or config.lerobot_out
    ):
        raise CalibrationError(
            "give either --port, --lerobot-in or --lerobot-out: where does the calibration come from?"
        )
    if config.lerobot_in is not None:
        servos, origin = read_lerobot(config.lerobot_in), f"from LeRobot's {config.lerobot_in.name}"
    elif config.port:
        free = [name.strip() for name in config.full_turn.split(",") if name.strip()]
        with FeetechBus(config.port, SO101_IDS) as bus:
            servos, origin = calibrate_servos(bus, SO101_IDS, free), f"calibrated on {config.port}"
    else:
        servos, origin = stored_servos(robot.calibration, robot.name), ""
    if config.lerobot_out is not None:
        write_lerobot(servos, config.lerobot_out)
        print(f"wrote {config.lerobot_out}")
    if origin:
        print(store(path, with_note(with_servos(robot, servos), f"servos {origin}")))
    return 0


def calibrate_servos(
    bus: ServoBus,
    ids: Mapping[str, int] | None = None,
    full_turn: list[str] | None = None,
    *,
    ask: Callable[[str], str] = input,
    pressed: Callable[[], bool] | None = None,
    display: Callable[[RangeRecorder], AbstractContextManager[Callable[[], None]]] | None = None,
) -> dict[str, ServoCalibration]:
    """Leads someone through a calibration: middle of every range, then every joint to both its ends.

    Args:
        bus: The servos.
        ids: Joint name -> number on the bus.
        full_turn: Joints without end stops.
        ask: Waits for Enter.
        pressed: Whether Enter was pressed since.
        display: Shows the ranges while they are recorded.

    Raises:
        CalibrationError: A joint was not moved, or a servo does not answer.
    """
    ids = dict(SO101_IDS if ids is None else ids)
    endless = list(full_turn or [])
    pressed, display = pressed or _enter_pressed, display or LiveRanges
    bus.release()
    bus.reset_offsets()
    ask("The arm is limp now. Put every joint in the MIDDLE of its range, gripper half open, and press Enter. ")
    offsets = homing_offsets(bus.read_positions())
    bus.write_offsets(offsets)
    recorder = RangeRecorder([name for name in ids if name not in endless])
    print("Move every joint slowly to BOTH its ends, the gripper too; then press Enter.")
    with display(recorder) as refresh:
        while True:
            recorder.add(bus.read_positions())
            refresh()
            if pressed():
                break
    ranges = {**recorder.ranges(), **dict.fromkeys(endless, (0, MAX_TICK))}
    servos = {
        name: ServoCalibration(
            id=number,
            drive_mode=0,
            homing_offset=offsets[name],
            range_min=ranges[name][0],
            range_max=ranges[name][1],
        )
        for name, number in ids.items()
    }
    bus.write_calibration(servos)
    return servos


def stored_servos(calibration: RobotCalibration | None, robot: str) -> dict[str, ServoCalibration]:
    """Servos that a robot file holds.

    Raises:
        CalibrationError: None.
    """
    joints = calibration.joints if calibration else ()
    servos = {joint.name: joint.servo for joint in joints if joint.servo is not None}
    if not servos:
        raise CalibrationError(
            f"robot '{robot}' holds no servo calibration to write: run with --port or --lerobot-in first."
        )
    return servos


class LiveRanges:
    """Shows the ranges in the terminal as they grow; a context manager that gives the function to refresh it."""

    def __init__(self, recorder: RangeRecorder) -> None:
        self._recorder, self._live = recorder, Live(console=Console(), refresh_per_second=10)

    def __enter__(self) -> Callable[[], None]:
        self._live.__enter__()
        return self._refresh

    def __exit__(self, *stop: object) -> None:
        self._live.__exit__(None, None, None)

    def _refresh(self) -> None:
        table = Table("joint", "lowest", "highest", "range")
        for name, low, high in self._recorder.rows():
            table.add_row(name, str(low), str(high), str(high - low))
        self._live.update(table)


def _enter_pressed() -> bool:
    ready, _, _ = select.select([sys.stdin], [], [], 0.02)
    return bool(ready) and bool(sys.stdin.readline())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
