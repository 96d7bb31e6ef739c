"""Starts planned processes, passes their output on, restarts and ends them as their launch file says.

They are stopped one after the other, the last started first, so that a launch file which begins with the arm and the
guard ends with them: the guard can still brake and the arm still obey when the policy is gone already. (``ros2 launch``
sends SIGINT to all of them at once.) A second signal does the same to all that are left. If this process is killed, its
children get a SIGTERM; nodes that notice it by themselves as well take both for one request (``ros_nodes.spinning``).
"""

import contextlib
import ctypes
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ros_nodes.launch_plan import ParameterFile, ProcessPlan

__all__ = ["Supervisor"]

ESCALATION = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
PR_SET_PDEATHSIG = 1  # of prctl(2)
IDLE_S = 10.0  # longest wait when nothing is due


class Supervisor:
    """A set of processes with one life.

    Args:
        plans: What to start, in order.
        write: Takes each line that a process printed, behind its label, and what happened to the processes.
    """

    def __init__(self, plans: Sequence[ProcessPlan], write: Callable[[str], None]) -> None:
        self._processes = [_Process(plan) for plan in plans]
        self._write = write
        self._selector = selectors.DefaultSelector()
        self._stopping = False
        self._hurry = False  # stop all that are left at once
        self._failed = False

    def run(self) -> int:
        """Starts everything and returns when all of it has ended; only in the main thread, because of the signals.

        Returns:
            0 when everything ended well or was asked to stop, 1 when a process failed and was not restarted.
        """
        receiving, sending = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        wakeup_before = signal.set_wakeup_fd(sending)
        # A handler that does nothing: the signal's number arrives through the pipe.
        handlers = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            with tempfile.TemporaryDirectory(prefix="wam-up-") as folder:
                self._selector.register(receiving, selectors.EVENT_READ, self._signalled)
                for process in self._processes:
                    process.write_parameters(Path(folder))
                    self._start(process)
                while any(process.alive or process.restart_at is not None for process in self._processes):
                    for key, _ in self._selector.select(self._patience()):
                        # A process whose end was handled just before has no output left to read. Nothing is opened in
                        # between, so the number cannot be another file's by now.
                        if key.fd in self._selector.get_map():
                            key.data(key.fd)
                    self._do_what_is_due()
        finally:
            for process in self._processes:  # none is left, unless this failed
                process.ask_to_end()
            for process in self._processes:
                process.kill()
            signal.set_wakeup_fd(wakeup_before)
            for number, handler in handlers.items():
                signal.signal(number, handler)
            os.close(receiving)
            os.close(sending)
            self._selector.close()
        return int(self._failed)

    def _start(self, process: "_Process") -> None:
        try:
            process.start()
        except OSError as error:
            self._write(f"[up] {process.label} cannot be started: {error}")
            self._failed = self._stopping = True
            return
        self._write(f"[up] {process.label} started (pid {process.pid})")
        self._selector.register(process.output, selectors.EVENT_READ, lambda _: self._on_output(process))
        self._selector.register(process.pidfd, selectors.EVENT_READ, lambda _: self._ended(process))

    def _signalled(self, descriptor: int) -> None:
        for number in os.read(descriptor, 64):
            name = signal.Signals(number).name
            if not self._stopping:
                self._write(f"[up] {name}: stopping; a second signal stops all that are left at once")
            self._hurry = self._stopping
            self._stopping = True

    def _on_output(self, process: "_Process") -> None:
        self._pass_on(process)
        if process.output_closed:  # it would be readable for ever
            self._selector.unregister(process.output)

    def _pass_on(self, process: "_Process", *, last: bool = False) -> None:
        for line in process.read_lines(last=last):
            self._write(f"[{process.label}] {line}")

    def _ended(self, process: "_Process") -> None:
        self._selector.unregister(process.pidfd)
        if not process.output_closed:
            self._selector.unregister(process.output)
        self._pass_on(process, last=True)
        status = process.reap()
        asked = process.stage >= 0
        how = f"with {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
        self._write(f"[up] {process.label} ended {how}")
        plan = process.plan
        retries_left = plan.respawn_max_retries < 0 or process.retries < plan.respawn_max_retries
        if plan.respawn and retries_left and not self._stopping:
            process.restart_at = time.monotonic() + plan.respawn_delay_s
            return
        self._failed = self._failed or (status != 0 and not asked)
        if plan.required and not self._stopping:
            self._write(f"[up] {process.label} is required: stopping")
            self._stopping = True

    def _do_what_is_due(self) -> None:
        now = time.monotonic()
        for process in self._processes:
            if process.restart_at is None:
                continue
            if self._stopping:
                process.restart_at = None
            elif now >= process.restart_at:
                process.retries += 1
                self._start(process)
        if self._stopping:
            left = [process for process in self._processes if process.alive]
            for process in left if self._hurry else left[-1:]:
                self._end(process, now)

    def _end(self, process: "_Process", now: float) -> None:
        """Sends the next signal of the escalation when it is time for it."""
        if now < process.patience_until or process.stage + 1 >= len(ESCALATION):
            return
        process.stage += 1
        number = ESCALATION[process.stage]
        if process.stage > 0:
            self._write(f"[up] {process.label} does not end: {number.name}")
        process.signal(number)
        plan = process.plan
        process.patience_until = now + (plan.sigterm_timeout_s if process.stage == 0 else plan.sigkill_timeout_s)

    def _patience(self) -> float:
        due = [process.restart_at for process in self._processes if process.restart_at is not None]
        due += [process.patience_until for process in self._processes if process.alive and process.stage >= 0]
        return max(0.0, min([IDLE_S, *(moment - time.monotonic() for moment in due)]))


class _Process:
    """One planned process and the operating system's one behind it, which a restart replaces."""

    def __init__(self, plan: ProcessPlan) -> None:
        self.plan = plan
        self.label = plan.label
        self.retries = 0
        self.restart_at: float | None = None
        self.stage = -1  # how far the escalation of signals has come
        self.patience_until = 0.0  # the next signal follows then
        self.pidfd = -1
        self._arguments: list[str] = []
        self._popen: subprocess.Popen[bytes] | None = None
        self.output_closed = False
        self._rest = b""  # an unfinished line

    @property
    def alive(self) -> bool:
        return self._popen is not None

    @property
    def pid(self) -> int:
        assert self._popen is not None
        return self._popen.pid

    @property
    def output(self) -> int:
        assert self._popen is not None
        assert self._popen.stdout is not None
        return self._popen.stdout.fileno()

    def write_parameters(self, folder: Path) -> None:
        """Writes the files this process reads its parameters from."""
        for argument in self.plan.arguments:
            if isinstance(argument, ParameterFile):
                path = folder / f"{self.label}-{len(self._arguments)}.yaml"
                path.write_text(argument.text)
                argument = str(path)
            self._arguments.append(argument)

    def start(self) -> None:
        self.restart_at, self.output_closed = None, False
        # A process group of its own: Ctrl-C at the terminal reaches it through us, in order and once.
        self._popen = subprocess.Popen(
            self._arguments,
            env=self.plan.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            process_group=0,
            preexec_fn=_die_with_parent,
        )
        os.set_blocking(self.output, False)
        self.pidfd = os.pidfd_open(self.pid)

    def read_lines(self, *, last: bool) -> list[str]:
        """Returns the lines printed since the last call, with the unfinished one if it is the last call."""
        chunks = [self._rest]
        try:
            while chunk := os.read(self.output, 65536):
                chunks.append(chunk)
            self.output_closed = True
        except BlockingIOError:
            pass  # it has printed nothing more yet
        *lines, self._rest = b"".join(chunks).split(b"\n")
        if last and self._rest:
            lines.append(self._rest)
        return [line.decode(errors="replace") for line in lines]

    def reap(self) -> int:
        """Returns the exit status of a process that has ended."""
        assert self._popen is not None
        assert self._popen.stdout is not None
        status = self._popen.wait()
        self._popen.stdout.close()
        os.close(self.pidfd)
        self._popen, self._rest = None, b""
        return status

    def signal(self, number: signal.Signals) -> None:
        assert self._popen is not None
        self._popen.send_signal(number)

    def ask_to_end(self) -> None:
        """Lets it stop softly when the supervisor itself fails, as when nobody takes its output any more."""
        if self._popen is not None:
            self._popen.terminate()

    def kill(self) -> None:
        """Leaves nothing behind when the supervisor itself fails."""
        if self._popen is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(timeout=self.plan.sigterm_timeout_s)
            self._popen.kill()
            self.reap()


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def console(line: str) -> None:
    """Writes a line at once: another program may be reading."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
