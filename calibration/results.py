"""Puts results where the rest of the stack finds them: robot file, ``camera_info`` file and JSON."""

import json
import os
from pathlib import Path
from typing import Any

from calibration.errors import CalibrationError
from calibration.robot_file import store_calibration, with_note
from wam.calibration_spec import CameraCalibration, LensSpec, RobotCalibration
from wam.errors import unknown_name
from wam.robot import RobotSpec, load_robot, robot_file

__all__ = ["camera_of", "read_robot", "store", "store_camera", "write_json"]


def read_robot(name_or_path: str) -> tuple[RobotSpec, Path]:
    """Returns a robot and where its file lies."""
    path = robot_file(name_or_path)
    return load_robot(path), path


def camera_of(robot: RobotSpec, name: str) -> CameraCalibration:
    """What is stored of one of the robot's cameras.

    Raises:
        CalibrationError: The robot has no such camera.
    """
    if name not in robot.camera_names:
        raise CalibrationError(unknown_name(f"camera of robot '{robot.name}'", name, robot.camera_names))
    return (robot.calibration or RobotCalibration()).camera(name)


def store_camera(robot: RobotSpec, path: Path, camera: CameraCalibration, note: str) -> str:
    """Writes one camera into the robot file; returns a line that says so.

    Raises:
        CalibrationError: The lens is for another picture size than the robot's camera gives.
    """
    spec = next(entry for entry in robot.cameras if entry.name == camera.name)
    if camera.lens is not None:
        _check_size(camera.lens, (spec.width_px, spec.height_px), camera.name, robot.name)
    return store(path, with_note(robot.calibration, note).with_camera(camera))


def store(path: Path, calibration: RobotCalibration) -> str:
    """Writes a calibration into the robot file; returns a line that says so."""
    backup = store_calibration(path, calibration)
    return f"wrote {path} (calibration {calibration.hash()[:12]}; the file as it was: {backup.name})"


def write_json(path: Path, data: Any) -> None:
    """Writes JSON, all at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".tmp")
    draft.write_text(json.dumps(data, indent=1) + "\n")
    os.replace(draft, path)


def _check_size(lens: LensSpec, size_px: tuple[int, int], camera: str, robot: str) -> None:
    if (lens.width_px, lens.height_px) != size_px:
        raise CalibrationError(
            f"the pictures are {lens.width_px} x {lens.height_px} px but camera '{camera}' of robot '{robot}' gives "
            f"{size_px[0]} x {size_px[1]}: take the pictures at the size that is used, or change the robot file."
        )
