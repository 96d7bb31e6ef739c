"""Servo calibrations of others: what servos cannot hold is one message, what the arm cannot reach is a warning."""

import contextlib
import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from calibration.command_joints import stored_servos
from calibration.errors import CalibrationError
from calibration.main import main
from calibration.servo_entries import MAX_TICK, check_servos, read_servo_file
from calibration.servos import unreachable
from tests.test_calibration_joints import LEROBOT
from wam.calibration_spec import ServoCalibration
from wam.robot import load_robot, robot_file


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gripper": {"id": 6}}, "motor 'gripper': drive_mode, homing_offset, range_min, range_max is missing"),
        ({"gripper": 6}, "motor 'gripper': it is 6 but must have the fields id, drive_mode"),
        ({"gripper": {**LEROBOT["gripper"], "offset": 1}}, "motor 'gripper': unknown field 'offset'"),
        ({"gripper": {**LEROBOT["gripper"], "id": 1.5}}, "id is 1.5 but must be a whole number"),
        ({"gripper": {**LEROBOT["gripper"], "id": True}}, "id is True but must be a whole number"),
        ({"gripper": {**LEROBOT["gripper"], "id": 253}}, "id is 253, and a servo holds 0 to 252"),
        ({"gripper": {**LEROBOT["gripper"], "range_min": 4000}}, "the lowest must be below the highest"),
        ({"gripper": {**LEROBOT["gripper"], "drive_mode": 2}}, "drive_mode is 2, and a servo holds 0 to 1"),
        ({"gripper": {**LEROBOT["gripper"], "homing_offset": -2048}}, "homing_offset is -2048, .* -2047 to 2047"),
        ({"wrist_roll": LEROBOT["gripper"]}, r"'wrist_roll' and 'gripper' have one id, 6 \(lerobot-setup-motors"),
    ],
)
def test_a_file_that_does_not_suit_the_servos_is_refused(tmp_path: Path, change: dict, message: str) -> None:
    path, robot = tmp_path / "arm.json", tmp_path / "so101.yaml"
    path.write_text(json.dumps({**LEROBOT, **change}))
    with pytest.raises(CalibrationError, match=rf"arm.json does not suit the servos: .*{message}"):
        read_servo_file(path)
    robot.write_text(robot_file("so101").read_text())
    with pytest.raises(CalibrationError, match=message):
        main(["joints", "--robot", str(robot), "--lerobot-in", str(path)])
    assert robot.read_text() == robot_file("so101").read_text()


FIELDS = st.dictionaries(
    st.sampled_from(["id", "drive_mode", "homing_offset", "range_min", "range_max", "more"]),
    st.one_of(
        st.integers(-5000, 5000), st.none(), st.floats(), st.text(max_size=2), st.lists(st.integers(), max_size=1)
    ),
)


@given(st.dictionaries(st.sampled_from([*LEROBOT, "tail"]), FIELDS))
def test_whatever_the_entries_are_they_are_servos_that_lerobot_could_write_or_one_message(entries: dict) -> None:
    mixed = {name: {**LEROBOT.get(name, {}), **fields} for name, fields in entries.items()}
    servos: dict[str, ServoCalibration] = {}
    with contextlib.suppress(CalibrationError):  # and nothing else
        servos = check_servos(mixed, "arm.json")
    for servo in servos.values():
        assert abs(servo.homing_offset) < 1 << 11
        assert 0 <= servo.range_min < servo.range_max < 1 << 12
    assert len({servo.id for servo in servos.values()}) == len(servos)


@pytest.mark.slow
def test_lerobot_encodes_what_is_let_through_and_no_more() -> None:
    utils = pytest.importorskip("lerobot.motors.encoding_utils")
    tables = pytest.importorskip("lerobot.motors.feetech.tables")
    bit = tables.MODEL_ENCODING_TABLE["sts3215"]["Homing_Offset"]
    for offset in (-2047, 2047):
        assert check_servos({"a": {**LEROBOT["gripper"], "homing_offset": offset}}, "arm.json")
        utils.encode_sign_magnitude(offset, bit)
    with pytest.raises(ValueError, match="exceeds 2047"):
        utils.encode_sign_magnitude(2048, bit)
    assert tables.MODEL_RESOLUTION["sts3215"] == MAX_TICK + 1


def test_limits_outside_the_measured_range_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, robot = tmp_path / "arm.json", tmp_path / "so101.yaml"
    narrow = {**LEROBOT, "elbow_flex": {**LEROBOT["elbow_flex"], "range_min": 1000, "range_max": 2900}}
    for name in ("shoulder_pan", "wrist_roll"):
        narrow[name] = {**LEROBOT[name], "range_min": 0, "range_max": MAX_TICK}
    path.write_text(json.dumps(narrow))
    robot.write_text(robot_file("so101").read_text())
    sentence = (
        "joint 'elbow_flex': the robot file allows -1.64 to 1.64 rad, but the range that was measured reaches from "
    )
    for option in ("--lerobot-in", "--lerobot-out"):
        assert main(["joints", "--robot", str(robot), option, str(path)]) == 0
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"warning: {sentence}-1.46 to 1.46: narrow its position in the robot file, or calibrate")
    assert unreachable(load_robot("so101"), read_servo_file(path)) != []
    # A zero that was found otherwise moves the range: 0.2 rad up, and the joint no longer reaches down
    data = yaml.safe_load(robot.read_text())
    (elbow,) = [joint for joint in data["calibration"]["joints"] if joint["name"] == "elbow_flex"]
    elbow["servo"] |= {"range_min": 900, "range_max": 3200}
    robot.write_text(yaml.safe_dump(data))
    assert unreachable(load_robot(robot), stored_servos(load_robot(robot).calibration, "so101")) == []
    elbow["offset_rad"] = 0.2
    robot.write_text(yaml.safe_dump(data))
    (line,) = unreachable(load_robot(robot), stored_servos(load_robot(robot).calibration, "so101"))
    assert "reaches from -1.56 to 1.96" in line
