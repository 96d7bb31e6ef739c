"""A thread that keeps one SO-101 bus busy: writes the newest goal, reads the pose, and comes back after a failure.

A lost packet blocks the bus for 50 ms and a pulled cable for seconds; the arm node's executor must not wait for either.
Nothing that fails here switches torque off. A pose is never made up: when the bus is silent there is none, and the
guard notices.
"""

import logging
import threading
import time
from dataclasses import dataclass, replace

import numpy as np

from ros_nodes.errors import NodeError
from ros_nodes.so101_bus import ServoSettings, So101Bus

__all__ = ["LinkStatus", "Pose", "So101Link"]

RECONNECT_SECONDS = 1.0  # between two attempts
TEMPERATURE_SECONDS = 2.0
FAILURES_IN_A_ROW = 10  # of reading, before the port is closed and opened again

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Pose:
    """One measurement."""

    positions: np.ndarray  # (A,) float32 [rad, opening]
    when: float  # monotonic time in the middle of reading it [s]


@dataclass(frozen=True, kw_only=True)
class LinkStatus:
    """What happened on the bus so far."""

    reads: int = 0
    read_errors: int = 0
    write_errors: int = 0
    reconnects: int = 0
    connected: bool = False
    problem: str = ""  # the last one; empty since the last success
    hottest: str = ""  # "gripper 41" [degrees Celsius]


class So101Link:
    """The thread and what it knows.

    Args:
        bus: Not connected yet; belongs to the thread after ``start``.
        settings: How the servos are set up.
        rate_hz: How often the pose is read.
    """

    def __init__(self, bus: So101Bus, settings: ServoSettings, *, rate_hz: float) -> None:
        self._bus, self._settings, self._period = bus, settings, 1.0 / rate_hz
        self._lock = threading.Lock()
        self._goal: np.ndarray | None = None
        self._pose: Pose | None = None
        self._status = LinkStatus()
        self._stop = threading.Event()
        self._failures = 0
        self._next_temperature = 0.0
        self._thread = threading.Thread(target=self._run, name="so101-bus", daemon=True)

    def start(self) -> None:
        """Connects, in the caller's thread so that its errors are the caller's, and begins.

        Raises:
            NodeError: See ``So101Bus.connect``.
        """
        positions = self._bus.connect(self._settings)
        self._pose = Pose(positions=positions, when=time.monotonic())
        self._note(connected=True)
        self._thread.start()

    @property
    def pose(self) -> Pose | None:
        """The newest measurement; None between a lost connection and the next success."""
        with self._lock:
            return self._pose

    @property
    def status(self) -> LinkStatus:
        """Counters and the last problem."""
        with self._lock:
            return self._status

    def command(self, positions: np.ndarray | None) -> None:
        """Sets (A,) goals [rad, opening], written once; None takes back one that was not written yet."""
        with self._lock:
            self._goal = None if positions is None else positions.copy()

    def close(self, *, limp: bool = False) -> None:
        """Ends the thread and closes the port, once the newest goal is written; may be called twice.

        Args:
            limp: Switch torque off first. The servos hold otherwise.
        """
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        if limp and self._bus.connected:
            try:
                self._bus.torque_off()
            except OSError as error:
                logger.error("the arm may still hold: %s", error)
        self._bus.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            if self._bus.connected:
                self._exchange()
                wait = self._period - (time.monotonic() - began)
            else:
                wait = 0.0 if self._reconnect() else RECONNECT_SECONDS
            if wait > 0:
                self._stop.wait(wait)
        with self._lock:
            last_goal_waits = self._goal is not None
        if last_goal_waits and self._bus.connected:
            self._exchange()  # the pose read behind it has to wait until the goal has left the computer

    def _exchange(self) -> None:
        with self._lock:
            goal, self._goal = self._goal, None
        try:
            if goal is not None:
                self._bus.write(goal)
        except OSError as error:
            self._note(write_errors=self._status.write_errors + 1, problem=str(error))
        try:
            before = time.monotonic()
            positions = self._bus.read()
            now = time.monotonic()
            pose = Pose(positions=positions, when=(before + now) / 2)
            if now > self._next_temperature:
                self._next_temperature = now + TEMPERATURE_SECONDS
                self._note_temperature()
        except OSError as error:
            self._failed(str(error))
            return
        self._failures = 0
        with self._lock:
            self._pose = pose
            self._status = replace(self._status, reads=self._status.reads + 1, connected=True, problem="")

    def _failed(self, problem: str) -> None:
        self._failures += 1
        self._note(read_errors=self._status.read_errors + 1, problem=problem)
        if self._failures >= FAILURES_IN_A_ROW:
            self._bus.close()
        if not self._bus.connected:
            self._failures = 0
            with self._lock:
                self._pose = self._goal = None
            self._note(connected=False)
            logger.error("lost the SO-101: %s; trying again every %g s", problem, RECONNECT_SECONDS)

    def _reconnect(self) -> bool:
        try:
            # Whoever replaced the arm in the meantime must be told, not have it written to: no setup here.
            positions = self._bus.connect(replace(self._settings, setup=False))
        except NodeError as error:
            self._note(problem=str(error))
            return False
        with self._lock:
            self._pose, self._goal = Pose(positions=positions, when=time.monotonic()), None
        self._note(connected=True, reconnects=self._status.reconnects + 1, problem="")
        logger.warning("the SO-101 is back; holding where it is")
        return True

    def _note_temperature(self) -> None:
        name, degrees = max(self._bus.temperatures().items(), key=lambda item: item[1])
        self._note(hottest=f"{name} {degrees}")

    def _note(self, **changes: object) -> None:
        with self._lock:
            self._status = replace(self._status, **changes)  # type: ignore[arg-type]
