"""How a node leaves: time to stop on a signal, signals that come together, a launcher that is gone."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.ros
pytest.importorskip("rclpy")

from ros_nodes import spinning  # noqa: E402
from tests.ros_graph import PATIENCE, REPOSITORY  # noqa: E402

CHILD = """
import sys
from rclpy.node import Node
from ros_nodes import spinning
class Counting(Node):
    def __init__(self):
        super().__init__("counting")
        self.left = {steps}
        self.create_timer(0.01, self.work)
        print("ready", flush=True)
    def work(self):
        if self.left < {steps}:
            self.left -= 1
    def begin_stop(self):
        self.left -= 1
    @property
    def stopped(self):
        return self.left <= 0
    def destroy_node(self):
        print("left", self.left, flush=True)
        super().destroy_node()
spinning.run(Counting, ["counting"])
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_gives_a_node_time_to_stop(number: signal.Signals, ros_environment: dict[str, str]) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", CHILD.format(steps=3)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
        env=ros_environment,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        child.send_signal(number)
        assert child.stdout.readline() == "left 0\n"
        assert child.wait(timeout=20) == 0


def test_a_node_started_with_nohup_outlives_its_terminal(ros_environment: dict[str, str]) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", CHILD.format(steps=3)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
        env=ros_environment,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        status = Path(f"/proc/{child.pid}/status").read_text()
        ignored = int(re.search(r"^SigIgn:\s*(\w+)$", status, flags=re.MULTILINE)[1], 16)  # type: ignore[index]
        assert ignored >> (signal.SIGHUP - 1) & 1
        child.send_signal(signal.SIGTERM)
        assert child.stdout.readline() == "left 0\n"


REQUESTS = """
import os, signal, sys
from rclpy.node import Node
from ros_nodes import spinning
class Asked(Node):
    steps, begun = 0, 0
    def __init__(self):
        super().__init__("asked")
        self.create_timer(0.001, self.work)
        os.kill(os.getpid(), signal.SIGINT)
    def work(self):
        if self.begun:
            self.steps += 1
            {each_step}
    def begin_stop(self):
        self.begun += 1
        {at_begin}
    @property
    def stopped(self):
        return self.steps >= 20
    def destroy_node(self):
        print("begun", self.begun, "steps", self.steps, flush=True)
        super().destroy_node()
spinning.TOGETHER_SECONDS = {together}
spinning.run(Asked, ["asked"])
"""
AGAIN = "os.kill(os.getpid(), signal.{})"


@pytest.mark.parametrize(
    ("code", "steps", "status"),
    [
        # whatever comes within the window is one request: the node finishes
        ({"at_begin": AGAIN.format("SIGINT"), "each_step": AGAIN.format("SIGTERM"), "together": 1e9}, 20, 0),
        # with no window every signal counts: the second hurries it, and a third one ends a node that hangs
        ({"at_begin": AGAIN.format("SIGINT"), "each_step": "pass", "together": 0.0}, 0, 0),
        ({"at_begin": f"[{AGAIN.format('SIGINT')} for _ in range(2)]", "each_step": "pass", "together": 0.0}, 0, 130),
    ],
    ids=["together", "a later one hurries", "a third one ends"],
)
def test_signals_close_together_are_one_request(
    code: dict[str, object], steps: int, status: int, ros_environment: dict[str, str]
) -> None:
    script = REQUESTS.format(**code)
    child = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=REPOSITORY, env=ros_environment, check=False
    )
    assert (child.stdout, child.returncode) == (f"begun 1 steps {steps}\n", status), child.stderr
    assert 0.3 < spinning.TOGETHER_SECONDS < spinning.STOP_SECONDS / 3  # a person's third Ctrl-C still comes in time


LAUNCHED = """
import os, subprocess, sys
print(subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=open(sys.argv[2], "w")).pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("launched", [True, False])
def test_a_node_of_a_launch_file_notices_that_its_launcher_is_gone(
    launched: bool, ros_environment: dict[str, str], tmp_path: Path
) -> None:
    said, variables = tmp_path / "said", {spinning.LAUNCHED_VARIABLE: "true"} if launched else {}
    with subprocess.Popen(
        [sys.executable, "-c", LAUNCHED, CHILD.format(steps=3), str(said)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
        env=ros_environment | variables,
    ) as launcher:
        assert launcher.stdout is not None
        node = int(launcher.stdout.readline())
        until(lambda: said.exists() and "ready" in said.read_text(), "the node runs")
        launcher.kill()
    if not launched:  # as with nohup: it goes on, until a signal comes
        until(lambda: parent_of(node) != launcher.pid, "it has another parent")
        time.sleep(3 * spinning.POLL_SECONDS)  # for what must not happen
        assert said.read_text() == "ready\n"
        os.kill(node, signal.SIGINT)
    until(lambda: said.read_text() == "ready\nleft 0\n", "it has stopped softly")


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def until(done: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < end, f"waited in vain until {what}"
        time.sleep(0.01)
