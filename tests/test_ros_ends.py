"""How a moving arm ends: one Ctrl-C that comes twice, everybody asked at once, and a launcher that is killed.

Real processes, started from the shipped launch file as ``ros2 launch`` and as ``wam up`` start them. What a process did
is told by the stamps it wrote itself. A guard or an arm that the machine did not run for a while is allowed to give up
on the other, so such an end says nothing and is tried again.
"""

import contextlib
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.ros
pytest.importorskip("rclpy")

from sensor_msgs.msg import JointState  # noqa: E402

from policy.wire import command_by_name  # noqa: E402
from ros_nodes.diagnostics import values_of  # noqa: E402
from tests.ros_fake_policy import ROBOT  # noqa: E402
from tests.ros_fakes import patient_robot  # noqa: E402
from tests.ros_graph import PATIENCE, REPOSITORY, Graph, Heard  # noqa: E402
from tests.ros_guard_watch import EVERYTHING, LATE_PERIODS, PERIOD, GuardWatch  # noqa: E402

FAKE_POLICY = str(REPOSITORY / "tests/ros_fake_policy.py")
BARE_LAUNCHER = [str(REPOSITORY / "tests/bare_launcher.py"), str(REPOSITORY / "launch/sim.launch.xml")]
WAM_UP = ["-m", "ros_nodes.up", "sim"]
STALL_S = 0.4  # whoever was not run for so long may give up on the other, or take two signals for two
TRIES = 4


class Launched:
    """Arm and guard of a launch file, in motion, on a graph of their own."""

    def __init__(self, graph: Graph, launcher: list[str]) -> None:
        self.graph = graph
        self.watch = GuardWatch(graph)
        self.states: Heard = graph.hear(JointState, ROBOT.state_topic, EVERYTHING)
        self.launcher = graph.run("launcher", [*launcher, f"robot:={patient_robot(graph.folder)}", "policy:=false"])
        graph.start(FAKE_POLICY)
        self.watch.run()
        graph.until(lambda: len(self.states) > 20, "joint states are heard")
        self.pids = {
            name: int(re.search(rf"{name}-\d+ started \(pid (\d+)\)", self.launcher.output())[1])  # type: ignore[index]
            for name in ("arm", "guard")
        }
        self.watch.moves(0.25)

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to arm and guard, if they are there."""
        for pid in self.pids.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def until_the_guard_has_heard_it(self) -> None:
        """Waits for what the guard prints, and for nothing else: it has only a moment."""
        end = time.monotonic() + PATIENCE
        while "asked to end: braking" not in self.launcher.output():
            assert time.monotonic() < end, self.launcher.output()
            time.sleep(0.001)

    def until_ended(self) -> None:
        """Waits until arm and guard have ended, and then for the hold that the guard repeated."""
        self.graph.until(lambda: all(map(has_ended, self.pids.values())), "arm and guard have ended")
        self.graph.until(lambda: bool(np.ptp(self.watch.path(0.0)[-4:], axis=0).max() == 0), "the guard held the arm")
        self.graph.spin(0.5)  # for what must not come: a command after the hold

    def stall_s(self, since: float) -> float:
        """Longest time that the guard did not tick or the arm did not publish after a steady time [s]."""
        ticks = [float(values_of(message)["tick_s"]) for _, message in self.watch.states.items]
        states = np.array(stamps(self.states)) + time.monotonic() - time.time()
        gaps = [np.diff([when for when in times if when > since - 0.2]) for times in (ticks, states.tolist())]
        return max(float(gap.max(initial=0.0)) for gap in gaps)

    def braked(self) -> None:
        """The last commands are one and the same, and no command before them broke the acceleration limit."""
        path = self.watch.path(0.0)[-4:]
        assert (path == path[-1]).all(), np.abs(np.diff(path, axis=0)).max()
        accelerations = commanded_accelerations(self.watch)
        hardest = np.array([axis.max_acceleration for axis in ROBOT.axes])
        assert len(accelerations) > 10
        assert (np.abs(accelerations) <= 1.01 * hardest + 0.05).all(), np.abs(accelerations).max(axis=0)


def stamps(heard: Heard) -> list[float]:
    """System times at which messages were published, by their publisher [s]."""
    return [info["source_timestamp"] * 1e-9 for info in heard.infos]


def commanded_accelerations(watch: GuardWatch) -> np.ndarray:
    """(T, A) change of the commanded velocity per time [rad/s^2], where no command in between was missed.

    The time of a command is that of the tick whose state the guard published behind it; a tick that came late moves the
    arm no further than ``LATE_PERIODS`` would.
    """
    said, sent = stamps(watch.states), stamps(watch.commands)
    ticks = np.array([float(values_of(message)["tick_s"]) for _, message in watch.states.items])
    numbers = [info["publication_sequence_number"] for info in watch.commands.infos]
    place = np.minimum(np.searchsorted(said, sent), len(said) - 1)
    positions = [command_by_name(message, ROBOT.action_names) for _, message in watch.commands.items]
    dt = np.minimum(np.diff(ticks[place]), LATE_PERIODS * PERIOD)
    good = (np.diff(numbers) == 1) & (dt > PERIOD / 4)  # in less, the rounding of the ticks' times would count
    velocities = np.diff(np.array(positions, dtype=np.float64), axis=0) / np.where(good, dt, 1.0)[:, None]
    both = good[1:] & good[:-1]
    return np.diff(velocities, axis=0)[both] / dt[1:][both, None]


def has_ended(pid: int) -> bool:
    """Whether a process that need not be our child is gone, or is a zombie."""
    try:
        return "zombie" in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


@contextlib.contextmanager
def launched(folder: Path, launcher: list[str]) -> Iterator[Launched]:
    """Runs a launcher until its arm moves; leaves nothing behind."""
    folder.mkdir()
    with Graph(folder) as graph:
        running = Launched(graph, launcher)
        try:
            yield running
        finally:
            running.signal(signal.SIGKILL)


@pytest.mark.parametrize(
    ("launcher", "number"),
    [(BARE_LAUNCHER, signal.SIGKILL), (BARE_LAUNCHER, signal.SIGTERM), (WAM_UP, signal.SIGKILL)],
    ids=["ros2 launch killed", "ros2 launch terminated", "wam up killed"],
)
def test_an_arm_whose_launcher_is_gone_comes_to_rest_and_its_nodes_end(
    tmp_path: Path, launcher: list[str], number: signal.Signals
) -> None:
    with launched(tmp_path / "graph", launcher) as running:
        running.launcher.send(number)
        running.until_ended()
        running.braked()  # a busy machine may stop it late but not in another way


def test_one_ctrl_c_that_comes_twice_is_one_and_the_arm_outlives_the_guard(tmp_path: Path) -> None:
    for trial in range(TRIES):
        with launched(tmp_path / str(trial), BARE_LAUNCHER) as running:
            asked = time.monotonic()
            running.signal(signal.SIGINT)  # from the terminal
            running.until_the_guard_has_heard_it()
            running.signal(signal.SIGINT)  # from the launcher, which was a little slow
            twice = time.monotonic() - asked
            running.until_ended()
            if max(twice, running.stall_s(asked)) > STALL_S:
                continue
            running.braked()
            assert "guard-2 ended with 0" in running.launcher.output()
            assert "arm-1 ended with 0" in running.launcher.output()
            assert stamps(running.states)[-1] > stamps(running.watch.commands)[-1]
            return
    pytest.skip(f"this machine left processes alone for {STALL_S} s in {TRIES} runs of {TRIES}")


def test_an_arm_alone_ends_at_once_and_one_that_is_held_soon(tmp_path: Path) -> None:
    with Graph(tmp_path) as graph:
        arm = graph.start("arm", f"robot:={patient_robot(tmp_path)}")
        states = graph.hear(JointState, ROBOT.state_topic, EVERYTHING)
        graph.until(lambda: len(states) > 5, "joint states are heard")
        arm.send(signal.SIGINT)
        assert arm.popen.wait(timeout=PATIENCE) == 0
        assert "until commands rest" not in arm.output()
        arm = graph.start("arm", f"robot:={patient_robot(tmp_path)}")
        graph.start("guard", f"robot:={patient_robot(tmp_path)}")
        watch = GuardWatch(graph)
        watch.until("HOLD", reason="not engaged")
        watch.rest()
        arm.send(signal.SIGINT)  # the guard goes on, and goes on holding
        assert arm.popen.wait(timeout=PATIENCE) == 0
