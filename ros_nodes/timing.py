"""How well a loop keeps its time, how old an observation is when it moves the arm, and when a message arrived."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

from rclpy.clock import ROSClock
from rclpy.node import Node

from ros_nodes.diagnostics import Window

__all__ = ["ChunkClock", "Reception", "TickTimes", "reception"]

REMEMBERED_CHUNKS = 8


@dataclass(frozen=True, kw_only=True)
class Reception:
    """When a message arrived."""

    now: float  # steady time [s]
    robot_ns: int  # robot time [ns]


def reception(node: Node, info: Mapping[str, int]) -> Reception:
    """When DDS got the message of this callback, which is earlier than now where this process was busy.

    Args:
        node: Whose clock is robot time.
        info: What rclpy passes beside the message.
    """
    robot_ns, system_ns = node.get_clock().now().nanoseconds, time.time_ns()
    received_ns = info["received_timestamp"]
    waited_ns = max(0, system_ns - received_ns) if received_ns else 0
    # How far /clock went meanwhile nobody knows, and an arrival must not be put before it was
    clock = node.get_clock()
    simulated = isinstance(clock, ROSClock) and clock.ros_time_is_active
    return Reception(now=time.monotonic() - waited_ns * 1e-9, robot_ns=robot_ns - (0 if simulated else waited_ns))


class TickTimes:
    """Deviation of ticks from their period.

    Args:
        period_s: Nominal period [s].
    """

    def __init__(self, period_s: float) -> None:
        self.jitter = Window()  # |time between two ticks - period|
        self._period_s = period_s
        self._last: float | None = None

    def tick(self, now: float) -> None:
        """Takes the steady time of a tick [s]."""
        if self._last is not None:
            self.jitter.add(abs(now - self._last - self._period_s))
        self._last = now


class ChunkClock:
    """Time from the observation of the chunk in effect to its first command, in robot time."""

    def __init__(self) -> None:
        self.latency_s = 0.0
        self._stamps: dict[tuple[int, int], float] = {}
        self._playing: tuple[int, int] | None = None

    def arrived(self, epoch: int, sequence: int, stamp: float) -> None:
        """Remembers when a chunk's observation was taken [s]."""
        self._stamps[epoch, sequence] = stamp
        while len(self._stamps) > REMEMBERED_CHUNKS:
            self._stamps.pop(next(iter(self._stamps)))

    def consumed(self, epoch: int, sequence: int, robot_now: float) -> None:
        """Notes which chunk is in effect at a tick."""
        playing = (epoch, sequence)
        if playing != self._playing and playing in self._stamps:
            self.latency_s = robot_now - self._stamps[playing]
        self._playing = playing
