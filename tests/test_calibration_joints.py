"""Servo calibration: LeRobot's files both ways, a calibration on a stand-in for the servo bus, the robot file."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from calibration import command_joints
from calibration.command_joints import calibrate_servos
from calibration.errors import CalibrationError
from calibration.feetech import SO101_IDS, FeetechBus
from calibration.main import main
from calibration.servo_entries import MAX_TICK, read_servo_file
from calibration.servos import (
    RangeRecorder,
    angle_rad,
    angle_ticks,
    opening,
    opening_ticks,
    with_servos,
    write_lerobot,
)
from wam.calibration_spec import ServoCalibration
from wam.robot import load_robot, robot_file

OFFSET, MIN_LIMIT, MAX_LIMIT, TORQUE, LOCK, POSITION = 31, 9, 11, 40, 55, 56  # of the STS3215's memory table
LEROBOT = {
    name: {
        "id": number,
        "drive_mode": 0,
        "homing_offset": 100 * number - 350,
        "range_min": 800,
        "range_max": 3200 + number,
    }
    for name, number in SO101_IDS.items()
}


class ServoSdk:
    """Stands in for the vendor's package: six servos with registers; a position is the raw one less the offset."""

    def __init__(self, raw: dict[int, int] | None = None, *, opens: bool = True) -> None:
        self.registers: dict[tuple[int, int], int] = {}
        self.raw = raw or {number: 1000 + 200 * number for number in range(1, 7)}
        self.fails = 0  # answers that will be lost
        self.opens, self.closed = opens, False
        self.silent: set[int] = set()

    def PortHandler(self, port: str) -> "ServoSdk":
        return self

    def PacketHandler(self, protocol: int) -> "ServoSdk":
        assert protocol == 0
        return self

    def openPort(self) -> bool:
        return self.opens

    def setBaudRate(self, rate: int) -> bool:
        return rate == 1_000_000

    def closePort(self) -> None:
        self.closed = True

    def read2ByteTxRx(self, port: Any, number: int, register: int) -> tuple[int, int, int]:
        if self._lost(number):
            return 0, -6, 0
        if register != POSITION:
            return self.registers.get((number, register), 0), 0, 0
        value = self.raw[number] - self.offset(number)
        return (abs(value) | (1 << 15 if value < 0 else 0)), 0, 0

    def write1ByteTxRx(self, port: Any, number: int, register: int, value: int) -> tuple[int, int]:
        if self._lost(number):
            return -6, 0
        assert 0 <= value < 1 << 8
        self.registers[number, register] = value
        return 0, 0

    def write2ByteTxRx(self, port: Any, number: int, register: int, value: int) -> tuple[int, int]:
        if self._lost(number):
            return -6, 0
        assert 0 <= value < 1 << 16
        assert self.registers.get((number, LOCK)) == 0, "settings are locked"
        self.registers[number, register] = value
        return 0, 0

    def offset(self, number: int) -> int:
        value = self.registers.get((number, OFFSET), 0)
        return -(value & 0x7FF) if value & 0x800 else value

    def _lost(self, number: int) -> bool:
        if number in self.silent:
            return True
        self.fails, lost = max(self.fails - 1, 0), self.fails > 0
        return lost


class Hand:
    """Someone who moves the joints from end to end, and presses Enter when asked."""

    def __init__(self, sdk: ServoSdk, travel: int = 900) -> None:
        self.sdk, self.middle, self.travel, self.readings = sdk, dict(sdk.raw), travel, 0

    def ask(self, text: str) -> str:
        assert "MIDDLE" in text
        assert all(self.sdk.registers[number, TORQUE] == 0 for number in self.sdk.raw), "the arm is not limp"
        return ""

    def pressed(self) -> bool:
        self.readings += 1
        for number, middle in self.middle.items():
            self.sdk.raw[number] = middle + (self.travel if self.readings == 1 else -self.travel - number)
        return self.readings > 2


def calibrate(sdk: ServoSdk, hand: Hand) -> dict[str, ServoCalibration]:
    with FeetechBus("/dev/ttyARM", sdk=sdk) as bus:
        return calibrate_servos(bus, full_turn=["wrist_roll"], ask=hand.ask, pressed=hand.pressed)


# ------------------------------------------------------------------------------------------------ ticks


SERVOS = st.builds(
    lambda low, width, mode: ServoCalibration(
        id=1, drive_mode=mode, homing_offset=0, range_min=low, range_max=low + width
    ),
    st.integers(0, 1500),
    st.integers(200, 2500),
    st.integers(0, 1),
)


@given(servo=SERVOS, ticks=st.integers(0, MAX_TICK))
def test_angles_and_openings_turn_back_into_ticks(servo: ServoCalibration, ticks: int) -> None:
    assert abs(angle_ticks(servo, angle_rad(servo, ticks)) - ticks) <= 1
    inside = min(max(ticks, servo.range_min), servo.range_max)
    assert opening_ticks(servo, opening(servo, ticks)) == inside
    assert 0.0 <= opening(servo, ticks) <= 1.0


def test_zero_is_the_middle_and_drive_mode_turns_an_opening_round() -> None:
    servo = ServoCalibration(id=6, drive_mode=0, homing_offset=0, range_min=1000, range_max=3000)
    turned = ServoCalibration(id=6, drive_mode=1, homing_offset=0, range_min=1000, range_max=3000)
    assert angle_rad(servo, 2000) == 0.0
    assert angle_rad(servo, 2000 + MAX_TICK / 4) == pytest.approx(np.pi / 2)
    assert (opening(servo, 1000), opening(turned, 1000)) == (0.0, 1.0)


@pytest.mark.slow
def test_angles_are_lerobots_degrees() -> None:
    motors = pytest.importorskip("lerobot.motors.feetech")
    from lerobot.motors import Motor, MotorCalibration, MotorNormMode

    calibration = {"shoulder_pan": MotorCalibration(**LEROBOT["shoulder_pan"])}
    theirs = motors.FeetechMotorsBus(
        port="", motors={"shoulder_pan": Motor(1, "sts3215", MotorNormMode.DEGREES)}, calibration=calibration
    )
    ours = ServoCalibration(**LEROBOT["shoulder_pan"])
    for ticks in (900, 2000, 3111):
        degrees = theirs._normalize({1: ticks})[1]
        assert np.degrees(angle_rad(ours, ticks)) == pytest.approx(degrees, abs=0.1)


# ------------------------------------------------------------------------------------------------ LeRobot's files


def test_lerobots_file_goes_both_ways(tmp_path: Path) -> None:
    first, second = tmp_path / "arm.json", tmp_path / "sub/again.json"
    first.write_text(json.dumps(LEROBOT))
    servos = read_servo_file(first)
    write_lerobot(servos, second)
    assert json.loads(second.read_text()) == LEROBOT
    assert list(json.loads(second.read_text())) == list(LEROBOT)


def test_the_command_takes_over_and_gives_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    robot = tmp_path / "so101.yaml"
    robot.write_text(robot_file("so101").read_text())
    given_file, back = tmp_path / "arm.json", tmp_path / "back.json"
    given_file.write_text(json.dumps(LEROBOT))
    assert main(["joints", "--robot", str(robot), "--lerobot-in", str(given_file)]) == 0
    assert main(["joints", "--robot", str(robot), "--lerobot-out", str(back)]) == 0
    assert json.loads(back.read_text()) == LEROBOT
    stored = yaml.safe_load(robot.read_text())["calibration"]
    assert {joint["name"]: joint["servo"] for joint in stored["joints"]} == LEROBOT
    assert "arm.json" in stored["notes"][0]
    assert load_robot(robot).fingerprint() == load_robot("so101").fingerprint()
    assert "wrote" in capsys.readouterr().out


@pytest.mark.slow
def test_lerobot_reads_what_is_written(tmp_path: Path) -> None:
    motors = pytest.importorskip("lerobot.motors")
    draccus = pytest.importorskip("draccus")
    path = tmp_path / "arm.json"
    write_lerobot({name: ServoCalibration(**fields) for name, fields in LEROBOT.items()}, path)
    with path.open() as file, draccus.config_type("json"):
        theirs = draccus.load(dict[str, motors.MotorCalibration], file)
    assert {name: vars(entry) for name, entry in theirs.items()} == LEROBOT


def test_missing_broken_and_foreign_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "arm.json"
    with pytest.raises(CalibrationError, match="cannot be read .*LeRobot keeps it in its cache folder"):
        read_servo_file(path)
    path.write_text("[]")
    with pytest.raises(CalibrationError, match="is no LeRobot calibration"):
        read_servo_file(path)
    servos = {name: ServoCalibration(**fields) for name, fields in LEROBOT.items()}
    robot = load_robot("so101")
    with pytest.raises(CalibrationError, match="did you mean 'gripper'"):
        with_servos(robot, {**servos, "griper": servos["gripper"]})
    with pytest.raises(CalibrationError, match="robot 'so101' has gripper, but these servos do not"):
        with_servos(robot, {name: servo for name, servo in servos.items() if name != "gripper"})


def test_the_command_wants_one_origin(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="give either --port, --lerobot-in or --lerobot-out"):
        main(["joints", "--robot", "so101"])
    with pytest.raises(CalibrationError, match="holds no servo calibration to write: run with --port"):
        main(["joints", "--robot", "so101", "--lerobot-out", str(tmp_path / "arm.json")])


# ------------------------------------------------------------------------------------------------ on the bus


def test_a_calibration_on_the_bus() -> None:
    sdk = ServoSdk()
    sdk.registers[1, OFFSET] = 0x800 | 77  # an older calibration
    hand = Hand(sdk)
    servos = calibrate(sdk, hand)
    assert list(servos) == list(SO101_IDS)
    for name, number in SO101_IDS.items():
        servo = servos[name]
        assert servo.homing_offset == hand.middle[number] - MAX_TICK // 2
        assert sdk.offset(number) == servo.homing_offset
        limits = (0, MAX_TICK) if name == "wrist_roll" else (2047 - 900 - number, 2047 + 900)
        assert (servo.range_min, servo.range_max) == limits
        assert (sdk.registers[number, MIN_LIMIT], sdk.registers[number, MAX_LIMIT]) == limits
        assert sdk.registers[number, LOCK] == 1
    assert sdk.closed


def test_a_lost_packet_is_asked_for_again_and_a_dead_servo_is_named() -> None:
    sdk = ServoSdk()
    sdk.fails = 3
    with FeetechBus("/dev/ttyARM", sdk=sdk) as bus:
        assert bus.read_positions()["shoulder_pan"] == 1200
        sdk.silent = {4}
        with pytest.raises(CalibrationError, match=r"servo 'wrist_flex' \(number 4\) does not answer: check the power"):
            bus.read_positions()


def test_a_port_that_does_not_open_is_said() -> None:
    with pytest.raises(CalibrationError, match="serial port /dev/ttyARM cannot be opened .*groups: dialout"):
        FeetechBus("/dev/ttyARM", sdk=ServoSdk(opens=False))


def test_a_joint_that_was_not_moved_is_named_and_nothing_is_stored() -> None:
    sdk = ServoSdk()
    hand = Hand(sdk, travel=20)
    with pytest.raises(CalibrationError, match="shoulder_pan, .*gripper moved less than 100 ticks"):
        calibrate(sdk, hand)
    assert sdk.registers[1, MAX_LIMIT] == MAX_TICK
    assert sdk.closed


def test_a_joint_that_ran_through_the_end_of_its_encoder_is_named() -> None:
    recorder = RangeRecorder(["elbow_flex"])
    for ticks in (2, 4090):
        recorder.add({"elbow_flex": ticks})
    with pytest.raises(CalibrationError, match="elbow_flex passed the point where the encoder starts again"):
        recorder.ranges()


def test_a_range_that_no_servo_holds_is_not_written() -> None:
    sdk = ServoSdk()
    hand = Hand(sdk)
    hand.middle = {number: middle - 1200 for number, middle in sdk.raw.items()}  # where it is moved about
    with pytest.raises(
        CalibrationError, match=r"ranges that were recorded .*'gripper': range_min is -59, .* 0 to 4095"
    ):
        calibrate(sdk, hand)
    assert all(sdk.registers[number, MIN_LIMIT] == 0 for number in sdk.raw)


@pytest.mark.parametrize("register", [TORQUE, OFFSET, MAX_LIMIT])
def test_a_servo_that_falls_silent_half_way_leaves_a_message_on_the_arms_state(register: int) -> None:
    sdk = ServoSdk()
    write = sdk._lost

    def lost(number: int) -> bool:
        return write(number) or (number == 4 and (4, register) in sdk.registers)

    sdk._lost = lost  # type: ignore[method-assign]  # silent as soon as that was written once
    with pytest.raises(CalibrationError, match=r"'wrist_flex' .*does not answer.*The arm is limp, .*robot file is as"):
        calibrate(sdk, Hand(sdk))


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (
            ("", ""),
            ["--full-turn", "wrist_rol"],
            r"unknown joint in --full-turn 'wrist_rol' \(did you mean 'wrist_roll'",
        ),
        (("elbow_flex", "elbow"), [], "unknown joint of the servos 'elbow_flex'.*Give the robot file LeRobot's names"),
        (("name: so101", 'name: so101\n"calibration": {date: x}'), [], "cannot be replaced safely"),
    ],
)
def test_what_is_wrong_is_found_before_the_arm_goes_limp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: tuple[str, str], options: list[str], message: str
) -> None:
    robot = tmp_path / "so101.yaml"
    robot.write_text(robot_file("so101").read_text().replace(*change))
    before = robot.read_text()
    opened: list[str] = []
    monkeypatch.setattr(command_joints, "FeetechBus", lambda port, ids: opened.append(port))
    with pytest.raises(CalibrationError, match=message):
        main(["joints", "--robot", str(robot), "--port", "/dev/ttyARM", *options])
    assert opened == []
    assert (robot.read_text(), [path.name for path in tmp_path.iterdir()]) == (before, ["so101.yaml"])


def test_the_command_calibrates_and_writes_both_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sdk = ServoSdk()
    hand = Hand(sdk)
    robot, lerobot = tmp_path / "so101.yaml", tmp_path / "arm.json"
    robot.write_text(robot_file("so101").read_text())
    monkeypatch.setattr(command_joints, "FeetechBus", lambda port, ids: FeetechBus(port, ids, sdk=sdk))
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    monkeypatch.setattr(command_joints, "_enter_pressed", hand.pressed)
    arguments = ["--port", "/dev/ttyARM", "--lerobot-out", str(lerobot)]
    assert main(["joints", "--robot", str(robot), *arguments]) == 0
    calibration = load_robot(robot).calibration
    assert calibration is not None
    stored = {joint.name: joint.servo for joint in calibration.joints}
    assert stored == read_servo_file(lerobot)
    assert stored["gripper"] is not None
    assert stored["gripper"].range_max == 2047 + 900
