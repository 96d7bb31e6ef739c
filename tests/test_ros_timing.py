"""When a message arrived, and what two clocks say at once, in a process that the machine pauses between two reads."""

import time
from types import SimpleNamespace

import pytest

pytestmark = pytest.mark.ros
pytest.importorskip("rclpy")

from rclpy.clock import Clock  # noqa: E402
from rclpy.clock_type import ClockType  # noqa: E402

from ros_nodes import timing  # noqa: E402
from ros_nodes.timing import reception, robot_and_steady_time, with_steady_time  # noqa: E402

PAUSE_S = 0.03


class Paused:
    """A clock; the process is not run for a while before and after the first few times that it is read."""

    def __init__(self, clock_ns, reads: int = 2) -> None:
        self.clock_ns, self.left = clock_ns, reads

    def __call__(self) -> int:
        self.left -= 1
        if self.left >= 0:
            time.sleep(PAUSE_S)
        said = self.clock_ns()
        if self.left >= 0:
            time.sleep(PAUSE_S)
        return said


def node() -> SimpleNamespace:
    return SimpleNamespace(get_clock=lambda: Clock(clock_type=ClockType.ROS_TIME))


def test_a_clock_is_read_again_where_the_process_was_paused() -> None:
    said_ns, steady = with_steady_time(Paused(time.monotonic_ns))
    assert abs(said_ns * 1e-9 - steady) < PAUSE_S / 2


def test_reading_ends_where_every_read_is_paused() -> None:
    paused = Paused(time.monotonic_ns, reads=1000)
    with_steady_time(paused)
    assert 1000 - paused.left == timing.MOST_READS


def test_an_arrival_stays_where_it_was_when_the_process_is_paused(monkeypatch: pytest.MonkeyPatch) -> None:
    received_ns, steady = with_steady_time(time.time_ns)
    monkeypatch.setattr(timing.time, "time_ns", Paused(time.time_ns))
    arrived = reception(node(), {"received_timestamp": received_ns})
    assert arrived.robot_ns == received_ns
    assert abs(arrived.now - steady) < PAUSE_S / 2


def test_a_message_without_a_time_of_arrival_arrives_now() -> None:
    before, steady = time.time_ns(), time.monotonic()
    arrived = reception(node(), {"received_timestamp": 0})
    assert before <= arrived.robot_ns <= time.time_ns()
    assert steady <= arrived.now <= time.monotonic()


def test_robot_time_and_steady_time_are_of_one_moment() -> None:
    robot_now, steady = robot_and_steady_time(node())
    assert 0 <= time.time() - robot_now < 60
    assert 0 <= time.monotonic() - steady < 60
