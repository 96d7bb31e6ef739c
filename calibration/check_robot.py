"""The daily check of one of a robot's cameras: with what the robot file holds, the best method that it allows.

``wam calibrate check`` and the policy node, before it is activated, both call ``check_camera``.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from calibration.board_views import measure_boards
from calibration.boards import parse_board
from calibration.capture import load_picture
from calibration.daily_check import CheckResult, Tolerance, check_board, check_reference
from calibration.detection import detect
from calibration.errors import CalibrationError
from calibration.kinematics import open_kinematics
from calibration.results import camera_of
from wam.calibration_spec import BoardPlacement, CameraCalibration, PoseSpec, RobotCalibration
from wam.errors import unknown_name
from wam.robot import RobotSpec

__all__ = ["check_camera", "checkable_cameras", "reference_path", "tool_pose", "with_reference"]


def checkable_cameras(robot: RobotSpec) -> tuple[str, ...]:
    """Names of the cameras of which something is stored that a fresh picture can be compared with."""
    cameras = [camera_of(robot, name) for name in robot.camera_names]
    return tuple(camera.name for camera in cameras if camera.reference is not None or _has_board(camera))


def check_camera(
    robot: RobotSpec,
    robot_path: Path,
    name: str,
    image: np.ndarray,
    joints: Mapping[str, float] | None = None,
    tolerance: Tolerance | None = None,
) -> CheckResult:
    """Compares a fresh picture with what is stored.

    Args:
        robot: The robot, as its file says now.
        robot_path: Where that file lies; reference pictures lie beside it.
        name: The camera.
        image: (height, width, 3) rgb_hwc_u8, fresh.
        joints: Reported joint angles now [rad]; needed when the camera or the board is on the arm.
        tolerance: What counts as unmoved.

    Raises:
        CalibrationError: Nothing is stored to compare with, or the picture cannot be compared.
    """
    camera = camera_of(robot, name)
    placement = camera.board
    tool = None if joints is None else tool_pose(robot, robot_path, joints)
    usable = _has_board(camera)
    if placement is not None and usable:
        moving = bool(placement.body) != camera.eye_in_hand
        seen = not detect(parse_board(placement.board), image, thorough=False).problem
        if seen and (not moving or tool is not None):
            return check_board(image, camera, placement, tool=tool, tolerance=tolerance)
    if camera.reference is None:
        stored = f"the board {placement.board} is not to be seen, and " if usable and placement else ""
        raise CalibrationError(
            f"camera '{name}' of robot '{robot.name}' cannot be checked: {stored}no reference picture is stored. Store "
            "one on a day when everything is right: "
            f"wam calibrate check --robot {robot.name} --camera {name} --set-reference --source <camera or picture>"
        )
    reference = load_picture(robot_path.parent / camera.reference)
    return check_reference(image, reference, camera, tool=tool, tolerance=tolerance)


def with_reference(
    robot: RobotSpec, robot_path: Path, name: str, image: np.ndarray, *, board: str = ""
) -> tuple[RobotCalibration, str]:
    """Takes a picture as the reference of a camera, and a board in it as the one that stays.

    Args:
        robot: The robot.
        robot_path: Where its file lies; the picture goes beside it.
        name: The camera.
        image: (height, width, 3) rgb_hwc_u8.
        board: A board that will stay where it is; none when empty.

    Returns:
        The calibration to store, and what was done in words.

    Raises:
        CalibrationError: A board was named but cannot be used.
    """
    camera = camera_of(robot, name)
    path = reference_path(robot_path, name)
    cv2.imwrite(str(path), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    calibration = robot.calibration or RobotCalibration()
    camera = replace(camera, reference=path.name)
    if not board:
        return calibration.with_camera(camera), f"wrote {path}"
    if camera.lens is None or camera.pose is None or camera.eye_in_hand:
        raise CalibrationError(
            f"a board that stays can be stored with a camera that stands still and whose lens and pose are known; "
            f"camera '{name}' is not one. Leave --board out, or calibrate it first. A camera on the arm has the "
            "board's place from its hand-eye calibration already."
        )
    wanted = parse_board(board)
    view = detect(wanted, image, name)
    if view.problem:
        raise CalibrationError(f"the board {wanted} cannot be used: {view.problem}.")
    seen = measure_boards(wanted, [view], camera.lens).poses[0]
    placement = BoardPlacement(board=str(wanted), pose=PoseSpec.from_matrix(camera.pose.matrix @ seen))
    return calibration.with_camera(
        replace(camera, board=placement)
    ), f"wrote {path}; the board {wanted} is stored as well"


def reference_path(robot_path: Path, camera: str) -> Path:
    """Where a camera's reference picture lies: beside the robot file."""
    return robot_path.with_name(f"{robot_path.stem}_{camera}_reference.png")


def tool_pose(robot: RobotSpec, robot_path: Path, joints: Mapping[str, float]) -> np.ndarray:
    """(4, 4) ``T_base_tool`` for reported joint angles, with the stored zeros applied.

    Raises:
        CalibrationError: A joint is missing, or the robot names no kinematic model.
    """
    for joint in robot.joints:
        if joint.name not in joints:
            raise CalibrationError(unknown_name("joint", joint.name, joints, fix="Give every joint of the robot file."))
    calibration = robot.calibration or RobotCalibration()
    angles = [joints[joint.name] + calibration.joint(joint.name).offset_rad for joint in robot.joints]
    return open_kinematics(robot, robot_path).poses(np.array([angles]))[0]


def _has_board(camera: CameraCalibration) -> bool:
    """A board is stored, and what it takes to say where it should appear."""
    return camera.board is not None and camera.lens is not None and camera.pose is not None
