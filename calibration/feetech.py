"""Feetech STS servos on a serial bus, through the vendor's package ``scservo_sdk``: just what a calibration needs.

Not run on hardware by this repository's tests, which drive it through a stand-in for the vendor's package; on your
machine ``wam calibrate joints --port`` is the check. Register numbers are those of the STS3215's memory table.
"""

from collections.abc import Mapping
from types import TracebackType
from typing import Any

from calibration.errors import CalibrationError
from wam.calibration_spec import ServoCalibration

__all__ = ["SO101_IDS", "FeetechBus"]

SO101_IDS: Mapping[str, int] = {  # LeRobot's names and numbers
    "shoulder_pan": 1,
    "shoulder_lift": 2,
    "elbow_flex": 3,
    "wrist_flex": 4,
    "wrist_roll": 5,
    "gripper": 6,
}
BAUD_RATE = 1_000_000
_MIN_LIMIT, _MAX_LIMIT, _OFFSET, _TORQUE, _LOCK, _POSITION = 9, 11, 31, 40, 55, 56
_SIGN_BIT = 1 << 11  # the offset's register holds sign and magnitude
_SIGN_OF_POSITION = 1 << 15  # and so does the position's, with fifteen bits
_TRIES = 5  # a hand on the arm's cable costs a packet now and then


class FeetechBus:
    """An open bus; a context manager that closes the port."""

    def __init__(self, port: str, ids: Mapping[str, int] = SO101_IDS, sdk: Any = None) -> None:
        """Opens the port and asks every servo for its position.

        Args:
            port: Serial device, for example /dev/ttyACM0.
            ids: Joint name -> number on the bus.
            sdk: Stands in for ``scservo_sdk`` in tests.

        Raises:
            CalibrationError: The port cannot be opened or a servo does not answer.
        """
        if sdk is None:
            import scservo_sdk as sdk  # type: ignore[no-redef]  # the extra so101

        self._ids = dict(ids)
        self._port, self._packets = sdk.PortHandler(port), sdk.PacketHandler(0)
        try:
            opened = self._port.openPort() and self._port.setBaudRate(BAUD_RATE)
        except OSError as error:  # pyserial's errors are
            raise CalibrationError(_cannot_open(port, str(error))) from error
        if not opened:
            raise CalibrationError(_cannot_open(port, "the driver refused"))
        self.read_positions()

    def __enter__(self) -> "FeetechBus":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._port.closePort()

    def read_positions(self) -> dict[str, int]:
        """Position of every servo [tick]."""
        raw = {name: self._read(name, _POSITION) for name in self._ids}
        return {name: _SIGN_OF_POSITION - value if value & _SIGN_OF_POSITION else value for name, value in raw.items()}

    def release(self) -> None:
        """Turns torque off and unlocks the stored settings."""
        for name in self._ids:
            self._write(name, _TORQUE, 0, 1)
            self._write(name, _LOCK, 0, 1)

    def reset_offsets(self) -> None:
        """Makes every servo report raw positions over its whole turn."""
        for name in self._ids:
            self._write(name, _OFFSET, 0, 2)
            self._write(name, _MIN_LIMIT, 0, 2)
            self._write(name, _MAX_LIMIT, 4095, 2)

    def write_offsets(self, offsets: Mapping[str, int]) -> None:
        """Stores homing offsets [tick]."""
        for name, offset in offsets.items():
            self._write(name, _OFFSET, abs(offset) | (_SIGN_BIT if offset < 0 else 0), 2)

    def write_calibration(self, servos: Mapping[str, ServoCalibration]) -> None:
        """Stores offsets and limits in the servos."""
        self.write_offsets({name: servo.homing_offset for name, servo in servos.items()})
        for name, servo in servos.items():
            self._write(name, _MIN_LIMIT, servo.range_min, 2)
            self._write(name, _MAX_LIMIT, servo.range_max, 2)
            self._write(name, _LOCK, 1, 1)

    def _read(self, name: str, register: int) -> int:
        for _ in range(_TRIES):
            value, result, fault = self._packets.read2ByteTxRx(self._port, self._ids[name], register)
            if result == 0 and fault == 0:
                return int(value)
        raise CalibrationError(self._silent(name))

    def _write(self, name: str, register: int, value: int, size: int) -> None:
        write = self._packets.write1ByteTxRx if size == 1 else self._packets.write2ByteTxRx
        for _ in range(_TRIES):
            result, fault = write(self._port, self._ids[name], register, value)
            if result == 0 and fault == 0:
                return
        raise CalibrationError(self._silent(name))

    def _silent(self, name: str) -> str:
        return (
            f"servo '{name}' (number {self._ids[name]}) does not answer: check the power supply, the cable to it and "
            "that its number was set (LeRobot's lerobot-setup-motors does that)."
        )


def _cannot_open(port: str, why: str) -> str:
    return (
        f"serial port {port} cannot be opened ({why}): check the name (ls /dev/ttyACM* /dev/ttyUSB*) and that you may "
        "use it (groups: dialout)."
    )
