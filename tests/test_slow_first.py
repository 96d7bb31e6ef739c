"""docs/on_the_robot.md, "Try the policy slowly first": half the limits in a copied robot file, the bundle as it is."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from policy.load import load_policy
from tests.guard_rig import HOME, Rig
from wam.robot import RobotSpec, load_robot


@pytest.fixture
def slow(tmp_path: Path, repository: Path) -> Path:
    """The file as the page says: in a folder of its own, every velocity and acceleration halved."""
    (tmp_path / "slow").mkdir()
    path = Path(shutil.copy(repository / "config/robots/sim6.yaml", tmp_path / "slow"))
    halved = lambda found: f"{found[1]}{float(found[2]) / 2}"  # noqa: E731
    path.write_text(re.sub(r"(max_(?:velocity|acceleration): )([\d.]+)", halved, path.read_text()))
    return path


def fastest(robot: RobotSpec) -> np.ndarray:
    """(A,) highest speeds [rad/s] that a guard commands for a policy in a hurry."""
    rig, target = Rig(robot).engaged(), HOME.copy()
    target[0] += 0.9
    for _ in range(4):
        assert rig.send(target, points=4) == ""  # there in 0.4 s
        rig.tick(5)
    assert rig.violations() == []
    return np.abs([command.velocities for command in rig.commands]).max(axis=0)


def test_the_bundle_runs_on_the_copy_and_the_guard_keeps_to_half(slow: Path, micro_bundle: Path) -> None:
    robot, full = load_robot(slow), load_robot("sim6")
    assert [axis.max_velocity for axis in robot.axes] == [0.5 * axis.max_velocity for axis in full.axes]
    assert load_policy(micro_bundle, robot, backend="onnx").chunk_length > 0
    limit = np.array([axis.max_velocity for axis in robot.axes])
    assert (fastest(robot) <= limit).all()
    assert (fastest(full) > limit).any(), "this policy would not notice the difference"


@pytest.mark.ros
@pytest.mark.slow
def test_the_whole_graph_starts_with_the_copy(slow: Path, micro_bundle: Path, tmp_path: Path) -> None:
    """The simulated arm has its scene by the robot's name, wherever the file lies."""
    pytest.importorskip("rclpy")
    from trajectory_msgs.msg import JointTrajectory

    from ros_nodes import qos
    from tests.ros_graph import Graph
    from tests.ros_guard_watch import GuardWatch

    with Graph(tmp_path) as graph:
        graph.start("arm", f"robot:={slow}", "task:=reach", "announce_task:=true")
        graph.start("guard", f"robot:={slow}")
        graph.start("policy", f"robot:={slow}", f"bundle:={micro_bundle}", "backend:=onnx", "autostart:=true")
        watch = GuardWatch(graph)
        chunks = graph.hear(JointTrajectory, "policy/chunk", qos.CHUNK)
        graph.until(lambda: len(chunks) > 3, "the policy plans for the arm")
        wild = "no plan that an arm can follow"  # which is right of random weights; nothing else is wrong with them
        graph.until(
            lambda: watch.count("chunks_accepted") > 0 or wild in watch.values.get("last_refusal", ""),
            "the guard understands its chunks",
        )
