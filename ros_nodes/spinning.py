"""``main`` of every node: initialise, spin in one thread, leave cleanly on SIGINT, SIGTERM and SIGHUP.

rclpy's own handlers shut the ROS context down at once, and a guard that still has to brake could publish nothing any
more. So the signals only ask a node to stop: a node with ``begin_stop()`` and ``stopped`` gets time for it (a second
request, or ``STOP_SECONDS``, ends the wait), every other node leaves at once. One Ctrl-C may arrive twice, from the
terminal and from the launcher, so what comes within ``TOGETHER_SECONDS`` is one request. The end of the launcher is one
as well, in nodes that a launch file started: a ``ros2 launch`` that gets SIGTERM or SIGKILL leaves its nodes behind.
Bad input ends with one message and exit status 2, as with the command line.
"""

import logging
import os
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

__all__ = ["EXIT_USAGE", "LAUNCHED_VARIABLE", "SoftStop", "run"]

EXIT_USAGE = 2  # bad parameters or bad input
EXIT_SIGNAL = 128  # plus the signal's number, when it had to be sent twice
POLL_SECONDS = 0.05  # a signal is noticed this late at the most; waiting inside rclpy does not end by itself
STOP_SECONDS = 5.0  # a soft stop that takes longer is given up; launch files wait longer than that before SIGTERM
# Far longer than a launcher needs to pass a terminal's signal on, and longer than the shipped robots need to brake;
# a person who wants to hurry presses again after that
TOGETHER_SECONDS = 1.0
LAUNCHED_VARIABLE = "WAM_LAUNCHED"  # set by launch files: whoever started this node has to stay


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
    requests = _Requests()
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
        _spin(node, executor, requests)
    except WamError as error:
        raise SystemExit(_refuse(_name(node, make_node), str(error))) from error
    except (KeyboardInterrupt, ExternalShutdownException):
        pass  # somebody else shut the context down: nothing is left to do
    finally:
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()
        requests.restore()


class _Requests:
    """Counts the requests to end: signals, instead of dying of them, and the end of the launcher.

    A launcher that is gone before this is made is not missed; nobody has engaged anything by then. One that goes while
    the node is stopping already does not hurry it.
    """

    def __init__(self) -> None:
        self.count = 0
        self._counted = 0.0  # when the newest of them came [s], on the steady clock
        self._launcher = os.getppid() if os.environ.get(LAUNCHED_VARIABLE) else 0
        numbers = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup: it outlives its terminal
            numbers.append(signal.SIGHUP)
        self._before = {number: signal.signal(number, self._note) for number in numbers}

    def look(self) -> int:
        """Returns how many there were, after a look at the launcher."""
        # Not prctl(PR_SET_PDEATHSIG), which is tied to the thread that started us and not to its process
        if self.count == 0 and self._launcher and os.getppid() != self._launcher:
            self._count()
        return self.count

    def restore(self) -> None:
        """Puts the handlers back that were there before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._count()
        if self.count > 2:  # the node hangs
            raise SystemExit(EXIT_SIGNAL + number)

    def _count(self) -> None:
        now = time.monotonic()
        if self.count == 0 or now - self._counted >= TOGETHER_SECONDS:
            self.count, self._counted = self.count + 1, now


def _spin(node: Node, executor: SingleThreadedExecutor, requests: _Requests) -> None:
    while requests.look() == 0:
        executor.spin_once(timeout_sec=POLL_SECONDS)
    if not isinstance(node, SoftStop):
        return
    node.begin_stop()
    end = time.monotonic() + STOP_SECONDS
    while not node.stopped and requests.look() < 2 and time.monotonic() < end:
        executor.spin_once(timeout_sec=POLL_SECONDS)


def _name(node: Node | None, make_node: Callable[[], Node]) -> str:
    return node.get_name() if node is not None else getattr(make_node, "__name__", "node")


def _refuse(name: str, message: str) -> int:
    get_logger(name).fatal(message)
    return EXIT_USAGE
