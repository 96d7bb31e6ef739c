"""Pictures as camera drivers encode them → rgb_hwc_u8; what cannot be read is refused in the words of the driver.

Reading is the same for live pictures and recorded ones. OpenCV is imported where an encoding needs it.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from wam.errors import ValueContractError, unknown_name

__all__ = ["GREY", "check_image", "rgb_from_image", "wrong_size"]

# ROS image encodings of 8 bits per channel -> (channels, which of them are red, green, blue)
PLAIN: dict[str, tuple[int, tuple[int, int, int]]] = {
    "rgb8": (3, (0, 1, 2)),
    "bgr8": (3, (2, 1, 0)),
    "rgba8": (4, (0, 1, 2)),
    "bgra8": (4, (2, 1, 0)),
    "mono8": (1, (0, 0, 0)),
}
# ... that OpenCV converts -> (bytes per pixel in a row, rows per row of the picture, its conversion)
CONVERTED: dict[str, tuple[int, float, str]] = {
    "yuyv": (2, 1, "COLOR_YUV2RGB_YUYV"),
    "yuv422_yuy2": (2, 1, "COLOR_YUV2RGB_YUYV"),
    "uyvy": (2, 1, "COLOR_YUV2RGB_UYVY"),
    "yuv422": (2, 1, "COLOR_YUV2RGB_UYVY"),
    "nv12": (1, 1.5, "COLOR_YUV2RGB_NV12"),
    "nv21": (1, 1.5, "COLOR_YUV2RGB_NV21"),
    # OpenCV names a pattern by its second row, ROS by its first
    "bayer_rggb8": (1, 1, "COLOR_BayerBG2RGB"),
    "bayer_bggr8": (1, 1, "COLOR_BayerRG2RGB"),
    "bayer_gbrg8": (1, 1, "COLOR_BayerGR2RGB"),
    "bayer_grbg8": (1, 1, "COLOR_BayerGB2RGB"),
}
REFUSED = {
    "mono16": "it is grey or depth with 16 bits",
    "16UC1": "it is depth, not colour",
    "32FC1": "it is depth, not colour",
    "8UC1": "it says nothing of colours",
    "8UC3": "it does not say which channel is red",
    "8UC4": "it does not say which channel is red",
    "rgb16": "it has 16 bits per channel",
    "bgr16": "it has 16 bits per channel",
}
GREY = ("mono8",)
FIX = (
    "Let the camera driver publish one of these, as with -p output_encoding:=rgb8 (v4l2_camera) or "
    "-p pixel_format:=yuyv2rgb (usb_cam)."
)


def check_image(encoding: str, width: int, height: int, step: int, size: int) -> None:
    """Checks that a ``sensor_msgs/Image`` can be read.

    Args:
        encoding: Of the message.
        width: Pixels per row.
        height: Rows.
        step: Bytes per row.
        size: Bytes of data.

    Raises:
        ValueContractError: It cannot.
    """
    if encoding not in PLAIN and encoding not in CONVERTED:
        known = (*PLAIN, *CONVERTED)
        if encoding in REFUSED:
            why = f"image encoding '{encoding}' cannot be used: {REFUSED[encoding]}. Readable are {', '.join(known)}."
            raise ValueContractError(f"{why} {FIX}")
        raise ValueContractError(unknown_name("image encoding", encoding, known, fix=FIX))
    per_row, rows = _layout(encoding, width, height)
    if step < per_row or size < rows * step:
        raise ValueContractError(
            f"image of {width}x{height} {encoding} has step {step} and {size} bytes but needs at least "
            f"{per_row} bytes per row and {rows} rows: the driver publishes a wrong size."
        )
    if encoding in CONVERTED and (width % 2 or height % 2):
        raise ValueContractError(f"image of {width}x{height} {encoding} has an odd side: choose an even size.")


def rgb_from_image(message: Any) -> np.ndarray:
    """Decodes a ``sensor_msgs/Image``.

    Args:
        message: Fields ``encoding height width step data``.

    Returns:
        (height, width, 3) rgb_hwc_u8, which may be a read-only view of the message's memory.

    Raises:
        ValueContractError: An encoding that cannot be read, or fewer bytes than the size promises.
    """
    encoding, height, width, step = message.encoding, message.height, message.width, message.step
    pixels = np.frombuffer(message.data, dtype=np.uint8)
    check_image(encoding, width, height, step, pixels.size)
    per_row, count = _layout(encoding, width, height)
    rows = pixels[: count * step].reshape(count, step)[:, :per_row]
    if encoding in CONVERTED:
        return _converted(rows, encoding, width)
    channels, order = PLAIN[encoding]
    image = rows.reshape(height, width, channels)
    return image if order == (0, 1, 2) and channels == 3 else image[:, :, order]


def wrong_size(shape: tuple[int, ...], dtype: object, wanted: tuple[int, int, int]) -> str:
    """Says that a picture is none of the robot file's, and what to do; empty when it is."""
    if shape == wanted and dtype == np.uint8:
        return ""
    said = f"the image is {shape} {dtype} but the robot file promises {wanted} uint8"
    if dtype != np.uint8 or len(shape) != 3 or shape[2] != 3:
        return said
    return (
        f"{said} (height, width, RGB): let the driver publish {wanted[1]}x{wanted[0]} px, or write "
        f"width_px: {shape[1]} and height_px: {shape[0]} for this camera into the robot file and train with that"
    )


def _layout(encoding: str, width: int, height: int) -> tuple[int, int]:
    """Bytes per row and rows that a picture has at least."""
    if encoding in PLAIN:
        return PLAIN[encoding][0] * width, height
    per_pixel, rows, _ = CONVERTED[encoding]
    return per_pixel * width, int(rows * height)


def _converted(rows: np.ndarray, encoding: str, width: int) -> np.ndarray:
    """(height, width, 3) from (rows, bytes per row), by OpenCV."""
    import cv2

    per_pixel, _, name = CONVERTED[encoding]
    source = np.ascontiguousarray(rows)
    if per_pixel == 2:
        source = source.reshape(len(rows), width, 2)
    convert: Callable[..., Any] = cv2.cvtColor
    return np.asarray(convert(source, getattr(cv2, name)))
