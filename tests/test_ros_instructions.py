"""The policy node and its instruction: known, never seen, too long, and what its diagnostics say of each."""

import json
from collections.abc import Iterator

import pytest

pytestmark = [pytest.mark.ros, pytest.mark.slow]
pytest.importorskip("rclpy")

from diagnostic_msgs.msg import DiagnosticArray  # noqa: E402
from std_msgs.msg import String  # noqa: E402

from ros_nodes import qos  # noqa: E402
from ros_nodes.diagnostics import ERROR, WARN  # noqa: E402
from tests.ros_fakes import FakeRobot  # noqa: E402
from tests.ros_graph import Graph, Heard  # noqa: E402
from tests.test_ros_policy import brave_robot, policy_report, untrained_bundle  # noqa: E402
from wam.manifest import MANIFEST_NAME  # noqa: E402
from wam.robot import load_robot  # noqa: E402

KNOWN = ["reach the red cube", "lift the red cube"]


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Graph]:
    with Graph(tmp_path_factory.mktemp("instructions")) as graph:
        FakeRobot(graph, cameras=True)
        yield graph


@pytest.fixture(scope="module")
def reports(graph: Graph) -> Heard:
    return graph.hear(DiagnosticArray, "/diagnostics", qos.DIAGNOSTICS)


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Parameters of a policy whose bundle says that it was trained on two instructions."""
    folder = tmp_path_factory.mktemp("taught")
    robot = brave_robot(folder)
    bundle = untrained_bundle(folder, load_robot(robot))
    manifest = json.loads((bundle / MANIFEST_NAME).read_text())
    manifest["checkpoint"]["instructions"] = KNOWN
    (bundle / MANIFEST_NAME).write_text(json.dumps(manifest))
    return [f"bundle:={bundle}", f"robot:={robot}"]


def test_an_instruction_that_the_policy_never_saw_is_a_warning(graph: Graph, reports: Heard, taught: list[str]) -> None:
    graph.start("policy", *taught, "task:=pick up the red cube")
    unseen = "is none of the 2 that the policy was trained on"
    graph.until(lambda: unseen in policy_report(reports)["message"], "it says that it does not know the instruction")
    report = policy_report(reports)
    assert report["level"] == str(WARN)
    assert (report["task_known"], report["task_nearest"] in KNOWN) == ("no", True)
    assert report["trained_on"] == "2 instruction(s): 'reach the red cube', 'lift the red cube'"
    graph.until(lambda: int(policy_report(reports).get("chunks", 0)) > 0, "it plans all the same")
    tasks = graph.node.create_publisher(String, "policy/task", qos.LATCHED)
    tasks.publish(String(data="Reach the RED cube."))
    graph.until(lambda: policy_report(reports)["message"] == "planning", "another spelling is known")
    assert policy_report(reports)["task_known"] == "yes"
    tasks.publish(String(data="?!"))
    graph.until(
        lambda: "no instruction on policy/task" in policy_report(reports)["message"], "no word is no instruction"
    )
    tasks.publish(String(data="reach the cube that is red and lies behind the blue one on the left"))
    graph.until(lambda: "has 15 words but the model reads 12" in policy_report(reports)["message"], "it is too long")
    assert int(policy_report(reports)["refused task too long"]) > 0
    graph.node.destroy_publisher(tasks)  # and with it what it latched
    policy = graph.processes.pop("policy")
    policy.leave()
    output = policy.output()
    assert output.count(unseen) == 1
    assert "nothing is planned: the instruction 'reach the cube that is red" in output


def test_a_task_too_long_to_read_is_one_clear_error(graph: Graph, reports: Heard, taught: list[str]) -> None:
    graph.start("policy", *taught, f"task:={' '.join(['very'] * 12)} long")
    graph.until(lambda: "cannot configure" in policy_report(reports)["message"], "the policy refuses")
    report = policy_report(reports)
    assert report["level"] == str(ERROR)
    assert "has 13 words but the model reads 12: what stands from 'long' on" in report["message"]
