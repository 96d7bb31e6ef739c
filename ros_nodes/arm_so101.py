"""The SO-101 behind the arm node's backend protocol: LeRobot's Feetech bus, in a thread of its own.

When it connects it holds the pose it finds; torque is never switched off by a fault, and at the end only when asked.
After a start or a lost connection, commands far from where the arm is are ignored until one comes near: the arm must
not fly to where somebody believed it to be.
"""

import logging
import time
from pathlib import Path

import numpy as np
from rclpy.node import Node

from calibration.errors import CalibrationError
from calibration.servo_entries import check_servos
from calibration.servos import unreachable
from ros_nodes.arm_backend import ArmState
from ros_nodes.arm_parameters import ArmParameters
from ros_nodes.diagnostics import ERROR, OK, WARN, Health
from ros_nodes.errors import NodeError
from ros_nodes.so101_bus import ServoSettings, So101Bus, read_calibration
from ros_nodes.so101_link import So101Link
from wam.calibration_spec import ServoCalibration
from wam.robot import RobotSpec

__all__ = ["So101Arm", "open_arm", "servo_calibration"]

logger = logging.getLogger(__name__)

HOT_DEGREES = 60  # servos switch themselves off at 70 or 80


def open_arm(node: Node, robot: RobotSpec, parameters: ArmParameters) -> "So101Arm":
    """Makes the backend."""
    return So101Arm(robot, parameters)


def servo_calibration(robot: RobotSpec, path: str) -> dict[str, dict[str, int]]:
    """Finds LeRobot's calibration of the servos: in the given file, else in the robot file's own section.

    Raises:
        NodeError: There is none, or not one that servos can hold.
    """
    if path:
        return read_calibration(Path(path).expanduser())
    joints = () if robot.calibration is None else robot.calibration.joints
    servos = {joint.name: vars(joint.servo) for joint in joints if joint.servo is not None}
    missing = [name for name in robot.action_names if name not in servos]
    if missing:
        raise NodeError(
            f"there is no servo calibration for {', '.join(missing)}: give LeRobot's file, calibration:=FILE to the "
            "launch file (parameter so101_calibration of this node). lerobot-calibrate writes it to "
            "~/.cache/huggingface/lerobot/calibration/robots/so_follower/ID.json; `wam calibrate joints` puts it into "
            "the robot file."
        )
    entries = {name: dict(values) for name, values in servos.items()}
    try:
        check_servos(entries, f"the section calibration in the file of robot '{robot.name}'")
    except CalibrationError as error:
        raise NodeError(str(error)) from error
    return entries


class So101Arm:
    """See ``ArmBackend``."""

    def __init__(self, robot: RobotSpec, parameters: ArmParameters) -> None:
        if not parameters.so101_port:
            raise NodeError(
                "parameter so101_port of node 'arm' is empty: give the arm's serial device, such as /dev/ttyACM0 "
                "(lerobot-find-port finds it; a udev rule gives it a name that stays)."
            )
        calibration = servo_calibration(robot, parameters.so101_calibration)
        servos = {name: ServoCalibration(**values) for name, values in calibration.items()}
        self._unreachable = unreachable(robot, servos)
        for sentence in self._unreachable:
            logger.warning("%s", sentence)
        self._robot, self._limp_at_exit = robot, parameters.so101_limp_at_exit
        bus = So101Bus(parameters.so101_port, robot, calibration)
        settings = ServoSettings(hold=True, setup=parameters.so101_setup)
        self._link = So101Link(bus, settings, rate_hz=parameters.state_rate_hz)
        self._seen = -1.0  # when the last published pose was measured
        self._joined = False  # commands are followed
        self._reconnects = 0
        self._ignored = ""  # why the last command was not followed

    def connect(self) -> None:
        """Opens the bus, checks it and holds."""
        self._link.start()

    def step(self, now: float) -> ArmState | None:
        """Returns the newest measurement, once."""
        self._check_connection()
        pose = self._link.pose
        if pose is None or pose.when == self._seen:
            return None
        self._seen = pose.when
        return ArmState(positions=pose.positions, stamp=now - (time.monotonic() - pose.when))

    def command(self, positions: np.ndarray, now: float) -> None:
        """Follows a setpoint, unless it would make the arm fly."""
        self._check_connection()
        pose = self._link.pose
        if pose is None:
            self._ignored = "the arm does not answer"
            return
        if not self._joined:
            far = np.abs(positions - pose.positions)
            if far.max() > self._robot.safety.engage_error:
                axis = self._robot.action_names[int(far.argmax())]
                self._ignored = f"the command is {far.max():.2f} away from where '{axis}' is: reset the guard"
                return
            self._joined = True
        self._ignored = ""
        self._link.command(positions)

    def health(self) -> Health:
        """Counters of the bus, and what is wrong."""
        status = self._link.status
        hot = bool(status.hottest) and int(status.hottest.split()[-1]) >= HOT_DEGREES
        level, message = OK, "ok"
        if self._unreachable:
            level, message = WARN, "; ".join(self._unreachable)
        if hot:
            level, message = WARN, f"servo {status.hottest} degrees: let it rest"
        if self._ignored:
            level, message = WARN, self._ignored
        if status.problem:
            level, message = (WARN, status.problem) if status.connected else (ERROR, status.problem)
        return Health(level=level, message=message, values=vars(status))

    def close(self) -> None:
        """Lets go of the bus; the servos hold, unless they were to go limp."""
        self._link.close(limp=self._limp_at_exit)

    def _check_connection(self) -> None:
        reconnects = self._link.status.reconnects
        if reconnects != self._reconnects:
            self._reconnects, self._joined = reconnects, False
