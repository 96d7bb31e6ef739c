"""Before a policy is activated: have the cameras moved since they were calibrated?"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.ros
pytest.importorskip("rclpy")

from diagnostic_msgs.msg import DiagnosticArray  # noqa: E402

from calibration.boards import parse_board  # noqa: E402
from calibration.check_robot import with_reference  # noqa: E402
from calibration.rigid import exp  # noqa: E402
from calibration.robot_file import store_calibration  # noqa: E402
from ros_nodes import messages, qos  # noqa: E402
from ros_nodes.camera_check import CameraCheck  # noqa: E402
from ros_nodes.diagnostics import values_of  # noqa: E402
from ros_nodes.errors import GraphError  # noqa: E402
from sim.arm_sim import ArmSim  # noqa: E402
from sim.board_scene import board_fixture  # noqa: E402
from sim.calibration_room import write_robot  # noqa: E402
from sim.cameras import camera_lens, camera_pose  # noqa: E402
from tests.ros_graph import Graph, Heard  # noqa: E402
from wam.calibration_spec import CameraCalibration, PoseSpec, RobotCalibration  # noqa: E402
from wam.robot import RobotSpec, load_robot  # noqa: E402

BOARD = "charuco-9x6-28mm-21mm-4X4_50"
PICTURE_PX = 480
PATIENCE = 120.0  # [s]; a loaded machine opens a network and a renderer in tens of seconds
KNOCK = exp(np.concatenate([np.radians([1.5, 1.2, 0.5]), [0.015, 0.0, 0.013]]))


def robot_with_pictures() -> RobotSpec:
    """sim6, whose front camera gives pictures that a board can be found in, at a rate that any machine can draw."""
    robot = load_robot("sim6")
    front, wrist = robot.cameras
    larger = dataclasses.replace(front, width_px=PICTURE_PX, height_px=PICTURE_PX, rate_hz=10.0)
    return dataclasses.replace(robot, cameras=(larger, dataclasses.replace(wrist, rate_hz=10.0)))


def calibrated_robot(folder: Path) -> tuple[Path, np.ndarray]:
    """A robot file that knows its front camera and a board on the table; and today's picture."""
    robot = robot_with_pictures()
    sim = ArmSim("reach", robot, fixtures=[board_fixture(parse_board(BOARD), "table")])
    sim.reset(0)
    camera = CameraCalibration(
        name="front",
        lens=camera_lens(sim.model, robot.cameras[0]),
        body="",
        pose=PoseSpec.from_matrix(camera_pose(sim.model, sim.data, "front")),
    )
    image = sim.render("front")
    sim.close()
    path = write_robot(robot, folder)
    store_calibration(path, RobotCalibration(cameras=(camera,)))
    calibration, _ = with_reference(load_robot(path), path, "front", image, board=BOARD)
    store_calibration(path, calibration)
    return path, image


def knocked_robot(path: Path, folder: Path) -> Path:
    """The same robot file, its camera somewhere else: where the simulated one truly is."""
    robot = load_robot(path)
    assert robot.calibration is not None
    camera = robot.calibration.camera("front")
    assert camera.pose is not None
    moved = dataclasses.replace(camera, pose=PoseSpec.from_matrix(camera.pose.matrix @ KNOCK))
    return write_robot(dataclasses.replace(robot, calibration=RobotCalibration(cameras=(moved,))), folder)


class StubNode:
    """Keeps the callbacks of the topics that are subscribed to."""

    def __init__(self) -> None:
        self.callbacks: dict[str, Callable[[Any], None]] = {}

    def create_subscription(self, kind: type, topic: str, callback: Callable[[Any], None], profile: object) -> str:
        self.callbacks[topic] = callback
        return topic

    def destroy_subscription(self, topic: str) -> None:
        del self.callbacks[topic]


def test_the_newest_picture_of_every_known_camera_is_checked(tmp_path: Path) -> None:
    path, image = calibrated_robot(tmp_path)
    robot, node, now = load_robot(path), StubNode(), [100.0]
    check = CameraCheck(node, robot, path, lambda: now[0])
    assert check.cameras == ("front",)  # nothing is stored of the other one
    assert not check.ready
    (verdict,) = check.judge()
    assert not verdict.ok
    assert "camera 'front' has given no picture in the last 10 s" in verdict.text
    stamp = messages.to_time(1.0)
    node.callbacks["front/image_raw"](messages.rgb_image(image, stamp, "front"))
    assert not check.ready
    node.callbacks["joint_states"](messages.joint_state(robot.action_names, np.zeros(7), stamp))
    assert check.ready
    (verdict,) = check.judge()
    assert verdict.ok, verdict.text
    node.callbacks["front/image_raw"](messages.rgb_image(image[::2, ::2], stamp, "front"))
    (verdict,) = check.judge()
    assert not verdict.ok
    assert "240 x 240 px" in verdict.text
    now[0] += 5.0
    assert not check.ready
    now[0] += 6.0
    (verdict,) = check.judge()
    assert "has given no picture in the last 10 s, so it cannot be checked: start its node" in verdict.text
    check.close()
    assert not node.callbacks


def test_a_robot_of_which_nothing_is_stored_cannot_be_checked(tmp_path: Path) -> None:
    path = write_robot(robot_with_pictures(), tmp_path)
    with pytest.raises(GraphError, match="stores nothing to compare with. Store it .*--set-reference"):
        CameraCheck(StubNode(), load_robot(path), path)


# ------------------------------------------------------------------------------------------------ processes


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    from wam.export import export_bundle
    from wam.untrained import save_untrained_checkpoint

    folder = tmp_path_factory.mktemp("check")
    robot_file, _ = calibrated_robot(folder / "robot")
    checkpoint = save_untrained_checkpoint(folder / "run", load_robot(robot_file), preset_name="micro")
    export_bundle(checkpoint, folder / "bundle")
    return SimpleNamespace(
        robot=robot_file, knocked=knocked_robot(robot_file, folder / "knocked"), bundle=folder / "bundle"
    )


def report_of(reports: Heard) -> dict[str, str]:
    """Newest diagnostics of the policy, its message as ``message``."""
    for _, message in reversed(reports.items):
        for status in message.status:
            if status.name == "policy":
                return {**values_of(status), "message": status.message}
    return {"message": ""}


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["refuse", "warn"])
def test_a_policy_is_activated_only_where_its_cameras_are(setup: SimpleNamespace, tmp_path: Path, mode: str) -> None:
    """Refuse: a knocked camera is not activated, the same scene with the camera in its place is. Warn: it says so."""
    with Graph(tmp_path) as graph:
        reports = graph.hear(DiagnosticArray, "/diagnostics", qos.DIAGNOSTICS)

        def start_policy() -> None:
            graph.start(
                "policy",
                f"bundle:={setup.bundle}",
                f"robot:={setup.robot}",
                "task:=reach the red cube",
                f"check_cameras:={mode}",
            )
            reports.items.clear()

        def says(words: str) -> Callable[[], bool]:
            return lambda: words in report_of(reports)["message"]

        scene = ("backend:=mujoco", f"board:={BOARD}", "board_on:=table")
        graph.start("arm", f"robot:={setup.knocked}", "calibrated_cameras:=true", *scene)
        start_policy()
        expected = "cannot activate: camera 'front' HAS MOVED" if mode == "refuse" else "; camera 'front' HAS MOVED"
        graph.until(says(expected), "the policy says that the camera has moved", patience=PATIENCE)
        report = report_of(reports)
        assert "checked with the board" in report["message"]
        assert "To put it back" in report["camera_check front"]
        assert ("chunks_from_session" in report) == (mode == "warn")  # which only an active policy says
        if mode == "warn":
            return
        graph.start("arm", f"robot:={setup.robot}", *scene)
        start_policy()
        graph.until(lambda: "chunks_from_session" in report_of(reports), "the policy is activated", patience=PATIENCE)
        assert "is where it was calibrated" in report_of(reports)["camera_check front"]
        assert "HAS MOVED" not in report_of(reports)["message"]
