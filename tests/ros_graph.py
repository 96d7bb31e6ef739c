"""A private ROS graph for tests: its own domain, real processes, collected messages, nothing left behind.

``Graph`` starts nodes as separate processes, listens with a node in a private Context and spins it with time-outs.
Tests wait for conditions, with a patience that no working machine exhausts, and never for a time to pass: any process,
this one included, may not be run for seconds at any moment. How late something was is told by the stamps that nodes
write themselves.
"""

import bisect
import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from ros_nodes.distribution import changed_environment, distribution, profile_environment

REPOSITORY = Path(__file__).resolve().parent.parent
DOMAINS = range(1, 102)  # above 101, discovery ports meet Linux's ephemeral ports
PATIENCE = 120.0  # [s]; a loaded machine needs many seconds to start Python with a network in it
LEAVE_S = 20.0  # a process that was asked to end and has not by then is killed
# A request to a node that was killed and started again may reach the dead one, whom the graph still lists for twenty
# seconds. Where asking twice does no harm, it is asked again after this long.
ASK_AGAIN_S = 6.0
# Read when a process joins the graph. The middleware adds shared memory of its own to a discovery range of LOCALHOST,
# whatever a profile or FASTDDS_BUILTIN_TRANSPORTS say, so the profile keeps to this machine instead.
SOCKETS = {
    "ROS_AUTOMATIC_DISCOVERY_RANGE": "SYSTEM_DEFAULT",
    distribution(os.environ).variable: str(REPOSITORY / "tests/loopback.xml"),
}
ASKED_ONCE = ("recorder/stop", "recorder/discard", "arm/next_episode", "calibration/capture")


@contextlib.contextmanager
def private_domain() -> Iterator[int]:
    """Holds a ROS domain that no other test process of this machine uses; the lock dies with the process."""
    first = os.getpid() % len(DOMAINS)
    for domain in [*DOMAINS[first:], *DOMAINS[:first]]:
        with open(Path(tempfile.gettempdir()) / f"wam_ros_domain_{domain}.lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            yield domain
            return
    raise RuntimeError("every ROS domain is taken by another test process.")


@contextlib.contextmanager
def private_sockets() -> Iterator[None]:
    """Keeps what this process opens of ROS on a domain of its own and out of shared memory."""
    with private_domain() as domain, changed_environment({"ROS_DOMAIN_ID": str(domain), **SOCKETS}):
        yield


def ros_environment(domain: int, logs: Path) -> dict[str, str]:
    """Environment of a ROS process that talks to nobody outside this machine and this domain."""
    return {
        **os.environ,
        "ROS_DOMAIN_ID": str(domain),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "ROS_LOG_DIR": str(logs),
        "ROS_PYTHON_CHECK_FIELDS": "1",
        "PYTHONPATH": str(REPOSITORY),
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": "1",
    }


def least_chunk_rate_hz(results: Mapping[str, Any], rate_hz: float = 10.0) -> float:
    """Half of what a policy plans that waits for its next tick and then takes as long as it did in its slowest chunks.

    So it holds beside other tests as well: 3.8 Hz where a chunk takes 30 ms. `wam bench ros` holds it to 7 Hz.

    Args:
        results: Of a closed loop or a bench.
        rate_hz: Ticks of the policy.
    """
    slowest_s = results["percentiles"]["observation_to_command_ms"]["p99"] / 1e3
    return 0.5 / (slowest_s + 1 / rate_hz)


@dataclass
class Heard:
    """Messages of one topic with the monotonic time each arrived at."""

    items: list[tuple[float, Any]] = field(default_factory=list)
    infos: list[dict[str, int]] = field(default_factory=list)  # publisher's own count and time [ns] of each of them

    def __len__(self) -> int:
        return len(self.items)

    @property
    def last(self) -> Any:
        """The newest message, or None."""
        return self.items[-1][1] if self.items else None

    def since(self, when: float) -> list[tuple[float, Any]]:
        """What arrived after a monotonic time."""
        return self.items[bisect.bisect_right(self.items, when, key=lambda item: item[0]) :]


class Process:
    """A process of the graph."""

    def __init__(self, name: str, command: Sequence[str], environment: dict[str, str], log: Path) -> None:
        self.name, self.log = name, log
        self.signalled = False  # its end, if it has ended, is ours
        self._file: IO[bytes] = log.open("ab")
        self.popen = subprocess.Popen(
            list(command), cwd=REPOSITORY, env=environment, stdout=self._file, stderr=subprocess.STDOUT
        )

    def send(self, number: signal.Signals) -> float:
        """Sends a signal; returns the monotonic time of it."""
        self.signalled = True
        self.popen.send_signal(number)
        return time.monotonic()

    def kill(self) -> float:
        """SIGKILL, and waits until it is gone; returns the monotonic time of the signal."""
        when = self.send(signal.SIGKILL)
        self.popen.wait(timeout=PATIENCE)
        return when

    def output(self) -> str:
        """What it has printed so far."""
        return self.log.read_text(errors="replace")

    def mapped_files(self) -> str:
        """What the process has loaded: the files in its memory map."""
        return Path(f"/proc/{self.popen.pid}/maps").read_text()

    def leave(self) -> None:
        """Asks it to end, so that the graph forgets it at once, and closes it."""
        if self.popen.poll() is None:
            self.send(signal.SIGCONT)  # a stopped process takes no other signal but SIGKILL
            self.send(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.popen.wait(timeout=LEAVE_S)
        self.close()

    def close(self) -> None:
        """Ends it, whatever state it is in."""
        if self.popen.poll() is None:
            self.popen.kill()
            self.popen.wait()
        self._file.close()


class Graph:
    """Processes and one listening node on a private domain; a context manager.

    Args:
        folder: For logs.
        shared_memory: The processes talk through it as launch files let them, so that no image is lost. Sockets alone
            otherwise: a process that is stopped or killed while it holds a lock in shared memory keeps others from
            hearing anything, which is not what our tests are about.
    """

    def __init__(self, folder: Path, *, shared_memory: bool = False) -> None:
        self.folder = folder
        self._shared_memory = shared_memory
        self._transport = profile_environment(os.environ) if shared_memory else SOCKETS
        self._stack = contextlib.ExitStack()
        self.processes: dict[str, Process] = {}

    def __enter__(self) -> "Graph":
        import rclpy.node
        from rclpy.executors import SingleThreadedExecutor

        self.domain = self._stack.enter_context(private_domain())
        self._stack.callback(self._close_processes)
        self.environment = {**ros_environment(self.domain, self.folder), **self._transport}
        # Never in shared memory: closing a port of it while Fast DDS mends it, as it does when another process on it
        # was killed, ends this process with a segmentation fault.
        with changed_environment({"ROS_LOG_DIR": str(self.folder), **SOCKETS}):
            self.context = rclpy.Context()
            self.context.init(args=[], domain_id=self.domain)
            self._stack.callback(self.context.try_shutdown)
            self.node = rclpy.node.Node("listener", context=self.context, use_global_arguments=False)
        self._stack.callback(self.node.destroy_node)
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)
        self._stack.callback(self._executor.shutdown)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _close_processes(self) -> None:
        for process in self.processes.values():
            if self._shared_memory:
                process.leave()  # killed, it would leave its segments and locks to the next graph on this domain
            else:
                process.close()

    def start(self, name: str, *parameters: str, arguments: Sequence[str] = ()) -> Process:
        """Starts a node, ``ros_nodes.<name>_node`` or the given script, with ``key:=value`` parameters."""
        script = [name] if name.endswith(".py") else ["-m", f"ros_nodes.{name}_node"]
        flags = [word for value in parameters for word in ("-p", value)]
        return self.run(Path(name).stem, [*script, "--ros-args", *flags, *arguments])

    def start_with_servos(self, name: str, *parameters: str) -> Process:
        """Starts a node that waits longer than it would for the answers of simulated servos."""
        flags = [word for value in parameters for word in ("-p", value)]
        script = str(Path(__file__).parent / "patient_servos.py")
        return self.run(name, [script, f"ros_nodes.{name}_node", "--ros-args", *flags])

    def run(self, name: str, arguments: Sequence[str]) -> Process:
        """Starts a Python process; a second one of the same name replaces the first in ``processes``."""
        if name in self.processes:
            self.processes[name].leave()
        log = self.folder / f"{name}.log"
        self.processes[name] = Process(name, [sys.executable, *arguments], self.environment, log)
        return self.processes[name]

    def hear(self, kind: type, topic: str, profile: Any) -> Heard:
        """Collects a topic from now on."""
        heard = Heard()

        def note(message: Any, info: dict[str, int]) -> None:
            heard.items.append((time.monotonic(), message))
            heard.infos.append(info)

        self.node.create_subscription(kind, topic, note, profile)
        return heard

    def spin(self, seconds: float) -> None:
        """Handles what arrives for a while; only for what must *not* happen, and never to let something happen."""
        self._spin_while(lambda: True, seconds)

    def until(self, done: Callable[[], Any], what: str, *, patience: float = PATIENCE) -> float:
        """Spins until something is true; returns the monotonic time, or fails with the processes' output."""
        begun = time.monotonic()
        if not self._spin_while(lambda: not (done() or self._dead()), patience) or self._dead():
            logs = "\n".join(f"--- {p.name} ({p.popen.poll()})\n{p.output()[-3000:]}" for p in self.processes.values())
            raise AssertionError(f"waited {time.monotonic() - begun:.1f} s in vain until {what}\n{logs}")
        return time.monotonic()

    def _dead(self) -> list[str]:
        """Processes that ended by themselves."""
        return [p.name for p in self.processes.values() if p.popen.poll() is not None and not p.signalled]

    def call(self, service: str) -> Any:
        """Calls a Trigger service and returns its response."""
        from std_srvs.srv import Trigger

        client = self.node.create_client(Trigger, service)
        futures: list[Any] = []
        asked = 0.0

        def answered() -> bool:
            nonlocal asked
            if client.service_is_ready() and (
                not futures or (service not in ASKED_ONCE and time.monotonic() > asked + ASK_AGAIN_S)
            ):
                futures.append(client.call_async(Trigger.Request()))
                asked = time.monotonic()
            return any(future.done() for future in futures)

        try:
            self.until(answered, f"service {service} answers")
            return next(future.result() for future in futures if future.done())
        finally:
            self.node.destroy_client(client)

    def insist(self, service: str) -> list[str]:
        """Calls a service until it agrees; returns what it said until then, and last when it did."""
        answers: list[str] = []

        def agrees() -> bool:
            answer = self.call(service)
            answers.append(answer.message)
            return answer.success or "already" in answer.message  # the answer to the first request got lost

        try:
            self.until(agrees, f"{service} agrees")
        except AssertionError as error:
            raise AssertionError(f"{error}\nit said {set(answers)}") from None
        return answers

    def _spin_while(self, go_on: Callable[[], Any], seconds: float) -> bool:
        """Returns whether it ended before the time was over."""
        end = time.monotonic() + seconds
        while go_on():
            left = end - time.monotonic()
            if left <= 0:
                return False
            self._executor.spin_once(timeout_sec=min(left, 0.05))
        return True
