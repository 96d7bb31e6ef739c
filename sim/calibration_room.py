"""A simulated arm with a calibration board, and what a person would do with both: photograph, calibrate, knock, check.

Pictures are full-size, as a camera gives them before a policy's own are made smaller, with noise; the arm reports its
joints with noise. The camera stands where ``set_camera`` puts it; calibration only ever sees pictures and joints, in
the files and through the commands that a real robot uses.

Shape legend: J joints.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import yaml

from calibration.board_views import measure_boards
from calibration.boards import DEFAULT_BOARD, Board, parse_board
from calibration.capture import Capture, Sample, write_capture
from calibration.kinematics import open_kinematics
from calibration.main import main as calibrate
from calibration.rendering import BoardRenderer
from calibration.rigid import inverse
from calibration.synthetic import Rig, views_around
from sim.arm_sim import ArmSim
from sim.board_scene import board_fixture
from sim.cameras import camera_lens, camera_pose, set_camera_pose
from sim.errors import SimError
from sim.gl import mujoco
from wam.robot import RobotSpec

__all__ = ["CalibrationRoom", "write_robot"]

_PICTURE_PX = 672  # longer side of a full-size picture
_OVERSAMPLING = 2  # drawn pixels per pixel, because the simulator draws without antialiasing
_GREY_NOISE = 2.0  # standard deviation of a picture's grey levels
_JOINT_NOISE_RAD = float(np.radians(0.03))  # of a reported joint angle: half a millimetre at the tool of a 0.6 m arm
_LENS_VIEWS, _POSES = 20, 25
_BOARD_IN_HAND = "charuco-7x5-24mm-18mm-4X4_50"


class CalibrationRoom:
    """See the module; ``close`` after use."""

    def __init__(self, robot: RobotSpec, camera: str, *, seed: int = 0) -> None:
        """Builds the scene: the board lies on the table for a camera on the arm, and is in the hand otherwise.

        Args:
            robot: The robot, with the cameras that a policy sees through; it must name its kinematic model.
            camera: One of its cameras.
            seed: Of all noise and of the arm's poses.

        Raises:
            SimError: The camera is on a link in the middle of the arm.
        """
        self.camera = camera
        self.robot = full_size(robot)
        self._spec = next(spec for spec in self.robot.cameras if spec.name == camera)
        self._rng = np.random.default_rng([seed, 29])
        self._kinematics = open_kinematics(self.robot)
        probe = ArmSim("reach", robot)
        carrier = int(probe.model.camera(camera).bodyid[0])
        probe.close()
        tool = self.robot.kinematics.tool if self.robot.kinematics else ""
        self.eye_in_hand = carrier != 0
        if self.eye_in_hand and probe.model.body(carrier).name != tool:
            raise SimError(
                f"camera '{camera}' is on body '{probe.model.body(carrier).name}', but hand-eye calibration works for "
                f"one on the tool '{tool}' or one that stands still: choose another camera."
            )
        self.body = tool if self.eye_in_hand else ""
        self.board: Board = parse_board(DEFAULT_BOARD if self.eye_in_hand else _BOARD_IN_HAND)
        fixture = board_fixture(self.board, "table" if self.eye_in_hand else "hand")
        self._sim = ArmSim("reach", _larger(self.robot, _OVERSAMPLING), fixtures=[fixture])
        self._body_id = carrier
        tool_pose = self._kinematics.poses(self._sim.data.qpos[self._sim.arm_dofs])[0]
        in_world = camera_pose(self._sim.model, self._sim.data, camera)
        self.nominal = inverse(tool_pose) @ in_world if self.eye_in_hand else in_world  # (4, 4) T_body_camera, true
        self._rig = Rig(
            seed=seed,
            board=self.board,
            lens=camera_lens(self._sim.model, self._spec),
            kinematics=self._kinematics,
            eye_in_hand=self.eye_in_hand,
            camera=self.nominal,
            board_pose=fixture.pose,
            offsets=np.zeros(len(self.robot.joints)),
        )

    @property
    def mount(self) -> str:
        """As ``wam calibrate hand-eye`` calls it."""
        return "hand" if self.eye_in_hand else "base"

    def set_camera(self, pose: np.ndarray) -> None:
        """Puts the camera at (4, 4) ``T_body_camera``."""
        set_camera_pose(self._sim.model, self.camera, pose, body=self._body_id)

    def look(self) -> tuple[np.ndarray, dict[str, float]]:
        """Moves the arm to a new pose from which the calibrated camera would see the board.

        Returns:
            (height, width, 3) rgb_hwc_u8, and the joint angles that the arm reports [rad].
        """
        angles = self._rig.poses(self._rng, 1)[0][0]
        self._sim.data.qpos[self._sim.arm_dofs] = angles
        mujoco.mj_forward(self._sim.model, self._sim.data)
        drawn = self._sim.render(self.camera)
        size = (self._spec.width_px, self._spec.height_px)
        image = cv2.resize(drawn, size, interpolation=cv2.INTER_AREA) + self._rng.normal(
            0, _GREY_NOISE, (*size[::-1], 3)
        )
        reported = angles + self._rng.normal(0, _JOINT_NOISE_RAD, len(angles))
        names = [joint.name for joint in self.robot.joints]
        return np.clip(image, 0, 255).astype(np.uint8), dict(zip(names, map(float, reported), strict=True))

    def calibrate(self, folder: Path) -> Path:
        """Calibrates lens and place of the camera with the commands a person would use.

        Args:
            folder: For the robot file, the pictures and the commands' reports.

        Returns:
            The robot file, which holds the results.

        Raises:
            CalibrationError: A command refuses.
        """
        path = write_robot(self.robot, folder / "robot")
        common = ["--robot", str(path), "--camera", self.camera, "--board", str(self.board), "--out", str(folder)]
        self._photograph_lens(folder / "lens")
        calibrate(["intrinsics", "--source", str(folder / "lens"), *common])
        self._capture_poses(folder / "poses")
        calibrate(["hand-eye", "--capture", str(folder / "poses"), "--mount", self.mount, *common])
        return path

    def close(self) -> None:
        """Frees the renderers."""
        self._sim.close()

    def _photograph_lens(self, folder: Path) -> None:
        views = views_around(self._rng, self.board, self._rig.lens, _LENS_VIEWS, noise_px=0.0)
        with BoardRenderer(self.board, self._rig.lens) as renderer:
            for index, pose in enumerate(measure_boards(self.board, views, self._rig.lens).poses):
                _save(folder / f"{index:04d}.png", renderer.draw(pose, self._rng, blur_px=0.5))

    def _capture_poses(self, folder: Path) -> None:
        samples = []
        for index in range(_POSES):
            image, joints = self.look()
            name = f"{index:04d}.png"
            _save(folder / name, image)
            samples.append(Sample(image=name, stamp=float(index), joints=joints))
        write_capture(
            Capture(folder=folder, robot=self.robot.name, camera=self.camera, kind="poses", samples=tuple(samples))
        )


def full_size(robot: RobotSpec) -> RobotSpec:
    """The robot with cameras of a usual size, each of the shape it had."""
    factors = {spec.name: max(1, round(_PICTURE_PX / max(spec.width_px, spec.height_px))) for spec in robot.cameras}
    return _larger(robot, factors)


def write_robot(robot: RobotSpec, folder: Path) -> Path:
    """Writes a robot file into a folder of its own; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{robot.name}.yaml"
    plain = {name: value for name, value in robot.to_dict().items() if value is not None}
    path.write_text(yaml.safe_dump(plain, sort_keys=False))
    return path


def _larger(robot: RobotSpec, factor: int | Mapping[str, int]) -> RobotSpec:
    def scaled(name: str) -> int:
        return factor if isinstance(factor, int) else factor[name]

    cameras = tuple(
        dataclasses.replace(
            spec, width_px=spec.width_px * scaled(spec.name), height_px=spec.height_px * scaled(spec.name)
        )
        for spec in robot.cameras
    )
    return dataclasses.replace(robot, cameras=cameras)


def _save(path: Path, rgb_hwc_u8: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), cv2.cvtColor(rgb_hwc_u8, cv2.COLOR_RGB2BGR))
