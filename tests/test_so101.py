"""The SO-101 down to the bytes on its bus: units, holding, calibration, lost packets, a pulled cable. No real servo."""

import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("lerobot")
pytest.importorskip("scservo_sdk")
pytest.importorskip("rclpy")

from ros_nodes.arm_parameters import ArmParameters
from ros_nodes.arm_so101 import So101Arm, servo_calibration
from ros_nodes.diagnostics import ERROR, OK, WARN
from ros_nodes.errors import NodeError
from ros_nodes.so101_bus import ServoSettings, So101Bus, read_calibration
from ros_nodes.so101_link import So101Link
from tests import feetech_servos as fake
from tests.feetech_servos import CALIBRATION
from wam.calibration_spec import JointCalibration, RobotCalibration, ServoCalibration
from wam.robot import load_robot

pytestmark = pytest.mark.ros
ROBOT = load_robot("so101")
HOLD = ServoSettings(hold=True)
TICK = 2 * np.pi / 4095  # [rad]


@pytest.fixture
def servos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[fake.FakeBus]:
    device = fake.FakeBus(tmp_path)
    fake.wait_for(device, monkeypatch)
    yield device
    device.close()


@pytest.fixture
def bus(servos) -> Iterator[So101Bus]:
    bus = So101Bus(str(servos.path), ROBOT, CALIBRATION)
    yield bus
    bus.close()


@pytest.fixture
def calibration_file(tmp_path) -> Path:
    path = tmp_path / "arm.json"
    path.write_text(json.dumps(CALIBRATION))
    return path


@pytest.fixture
def arm(servos, calibration_file) -> Iterator[So101Arm]:
    arm = make_arm(servos, calibration_file)
    yield arm
    arm.close()


def make_arm(servos: fake.FakeBus, calibration: Path, **options) -> So101Arm:
    parameters = ArmParameters(
        robot="so101", backend="so101", so101_port=str(servos.path), so101_calibration=str(calibration), **options
    )
    return So101Arm(ROBOT, parameters)


def until[T](what: str, value: Callable[[], T]) -> T:
    end = time.monotonic() + 120
    while not (found := value()):
        assert time.monotonic() < end, f"waited in vain until {what}"
        time.sleep(0.005)  # the link's thread needs the interpreter
    return found


def test_ticks_become_radians_and_opening(servos, bus):
    servos.servos[1].set(fake.PRESENT, 2000 + 100)  # the middle of the range is zero
    servos.servos[3].set(fake.PRESENT, 2000 - 50)
    servos.servos[6].set(fake.PRESENT, 1000 + 500)  # a quarter of the gripper's range
    pose = bus.connect(ServoSettings(hold=False))
    np.testing.assert_allclose(pose, [100 * TICK, 0, -50 * TICK, 0, 0, 0.25], atol=1e-6)
    assert pose.dtype == np.float32


def test_goals_arrive_as_ticks_in_the_motors_own_order(servos):
    joints = (ROBOT.joints[2], ROBOT.joints[0], *ROBOT.joints[3:], ROBOT.joints[1])
    bus = So101Bus(str(servos.path), dataclasses.replace(ROBOT, joints=joints), CALIBRATION)
    bus.connect(HOLD)
    bus.write(np.array([0.3, -0.2, 0.0, 0.0, 0.1, 1.0]))  # elbow_flex, shoulder_pan, …, shoulder_lift, gripper
    until("goals arrived", lambda: abs(bus.read()[0] - 0.3) < 0.01)
    np.testing.assert_allclose(bus.read(), [0.3, -0.2, 0.0, 0.0, 0.1, 1.0], atol=1.01 * TICK)
    assert servos.servos[3].get(fake.GOAL) == pytest.approx(2000 + 0.3 / TICK, abs=1)
    assert servos.servos[6].get(fake.GOAL) == 3000
    bus.close()


def test_connecting_holds_the_pose_it_finds(servos, bus):
    for servo in servos.servos.values():
        servo.set(fake.PRESENT, 2300)
        servo.set(fake.GOAL, 100)  # where it was told to be before the power went
    bus.connect(HOLD)
    assert {servo.get(fake.PRESENT) for servo in servos.servos.values()} <= {2299, 2300}
    assert all(servo.registers[fake.TORQUE] for servo in servos.servos.values())


def test_a_leader_stays_loose(servos, bus):
    bus.connect(ServoSettings(hold=False))
    assert not any(servo.registers[fake.TORQUE] for servo in servos.servos.values())


def test_calibration_offsets_are_added_and_taken_back(servos):
    joints = (JointCalibration(name="elbow_flex", offset_rad=0.05),)
    robot = dataclasses.replace(ROBOT, calibration=RobotCalibration(joints=joints))
    bus = So101Bus(str(servos.path), robot, CALIBRATION)
    assert bus.connect(HOLD)[2] == pytest.approx(0.05, abs=1e-6)
    bus.write(np.array([0, 0, 0.25, 0, 0, 0.5]))
    until("the goal arrived", lambda: abs(servos.servos[3].get(fake.GOAL) - (2000 + 0.2 / TICK)) < 1.01)
    bus.close()


def test_another_calibration_in_the_servos_is_refused_and_written_only_when_asked(servos, bus):
    servos.servos[2].set(fake.HOMING, 77)
    servos.servos[4].registers[fake.P_GAIN] = 32
    with pytest.raises(NodeError, match=r"shoulder_lift homing_offset is 77, the calibration says 0; wrist_flex P_Coe"):
        bus.connect(HOLD)
    assert not bus.connected
    assert servos.torque_log == []
    bus.connect(dataclasses.replace(HOLD, setup=True))
    assert servos.servos[2].get(fake.HOMING) == 0
    assert servos.servos[4].registers[fake.P_GAIN] == 16
    assert all(servo.registers[fake.TORQUE] for servo in servos.servos.values())


def test_a_missing_motor_is_one_message(servos, bus):
    servos.mute = {4}
    with pytest.raises(NodeError, match=r"does not answer as it should .*Missing motor IDs: - 4"):
        bus.connect(HOLD)
    assert servos.torque_log == []


def test_a_missing_device_is_one_message(tmp_path):
    bus = So101Bus(str(tmp_path / "ttyNone"), ROBOT, CALIBRATION)
    with pytest.raises(NodeError, match="ttyNone does not answer as it should.*group dialout"):
        bus.connect(HOLD)


def test_a_spoilt_packet_is_read_again(servos, bus):
    bus.connect(HOLD)
    servos.spoil = 1
    assert bus.read().shape == (6,)


def test_silence_is_an_error_and_the_bus_recovers(servos, bus):
    bus.connect(HOLD)
    servos.mute = {3}
    with pytest.raises(OSError, match="Failed to sync read 'Present_Position'"):
        bus.read()
    servos.mute = set()
    assert bus.read().shape == (6,)


def test_an_axis_that_is_no_motor_is_refused(servos):
    with pytest.raises(NodeError, match="unknown motor of an SO-101 'yaw'.*Name the axes of robot 'sim6'"):
        So101Bus(str(servos.path), load_robot("sim6"), CALIBRATION)


def test_the_arm_measures_with_the_time_of_the_measurement(arm):
    begun = time.monotonic()
    arm.connect()
    state = until("a state", lambda: arm.step(100.0))
    assert 100.0 - (time.monotonic() - begun) <= state.stamp <= 100.0
    np.testing.assert_allclose(state.positions, [0, 0, 0, 0, 0, 0.5], atol=1e-6)
    until("a newer state", lambda: arm.step(101.0))
    assert arm.health().level == OK


def test_the_arm_follows_commands_near_it_and_ignores_the_first_ones_far_away(arm, servos):
    arm.connect()
    far = np.array([1.0, 0, 0, 0, 0, 0.5], dtype=np.float32)
    arm.command(far, 0.0)
    assert "the command is 1.00 away from where 'shoulder_pan' is" in arm.health().message
    arm.command(np.array([0.1, 0, 0, 0, 0, 0.5], dtype=np.float32), 0.0)
    until("the near goal arrived", lambda: servos.servos[1].get(fake.GOAL) > 2000 + 0.09 / TICK)
    arm.command(far, 0.0)  # it has joined: the guard limits what comes from now on
    until("the far goal arrived", lambda: servos.servos[1].get(fake.GOAL) > 2000 + 0.9 / TICK)
    assert arm.health().level == OK


def test_bus_errors_are_counted_and_never_switch_torque_off(arm, servos):
    arm.connect()
    servos.mute = {1}
    health = until("errors are counted", lambda: (now := arm.health()).values["read_errors"] >= 2 and now)
    assert health.level == (WARN if health.values["connected"] else ERROR)  # after many of them in a row
    servos.mute = set()
    until("the arm answers again", lambda: arm.health().level == OK)
    assert 0 not in [value for _, value in servos.torque_log]


def test_a_pulled_cable_is_an_error_and_plugging_it_in_goes_on_where_the_arm_is(arm, servos):
    arm.connect()
    arm.command(np.array([0.1, 0, 0, 0, 0, 0.5], dtype=np.float32), 0.0)
    until("the goal arrived", lambda: servos.servos[1].get(fake.GOAL) > 2100 - 40)
    servos.unplug()
    until("the loss is noticed", lambda: arm.health().level == ERROR)
    assert arm.step(5.0) is None
    for servo in servos.servos.values():  # the arm sank while it had no power
        servo.registers[fake.TORQUE] = 0
        servo.set(fake.PRESENT, 1700)
    servos.plug()
    until("it is back", lambda: arm.health().values["reconnects"] == 1)
    assert {servo.get(fake.PRESENT) for servo in servos.servos.values()} <= {1699, 1700}
    arm.command(np.array([0.1, 0, 0, 0, 0, 0.5], dtype=np.float32), 0.0)
    assert "away from where" in arm.health().message
    state = until("a state", lambda: arm.step(6.0))
    np.testing.assert_allclose(state.positions[:5], -300 * TICK, atol=1e-6)


@pytest.mark.parametrize(("limp", "torque"), [(False, 1), (True, 0)])
def test_torque_stays_at_the_end_unless_asked(servos, calibration_file, limp, torque):
    arm = make_arm(servos, calibration_file, so101_limp_at_exit=limp)
    arm.connect()
    arm.close()
    arm.close()
    assert {servo.registers[fake.TORQUE] for servo in servos.servos.values()} == {torque}


def test_heat_is_a_warning(arm, servos):
    servos.servos[6].registers[fake.TEMPERATURE] = 63
    arm.connect()
    until("heat is noticed", lambda: "gripper 63 degrees" in arm.health().message)
    assert arm.health().level == WARN


def test_the_robot_file_may_hold_the_calibration(calibration_file):
    joints = tuple(JointCalibration(name=name, servo=ServoCalibration(**CALIBRATION[name])) for name in CALIBRATION)
    robot = dataclasses.replace(ROBOT, calibration=RobotCalibration(joints=joints))
    assert servo_calibration(robot, "") == CALIBRATION
    assert servo_calibration(robot, str(calibration_file)) == CALIBRATION
    with pytest.raises(NodeError, match="no servo calibration for shoulder_pan, .*lerobot-calibrate"):
        servo_calibration(ROBOT, "")


def test_bad_calibration_files_are_refused(tmp_path):
    path = tmp_path / "arm.json"
    with pytest.raises(NodeError, match="there is no calibration file"):
        read_calibration(path)
    for text, message in (
        ("{", "cannot be read"),
        ("[]", "is no LeRobot calibration"),
        (
            json.dumps({"gripper": {}}),
            "there is no motor shoulder_pan, .*; motor 'gripper': id, .*range_max is missing",
        ),
        (json.dumps(CALIBRATION | {"elbw_flex": {}}), r"unknown motor 'elbw_flex' \(did you mean 'elbow_flex'\?\)"),
    ):
        path.write_text(text)
        with pytest.raises(NodeError, match=f"arm.json.*{message}"):
            read_calibration(path)


# What servos cannot hold, and what is said of it; all of them at once.
BEYOND = {
    "shoulder_pan": ({"homing_offset": 2048}, "homing_offset is 2048, and a servo holds -2047 to 2047"),
    "shoulder_lift": ({"homing_offset": -3000}, "homing_offset is -3000, and a servo holds -2047 to 2047"),
    "elbow_flex": ({"range_max": 4096}, "range_max is 4096, and a servo holds 0 to 4095"),
    "wrist_flex": ({"range_min": -1, "id": 253}, "range_min is -1, and a servo holds 0 to 4095"),
    "wrist_roll": ({"drive_mode": 2, "range_min": 1000.5}, "drive_mode is 2, and a servo holds 0 to 1"),
    "gripper": ({"id": 1}, "motors 'shoulder_pan' and 'gripper' have one id, 1"),
}


@pytest.mark.parametrize("names", [*([name] for name in BEYOND), list(BEYOND)], ids=lambda names: "+".join(names))
def test_what_a_servo_cannot_hold_is_refused_before_anything_is_touched(servos, tmp_path, names):
    changed = {name: values | (BEYOND[name][0] if name in names else {}) for name, values in CALIBRATION.items()}
    if "gripper" in names:
        changed["shoulder_pan"] = changed["shoulder_pan"] | {"id": 1}
    path = tmp_path / "arm.json"
    path.write_text(json.dumps(changed))
    servos.servos[2].set(fake.HOMING, 77)  # so that there is something to set up
    with pytest.raises(NodeError, match="Nothing of it was written") as refused:
        make_arm(servos, path, so101_setup=True).connect()
    assert str(refused.value).startswith(f"{path} does not suit the servos")
    for name in names:
        assert BEYOND[name][1] in str(refused.value)
        assert f"'{name}'" in str(refused.value)
    with pytest.raises(NodeError, match="the servo calibration does not suit the servos"):
        So101Bus(str(servos.path), ROBOT, changed)  # from wherever it comes
    assert (servos.writes, servos.torque_log) == (0, [])


def test_a_robot_files_servos_are_checked_too():
    bad = ServoCalibration(id=1, drive_mode=0, homing_offset=2300, range_min=1000, range_max=3000)
    joints = tuple(JointCalibration(name=name, servo=bad) for name in ROBOT.action_names)
    robot = dataclasses.replace(ROBOT, calibration=RobotCalibration(joints=joints))
    with pytest.raises(NodeError, match="in the file of robot 'so101'.* homing_offset is 2300.* have one id, 1"):
        servo_calibration(robot, "")


@pytest.mark.parametrize("register", [fake.TORQUE, fake.HOMING, fake.MIN_LIMIT, fake.P_GAIN])
def test_a_setup_that_fails_half_way_says_in_which_state_the_arm_is(servos, bus, register):
    for servo in servos.servos.values():
        servo.registers[fake.TORQUE] = 1
        servo.set(fake.HOMING, 77)
    servos.fails_at = (4, register)
    with pytest.raises(NodeError, match="does not answer as it should") as failed:
        bus.connect(dataclasses.replace(HOLD, setup=True))
    written = "no servo" if register == fake.TORQUE else "shoulder_pan, shoulder_lift, elbow_flex"
    left = ", ".join(name for name in ROBOT.action_names if name not in written)
    assert f"New calibration and settings are in {written}; {left} may hold old ones" in str(failed.value)
    assert "the arm is limp, or partly: support it" in str(failed.value)
    assert "start again with so101_setup:=true" in str(failed.value)
    assert [servos.servos[number].get(fake.HOMING) for number in (1, 5)] == [77 if written == "no servo" else 0, 77]
    servos.fails_at = None
    bus.connect(dataclasses.replace(HOLD, setup=True))  # as it says
    assert {servo.get(fake.HOMING) for servo in servos.servos.values()} == {0}
    assert all(servo.registers[fake.TORQUE] for servo in servos.servos.values())
    servos.mute = {2}
    bus.close()
    with pytest.raises(NodeError) as later:
        bus.connect(HOLD)
    assert "limp" not in str(later.value)


def test_limits_beyond_the_measured_range_are_a_warning(servos, tmp_path, caplog):
    narrow = CALIBRATION | {"elbow_flex": CALIBRATION["elbow_flex"] | {"range_min": 1150, "range_max": 2850}}
    servos.servos[3].set(fake.MIN_LIMIT, 1150)
    servos.servos[3].set(fake.MAX_LIMIT, 2850)
    path = tmp_path / "arm.json"
    path.write_text(json.dumps(narrow))
    arm = make_arm(servos, path)
    sentences = [record.getMessage() for record in caplog.records if "the robot file allows" in record.getMessage()]
    assert [sentence.partition(": narrow its position")[0] for sentence in sentences] == [
        "joint 'elbow_flex': the robot file allows -1.64 to 1.64 rad, but the range that was measured reaches from "
        "-1.30 to 1.30"
    ]
    arm.connect()
    health = until("it has read", lambda: (now := arm.health()).values["reads"] and now)
    assert health.level == WARN
    assert "joint 'elbow_flex': the robot file allows" in health.message
    arm.close()


def test_an_empty_port_is_refused(calibration_file):
    with pytest.raises(NodeError, match="parameter so101_port of node 'arm' is empty"):
        So101Arm(ROBOT, ArmParameters(robot="so101", so101_calibration=str(calibration_file)))


def test_a_link_closes_without_having_been_started(bus):
    link = So101Link(bus, HOLD, rate_hz=100.0)
    link.close()
    assert link.status.reads == 0


def test_the_last_goal_is_written_before_the_port_closes(servos, bus):
    link = So101Link(bus, HOLD, rate_hz=0.01)
    link.start()
    until("the link waits", lambda: link.status.reads == 1)
    link.command(np.array([0.1, 0, 0, 0, 0, 0.5]))
    link.close()
    assert servos.servos[1].get(fake.GOAL) == pytest.approx(2000 + 0.1 / TICK, abs=1)
    assert not bus.connected
