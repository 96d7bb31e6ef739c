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

from lerobot.motors.feetech import feetech

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
    monkeypatch.setattr(feetech, "patch_setPacketTimeout", feetech.patch_setPacketTimeout)  # to be put back
    fake.be_patient(lambda: 20.0 * device.answers)
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


def test_the_robot_file_may_hold_the_calibration(calibration_file):
    servo = ServoCalibration(id=1, drive_mode=0, homing_offset=0, range_min=1000, range_max=3000)
    joints = tuple(JointCalibration(name=name, servo=servo) for name in ROBOT.action_names)
    robot = dataclasses.replace(ROBOT, calibration=RobotCalibration(joints=joints))
    assert servo_calibration(robot, "")["gripper"]["range_max"] == 3000
    assert servo_calibration(robot, str(calibration_file)) == CALIBRATION
    with pytest.raises(NodeError, match="no servo calibration for shoulder_pan, .*lerobot-calibrate"):
        servo_calibration(ROBOT, "")


def test_bad_calibration_files_are_refused(tmp_path):
    path = tmp_path / "arm.json"
    with pytest.raises(NodeError, match="there is no calibration file"):
        read_calibration(path)
    for text in ("{", "[]", json.dumps({"gripper": {}})):
        path.write_text(text)
        with pytest.raises(NodeError, match="is not LeRobot's calibration of an SO-101"):
            read_calibration(path)
    path.write_text(json.dumps({**CALIBRATION, "gripper": {**CALIBRATION["gripper"], "range_min": 3000}}))
    with pytest.raises(NodeError, match="gripper has range 3000 to 3000"):
        read_calibration(path)


def test_an_empty_port_is_refused(calibration_file):
    with pytest.raises(NodeError, match="parameter so101_port of node 'arm' is empty"):
        So101Arm(ROBOT, ArmParameters(robot="so101", so101_calibration=str(calibration_file)))


def test_a_link_closes_without_having_been_started(bus):
    So101Link(bus, HOLD, rate_hz=100.0).close()


def test_the_last_goal_is_written_before_the_port_closes(servos, bus):
    link = So101Link(bus, HOLD, rate_hz=0.01)
    link.start()
    until("the link waits", lambda: link.status.reads == 1)
    link.command(np.array([0.1, 0, 0, 0, 0, 0.5]))
    link.close()
    assert servos.servos[1].get(fake.GOAL) == pytest.approx(2000 + 0.1 / TICK, abs=1)
    assert not bus.connected
