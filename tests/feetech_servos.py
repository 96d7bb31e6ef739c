"""Six Feetech STS3215 servos behind a pseudo-terminal: the bus protocol at byte level, and the ways it fails.

A packet is FF FF id length instruction parameters checksum; a status packet has an error byte in place of the
instruction. Registers are those of the STS series; positions follow goals at once while torque is on.
"""

import contextlib
import os
import pty
import select
import threading
import tty
from pathlib import Path
from typing import Any

import pytest

PING, READ, WRITE, SYNC_READ, SYNC_WRITE = 1, 2, 3, 0x82, 0x83
BROADCAST = 0xFE
MODEL_NUMBER = 777  # sts3215
ID, MIN_LIMIT, MAX_LIMIT, HOMING, TORQUE, GOAL, PRESENT, TEMPERATURE = 5, 9, 11, 31, 40, 42, 56, 63
P_GAIN, D_GAIN, I_GAIN = 21, 22, 23
MAX_TORQUE, PROTECTION_CURRENT, OVERLOAD = 16, 28, 36
DEAD_S = 20.0  # after which nothing more can be expected of a device


# LeRobot's calibration of these servos: zero is in the middle, 2000; joints reach beyond the limits of robot so101
CALIBRATION = {
    name: {
        "id": number,
        "drive_mode": 0,
        "homing_offset": 0,
        "range_min": 1000 if number == 6 else 200,
        "range_max": 3000 if number == 6 else 3800,
    }
    for number, name in enumerate(
        ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper"), start=1
    )
}


class Servo:
    """The registers of one servo."""

    def __init__(self, number: int) -> None:
        self.registers = bytearray(128)
        self.set(3, MODEL_NUMBER)
        self.registers[0:2] = bytes((3, 10))  # firmware
        self.registers[ID] = number
        self.registers[P_GAIN], self.registers[I_GAIN], self.registers[D_GAIN] = 16, 0, 32
        self.set(MIN_LIMIT, 1000 if number == 6 else 200)
        self.set(MAX_LIMIT, 3000 if number == 6 else 3800)
        self.set(PRESENT, 2000)
        self.registers[TEMPERATURE] = 30 + number
        if number == 6:
            self.set(MAX_TORQUE, 500)
            self.set(PROTECTION_CURRENT, 250)
            self.registers[OVERLOAD] = 25

    def get(self, address: int) -> int:
        return int.from_bytes(self.registers[address : address + 2], "little")

    def set(self, address: int, value: int) -> None:
        self.registers[address : address + 2] = value.to_bytes(2, "little")

    def write(self, address: int, data: bytes) -> None:
        self.registers[address : address + len(data)] = data
        if self.registers[TORQUE]:
            self.set(PRESENT, self.get(GOAL))


def be_patient(seconds: float) -> None:
    """Makes LeRobot's bus of this process wait longer for an answer.

    Real servos answer within a millisecond and LeRobot gives them fifty. Another process that plays them may not be run
    for longer than that on a busy machine.
    """
    from lerobot.motors.feetech import feetech

    plain = feetech.patch_setPacketTimeout

    def patient(handler: Any, packet_length: int) -> None:
        plain(handler, packet_length)
        handler.packet_timeout += 1e3 * seconds

    feetech.patch_setPacketTimeout = patient


def wait_for(device: "FakeBus", monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets no answer of a device in this process time out that is still to come, however slow its thread is run."""
    port = pytest.importorskip("scservo_sdk").PortHandler
    plain_setup, plain_write = port.setupPort, port.writePort
    plain_read, plain_timeout = port.readPort, port.isPacketTimeout

    def setup(handler: Any, flag: int) -> bool:
        done = plain_setup(handler, flag)
        device.received = device.answered  # what nobody had read yet is thrown away
        return done

    def write(handler: Any, packet: Any) -> int:
        written = plain_write(handler, packet)
        device.sent += written
        return written

    def timed_out(handler: Any) -> bool:
        if not plain_timeout(handler):
            return False
        if not device.plugged or handler.getTimeSinceStart() > 1e3 * DEAD_S:
            return True
        return device.has_answered

    def read(handler: Any, length: int) -> bytes:
        data = plain_read(handler, length)
        device.received += len(data)
        return data

    monkeypatch.setattr(port, "setupPort", setup)
    monkeypatch.setattr(port, "readPort", read)
    monkeypatch.setattr(port, "writePort", write)
    monkeypatch.setattr(port, "isPacketTimeout", timed_out)


class FakeBus:
    """A serial device with servos 1 to 6; ``path`` stays the same when it is unplugged and plugged in again."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "ttyARM"
        self.servos = {number: Servo(number) for number in range(1, 7)}
        self.mute: set[int] = set()  # servos that do not answer
        self.spoil = 0  # answers still to be sent with a wrong checksum
        self.torque_log: list[tuple[int, int]] = []  # (servo, value) of every write to Torque_Enable
        self.writes = 0  # to one servo each, of whatever register
        self.fails_at: tuple[int, int] | None = None  # (servo, register): not written, and the answer is spoilt
        self.sync_writes = 0
        # Counted by ``wait_for``, whose user lives in this process
        self.sent = self.taken = 0  # bytes written to it, and read and dealt with by it
        self.answered = self.received = 0  # bytes written by it, and read by its user
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.plug()

    def plug(self) -> None:
        """Makes the device appear."""
        self._master, slave = pty.openpty()
        tty.setraw(slave)
        self._slave = slave
        self.sent = self.taken = self.answered = self.received = 0
        self.path.unlink(missing_ok=True)
        self.path.symlink_to(os.ttyname(slave))
        self._stop.clear()
        self._thread = threading.Thread(target=self._serve, args=(self._master,), daemon=True)
        self._thread.start()

    def unplug(self) -> None:
        """Makes the device vanish under its user."""
        self.path.unlink(missing_ok=True)
        self._stop.set()
        assert self._thread is not None
        self._thread.join()
        os.close(self._slave)
        os.close(self._master)

    @property
    def plugged(self) -> bool:
        """Whether the device is there."""
        return not self._stop.is_set()

    @property
    def has_answered(self) -> bool:
        """Whether everything that was sent to it has got its answer, if any, and its user has read that."""
        return self.taken >= self.sent and self.received >= self.answered

    def close(self) -> None:
        """Ends it, plugged in or not."""
        if self.plugged:
            self.unplug()

    def _serve(self, master: int) -> None:
        pending = bytearray()
        while not self._stop.is_set():
            if not select.select([master], [], [], 0.02)[0]:
                continue
            data = b""
            with contextlib.suppress(OSError):
                data = os.read(master, 4096)
            pending += data
            while (packet := _packet(pending)) is not None:
                answer = b"".join(self._answers(*packet))
                if answer:
                    self.answered += os.write(master, answer)
            self.taken += len(data)

    def _answers(self, number: int, instruction: int, data: bytes):
        if instruction == SYNC_WRITE:
            address, size = data[0], data[1]
            self.sync_writes += 1
            for place in range(2, len(data), size + 1):
                self._write(data[place], address, data[place + 1 : place + 1 + size])
        elif instruction == SYNC_READ:
            for each in data[2:]:
                yield self._status(each, self.servos[each].registers[data[0] : data[0] + data[1]])
        elif number in self.servos:
            if instruction == READ:
                yield self._status(number, self.servos[number].registers[data[0] : data[0] + data[1]])
            elif instruction == WRITE:
                self._write(number, data[0], data[1:])
                yield self._status(number, b"")
            elif instruction == PING:
                yield self._status(number, b"")

    def _write(self, number: int, address: int, data: bytes) -> None:
        self.writes += 1
        if (number, address) == self.fails_at:
            self.spoil += 1
            return
        if address == TORQUE:
            self.torque_log.append((number, data[0]))
        self.servos[number].write(address, data)

    def _status(self, number: int, data: bytes) -> bytes:
        if number in self.mute:
            return b""
        body = bytes((number, len(data) + 2, 0)) + bytes(data)
        checksum = ~sum(body) & 0xFF
        if self.spoil:
            self.spoil -= 1
            checksum ^= 0x55
        return b"\xff\xff" + body + bytes((checksum,))


def _packet(pending: bytearray) -> tuple[int, int, bytes] | None:
    """Takes one whole packet with a right checksum off the front: (id, instruction, parameters)."""
    while len(pending) >= 6:
        if pending[:2] != b"\xff\xff":
            del pending[0]
            continue
        size = pending[3] + 4
        if len(pending) < size:
            return None
        packet = bytes(pending[:size])
        del pending[:size]
        if ~sum(packet[2:-1]) & 0xFF == packet[-1]:
            return packet[2], packet[4], packet[5:-1]
    return None
