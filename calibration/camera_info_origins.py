"""Files that look like a camera's calibration but are not ROS's ``camera_info``: their tool and the way out."""

import re
from typing import Any

__all__ = ["foreign_mapping", "foreign_text"]

_FORM = (
    "image_width, image_height, camera_name, camera_matrix, distortion_model, distortion_coefficients, each matrix "
    "with rows, cols and data (docs/calibration.md shows one)"
)
_OPENCV = (
    "was written by OpenCV's FileStorage, which ROS does not read. Its Camera_Matrix and Distortion_Coefficients are "
    f"the numbers ROS calls camera_matrix and distortion_coefficients: put their data lists into a file with {_FORM}; "
    "5 coefficients are plumb_bob, 8 rational_polynomial, those of cv2.fisheye equidistant. Or calibrate with wam "
    "calibrate intrinsics"
)
_INI = (
    "is in the ini format of ROS's older calibrator (oST, Videre). Convert it: ros2 run camera_calibration_parsers "
    "convert {name} {stem}.yaml"
)
_PRINTED = (
    "is what ROS's cameracalibrator prints in the terminal. Press SAVE there and take ost.yaml out of "
    "/tmp/calibrationdata.tar.gz, which is the same calibration as a camera_info file"
)
_KALIBR = (
    "was written by Kalibr (a camchain), which ROS does not read: intrinsics [fu, fv, cu, cv] of {camera} become "
    "camera_matrix [fu, 0, cu, 0, fv, cv, 0, 0, 1], resolution the image size, distortion_coeffs the "
    "distortion_coefficients (radtan is plumb_bob with a fifth 0, equidistant stays), in a file with " + _FORM
)


def foreign_text(text: str, name: str) -> str:
    """Says which tool wrote a text that is not camera_info, from how it looks; "" when nothing is known about it.

    Args:
        text: The file's text.
        name: Its name, for the line to type.
    """
    begin = text.lstrip("\ufeff \t\r\n")
    if begin.startswith("%YAML:1.0") or "!!opencv-matrix" in text or "<opencv_storage" in text:
        return _OPENCV
    if re.match(r"(#.*\n\s*)*\[\w+\]\s*\n", begin) and re.search(r"^camera matrix\s*$", text, re.MULTILINE):
        return _INI.format(name=name, stem=name.rsplit(".", 1)[0])
    if re.search(r"^\s*[DKRP]\s*=\s*\[", text, re.MULTILINE):
        return _PRINTED
    return ""


def foreign_mapping(data: dict[str, Any]) -> str:
    """Says which tool wrote fields that are not camera_info's; "" when nothing is known about them."""
    for camera, entry in data.items():
        if isinstance(entry, dict) and {"intrinsics", "distortion_coeffs"} & set(entry):
            return _KALIBR.format(camera=camera)
    if {"intrinsics", "distortion_coeffs"} <= set(data):
        return _KALIBR.format(camera="the camera")
    return ""
