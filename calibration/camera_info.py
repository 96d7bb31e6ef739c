"""``camera_info`` files as ROS's camera_info_manager and camera_calibration write and read them.

The format is YAML with a few habits of its own: matrices as rows, cols and a flat list; ``camera_name``; distortion by
ROS's names. ROS readers want every field, and ours refuses what they would misread: a matrix of another size, a lens
model they do not know, or another camera's file.
"""

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from calibration.errors import CalibrationError
from wam.calibration_spec import DISTORTION_LENGTHS, LensSpec
from wam.errors import unknown_name

__all__ = ["camera_info_text", "read_camera_info", "write_camera_info"]

_FIELDS = ("image_width", "image_height", "camera_name", "camera_matrix", "distortion_model", "distortion_coefficients")
# camera_calibration writes the older name for the fisheye model into some files
_ALIASES = {"fisheye": "equidistant"}


def camera_info_text(lens: LensSpec, camera: str) -> str:
    """Returns the file's text.

    Args:
        lens: The intrinsics.
        camera: Name of the camera; drivers compare it with their own.
    """
    (fx, fy), (cx, cy) = lens.focal_px, lens.center_px
    matrix = [fx, 0.0, cx, 0.0, fy, cy, 0.0, 0.0, 1.0]
    identity = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    projection = [fx, 0.0, cx, 0.0, 0.0, fy, cy, 0.0, 0.0, 0.0, 1.0, 0.0]
    parts = [
        f"image_width: {lens.width_px}",
        f"image_height: {lens.height_px}",
        yaml.safe_dump({"camera_name": camera}, width=1000).strip(),
        _matrix("camera_matrix", 3, 3, matrix),
        f"distortion_model: {lens.model}",
        _matrix("distortion_coefficients", 1, len(lens.distortion), list(lens.distortion)),
        _matrix("rectification_matrix", 3, 3, identity),
        _matrix("projection_matrix", 3, 4, projection),
    ]
    return "\n".join(parts) + "\n"


def write_camera_info(lens: LensSpec, camera: str, path: Path) -> None:
    """Writes the file, all at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".tmp")
    draft.write_text(camera_info_text(lens, camera))
    os.replace(draft, path)


def read_camera_info(path: Path, *, camera: str = "", size_px: tuple[int, int] | None = None) -> LensSpec:
    """Reads a file.

    Args:
        path: The YAML file.
        camera: Name the file must carry; any when empty.
        size_px: Width and height its pictures must have; any when None.

    Raises:
        CalibrationError: No such file, not in this format, or another camera's.
    """
    try:
        data = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CalibrationError(f"camera_info file {path} cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise CalibrationError(f"camera_info file {path} must be a mapping of fields, but holds {type(data).__name__}.")
    missing = [name for name in _FIELDS if name not in data]
    if missing:
        raise CalibrationError(
            f"camera_info file {path} lacks {', '.join(missing)}: it is no file of ROS's camera_info_manager."
        )
    _check_camera(data, path, camera, size_px)
    model = _ALIASES.get(data["distortion_model"], data["distortion_model"])
    if model not in DISTORTION_LENGTHS:
        raise CalibrationError(f"camera_info file {path}: " + unknown_name("lens model", model, DISTORTION_LENGTHS))
    matrix = _numbers(data, "camera_matrix", 9, path).reshape(3, 3)
    distortion = _numbers(data, "distortion_coefficients", None, path)
    wanted = DISTORTION_LENGTHS[model]
    if len(distortion) > wanted or (len(distortion) < wanted and model != "plumb_bob"):
        raise CalibrationError(
            f"camera_info file {path} holds {len(distortion)} distortion coefficients but {model} has {wanted}."
        )
    if matrix[0, 0] <= 0 or matrix[1, 1] <= 0:
        raise CalibrationError(
            f"camera_info file {path} has focal length {matrix[0, 0]:g} px: the camera is not calibrated."
        )
    return LensSpec(
        model=model,
        width_px=int(data["image_width"]),
        height_px=int(data["image_height"]),
        focal_px=(float(matrix[0, 0]), float(matrix[1, 1])),
        center_px=(float(matrix[0, 2]), float(matrix[1, 2])),
        distortion=tuple(float(value) for value in np.pad(distortion, (0, wanted - len(distortion)))),
    )


def _check_camera(data: dict[str, Any], path: Path, camera: str, size_px: tuple[int, int] | None) -> None:
    if camera and data["camera_name"] != camera:
        raise CalibrationError(
            f"camera_info file {path} is of camera '{data['camera_name']}', not '{camera}': give that camera's own "
            "file, or calibrate it; two lenses of one kind differ by several pixels."
        )
    found = (data["image_width"], data["image_height"])
    if size_px is not None and found != size_px:
        raise CalibrationError(
            f"camera_info file {path} is for pictures of {found[0]} x {found[1]} px but camera '{data['camera_name']}' "
            f"gives {size_px[0]} x {size_px[1]}: calibrate at the size that is used."
        )


def _matrix(name: str, rows: int, cols: int, values: list[float]) -> str:
    return f"{name}:\n  rows: {rows}\n  cols: {cols}\n  data: [{', '.join(map(_text, values))}]"


def _text(value: float) -> str:
    # The shortest text that reads back as the same number. YAML 1.1 takes 1e-05 for a word, but not 1.0e-05.
    text = repr(float(value))
    return text.replace("e", ".0e") if "e" in text and "." not in text else text


def _numbers(data: dict[str, Any], name: str, count: int | None, path: Path) -> np.ndarray:
    entry = data[name]
    values = entry.get("data") if isinstance(entry, dict) else None
    try:
        numbers = [float(value) for value in values or []]  # a text: some writers leave out the point of 1e-05
    except (TypeError, ValueError):
        numbers = [math.nan]
    if not isinstance(values, list) or not all(map(math.isfinite, numbers)) or len(numbers) != (count or len(numbers)):
        raise CalibrationError(
            f"camera_info file {path}: {name} must hold a list 'data' of {count or 'finite'} numbers."
        )
    return np.array(numbers)
