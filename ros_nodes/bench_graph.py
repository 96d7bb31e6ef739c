"""A launched graph to measure: processes on a ROS domain of their own, and what they say while they run.

A measurement kills nodes and moves an arm, so it must never meet a real robot: it takes a free domain and does not
leave this machine.
"""

import contextlib
import fcntl
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from ros_nodes.distribution import changed_environment, profile_environment
from ros_nodes.errors import GraphError

__all__ = ["LaunchedGraph", "private_graph"]

DOMAINS = range(1, 102)  # above 101, discovery ports meet Linux's ephemeral ports
STOP_S = 40.0  # longest orderly stop of all nodes
FAILED = re.compile(r"\[up\] \S+ ended with (status [1-9]|SIG)")
ENDED = re.compile(r"\[up\] (\w+)-\d+ ended with ")
STARTED = re.compile(r"\[up\] (\w+)-\d+ started \(pid (\d+)\)")


@contextlib.contextmanager
def private_graph() -> Iterator[None]:
    """Gives this process and its children a ROS domain that nobody else on this machine uses, for as long as it lasts.

    Raises:
        GraphError: All domains are taken.
    """
    with contextlib.ExitStack() as stack:
        domain = _free_domain(stack)
        values = {
            "ROS_DOMAIN_ID": str(domain),
            "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
            **profile_environment(os.environ),
        }
        with changed_environment(values):
            yield


class LaunchedGraph:
    """What a launch file starts, until the end of a ``with`` block.

    Args:
        arguments: Of ``python -m ros_nodes.up``.
        log: Takes everything the nodes print.
    """

    def __init__(self, arguments: Sequence[str], log: Path) -> None:
        self._arguments = list(arguments)
        self.log = log
        self._pids: dict[str, int] = {}

    def __enter__(self) -> "LaunchedGraph":
        self._file: IO[str] = self.log.open("w")
        command = [sys.executable, "-m", "ros_nodes.up", *self._arguments]
        self._up = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        for number in (signal.SIGINT, signal.SIGKILL):
            if self._up.poll() is None:
                for pid in list(self._pids.values()):  # another thread hears who ends
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGCONT)  # a stopped process takes no other signal
                self._up.send_signal(number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._up.wait(timeout=STOP_S)
        self._reader.join()
        self._file.close()

    def runs(self, node: str) -> bool:
        """Whether a process of a node was started that has not ended, as far as the launcher has said so."""
        return node in self._pids

    def send(self, node: str, number: signal.Signals) -> None:
        """Sends a signal to the process of a node; after SIGKILL it does not run until it is started again.

        Raises:
            GraphError: It does not run.
        """
        pid = self._pids.pop(node, 0) if number == signal.SIGKILL else self._pids.get(node, 0)
        try:
            if not pid:
                raise ProcessLookupError
            os.kill(pid, number)
        except ProcessLookupError as error:
            raise GraphError(f"node '{node}' has ended by itself; {self.log} says why") from error

    def check(self) -> None:
        """Raises when the graph is not there any more.

        Raises:
            GraphError: It ended; the message holds what the first node that failed said last.
        """
        if self._up.poll() is not None:
            self._reader.join()
            lines = self.log.read_text().splitlines()
            # What the others say while they are stopped for it comes after the reason.
            end = next((place for place, line in enumerate(lines, start=1) if FAILED.match(line)), len(lines))
            last = "\n".join(lines[max(0, end - 12) : end])
            raise GraphError(f"the graph ended with status {self._up.returncode}; {self.log} says until then:\n{last}")

    def _read(self) -> None:
        assert self._up.stdout is not None
        for line in self._up.stdout:
            started = STARTED.match(line)
            if started:
                self._pids[started[1]] = int(started[2])
            if ended := ENDED.match(line):
                self._pids.pop(ended[1], None)
            self._file.write(line)
            self._file.flush()


def _free_domain(stack: contextlib.ExitStack) -> int:
    first = os.getpid() % len(DOMAINS)
    for domain in [*DOMAINS[first:], *DOMAINS[:first]]:
        lock = stack.enter_context((Path(tempfile.gettempdir()) / f"wam_ros_domain_{domain}.lock").open("w"))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        return domain
    raise GraphError("every ROS domain is in use by another measurement or test: wait for one of them to end.")
