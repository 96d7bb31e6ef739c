"""The servo bus of an SO-101 arm, leader or follower, in the robot file's units: LeRobot's Feetech bus inside.

The only module of the nodes that imports lerobot, and it does so when a bus is opened. Calibration is LeRobot's: the
zero of a joint is the middle of its calibrated range, the gripper's range becomes an opening in [0, 1]. Torque is never
switched off here unless a method says so in its name.

Shape legend: A axes of the robot file.
"""

import importlib.util
import logging
import termios
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from calibration.errors import CalibrationError
from calibration.servo_entries import check_servos, read_servo_file
from ros_nodes.errors import NodeError
from wam.errors import unknown_name
from wam.robot import RobotSpec

__all__ = ["MOTORS", "ServoSettings", "So101Bus", "read_calibration"]

MOTORS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")  # bus ids 1 to 6
GRIPPER = "gripper"
MODEL = "sts3215"
READ_RETRIES = 1  # within one read: a lost byte on a long cable is no reason to skip a state
# What LeRobot's follower sets: gentle gains, and a gripper that does not burn out on what it holds
GAINS: Mapping[str, int] = {"Operating_Mode": 0, "P_Coefficient": 16, "I_Coefficient": 0, "D_Coefficient": 32}
GRIPPER_LIMITS: Mapping[str, int] = {"Max_Torque_Limit": 500, "Protection_Current": 250, "Overload_Torque": 25}
ACCELERATION = 254  # as fast as the servo can: the guard has limited it already; forgotten at every power-up
# What lerobot, the SDK and pyserial raise when servos are silent (ConnectionError) or the wrong ones (RuntimeError), or
# the device vanishes while it is used (termios.error, and TypeError from a closed port)
DEVICE_ERRORS = (OSError, RuntimeError, TypeError, termios.error)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ServoSettings:
    """How the servos are to be set up."""

    hold: bool  # hold the pose found when connecting; a leader arm is moved by hand instead
    setup: bool = False  # settings and calibration may be written, which lets the arm go limp for a moment


class So101Bus:
    """One bus with six servos; every method blocks for a few milliseconds, and 50 more for every lost packet.

    Args:
        port: Serial device.
        robot: Its axes are the motors' names, in any order.
        calibration: motor -> LeRobot's calibration fields.

    Raises:
        NodeError: An axis is no motor, or the calibration is beyond what a servo can hold.
    """

    def __init__(self, port: str, robot: RobotSpec, calibration: Mapping[str, Mapping[str, int]]) -> None:
        for name in robot.action_names:
            if name not in MOTORS:
                fix = f"Name the axes of robot '{robot.name}' like the motors."
                raise NodeError(unknown_name("motor of an SO-101", name, MOTORS, fix=fix))
        try:
            check_servos(calibration, "the servo calibration")
        except CalibrationError as error:
            raise NodeError(str(error)) from error
        self._port, self._robot, self._calibration = port, robot, calibration
        self._offsets = _offsets(robot)
        self._bus: Any = None
        self._written: list[str] | None = None  # servos that a setup has written; None: torque was left alone

    @property
    def connected(self) -> bool:
        """Whether the serial device is open."""
        return self._bus is not None

    def connect(self, settings: ServoSettings) -> np.ndarray:
        """Opens the device, checks motors, calibration and settings, and holds the pose found if asked to.

        Returns:
            (A,) float32 where the arm is [rad, opening].

        Raises:
            NodeError: lerobot is missing, the device does not open, or motors or calibration are not what they
                should be.
        """
        if importlib.util.find_spec("lerobot") is None or importlib.util.find_spec("scservo_sdk") is None:
            raise NodeError("the SO-101 needs LeRobot's Feetech bus: pip install 'world_action_model[so101]'.")
        bus = self._make_bus()
        try:
            bus.connect()
            self._bus = bus
            self._agree(settings)
            pose = self.read()
            if settings.hold:
                self.write(pose)  # before torque: the servo would go to wherever it was told to be last
                for name in bus.motors:
                    bus.write("Acceleration", name, ACCELERATION)
                bus.enable_torque()
        except (*DEVICE_ERRORS, ValueError) as error:
            self.close()
            raise NodeError(
                f"the SO-101 on {self._port} does not answer as it should ({_one_line(error)}): check power, cable, "
                "port and permissions (lerobot-find-port lists ports; the user must be in group dialout)."
                f"{self._aftermath()}"
            ) from error
        except NodeError:
            self.close()
            raise
        self._written = None
        return pose

    def read(self) -> np.ndarray:
        """Measures every axis.

        Returns:
            (A,) float32 [rad, opening], in the robot file's order.

        Raises:
            OSError: A servo did not answer, or the device is gone.
        """
        found = self._guarded(lambda bus: bus.sync_read("Present_Position", num_retry=READ_RETRIES))
        units = [_from_lerobot(name, found[name]) for name in self._robot.action_names]
        return (np.array(units) + self._offsets).astype(np.float32)

    def write(self, positions: np.ndarray) -> None:
        """Sends (A,) goal positions [rad, opening]; servos do not acknowledge them.

        Raises:
            OSError: The device is gone.
        """
        goals = {
            name: _to_lerobot(name, float(value))
            for name, value in zip(self._robot.action_names, positions - self._offsets, strict=True)
        }
        self._guarded(lambda bus: bus.sync_write("Goal_Position", goals))

    def temperatures(self) -> dict[str, int]:
        """Reads the servos' temperatures [degrees Celsius].

        Raises:
            OSError: A servo did not answer, or the device is gone.
        """
        return self._guarded(lambda bus: bus.sync_read("Present_Temperature", normalize=False))

    def torque_off(self) -> None:
        """Lets the arm go limp.

        Raises:
            OSError: A servo did not answer, or the device is gone.
        """
        self._guarded(lambda bus: bus.disable_torque(num_retry=READ_RETRIES))

    def close(self) -> None:
        """Closes the device; the servos go on as they are."""
        bus, self._bus = self._bus, None
        if bus is not None and bus.port_handler.ser is not None:
            bus.port_handler.closePort()

    def _make_bus(self) -> Any:
        from lerobot.motors import Motor, MotorCalibration, MotorNormMode
        from lerobot.motors.feetech import FeetechMotorsBus

        modes = {name: MotorNormMode.RANGE_0_100 if name == GRIPPER else MotorNormMode.DEGREES for name in MOTORS}
        present = [name for name in MOTORS if name in self._robot.action_names]
        motors = {name: Motor(self._calibration[name]["id"], MODEL, modes[name]) for name in present}
        calibration = {name: MotorCalibration(**self._calibration[name]) for name in motors}
        return FeetechMotorsBus(port=self._port, motors=motors, calibration=calibration)

    def _guarded[T](self, call: Callable[[Any], T]) -> T:
        """Runs one transaction; whatever fails becomes an ``OSError`` and leaves the bus ready for the next one."""
        if self._bus is None:
            raise ConnectionError(f"{self._port} is not open")
        try:
            return call(self._bus)
        except DEVICE_ERRORS as error:
            handler = self._bus.port_handler
            handler.is_using = False  # an exception inside the SDK leaves it locked
            try:
                handler.ser.reset_input_buffer()  # a late answer must not be taken for the next one
            except DEVICE_ERRORS as gone:
                self.close()
                raise ConnectionError(f"{self._port} is gone ({gone})") from error
            raise ConnectionError(_one_line(error)) from error

    def _agree(self, settings: ServoSettings) -> None:
        """Compares the servos with calibration and settings; writes them only when that is allowed."""
        bus = self._bus
        wrong = self._calibration_differences()
        if settings.hold:
            wrong += self._setting_differences()
        if not wrong:
            return
        if not settings.setup:
            raise NodeError(
                f"the servos on {self._port} are set otherwise than they should be ({'; '.join(wrong[:3])}"
                f"{'; …' if len(wrong) > 3 else ''}). Is it the right arm and calibration file? If so, support the arm "
                "and start once with so101_setup:=true: it goes limp for a moment while this is written."
            )
        logger.warning("setting up the servos on %s: %s", self._port, "; ".join(wrong))
        self._written = []
        bus.disable_torque()
        bus.configure_motors()
        for name in bus.motors:
            bus.write_calibration({name: bus.calibration[name]}, cache=False)
            for register, value in _wanted(name).items():
                bus.write(register, name, value)
            self._written.append(name)

    def _aftermath(self) -> str:
        """In which state a setup that failed has left the arm."""
        if self._written is None:
            return ""
        left = [name for name in MOTORS if name in self._robot.action_names and name not in self._written]
        return (
            " This came in the middle of a setup: torque was switched off, so the arm is limp, or partly: support it. "
            f"New calibration and settings are in {', '.join(self._written) or 'no servo'}; {', '.join(left) or 'none'}"
            " may hold old ones, or some of each. When the cause is mended start again with so101_setup:=true, which "
            "writes what is missing."
        )

    def _calibration_differences(self) -> list[str]:
        wrong = []
        for name, found in self._bus.read_calibration().items():
            for field in ("homing_offset", "range_min", "range_max"):
                value, wanted = getattr(found, field), getattr(self._bus.calibration[name], field)
                if value != wanted:
                    wrong.append(f"{name} {field} is {value}, the calibration says {wanted}")
        return wrong

    def _setting_differences(self) -> list[str]:
        wrong = []
        for name in self._bus.motors:
            for register, wanted in _wanted(name).items():
                value = self._bus.read(register, name, normalize=False)
                if value != wanted:
                    wrong.append(f"{name} {register} is {value}, should be {wanted}")
        return wrong


def read_calibration(path: Path) -> dict[str, dict[str, int]]:
    """Reads a calibration file of LeRobot: motor -> id, drive_mode, homing_offset, range_min, range_max.

    Raises:
        NodeError: There is no such file, or it is not a calibration of an SO-101.
    """
    if not path.is_file():
        fix = "make it with lerobot-calibrate, or with wam calibrate joints."
        raise NodeError(f"there is no calibration file {path}: {fix}")
    try:
        return {name: dict(vars(servo)) for name, servo in read_servo_file(path, MOTORS).items()}
    except CalibrationError as error:
        raise NodeError(str(error)) from error


def _offsets(robot: RobotSpec) -> np.ndarray:
    """(A,) what calibration adds to a reported angle [rad]; nothing for the gripper."""
    joints = {} if robot.calibration is None else {joint.name: joint for joint in robot.calibration.joints}
    return np.array(
        [joints[name].offset_rad if name in joints and name != GRIPPER else 0.0 for name in robot.action_names]
    )


def _wanted(name: str) -> Mapping[str, int]:
    return {**GAINS, **GRIPPER_LIMITS} if name == GRIPPER else GAINS


def _from_lerobot(name: str, value: float) -> float:
    return value / 100.0 if name == GRIPPER else float(np.deg2rad(value))


def _to_lerobot(name: str, value: float) -> float:
    return 100.0 * value if name == GRIPPER else float(np.rad2deg(value))


def _one_line(error: BaseException) -> str:
    causes = [error] + ([error.__cause__] if error.__cause__ is not None else [])
    return "; ".join(" ".join(str(cause).split()) for cause in causes)
