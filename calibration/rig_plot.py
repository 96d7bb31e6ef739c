"""Draws the rig in three dimensions: arm, camera poses, board, and the views that did not fit."""

import io
from collections.abc import Sequence

import cv2
import numpy as np

from calibration.hand_eye import HandEyeResult
from calibration.rigid import apply

__all__ = ["rig_picture"]

_CAMERA_M = 0.035  # size of a drawn camera


def rig_picture(
    result: HandEyeResult,
    tools: np.ndarray,
    size_m: tuple[float, float],
    arms: Sequence[np.ndarray] = (),
) -> np.ndarray:
    """Draws the rig in the base frame.

    Args:
        result: The calibration.
        tools: (N, 4, 4) ``T_base_tool`` of its views.
        size_m: Width and height of the board [m].
        arms: Outlines of the arm, (B, 3) each [m]; the first is drawn firmly.

    Returns:
        (height, width, 3) RGB.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # where no report is written, it is not needed
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 6.4), dpi=110)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(projection="3d")
    width, height = size_m
    outline = np.array([[0, 0, 0], [width, 0, 0], [width, height, 0], [0, height, 0], [0, 0, 0]])
    points = [np.zeros((1, 3))]
    for index, (tool, good) in enumerate(zip(tools, result.inlier, strict=True)):
        moving = tool @ (result.camera if result.eye_in_hand else result.board)
        shape = apply(moving, _camera() if result.eye_in_hand else outline)
        axes.plot(
            *shape.T, color="#2c7fb8" if good else "#c0352b", lw=0.8, alpha=0.9 if index == 0 or not good else 0.4
        )
        points.append(shape)
    fixed = apply(result.board, outline) if result.eye_in_hand else apply(result.camera, _camera())
    axes.plot(*fixed.T, color="#1c7a3a", lw=2.0, label="board" if result.eye_in_hand else "camera")
    points.append(fixed)
    for index, arm in enumerate(arms):
        axes.plot(
            *arm.T, color="#444", lw=2.5 if index == 0 else 0.6, alpha=1.0 if index == 0 else 0.2, marker="o", ms=2
        )
        points.append(arm)
    label = "camera in each view" if result.eye_in_hand else "board in each view"
    axes.plot([], [], [], color="#2c7fb8", label=label)
    cloud = np.concatenate(points)
    middle, reach = (cloud.max(0) + cloud.min(0)) / 2, (cloud.max(0) - cloud.min(0)).max() / 2 + 1e-3
    for set_limits, center in zip((axes.set_xlim, axes.set_ylim, axes.set_zlim), middle, strict=True):
        set_limits(center - reach, center + reach)
    axes.set_xlabel("x [m]"), axes.set_ylabel("y [m]"), axes.set_zlabel("z [m]")
    axes.set_box_aspect((1, 1, 1))
    axes.legend(loc="upper left", fontsize=8)
    axes.view_init(elev=25, azim=-60)
    figure.tight_layout()
    return _pixels(figure)


def _camera() -> np.ndarray:
    """(B, 3) a pyramid drawn in one line, in the camera frame."""
    w, h, d = 0.8 * _CAMERA_M, 0.6 * _CAMERA_M, _CAMERA_M
    corners = np.array([[-w, -h, d], [w, -h, d], [w, h, d], [-w, h, d]])
    tip = np.zeros((1, 3))
    return np.concatenate([tip, corners[:2], tip, corners[1:3], tip, corners[2:], tip, corners[[3, 0]]])


def _pixels(figure: object) -> np.ndarray:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")  # type: ignore[attr-defined]
    image = cv2.imdecode(np.frombuffer(buffer.getvalue(), np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
