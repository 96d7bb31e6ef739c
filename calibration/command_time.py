"""``wam calibrate time``: a camera's latency against the joint states, from a capture of motion."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import tyro
from rich.console import Console
from rich.progress import track

from calibration.board_views import measure_boards
from calibration.boards import DEFAULT_BOARD, parse_board
from calibration.capture import Capture, load_picture, read_capture
from calibration.detection import detect, gray
from calibration.errors import CalibrationError
from calibration.kinematics import open_kinematics
from calibration.results import camera_of, read_robot, store_camera, write_json
from calibration.timing import JointTrack, LatencyResult, image_latency, latency_from_poses
from wam.calibration_spec import CameraCalibration, RobotCalibration
from wam.robot import RobotSpec

__all__ = ["TimeConfig", "main", "measure_latency", "picture_changes"]

NO_BOARD = "none"
_FLOW_WIDTH = 160  # pictures are reduced to this width before the flow is computed [px]


@dataclass(frozen=True, kw_only=True)
class TimeConfig:
    """What to measure."""

    robot: str  # robot name or file; it gets the result
    camera: str  # one of the robot's cameras
    capture: Path  # folder of a capture of motion: pictures with stamps, and joint states
    board: str = DEFAULT_BOARD  # the board in the pictures; none: the pictures' own change is used, less exactly
    store: bool = True  # write the result into the robot file
    out: Path | None = None  # folder for the JSON; default: runs/calibration/<camera>


def main(argv: list[str]) -> int:
    """Command line of ``wam calibrate time``."""
    config = tyro.cli(TimeConfig, args=argv, prog="wam calibrate time")
    robot, path = read_robot(config.robot)
    camera = camera_of(robot, config.camera)
    capture = read_capture(config.capture, kind="motion", robot=robot.name, camera=config.camera)
    result = measure_latency(capture, robot, path, camera, config.board, Console())
    ways = {
        "poses": "the board's pose against the arm's",
        "speed": "the speed of turning; with a hand-eye calibration it would be ten times as exact",
        "pictures": "the pictures' change; a board makes it more exact",
    }
    print(
        f"camera '{config.camera}' shows the robot {1e3 * result.latency_s:.1f} ms before its stamp "
        f"(± {1e3 * result.std_s:.1f} ms, correlation {result.correlation:.3f}, from {ways[result.method]})"
    )
    folder = Path("runs/calibration") / config.camera if config.out is None else config.out
    write_json(
        folder / "time.json",
        {
            "camera": config.camera,
            "latency_s": result.latency_s,
            "std_s": result.std_s,
            "correlation": result.correlation,
            "method": result.method,
            "curve": {"latency_s": result.curve[0].tolist(), "correlation": result.curve[1].tolist()},
        },
    )
    if config.store:
        note = f"latency of {config.camera}: {1e3 * result.latency_s:.1f} ms from {result.method}"
        print(store_camera(robot, path, replace(camera, latency_s=round(result.latency_s, 5)), note))
    print(f"wrote {folder / 'time.json'}")
    return 0


def measure_latency(
    capture: Capture, robot: RobotSpec, path: Path, camera: CameraCalibration, board: str, console: Console
) -> LatencyResult:
    """Measures with the best method that the capture and what is stored allow.

    Raises:
        CalibrationError: The capture does not suffice.
    """
    calibration = robot.calibration or RobotCalibration()
    zeros = np.array([calibration.joint(joint.name).offset_rad for joint in robot.joints])
    reported = capture.track(robot)
    joints = JointTrack(stamps=reported.stamps, positions=reported.positions + zeros)
    stamps = np.array([sample.stamp for sample in capture.samples])
    if board == NO_BOARD:
        return image_latency(stamps, picture_changes(capture, console), joints)
    if camera.lens is None:
        raise CalibrationError(
            f"camera '{camera.name}' has no intrinsics yet: run `wam calibrate intrinsics` first, or use --board none."
        )
    wanted = parse_board(board)
    found = [
        detect(wanted, load_picture(capture.folder / sample.image), sample.image, thorough=False)
        for sample in track(capture.samples, description="looking for the board", console=console)
    ]
    good = [index for index, view in enumerate(found) if not view.problem]
    views = measure_boards(wanted, [found[index] for index in good], camera.lens)
    return latency_from_poses(
        stamps[good],
        views.poses,
        joints,
        open_kinematics(robot, path),
        camera=None if camera.pose is None else camera.pose.matrix,
        eye_in_hand=camera.eye_in_hand,
    )


def picture_changes(capture: Capture, console: Console) -> np.ndarray:
    """(K - 1,) mean optical flow between consecutive pictures, in pixels of a picture 160 px wide."""
    changes, before = [], None
    for sample in track(capture.samples, description="comparing pictures", console=console):
        picture = gray(load_picture(capture.folder / sample.image))
        height = max(round(picture.shape[0] * _FLOW_WIDTH / picture.shape[1]), 16)
        small = cv2.resize(picture, (_FLOW_WIDTH, height), interpolation=cv2.INTER_AREA)
        if before is not None:
            start = np.zeros((*small.shape, 2), dtype=np.float32)
            flow = cv2.calcOpticalFlowFarneback(before, small, start, 0.5, 3, 15, 3, 5, 1.1, 0)
            changes.append(float(np.linalg.norm(flow, axis=2).mean()))
        before = small
    return np.array(changes)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
