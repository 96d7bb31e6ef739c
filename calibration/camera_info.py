"""``camera_info`` files as ROS's camera_info_manager and camera_calibration write and read them.

The format is YAML with a few habits of its own: matrices as rows, cols and a flat list; ``camera_name``; distortion by
ROS's names. What ROS reads is read, also without a distortion model, which is plumb_bob then; so is a CameraInfo
message as ``ros2 topic echo --once`` prints it. What has no place in our lens, or would be misread, is refused.
"""

import logging
import os
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from calibration.camera_info_matrices import check_projection, check_rectification, checked_camera_matrix
from calibration.camera_info_origins import foreign_mapping, foreign_text
from calibration.errors import CalibrationError
from wam.calibration_spec import DISTORTION_LENGTHS, LensSpec
from wam.errors import unknown_name
from wam.lens_checks import intrinsics_problem
from wam.plain_data import is_finite, shown
from wam.strict_yaml import parse_yaml, read_yaml_text

__all__ = ["camera_info_text", "read_camera_info", "write_camera_info"]

_log = logging.getLogger(__name__)
# camera_calibration writes the older name for the fisheye model into some files
_ALIASES = {"fisheye": "equidistant"}
# How many coefficients OpenCV takes for each, the rest being 0; ROS hands them on as they are
_SHORTER = {"plumb_bob": (0, 4, 5), "rational_polynomial": (4, 5, 8), "equidistant": (4,)}
_ROI = ("x_offset", "y_offset", "height", "width")


@dataclass(frozen=True, kw_only=True)
class _Form:
    """What a file and a message call the same things."""

    width: str
    height: str
    model: str
    coefficients: str
    camera_matrix: str
    rectification: str
    projection: str
    message: bool = False  # matrices are plain lists, and there is no camera name

    @property
    def needed(self) -> tuple[str, ...]:
        return self.width, self.height, self.camera_matrix, self.coefficients

    @property
    def names(self) -> tuple[str, ...]:
        return (*self.needed, self.model, self.rectification, self.projection)


_FILE = _Form(
    width="image_width",
    height="image_height",
    model="distortion_model",
    coefficients="distortion_coefficients",
    camera_matrix="camera_matrix",
    rectification="rectification_matrix",
    projection="projection_matrix",
)
_MESSAGE = _Form(
    width="width",
    height="height",
    model="distortion_model",
    coefficients="d",
    camera_matrix="k",
    rectification="r",
    projection="p",
    message=True,
)


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
        path: The YAML file, or a CameraInfo message as ``ros2 topic echo --once`` prints it.
        camera: Name the file must carry, any when empty; a message carries none.
        size_px: Width and height its pictures must have; any when None.

    Raises:
        CalibrationError: No such file, not in this format, entries that the lens has no place for, or another camera's.
    """
    where = f"camera_info file {path}"
    data, form = _fields(path, where)
    width, height = (_side(data[name], f"{where}: {name}") for name in (form.width, form.height))
    _check_camera(data, where, form, camera, (width, height), size_px)
    matrix = _numbers(data, form.camera_matrix, (3, 3), where, form)
    checked_camera_matrix(matrix, f"{where}: {form.camera_matrix}")
    model, distortion = _distortion(data, where, form)
    lens = LensSpec(
        model=model,
        width_px=width,
        height_px=height,
        focal_px=(float(matrix[0, 0]), float(matrix[1, 1])),
        center_px=(float(matrix[0, 2]), float(matrix[1, 2])),
        distortion=distortion,
    )
    problem = intrinsics_problem((width, height), lens.focal_px, lens.center_px)
    if problem:
        raise CalibrationError(f"{where}: {form.camera_matrix}: {problem}.")
    if form.rectification in data:
        rotation = _numbers(data, form.rectification, (3, 3), where, form)
        check_rectification(rotation, f"{where}: {form.rectification}")
    if form.projection in data:
        check_projection(_numbers(data, form.projection, (3, 4), where, form), lens, f"{where}: {form.projection}")
    return lens


def _fields(path: Path, where: str) -> tuple[dict[str, Any], _Form]:
    """The file's fields and what they are called there."""
    try:
        text = read_yaml_text(path.read_bytes())
        foreign = foreign_text(text, path.name)
        data = None if foreign else parse_yaml(text.rstrip().removesuffix("\n---"))
    except (OSError, ValueError) as error:
        raise CalibrationError(f"{where} cannot be read: {error}.") from error
    if foreign:
        raise CalibrationError(f"{where} {foreign}.")
    if not isinstance(data, dict):
        raise CalibrationError(f"{where} must be a mapping of fields, but holds {type(data).__name__}.")
    if {"k", "d", "K", "D"} & set(data):
        if "k" not in data:  # ROS 1 has capitals
            data = {key.lower() if key in ("D", "K", "R", "P") else key: value for key, value in data.items()}
        form = _MESSAGE
    else:
        form = _FILE
    foreign = foreign_mapping(data)
    if foreign:
        raise CalibrationError(f"{where} {foreign}.")
    _check_names(data, where, form)
    return data, form


def _check_names(data: dict[str, Any], where: str, form: _Form) -> None:
    missing = [name for name in form.needed if name not in data]
    absent = [name for name in (*form.names, "camera_name") if name not in data and len(name) > 1]
    meant = [(key, close[0]) for key in data if (close := get_close_matches(key, absent, 1, 0.8))]
    renamed = "".join(f" It has '{key}': call it {name}." for key, name in meant if key not in form.names)
    if missing or renamed:
        lack = f"lacks {', '.join(missing)}" if missing else "has a field of unknown name"
        how = "" if renamed else " wam calibrate intrinsics and ROS's cameracalibrator write such files."
        raise CalibrationError(f"{where} {lack}, so it is no camera_info as ROS reads it.{renamed}{how}")


def _check_camera(
    data: dict[str, Any],
    where: str,
    form: _Form,
    camera: str,
    found: tuple[int, int],
    size_px: tuple[int, int] | None,
) -> None:
    name = data.get("camera_name", "")
    if isinstance(name, int) and not isinstance(name, bool):
        name = str(name)  # a serial number
    if not isinstance(name, str):
        raise CalibrationError(f"{where}: camera_name is {shown(name)} but must be a text: put it into quotes.")
    if camera and name != camera and not form.message:
        raise CalibrationError(
            f"{where} is of camera '{name}', not '{camera}': give that camera's own file, or calibrate it; two lenses "
            "of one kind differ by several pixels."
        )
    if size_px is not None and found != size_px:
        raise CalibrationError(
            f"{where} is for pictures of {found[0]} x {found[1]} px but camera '{name or camera}' gives {size_px[0]} x "
            f"{size_px[1]}: calibrate at the size that is used."
        )
    for key in ("binning_x", "binning_y"):
        if data.get(key, 0) not in (0, 1):
            raise CalibrationError(
                f"{where}: {key} is {shown(data[key])}: the pictures are smaller than the calibration's by that "
                "factor. Calibrate with the binning that is used, and write 0 there."
            )
    roi = data.get("roi") or {}
    given = [roi.get(key, 0) for key in _ROI] if isinstance(roi, dict) else [roi]
    if given not in ([0, 0, 0, 0], [0, 0, found[1], found[0]]):
        raise CalibrationError(
            f"{where}: roi is {shown(roi)}: the pictures are a part of what was calibrated, and the principal point is "
            "shifted. Calibrate the part that is used, and leave roi out."
        )


def _distortion(data: dict[str, Any], where: str, form: _Form) -> tuple[str, tuple[float, ...]]:
    """Lens model and its coefficients, as many as OpenCV takes for it."""
    model = data.get(form.model)
    numbers = _numbers(data, form.coefficients, None, where, form).ravel()
    if form.model not in data:
        other = data.get("camera_model", "plumb_bob")
        if other != "plumb_bob":
            raise CalibrationError(
                f"{where} has camera_model: {shown(other)}, which ROS does not look at; it would take the lens for "
                f"plumb_bob. Call the field {form.model}, with one of {', '.join(DISTORTION_LENGTHS)}."
            )
        if len(numbers) != DISTORTION_LENGTHS["plumb_bob"]:
            raise CalibrationError(
                f"{where} has no {form.model}, which ROS takes for plumb_bob with 5 coefficients, but "
                f"{form.coefficients} "
                f"has {len(numbers)}: add {form.model}, one of {', '.join(DISTORTION_LENGTHS)}."
            )
        _log.info("%s has no %s: plumb_bob, as ROS assumes", where, form.model)
        return "plumb_bob", tuple(map(float, numbers))
    model = _ALIASES.get(model, model) if isinstance(model, str) else model
    if not isinstance(model, str) or model not in DISTORTION_LENGTHS:
        named = unknown_name("lens model", model, DISTORTION_LENGTHS)
        raise CalibrationError(f"{where}: {form.model}: {named}")
    wanted = DISTORTION_LENGTHS[model]
    # A message does not say how many there should be, so a short one may have lost some.
    allowed = (wanted,) if form.message and model != "plumb_bob" else _SHORTER[model]
    if len(numbers) not in allowed:
        raise CalibrationError(
            f"{where} holds {len(numbers)} distortion coefficients but {model} has {wanted}: check {form.model}, and "
            f"that {form.coefficients} is complete."
        )
    if 0 < len(numbers) < wanted and model == "rational_polynomial":
        _log.warning("%s has %d of %d coefficients: the others are 0, as in ROS", where, len(numbers), wanted)
    return model, tuple(float(value) for value in np.pad(numbers, (0, wanted - len(numbers))))


def _side(value: Any, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise CalibrationError(f"{where} is {shown(value)} but must be a whole number of pixels.")
    return value


def _matrix(name: str, rows: int, cols: int, values: list[float]) -> str:
    return f"{name}:\n  rows: {rows}\n  cols: {cols}\n  data: [{', '.join(map(_text, values))}]"


def _text(value: float) -> str:
    # The shortest text that reads back as the same number. YAML 1.1 takes 1e-05 for a word, but not 1.0e-05.
    text = repr(float(value))
    return text.replace("e", ".0e") if "e" in text and "." not in text else text


def _numbers(data: dict[str, Any], name: str, shape: tuple[int, int] | None, where: str, form: _Form) -> np.ndarray:
    """A matrix, of this shape or, when None, of one row or column."""
    entry = data[name]
    rows, cols = shape or (1, len(entry) if isinstance(entry, list) else 0)
    if not form.message:
        if not isinstance(entry, dict) or not {"rows", "cols", "data"} <= set(entry):
            raise CalibrationError(f"{where}: {name} is {shown(entry)} but must have the fields rows, cols and data.")
        said = (entry["rows"], entry["cols"])
        if not all(isinstance(side, int) and not isinstance(side, bool) for side in said) or min(said) < 0:
            raise CalibrationError(f"{where}: {name}: rows and cols are {shown(said)} but must be whole numbers.")
        if said != shape and (shape is not None or min(said) > 1):
            wanted = f"{shape[0]} rows and {shape[1]} cols" if shape else "one row"
            raise CalibrationError(f"{where}: {name} has {said[0]} rows and {said[1]} cols but must have {wanted}.")
        (rows, cols), entry = said, entry["data"]
    values = entry if isinstance(entry, list) else []
    if any(isinstance(value, str) and len(value.split()) > 1 for value in values):
        raise CalibrationError(f"{where}: {name}: the numbers of data need commas between them, for ROS as well.")
    if not isinstance(entry, list) or len(entry) != rows * cols or not all(map(is_finite, values)):
        raise CalibrationError(
            f"{where}: {name} must hold a list 'data' of {rows * cols} numbers, but that is {shown(entry)}."
        )
    return np.array(values, dtype=float).reshape(rows, cols)
