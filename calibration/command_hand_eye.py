"""``wam calibrate hand-eye``: where a camera is, from a capture of poses; and the joints' zeros, when asked."""

import math
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tyro
from rich.console import Console
from rich.progress import track
from rich.table import Table

from calibration.board_views import measure_boards
from calibration.boards import DEFAULT_BOARD, Board, parse_board
from calibration.capture import Capture, Sample, load_picture, read_capture
from calibration.detection import Detection, check_detections, detect
from calibration.errors import CalibrationError
from calibration.hand_eye import HandEyeResult, calibrate_hand_eye
from calibration.hand_eye_problem import RobotMotion, RobotNoise
from calibration.kinematics import ForwardKinematics, open_kinematics
from calibration.motions import MIN_POSES
from calibration.report import hand_eye_sections, write_page
from calibration.results import camera_of, read_robot, store, write_json
from calibration.rig_plot import rig_picture
from calibration.robot_file import with_note
from wam.calibration_spec import BoardPlacement, CameraCalibration, LensSpec, PoseSpec, RobotCalibration
from wam.errors import unknown_name
from wam.robot import RobotSpec

__all__ = ["MOUNTS", "HandEyeConfig", "main", "with_result"]

MOUNTS = {"hand": True, "base": False}  # command line -> eye-in-hand


@dataclass(frozen=True, kw_only=True)
class HandEyeConfig:
    """What to calibrate."""

    robot: str  # robot name or file; it needs a section kinematics, and gets the result
    camera: str  # one of the robot's cameras, with calibrated intrinsics
    capture: Path  # folder of a capture of poses: pictures, and joint positions or tool poses
    mount: str  # hand: the camera is on the arm and the board stands still; base: the other way round
    board: str = DEFAULT_BOARD  # the board in the pictures
    joints: str = "none"  # zeros to estimate as well: none, all, or names with commas between
    position_noise_mm: float = 0.5  # how exactly the robot knows its tool's position, per axis [mm]
    angle_noise_deg: float = 0.1  # the same for its orientation [degree]
    store: bool = True  # write the result into the robot file
    out: Path | None = None  # folder for the report; default: runs/calibration/<camera>

    @property
    def folder(self) -> Path:
        """Where results go."""
        return Path("runs/calibration") / self.camera if self.out is None else self.out

    def __post_init__(self) -> None:
        if self.mount not in MOUNTS:
            raise CalibrationError(unknown_name("mount", self.mount, MOUNTS))
        if min(self.position_noise_mm, self.angle_noise_deg) <= 0:
            raise CalibrationError("the robot's noise must be positive: no robot is exact.")


def main(argv: list[str]) -> int:
    """Command line of ``wam calibrate hand-eye``."""
    config = tyro.cli(HandEyeConfig, args=argv, prog="wam calibrate hand-eye")
    robot, path = read_robot(config.robot)
    camera = camera_of(robot, config.camera)
    if camera.lens is None:
        raise CalibrationError(f"camera '{config.camera}' has no intrinsics yet: run `wam calibrate intrinsics` first.")
    capture = read_capture(config.capture, kind="poses", robot=robot.name, camera=config.camera)
    board, console = parse_board(config.board), Console()
    samples, views = find_views(capture, board, console)
    kinematics = open_kinematics(robot, path) if robot.kinematics else None
    motion, positions = robot_motion(capture, robot, kinematics, samples)
    result = _calibrate(config, board, views, camera.lens, motion, robot)
    console.print(summary_table(result))
    for advice in result.motion.advice():
        print(f"to do better: {advice}")
    zeros = np.array([joint.offset_rad for joint in result.offsets]) if result.offsets else np.zeros(len(motion.joints))
    arms = [] if kinematics is None or positions is None else [kinematics.outline(row) for row in positions]
    plot = rig_picture(result, motion.poses(zeros), board.size_m, arms)
    sections = hand_eye_sections(result, plot)
    write_page(config.folder / "hand_eye.html", f"Hand-eye calibration of camera '{config.camera}'", sections)
    write_json(config.folder / "hand_eye.json", result_data(result, config))
    if config.store:
        calibration = with_result(robot, camera, result, board, tool=robot.kinematics.tool if robot.kinematics else "")
        note = (
            f"hand-eye of {config.camera} ({config.mount}): {int(result.inlier.sum())} views, uncertain by "
            f"{result.std_mm:.2f} mm and {result.std_deg:.3f} degrees"
        )
        print(store(path, with_note(calibration, note)))
    print(f"wrote {config.folder / 'hand_eye.html'}\nwrote {config.folder / 'hand_eye.json'}")
    return 0


def find_views(capture: Capture, board: Board, console: Console) -> tuple[list[Sample], list[Detection]]:
    """Samples in which the board is found, and where it is.

    Raises:
        CalibrationError: Too few of them.
    """
    found = [
        detect(board, load_picture(capture.folder / sample.image), sample.image)
        for sample in track(capture.samples, description="looking for the board", console=console)
    ]
    check_detections(board, found, needed=MIN_POSES)
    pairs = [(sample, view) for sample, view in zip(capture.samples, found, strict=True) if not view.problem]
    return [sample for sample, _ in pairs], [view for _, view in pairs]


def robot_motion(
    capture: Capture, robot: RobotSpec, kinematics: ForwardKinematics | None, samples: list[Sample]
) -> tuple[RobotMotion, np.ndarray | None]:
    """The robot's side of the samples: from joint positions, or from tool poses where the capture holds those.

    Returns:
        The motion, and (N, J) joint positions with the stored zeros applied [rad], if there are any.
    """
    given = [sample.tool_pose for sample in samples]
    if all(pose is not None for pose in given):
        return RobotMotion.of_poses(np.array(given)), None
    if kinematics is None:
        open_kinematics(robot)  # says how to name a kinematic model
    assert kinematics is not None
    positions = replace(capture, samples=tuple(samples)).positions(robot)
    calibration = robot.calibration or RobotCalibration()
    zeros = np.array([calibration.joint(joint.name).offset_rad for joint in robot.joints])
    return RobotMotion.of_joints(kinematics, positions + zeros), positions + zeros


def with_result(
    robot: RobotSpec, camera: CameraCalibration, result: HandEyeResult, board: Board, *, tool: str
) -> RobotCalibration:
    """The robot's calibration with a hand-eye result in it; found joint zeros add to those that were applied."""
    calibration = robot.calibration or RobotCalibration()
    hand = tool or (robot.joints[-1].name if robot.joints else "tool")
    body, other = (hand, "") if result.eye_in_hand else ("", hand)
    placement = BoardPlacement(board=str(board), body=other, pose=PoseSpec.from_matrix(result.board))
    pose = PoseSpec.from_matrix(result.camera)
    calibration = calibration.with_camera(replace(camera, body=body, pose=pose, board=placement))
    for joint in result.offsets:
        if joint.estimated:
            known = calibration.joint(joint.name)
            zero = round(known.offset_rad + joint.offset_rad, 7)
            calibration = calibration.with_joint(replace(known, offset_rad=zero))
    return calibration


def summary_table(result: HandEyeResult) -> Table:
    """The table for people."""
    used = result.inlier
    x, y, z = 1e3 * result.camera[:3, 3]
    table = Table(title="camera on the tool" if result.eye_in_hand else "camera in the base frame", show_header=False)
    table.add_row("position (mm)", f"{x:.1f}, {y:.1f}, {z:.1f}")
    table.add_row("uncertainty, worst direction", f"{result.std_mm:.2f} mm, {result.std_deg:.3f}°")
    residual = f"{np.median(result.residual_mm[used]):.2f} mm, {np.median(result.residual_deg[used]):.3f}°"
    table.add_row("residual, median of views", residual)
    left = [name for name, good in zip(result.sources, used, strict=True) if not good]
    table.add_row("views used, left out", f"{used.sum()}, {len(left)} {'(' + ', '.join(left) + ')' if left else ''}")
    table.add_row("errors over stated robot noise", f"{result.noise_factor:.2f}")
    for joint in result.offsets:
        words = f"{math.degrees(joint.offset_rad):+.3f}° ± {math.degrees(joint.std_rad):.3f}°"
        table.add_row(f"zero of {joint.name}", words if joint.estimated else "cannot be told from these views")
    return table


def result_data(result: HandEyeResult, config: HandEyeConfig) -> dict[str, object]:
    """What ``hand_eye.json`` holds."""
    return {
        "camera": config.camera,
        "mount": config.mount,
        "board": config.board,
        "T_body_camera": result.camera.tolist(),
        "T_body_board": result.board.tolist(),
        "std_mm": result.std_mm,
        "std_deg": result.std_deg,
        "noise_factor": result.noise_factor,
        "scale": result.scale,
        "joints": {
            joint.name: {"offset_rad": joint.offset_rad, "std_rad": joint.std_rad if joint.estimated else None}
            for joint in result.offsets
        },
        "views": [
            {"picture": name, "mm": round(float(mm), 4), "deg": round(float(deg), 5), "used": bool(good)}
            for name, mm, deg, good in zip(
                result.sources, result.residual_mm, result.residual_deg, result.inlier, strict=True
            )
        ],
    }


def _calibrate(
    config: HandEyeConfig, board: Board, views: list[Detection], lens: LensSpec, motion: RobotMotion, robot: RobotSpec
) -> HandEyeResult:
    names = [joint.name for joint in robot.joints]
    asked = {"none": [], "all": names}.get(config.joints, [name.strip() for name in config.joints.split(",")])
    if asked and not motion.joints:
        raise CalibrationError("joint zeros need joint positions, but this capture holds tool poses: --joints none.")
    return calibrate_hand_eye(
        measure_boards(board, views, lens),
        motion,
        eye_in_hand=MOUNTS[config.mount],
        noise=RobotNoise(
            position_m=1e-3 * config.position_noise_mm, angle_rad=float(np.radians(config.angle_noise_deg))
        ),
        joints=asked,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
