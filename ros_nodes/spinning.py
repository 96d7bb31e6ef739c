"""``main`` of every node: initialise, spin in one thread, leave cleanly on SIGINT and SIGTERM.

rclpy's own handlers shut the ROS context down at once, and a guard that still has to brake could publish nothing any
more. So the signals only ask a node to stop: a node with ``begin_stop()`` and ``stopped`` gets time for it (a second
signal, or ``STOP_SECONDS``, ends the wait), every other node leaves at once. Bad input ends with one message and
exit status 2, as with the command line.
"""

import logging
import signal
import sys
import time
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Protocol, runtime_checkable

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.logging import get_logger
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from wam.errors import WamError

__all__ = ["EXIT_USAGE", "SoftStop", "run"]

EXIT_USAGE = 2  # bad parameters or bad input
EXIT_SIGNAL = 128  # plus the signal's number, when it had to be sent twice
POLL_SECONDS = 0.05  # a signal is noticed this late at the most; waiting inside rclpy does not end by itself
STOP_SECONDS = 5.0  # a soft stop that takes longer is given up


@runtime_checkable
class SoftStop(Protocol):
    """A node that does something before it leaves."""

    @property
    def stopped(self) -> bool:
        """Whether it has finished."""

    def begin_stop(self) -> None:
        """Begins to stop; called once, from the executor's thread."""


def run(make_node: Callable[[], Node], argv: Sequence[str] | None = None) -> None:
    """Runs one node until a signal or a shutdown; a console script's ``main``.

    Args:
        make_node: The node's class, or a function that makes it.
        argv: Arguments of the process (``--ros-args ...``); those of the process by default.

    Raises:
        SystemExit: Status 2 when the node refuses its parameters or input.
    """
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    signals = _Signals()
    arguments = list(sys.argv if argv is None else argv)
    try:
        rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)
    except Exception as error:  # rclpy raises classes of its binary module for an argument it cannot read
        raise SystemExit(_refuse("arguments", f"ROS refuses the arguments {arguments[1:]}: {error}")) from error
    node: Node | None = None
    try:
        node = make_node()
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        _spin(node, executor, signals)
    except WamError as error:
        raise SystemExit(_refuse(_name(node, make_node), str(error))) from error
    except (KeyboardInterrupt, ExternalShutdownException):
        pass  # somebody else shut the context down: nothing is left to do
    finally:
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()
        signals.restore()


class _Signals:
    """Counts SIGINT and SIGTERM instead of dying of them."""

    def __init__(self) -> None:
        self.count = 0
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore(self) -> None:
        """Puts the handlers back that were there before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        if self.count > 2:  # the node hangs
            raise SystemExit(EXIT_SIGNAL + number)


def _spin(node: Node, executor: SingleThreadedExecutor, signals: _Signals) -> None:
    while signals.count == 0:
        executor.spin_once(timeout_sec=POLL_SECONDS)
    if not isinstance(node, SoftStop):
        return
    node.begin_stop()
    end = time.monotonic() + STOP_SECONDS
    while not node.stopped and signals.count < 2 and time.monotonic() < end:
        executor.spin_once(timeout_sec=POLL_SECONDS)


def _name(node: Node | None, make_node: Callable[[], Node]) -> str:
    return node.get_name() if node is not None else getattr(make_node, "__name__", "node")


def _refuse(name: str, message: str) -> int:
    get_logger(name).fatal(message)
    return EXIT_USAGE
