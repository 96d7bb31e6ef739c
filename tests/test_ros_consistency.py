"""The policy node with a bundle that has an inverse-dynamics head: what happened against what was commanded."""

import dataclasses
from pathlib import Path

import pytest

pytestmark = [pytest.mark.ros, pytest.mark.slow]
pytest.importorskip("rclpy")

import torch  # noqa: E402
from diagnostic_msgs.msg import DiagnosticArray  # noqa: E402

from ros_nodes import qos  # noqa: E402
from tests.ros_fakes import FakeRobot, patient_robot  # noqa: E402
from tests.ros_graph import Graph  # noqa: E402
from tests.ros_guard_watch import GuardWatch  # noqa: E402
from tests.test_ros_policy import TASK, policy_report  # noqa: E402
from wam.checkpoint import load_checkpoint, save_checkpoint  # noqa: E402
from wam.config import preset  # noqa: E402
from wam.export import export_bundle  # noqa: E402
from wam.model import WorldActionModel  # noqa: E402
from wam.robot import RobotSpec, load_robot  # noqa: E402
from wam.untrained import limit_transforms  # noqa: E402


def headed_bundle(folder: Path, robot: RobotSpec) -> Path:
    """Random weights of the smallest model, with a head."""
    config = dataclasses.replace(preset("micro", robot), inverse_head=16)
    torch.manual_seed(0)
    weights = WorldActionModel(config).state_dict()
    transforms = limit_transforms(config, robot)
    save_checkpoint(
        folder / "run", 0, averaged=weights, training={}, config=config, transforms=transforms, robot=robot, meta={}
    )
    export_bundle(load_checkpoint(folder / "run"), folder / "bundle")
    return folder / "bundle"


def test_the_number_is_in_the_diagnostics_and_warns_above_its_limit(tmp_path: Path) -> None:
    # Nothing is refused, held or switched off because the machine is busy; an untrained policy wants to go far
    patience = {"image_age_s": 5.0, "state_age_s": 5.0, "stream_spread_s": 5.0, "chunk_age_s": 60.0}
    robot_file = patient_robot(tmp_path / "robots", engage_error=4.0, tracking_time_s=60.0, **patience)
    bundle = headed_bundle(tmp_path, load_robot(robot_file))
    with Graph(tmp_path / "graph") as graph:
        graph.start("guard", f"robot:={robot_file}")
        FakeRobot(graph, cameras=True)
        watch = GuardWatch(graph)
        reports = graph.hear(DiagnosticArray, "/diagnostics", qos.DIAGNOSTICS)
        graph.start("policy", f"bundle:={bundle}", f"robot:={robot_file}", TASK, "consistency_limit:=0.001")
        graph.until(lambda: policy_report(reports)["message"] == "planning", "the policy plans")
        watch.run()
        graph.until(
            lambda: int(policy_report(reports).get("consistency_count", "0")) >= 2,
            "pictures were compared with commands twice",
            patience=300,
        )
        report = policy_report(reports)
        assert 0 < float(report["consistency_p50"]) <= float(report["consistency_max"])
        assert report["consistency_axis"] in load_robot("sim6").action_names
        graph.until(
            lambda: "what happened is not what was commanded" in policy_report(reports)["message"],
            "random weights are above the limit",
            patience=300,
        )
