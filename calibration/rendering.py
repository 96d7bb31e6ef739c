"""Renders boards with MuJoCo through any lens, with blur and noise: pictures whose truth is known to the last digit.

The board is built of black boxes on a white one, from the same rectangles that are printed, so there is no texture to
filter wrongly. A larger picture without distortion is drawn, and then bent into what the lens shows.
"""

from types import TracebackType
from typing import Any

import cv2
import numpy as np

from calibration.boards import Board
from calibration.engine import import_mujoco
from wam.calibration_spec import LensSpec
from wam.lens import pinhole_view

__all__ = ["BoardRenderer"]

_OVERSAMPLING = 2.0  # pixels drawn per pixel shown; corners are then antialiased
_MARGIN_SQUARES = 0.75
_MAX_PIXELS = 3600  # width beyond which software rendering becomes slow or impossible


class BoardRenderer:
    """Draws one board through one lens; a context manager that frees the renderer."""

    def __init__(self, board: Board, lens: LensSpec) -> None:
        """Builds the scene.

        Args:
            board: The board.
            lens: The lens, with or without distortion.
        """
        mujoco = import_mujoco()
        self._lens, self._mujoco = lens, mujoco
        wanted = pinhole_view(lens, oversampling=_OVERSAMPLING)
        largest = max(wanted.lens.width_px, wanted.lens.height_px)
        share = min(1.0, _MAX_PIXELS / largest)
        self._view = wanted if share == 1.0 else pinhole_view(lens, oversampling=_OVERSAMPLING * share)
        self._model = mujoco.MjModel.from_xml_string(_scene(board, self._view.lens))
        self._data = mujoco.MjData(self._model)
        flat = self._view.lens
        self._renderer: Any = mujoco.Renderer(self._model, height=flat.height_px, width=flat.width_px)

    def __enter__(self) -> "BoardRenderer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Frees the renderer."""
        self._renderer.close()

    def draw(
        self, board_in_camera: np.ndarray, rng: np.random.Generator, *, blur_px: float = 0.6, noise: float = 2.0
    ) -> np.ndarray:
        """Draws the board.

        Args:
            board_in_camera: (4, 4) ``T_camera_board``.
            rng: Where the noise comes from.
            blur_px: Sigma of a Gaussian blur, as a lens slightly out of focus gives [px].
            noise: Standard deviation of the grey levels' noise.

        Returns:
            (height, width, 3) rgb_hwc_u8.
        """
        self._data.mocap_pos[0] = board_in_camera[:3, 3]
        quat_wxyz = np.zeros(4)
        self._mujoco.mju_mat2Quat(quat_wxyz, np.ascontiguousarray(board_in_camera[:3, :3]).ravel())
        self._data.mocap_quat[0] = quat_wxyz
        self._mujoco.mj_forward(self._model, self._data)
        self._renderer.update_scene(self._data, camera="camera")
        drawn = self._renderer.render()
        # Averaging over the area of a shown pixel before bending keeps edges where they are.
        soft = cv2.GaussianBlur(drawn, (0, 0), 0.5 * _OVERSAMPLING)
        image: np.ndarray = self._view.distort(soft).astype(np.float32)
        if blur_px > 0:
            image = cv2.GaussianBlur(image, (0, 0), blur_px)
        return np.clip(image + rng.normal(0, noise, image.shape), 0, 255).astype(np.uint8)


def _scene(board: Board, lens: LensSpec) -> str:
    """MJCF with an optical camera frame at the origin: MuJoCo's camera looks along -z, so it is turned about x."""
    width, height = board.size_m
    margin = _MARGIN_SQUARES * board.square_m
    (fx, fy), (cx, cy) = lens.focal_px, lens.center_px
    ink, gap = 2e-5, 5e-5  # half thickness of the black, and how far behind its face the white begins [m]
    boxes = "".join(
        f'<geom type="box" pos="{x + across / 2:.7f} {y + down / 2:.7f} {ink}" '
        f'size="{across / 2:.7f} {down / 2:.7f} {ink}" rgba="0.06 0.06 0.06 1"/>'
        for x, y, across, down in board.black_rectangles()
    )
    # MuJoCo measures principalpixel from the middle of the picture, to the left and upwards (found by rendering).
    left, up = lens.width_px / 2 - (cx + 0.5), lens.height_px / 2 - (cy + 0.5)
    return f"""<mujoco><compiler angle="radian"/>
<visual><global offwidth="{lens.width_px}" offheight="{lens.height_px}"/><quality shadowsize="0" offsamples="0"/>
<headlight ambient="0.75 0.75 0.75" diffuse="0.25 0.25 0.25" specular="0 0 0"/><map znear="0.01" zfar="50"/></visual>
<statistic extent="1" center="0 0 0"/>
<asset><texture type="skybox" builtin="flat" rgb1="0.45 0.47 0.5" rgb2="0.45 0.47 0.5" width="8" height="8"/></asset>
<worldbody>
<camera name="camera" pos="0 0 0" quat="0 1 0 0" resolution="{lens.width_px} {lens.height_px}"
 sensorsize="{lens.width_px * 1e-6} {lens.height_px * 1e-6}" focalpixel="{fx} {fy}" principalpixel="{left} {up}"/>
<body name="board" mocap="true">
<geom type="box" pos="{width / 2} {height / 2} {gap + ink}" size="{width / 2 + margin} {height / 2 + margin} {ink}"
 rgba="0.95 0.95 0.95 1"/>{boxes}</body></worldbody></mujoco>"""
