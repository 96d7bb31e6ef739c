"""How well a loop keeps its time, how old an observation is when it moves the arm, and when a message arrived."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rclpy.clock import ROSClock
from rclpy.node import Node

from ros_nodes.diagnostics import Window

__all__ = ["ChunkClock", "Reception", "TickTimes", "reception", "robot_and_steady_time"]
__all__ += ["with_steady_time"]

REMEMBERED_CHUNKS = 8
CLOSE_S, MOST_READS = 0.0002, 10  # of two clocks that are to be read at once


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
    system_ns, steady = with_steady_time(time.time_ns)
    received_ns = info["received_timestamp"]
    waited_ns = max(0, system_ns - received_ns) if received_ns else 0
    # How far /clock went meanwhile nobody knows, and an arrival must not be put before it was
    clock = node.get_clock()
    simulated = isinstance(clock, ROSClock) and clock.ros_time_is_active
    robot_ns = clock.now().nanoseconds if simulated else system_ns - waited_ns
    return Reception(now=steady - waited_ns * 1e-9, robot_ns=robot_ns)


def robot_and_steady_time(node: Node) -> tuple[float, float]:
    """A node's time and the steady time, both of now [s]."""
    robot_ns, steady = with_steady_time(lambda: node.get_clock().now().nanoseconds)
    return robot_ns * 1e-9, steady


def with_steady_time(read: Callable[[], int]) -> tuple[int, float]:
    """What a clock says, and the steady time [s] at which it said so.

    A process that the machine does not run between two reads would believe one of them to be of the other's time: they
    are read again until they lie close together.
    """
    apart, value, steady = math.inf, 0, 0.0
    for _ in range(MOST_READS):
        before = time.monotonic()
        said = read()
        after = time.monotonic()
        if after - before < apart:
            apart, value, steady = after - before, said, (before + after) / 2
        if apart <= CLOSE_S:
            break
    return value, steady


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
