"""What docs/on_the_robot.md says to type for an e-stop and to go on after it, done in that order to a real guard."""

import re
import time
from collections.abc import Iterator

import numpy as np
import pytest

pytestmark = pytest.mark.ros
pytest.importorskip("rclpy")

from std_msgs.msg import Bool  # noqa: E402

from ros_nodes import qos  # noqa: E402
from tests.ros_fakes import FakePolicyTimer, FakeRobot, patient_robot  # noqa: E402
from tests.ros_graph import REPOSITORY, Graph  # noqa: E402
from tests.ros_guard_watch import GuardWatch  # noqa: E402

PAGE = (REPOSITORY / "docs/on_the_robot.md").read_text()
TYPED = re.compile(
    r"^ros2 (?:topic pub --once (?P<topic>\S+) std_msgs/msg/Bool \"\{data: (?P<data>true|false)\}\""
    r"|service call /(?P<service>\S+) std_srvs/srv/Trigger)",
    flags=re.MULTILINE,
)


def lines_between(begin: str, end: str) -> list[re.Match[str]]:
    """What is typed in one part of the page."""
    return list(TYPED.finditer(PAGE[PAGE.index(begin) : PAGE.index(end)]))


@pytest.fixture
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Graph, GuardWatch, FakeRobot]]:
    folder = tmp_path_factory.mktemp("e_stop")
    with Graph(folder) as graph:
        graph.start("guard", f"robot:={patient_robot(folder)}")
        robot = FakeRobot(graph)
        FakePolicyTimer(graph, robot)
        watch = GuardWatch(graph)
        watch.run()
        yield graph, watch, robot


def test_an_e_stop_by_topic_is_released_as_the_page_says(running: tuple[Graph, GuardWatch, FakeRobot]) -> None:
    graph, watch, robot = running
    press = next(line for line in lines_between("## Safety first", "| it happens |") if line["topic"])
    release, *services = lines_between("**After an e-stop**", "## What was run")
    assert (press["data"], release["data"], press["topic"]) == ("true", "false", release["topic"])
    assert [line["service"] for line in services] == ["guard/reset", "guard/engage"]

    def publish(line: re.Match[str]) -> None:
        by_hand = graph.node.create_publisher(Bool, line["topic"], qos.VOLATILE)
        graph.until(lambda: by_hand.get_subscription_count() > 0, "the guard listens")
        by_hand.publish(Bool(data=line["data"] == "true"))
        graph.until(lambda: watch.values["e_stop"] == line["data"], "the guard has heard it")

    publish(press)
    watch.until("FAULT", reason="e-stop")
    held = watch.rest()
    for service in ("guard/reset", "guard/engage"):  # nothing goes on before the release
        assert not graph.call(service).success
    assert "the e-stop is pressed" in graph.call("guard/reset").message
    publish(release)
    released = time.monotonic()
    watch.until("FAULT", reason="e-stop", since=released)  # the release alone moves nothing
    np.testing.assert_allclose(watch.rest(), held, atol=1e-6)
    graph.insist(services[0]["service"])
    watch.until("HOLD", reason="not engaged", since=released)
    np.testing.assert_allclose(watch.rest(), robot.positions, atol=0.02)
    graph.insist(services[1]["service"])  # agrees when the policy's swing passes the arm
    watch.until("RUN_POLICY", since=released)
