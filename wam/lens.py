"""Lens maths shared by calibration and simulation: where a camera sees a point, and along which ray a pixel looks.

Camera frames are optical (x right, y down, z forward) and pixel (0, 0) is the centre of the first pixel. The models are
ROS's and OpenCV's: plumb_bob, rational_polynomial (Brown-Conrady) and equidistant (Kannala-Brandt fisheye).

Shape legend: N points, L lens parameters (fx, fy, cx, cy and the distortion).
"""

from dataclasses import dataclass, replace

import cv2
import numpy as np

from wam.calibration_spec import LensSpec

__all__ = [
    "FISHEYE",
    "PinholeView",
    "lens_from_parameters",
    "lens_parameters",
    "pinhole_view",
    "pixel_directions",
    "pixel_rays",
    "project",
    "project_with_jacobians",
    "resized",
]

FISHEYE = "equidistant"
_MAX_TANGENT = 8.0  # rays further than 83 degrees from the axis do not fit in a plane picture of sensible size
_CRITERIA = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 60, 1e-10)


def lens_parameters(lens: LensSpec) -> np.ndarray:
    """(L,) float64: fx, fy, cx, cy, then the distortion."""
    return np.array([*lens.focal_px, *lens.center_px, *lens.distortion])


def lens_from_parameters(model: str, parameters: np.ndarray, size_px: tuple[int, int]) -> LensSpec:
    """The inverse of ``lens_parameters``."""
    fx, fy, cx, cy, *distortion = (float(value) for value in parameters)
    width, height = size_px
    return LensSpec(
        model=model,
        width_px=width,
        height_px=height,
        focal_px=(fx, fy),
        center_px=(cx, cy),
        distortion=tuple(distortion),
    )


def project(lens: LensSpec, points: np.ndarray) -> np.ndarray:
    """Projects points.

    Args:
        lens: The lens.
        points: (N, 3) in the camera frame [m]; what lies behind a pinhole camera has no image.

    Returns:
        (N, 2) float64 pixels; NaN where there is none.
    """
    points = np.asarray(points, dtype=float).reshape(-1, 3)
    pixels = project_with_jacobians(lens.model, lens_parameters(lens), np.zeros(3), np.zeros(3), points)[0]
    behind = points[:, 2] <= 1e-9
    pixels[behind] = np.nan
    return pixels


def project_with_jacobians(
    model: str, parameters: np.ndarray, rotation: np.ndarray, translation: np.ndarray, points: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Projects points of a posed object, with derivatives.

    Args:
        model: The lens model.
        parameters: (L,) as from ``lens_parameters``.
        rotation: (3,) rotation vector of the object in the camera frame [rad].
        translation: (3,) its position [m].
        points: (N, 3) in the object's frame [m].

    Returns:
        (N, 2) pixels, (2 N, 6) derivatives by rotation vector and translation, (2 N, L) derivatives by the lens.
    """
    fx, fy, cx, cy = parameters[:4]
    matrix = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])
    shaped = np.ascontiguousarray(points, dtype=float).reshape(-1, 1, 3)
    rvec, tvec = np.asarray(rotation, float).reshape(3, 1), np.asarray(translation, float).reshape(3, 1)
    distortion = np.array(parameters[4:], dtype=float)
    if model == FISHEYE:
        pixels, jacobian = cv2.fisheye.projectPoints(shaped, rvec, tvec, matrix, distortion)
        return pixels.reshape(-1, 2), jacobian[:, 8:14], jacobian[:, :8]
    pixels, jacobian = cv2.projectPoints(shaped, rvec, tvec, matrix, distortion)
    return pixels.reshape(-1, 2), jacobian[:, :6], jacobian[:, 6 : 6 + len(parameters)]


def pixel_rays(lens: LensSpec, pixels: np.ndarray) -> np.ndarray:
    """Returns (N, 2) x/z and y/z of the rays behind (N, 2) pixels."""
    shaped = np.ascontiguousarray(pixels, dtype=float).reshape(-1, 1, 2)
    distortion = np.array(lens.distortion)
    if lens.model == FISHEYE:
        rays = cv2.fisheye.undistortPoints(shaped, lens.matrix, distortion, criteria=_CRITERIA)
    else:
        rays = cv2.undistortPointsIter(shaped, lens.matrix, distortion, np.eye(3), np.eye(3), _CRITERIA)
    return rays.reshape(-1, 2)


def pixel_directions(lens: LensSpec, pixels: np.ndarray) -> np.ndarray:
    """Returns (N, 3) unit vectors along the rays behind (N, 2) pixels; beyond 90 degrees from the axis for fisheye."""
    if lens.model != FISHEYE:
        rays = pixel_rays(lens, pixels)
        directions = np.concatenate([rays, np.ones((len(rays), 1))], axis=1)
        return directions / np.linalg.norm(directions, axis=1, keepdims=True)
    offset = (np.asarray(pixels, dtype=float) - lens.center_px) / lens.focal_px
    radius = np.linalg.norm(offset, axis=1)
    powers = np.array([1.0, *lens.distortion])
    angle = radius.copy()  # r = angle * (1 + k1 angle^2 + ...), solved by Newton
    for _ in range(20):
        even = angle[:, None] ** (2 * np.arange(5))
        value, slope = angle * (even @ powers), even @ (powers * (2 * np.arange(5) + 1))
        angle = np.clip(angle - (value - radius) / np.where(np.abs(slope) < 1e-6, 1e-6, slope), 0, np.pi)
    aside = offset * (np.sin(angle) / np.maximum(radius, 1e-12))[:, None]
    return np.concatenate([aside, np.cos(angle)[:, None]], axis=1)


def resized(lens: LensSpec, width_px: int, height_px: int) -> LensSpec:
    """The same lens for a picture that was scaled as a whole; the image's aspect ratio may change."""
    scale_x, scale_y = width_px / lens.width_px, height_px / lens.height_px
    (fx, fy), (cx, cy) = lens.focal_px, lens.center_px
    return replace(
        lens,
        width_px=width_px,
        height_px=height_px,
        focal_px=(fx * scale_x, fy * scale_y),
        center_px=((cx + 0.5) * scale_x - 0.5, (cy + 0.5) * scale_y - 0.5),
    )


@dataclass(frozen=True, kw_only=True)
class PinholeView:
    """A picture without distortion that holds all a lens sees, and where its pixels go."""

    lens: LensSpec  # plumb_bob without distortion, larger than the picture it serves
    map_xy: np.ndarray  # (height, width, 2) float32: for each pixel of the real picture, where to look in this one

    def distort(self, image: np.ndarray) -> np.ndarray:
        """Turns the picture without distortion into what the lens would show."""
        return cv2.remap(image, self.map_xy, np.zeros(0, np.float32), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def pinhole_view(lens: LensSpec, *, oversampling: float = 1.0) -> PinholeView:
    """Lays out the larger picture that must be rendered to show distortion.

    Args:
        lens: The lens to imitate.
        oversampling: Pixels rendered per pixel shown, in the middle of the picture.

    Returns:
        The view; rays beyond 83 degrees from the axis show its border.
    """
    columns, rows = np.meshgrid(np.arange(lens.width_px), np.arange(lens.height_px))
    found = pixel_rays(lens, np.stack([columns, rows], axis=-1)).reshape(lens.height_px, lens.width_px, 2)
    rays: np.ndarray = np.clip(np.nan_to_num(found, nan=_MAX_TANGENT), -_MAX_TANGENT, _MAX_TANGENT)
    fx, fy = (oversampling * focal for focal in lens.focal_px)
    low, high = rays.min(axis=(0, 1)), rays.max(axis=(0, 1))
    center = 2.0 - low * (fx, fy)  # two pixels of margin for interpolation
    width, height = (int(np.ceil(value)) for value in center + high * (fx, fy) + 3)
    flat = LensSpec(
        model="plumb_bob",
        width_px=width,
        height_px=height,
        focal_px=(fx, fy),
        center_px=(float(center[0]), float(center[1])),
        distortion=(0.0,) * 5,
    )
    return PinholeView(lens=flat, map_xy=(rays * (fx, fy) + center).astype(np.float32))
