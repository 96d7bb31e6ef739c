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
from calibration.robot_file import store_calibration, with_note
from calibration.servo_entries import MAX_TICK, check_servos, read_servo_file
from calibration.servos import RangeRecorder, ServoBus, homing_offsets, unreachable, with_servos, write_lerobot
from wam.calibration_spec import RobotCalibration, ServoCalibration
from wam.errors import unknown_name
from wam.robot import RobotSpec

__all__ = ["JointsConfig", "LiveRanges", "calibrate_servos", "main"]

LIMP = (
    "The arm is limp, or partly: support it. Its servos may hold new numbers, old ones or some of each, so calibrate "
    "it again before it is used; the robot file is as it was."
)


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
        servos, origin = read_servo_file(config.lerobot_in), f"from LeRobot's {config.lerobot_in.name}"
    elif config.port:
        free = [name.strip() for name in config.full_turn.split(",") if name.strip()]
        _check_before(robot, path, free)
        with FeetechBus(config.port, SO101_IDS) as bus:
            servos, origin = calibrate_servos(bus, SO101_IDS, free), f"calibrated on {config.port}"
    else:
        servos, origin = stored_servos(robot.calibration, robot.name), ""
    for sentence in unreachable(robot, servos):
        print(f"warning: {sentence}.", file=sys.stderr)
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
        CalibrationError: A joint was not moved, or a servo does not answer. The message says in which state the arm is.
    """
    try:
        return _calibrate_servos(bus, ids, full_turn, ask, pressed, display)
    except CalibrationError as error:
        raise CalibrationError(f"{error} {LIMP}") from error


def _calibrate_servos(
    bus: ServoBus,
    ids: Mapping[str, int] | None,
    full_turn: list[str] | None,
    ask: Callable[[str], str],
    pressed: Callable[[], bool] | None,
    display: Callable[[RangeRecorder], AbstractContextManager[Callable[[], None]]] | None,
) -> dict[str, ServoCalibration]:
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
    check_servos({name: vars(servo) for name, servo in servos.items()}, "the ranges that were recorded")
    bus.write_calibration(servos)
    return servos


def _check_before(robot: RobotSpec, path: Path, full_turn: list[str]) -> None:
    """Whatever can be wrong is found before the arm is made limp and someone has moved all of it.

    Raises:
        CalibrationError: The robot has other joints than the servos, ``full_turn`` names another one, or the robot file
            cannot take a result.
    """
    for name in full_turn:
        if name not in SO101_IDS:
            raise CalibrationError(unknown_name("joint in --full-turn", name, SO101_IDS))
    stand_in = ServoCalibration(id=1, drive_mode=0, homing_offset=0, range_min=0, range_max=MAX_TICK)
    rehearsal = with_servos(robot, dict.fromkeys(SO101_IDS, stand_in))
    store_calibration(path, with_note(rehearsal, "rehearsal"), rehearse=True)


def stored_servos(calibration: RobotCalibration | None, robot: str) -> dict[str, ServoCalibration]:
    """Servos that a robot file holds.

    Raises:
        CalibrationError: None, or some that no servo can hold.
    """
    joints = calibration.joints if calibration else ()
    servos = {joint.name: joint.servo for joint in joints if joint.servo is not None}
    if not servos:
        raise CalibrationError(
            f"robot '{robot}' holds no servo calibration to write: run with --port or --lerobot-in first."
        )
    entries = {name: vars(servo) for name, servo in servos.items()}
    return check_servos(entries, f"the section calibration of robot '{robot}'")


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
