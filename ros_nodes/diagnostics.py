"""Diagnostics: what a node says about itself once a second on ``/diagnostics``, and the numbers for it.

Values are strings in a ``DiagnosticStatus``, as ROS has them; ``values_of`` turns them back into a mapping. The timer
is steady: ROS time may stand still or jump, and then a node must say so rather than fall silent.
"""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.node import Node

from ros_nodes.qos import DIAGNOSTICS

__all__ = ["ERROR", "OK", "STALE", "WARN", "DiagnosticsReporter", "Health", "Window", "status_message", "values_of"]

OK, WARN, ERROR, STALE = (
    DiagnosticStatus.OK,
    DiagnosticStatus.WARN,
    DiagnosticStatus.ERROR,
    DiagnosticStatus.STALE,
)
TOPIC = "/diagnostics"  # one topic for all robots on a graph: the names of the statuses tell them apart
PERIOD_SECONDS = 1.0
WINDOW = 600  # samples kept: one minute at 10 Hz


@dataclass(frozen=True, kw_only=True)
class Health:
    """How a node is, in one level, one sentence and some numbers."""

    level: bytes = OK  # OK, WARN, ERROR or STALE
    message: str = "ok"  # what is wrong and how to put it right
    values: Mapping[str, object] = field(default_factory=dict)


class Window:
    """The last samples of a duration or age, and their percentiles."""

    def __init__(self, size: int = WINDOW) -> None:
        self._samples: deque[float] = deque(maxlen=size)
        self.count = 0  # samples seen, those that have left the window included

    def add(self, seconds: float) -> None:
        """Takes one sample [s]."""
        self._samples.append(seconds)
        self.count += 1

    def summary(self, name: str) -> dict[str, str]:
        """Returns ``<name>_p50_ms``, ``_p95_ms``, ``_p99_ms`` and ``_max_ms``; nothing before the first sample."""
        if not self._samples:
            return {}
        milliseconds = 1e3 * np.array(self._samples)
        values = {f"p{share}": float(np.percentile(milliseconds, share)) for share in (50, 95, 99)}
        values["max"] = float(milliseconds.max())
        return {f"{name}_{key}_ms": f"{value:.2f}" for key, value in values.items()}


class DiagnosticsReporter:
    """Publishes a node's health on ``/diagnostics`` once a second.

    Args:
        node: Whose health it is; its full name is the status's name.
        collect: Returns the health at the moment of the call; runs in the executor's thread.
        hardware_id: The robot's or device's name.
    """

    def __init__(self, node: Node, collect: Callable[[], Health], *, hardware_id: str = "") -> None:
        self._node, self._collect, self._hardware_id = node, collect, hardware_id
        self._out = node.create_publisher(DiagnosticArray, TOPIC, DIAGNOSTICS)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._timer = node.create_timer(PERIOD_SECONDS, self.report, clock=steady)

    def report(self) -> None:
        """Publishes now, outside the usual rhythm."""
        name = self._node.get_fully_qualified_name().lstrip("/")
        message = DiagnosticArray(status=[status_message(name, self._collect(), hardware_id=self._hardware_id)])
        message.header.stamp = self._node.get_clock().now().to_msg()
        self._out.publish(message)


def status_message(name: str, health: Health, *, hardware_id: str = "") -> DiagnosticStatus:
    """Builds one ``DiagnosticStatus``; values become strings."""
    values = [KeyValue(key=key, value=str(value)) for key, value in health.values.items()]
    return DiagnosticStatus(
        level=health.level, name=name, message=health.message, hardware_id=hardware_id, values=values
    )


def values_of(status: DiagnosticStatus) -> dict[str, str]:
    """Key to value of a ``DiagnosticStatus``."""
    return {pair.key: pair.value for pair in status.values}
