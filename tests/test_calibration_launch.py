"""Hand-eye calibration of the simulated arm as a person does it: launch file, arm driven by hand, service, command."""

import dataclasses
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest

pytestmark = [pytest.mark.ros, pytest.mark.slow]
pytest.importorskip("rclpy")

from diagnostic_msgs.msg import DiagnosticStatus  # noqa: E402
from rclpy.clock import Clock  # noqa: E402
from rclpy.clock_type import ClockType  # noqa: E402
from sensor_msgs.msg import JointState  # noqa: E402
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint  # noqa: E402

from calibration.boards import parse_board  # noqa: E402
from calibration.kinematics import open_kinematics  # noqa: E402
from calibration.main import main as calibrate  # noqa: E402
from calibration.rigid import inverse, separation  # noqa: E402
from calibration.robot_file import store_calibration  # noqa: E402
from calibration.synthetic import Rig  # noqa: E402
from policy.wire import positions_by_name, stamp_seconds  # noqa: E402
from ros_nodes import qos  # noqa: E402
from ros_nodes.diagnostics import values_of  # noqa: E402
from sim.arm_sim import ArmSim  # noqa: E402
from sim.board_scene import board_fixture  # noqa: E402
from sim.calibration_room import write_robot  # noqa: E402
from sim.cameras import camera_lens, camera_pose  # noqa: E402
from tests.ros_graph import Graph  # noqa: E402
from wam.calibration_spec import CameraCalibration, RobotCalibration  # noqa: E402
from wam.robot import RobotSpec, load_robot  # noqa: E402

REPOSITORY = Path(__file__).resolve().parent.parent
BOARD = "charuco-9x6-28mm-21mm-4X4_50"
PICTURE_PX = 480
POSES = 9
PATIENCE = 180.0  # [s]; on a loaded machine everything takes many times as long
STEP = 0.08  # how far the teleoperation's target is ahead of the arm, within the guard's engage_error [rad]


def patient_robot() -> RobotSpec:
    """sim6 with pictures that a board can be found in, and a guard that lets a loaded machine be late."""
    robot = load_robot("sim6")
    front, wrist = (dataclasses.replace(spec, rate_hz=5.0) for spec in robot.cameras)
    late = dataclasses.replace(robot.safety, teleop_age_s=2.0, state_age_s=2.0, state_fault_s=30.0, tracking_error=1.5)
    larger = dataclasses.replace(wrist, width_px=PICTURE_PX, height_px=PICTURE_PX)
    return dataclasses.replace(robot, cameras=(front, larger), safety=late)


def true_rig(robot: RobotSpec, path: Path) -> Rig:
    """Where camera and board truly are."""
    fixture, kinematics = board_fixture(parse_board(BOARD), "table"), open_kinematics(robot, path)
    sim = ArmSim("reach", robot, fixtures=[fixture])
    tool = kinematics.poses(sim.data.qpos[sim.arm_dofs])[0]
    camera = inverse(tool) @ camera_pose(sim.model, sim.data, "wrist")
    lens = camera_lens(sim.model, robot.cameras[1])
    sim.close()
    return Rig(
        seed=0,
        board=parse_board(BOARD),
        lens=lens,
        kinematics=kinematics,
        eye_in_hand=True,
        camera=camera,
        board_pose=fixture.pose,
        offsets=np.zeros(6),
    )


class Hand:
    """A person with a leader arm: drives to a pose, the dead-man held, and waits until the arm is there."""

    def __init__(self, graph: Graph, robot: RobotSpec) -> None:
        self._graph, self._names = graph, robot.action_names
        self._measured: np.ndarray | None = None
        self.goal: np.ndarray | None = None  # (A,)
        self._stamp = 0.0
        self._states = graph.hear(DiagnosticStatus, "guard/state", qos.STATE)
        self._out = graph.node.create_publisher(JointTrajectory, "teleop/command", qos.CHUNK)
        graph.node.create_subscription(JointState, robot.state_topic, self._on_state, qos.STATE)
        graph.node.create_timer(0.02, self._publish, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def drive(self, joints: np.ndarray) -> None:
        """Moves the arm; engages the guard whenever it holds."""
        self._graph.until(lambda: self._measured is not None, "the arm says where it is", patience=PATIENCE)
        self.goal = np.append(joints, 1.0)
        end, said = time.monotonic() + PATIENCE, ""
        while time.monotonic() < end:
            self._graph.until(lambda: self._arrived() or not self._running(), f"it moves ({said})", patience=PATIENCE)
            if self._arrived():
                return
            said = self._graph.call("guard/engage").message  # refused until a fresh command has come
            if "reset" in said:
                self._graph.call("guard/reset")
            self._graph.spin(0.1)
        raise AssertionError(f"the guard does not let the arm move: {said}; {self._states.last}")

    def _running(self) -> bool:
        return bool(self._states.items) and values_of(self._states.last)["state"] == "RUN_TELEOP"

    def _arrived(self) -> bool:
        assert self.goal is not None
        return self._measured is not None and bool(np.abs(self._measured[:6] - self.goal[:6]).max() < 0.02)

    def _on_state(self, message: JointState) -> None:
        self._measured = positions_by_name(message.name, message.position, self._names, "/joint_states")
        self._stamp = stamp_seconds(message.header.stamp)

    def _publish(self) -> None:
        if self._measured is None or self.goal is None:
            return
        target = self._measured + np.clip(self.goal - self._measured, -STEP, STEP)
        message = JointTrajectory(
            joint_names=list(self._names), points=[JointTrajectoryPoint(positions=target.astype(float).tolist())]
        )
        message.header.stamp = self._graph.node.get_clock().now().to_msg()
        self._out.publish(message)


def patient_config(folder: Path) -> Path:
    """The nodes' parameters, but for pictures that a loaded machine draws late: what counts is their stamp."""
    config = folder / "config"
    shutil.copytree(REPOSITORY / "config", config)
    file = config / "calibration.yaml"
    text = file.read_text()
    assert "max_age_s: 0.5" in text
    file.write_text(text.replace("max_age_s: 0.5", "max_age_s: 10.0"))
    return config


def captured(graph: Graph) -> str:
    """Stores a sample; the service refuses, with the reason, until the arm stands still and a new picture has come."""
    end = time.monotonic() + PATIENCE
    while True:
        answer = graph.call("calibration/capture")
        if answer.success:
            return answer.message
        assert time.monotonic() < end, answer.message
        graph.spin(0.2)


def test_the_simulated_arm_is_calibrated_through_the_launch_file(tmp_path: Path) -> None:
    path = write_robot(patient_robot(), tmp_path / "robot")
    robot = load_robot(path)
    rig = true_rig(robot, path)
    lens = CameraCalibration(name="wrist", lens=rig.lens)
    store_calibration(path, RobotCalibration(cameras=(lens,)))
    folder = tmp_path / "captures"
    with Graph(tmp_path) as graph:
        given = [f"robot:={path}", f"folder:={folder}", f"board:={BOARD}", f"config:={patient_config(tmp_path)}"]
        options = ["sim:=true", "scene:=reach", "camera:=wrist", "board_on:=table"]
        launched = graph.run("up", ["-m", "ros_nodes.up", "calibration", *given, *options])
        try:
            hand = Hand(graph, robot)
            for index, joints in enumerate(rig.poses(np.random.default_rng(4), POSES)[0]):
                hand.drive(joints)
                assert f"{index + 1} samples" in captured(graph)
        finally:
            launched.send(signal.SIGINT)  # it ends its nodes, which a SIGKILL of it would leave behind
            launched.popen.wait(timeout=PATIENCE)
    arguments = ["--robot", str(path), "--camera", "wrist", "--capture", str(folder), "--board", BOARD]
    assert calibrate(["hand-eye", "--mount", "hand", *arguments, "--out", str(tmp_path / "out")]) == 0
    calibration = load_robot(path).calibration
    assert calibration is not None
    found = calibration.camera("wrist")
    assert found.pose is not None
    millimetres, degrees = separation(found.pose.matrix, rig.camera)
    assert millimetres < 5.0
    assert degrees < 0.8
    assert found.body == "hand"
