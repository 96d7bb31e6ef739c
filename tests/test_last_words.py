"""Whether a publisher's last message has arrived: while a listener is not run, after that, and when it hangs."""

import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.ros
pytest.importorskip("rclpy")

from std_msgs.msg import Float64MultiArray  # noqa: E402

from ros_nodes import last_words, messages, qos  # noqa: E402
from ros_nodes.last_words import LastWords  # noqa: E402
from ros_nodes.spinning import STOP_SECONDS  # noqa: E402
from tests.ros_fake_policy import ROBOT  # noqa: E402
from tests.ros_graph import Graph, Process  # noqa: E402

TOPIC = "/command"
LISTENER = f"""
import rclpy
from std_msgs.msg import Float64MultiArray
from ros_nodes import qos
rclpy.init()
node = rclpy.create_node("slow")
node.create_subscription(Float64MultiArray, "{TOPIC}", lambda message: None, qos.COMMAND)
rclpy.spin(node)
"""


class Scene:
    """A publisher of commands in this process, and a listener in another."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.publisher = graph.node.create_publisher(Float64MultiArray, TOPIC, qos.COMMAND)
        self.listener: Process = graph.run("slow", ["-c", LISTENER])
        graph.until(lambda: self.publisher.get_subscription_count() == 1, "the listener is there")
        self.says()
        graph.until(LastWords(self.publisher).heard, "it hears")

    def says(self) -> None:
        self.publisher.publish(messages.forward_command(ROBOT.action_names, np.zeros(ROBOT.action_dim)))

    def stop_the_listener(self) -> None:
        self.listener.send(signal.SIGSTOP)
        status = Path(f"/proc/{self.listener.popen.pid}/status")
        self.graph.until(lambda: "(stopped)" in status.read_text(), "the listener is not run")


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    monkeypatch.setattr(last_words, "PATIENCE_S", 1e9)
    with Graph(tmp_path) as graph:
        yield Scene(graph)


def test_a_listener_that_is_not_run_is_waited_for(scene: Scene) -> None:
    scene.stop_the_listener()
    scene.says()
    words = LastWords(scene.publisher)
    assert not words.heard()
    scene.graph.spin(0.5)
    assert not words.heard()
    scene.listener.send(signal.SIGCONT)
    scene.graph.until(words.heard, "the listener has what was said while it was not run")


def test_a_listener_that_hangs_is_waited_for_only_so_long(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.stop_the_listener()
    scene.says()
    monkeypatch.setattr(last_words, "PATIENCE_S", 0.3)
    words = LastWords(scene.publisher)
    assert not words.heard()
    scene.graph.until(words.heard, "patience ends")


def test_nobody_listens_and_nobody_is_waited_for(tmp_path: Path) -> None:
    with Graph(tmp_path) as graph:
        publisher = graph.node.create_publisher(Float64MultiArray, TOPIC, qos.COMMAND)
        publisher.publish(messages.forward_command(ROBOT.action_names, np.zeros(ROBOT.action_dim)))
        assert LastWords(publisher).heard()


def test_a_node_may_still_leave_in_time() -> None:
    assert last_words.PATIENCE_S < STOP_SECONDS / 2
