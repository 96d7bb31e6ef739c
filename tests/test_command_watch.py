"""Who commands beside a node, when the graph finds a publisher before it learns the name of the node it belongs to."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.ros
pytest.importorskip("rclpy")

from std_msgs.msg import Float64MultiArray  # noqa: E402

from policy.wire import new_source  # noqa: E402
from ros_nodes import command_watch, messages, qos  # noqa: E402
from ros_nodes.command_watch import CommandWatch  # noqa: E402
from ros_nodes.diagnostics import ERROR, OK, WARN  # noqa: E402
from ros_nodes.graph import UNNAMED, open_node, other_publishers  # noqa: E402
from tests.ros_fake_policy import ROBOT  # noqa: E402
from tests.ros_graph import Graph  # noqa: E402

TOPIC = "/command"


class Listing:
    """Stands before a node's graph: as long as ``early`` holds, nobody else's name has arrived."""

    def __init__(self, node: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.early = True
        self._node, self._ask = node, node.get_publishers_info_by_topic
        monkeypatch.setattr(node, "get_publishers_info_by_topic", self._told)

    def _told(self, topic: str) -> list[Any]:
        # Fast DDS's words, seen on Kilted
        nobody = SimpleNamespace(node_namespace="_NODE_NAMESPACE_UNKNOWN_", node_name="_NODE_NAME_UNKNOWN_")
        told = self._ask(topic)
        return [nobody if self.early and one.node_name != self._node.get_name() else one for one in told]


def test_a_node_is_named_as_soon_as_the_graph_can(tmp_path, monkeypatch):
    monkeypatch.setattr(command_watch, "PERIOD_S", 3600.0)  # it looks when this test says so
    heard: list[str] = []
    with Graph(tmp_path) as graph:
        other = open_node("rogue", graph.context, "")
        publisher = other.create_publisher(Float64MultiArray, TOPIC, qos.COMMAND)
        listing = Listing(graph.node, monkeypatch)
        watch = CommandWatch(graph.node, Float64MultiArray, TOPIC, new_source("guard"), heard.append)

        def hears(name: str) -> bool:
            publisher.publish(messages.forward_command(ROBOT.action_names, np.zeros(ROBOT.action_dim)))
            return bool(heard) and heard[-1] == f"'{name}' on {TOPIC}"

        graph.until(lambda: other_publishers(graph.node, TOPIC), "the rogue is listed")
        watch.look()
        level, message = watch.judged(OK, "fine")
        assert level == WARN
        assert f"'{UNNAMED}' is listed as publisher of {TOPIC} and silent" in message
        graph.until(lambda: hears(UNNAMED), "it is heard, and no word of the middleware is told")
        listing.early = False
        graph.until(lambda: hears("/rogue"), "it is named by its next command")
        level, message = watch.judged(OK, "fine")
        assert level == ERROR
        assert f"'/rogue' commands on {TOPIC} as well" in message
        other.destroy_node()
