"""Registers two pictures of one scene: which points of the first are where in the second, and how the camera turned.

Features (SIFT) where there are enough of them; otherwise a direct alignment of grey levels by a turn of the camera,
with weights that ignore what moved in the scene, which also works for small pictures with little texture. Either says
nothing rather than something that most of the picture contradicts.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from calibration.errors import CalibrationError
from calibration.rigid import exp, inverse, rotation_vector, rotations
from wam.calibration_spec import LensSpec
from wam.lens import lens_parameters, pixel_directions, project_with_jacobians, resized

__all__ = ["Registration", "register", "table_pose"]

_MIN_MATCHES = 24
_MIN_AGREE = 0.5  # share of matches that must tell the same story
_MIN_EDGES = 0.75  # share of edges that must be where one turn puts them
_MIN_SPREAD = 0.08  # of the picture's area within the outline of the matches
_RATIO = 0.8  # of best to second-best distance of descriptors (Lowe 2004)
_NEAR_PX = 1.5  # a match agrees within this, at 640 px of width
_FAR_M = 4.0  # table points further away say little
_MAX_STD_M, _MAX_STD_RAD = 4e-3, float(np.radians(0.35))  # a pose less certain than this is not given
_WIDTHS = (80, 160, 320)  # of the pictures that are aligned directly, coarse to fine [px]
_STARTS_DEG = (-5.0, -2.5, 0.0, 2.5, 5.0)
_EDGE_LEVELS = 14.0  # an edge is where it should be when grey levels agree within this
_EDGE_SHARE = 0.12  # of the pixels that count as edges
_PLAIN = 0.3  # times the reference's edges: a picture with fewer shows something else


@dataclass(frozen=True, kw_only=True)
class Registration:
    """What two pictures say of each other."""

    before: np.ndarray  # (N, 2) pixels of the reference picture
    now: np.ndarray  # (N, 2) where they are in the fresh one
    turned: np.ndarray  # (3,) rotation vector of the camera that explains most of it [rad]
    method: str  # "features" or "alignment"

    @property
    def shift_px(self) -> float:
        """Typical distance between the two."""
        return float(np.median(np.linalg.norm(self.now - self.before, axis=1)))


def register(reference: np.ndarray, image: np.ndarray, lens: LensSpec) -> Registration:
    """Registers two grey pictures of equal size.

    Args:
        reference: (height, width) uint8.
        image: (height, width) uint8.
        lens: Intrinsics at this size; a guess gives degrees that are a guess.

    Raises:
        CalibrationError: They show different scenes, or nothing to hold on to.
    """
    found = _by_features(reference, image, lens) or _by_alignment(reference, image, lens)
    if found is None:
        raise CalibrationError(
            "the picture cannot be registered to the reference: too little in it is where one motion of the camera "
            "would put it. Put the arm where it was and clear the table; lay the board or something with a pattern "
            "into view; if the camera was moved far, calibrate it again."
        )
    return found


def table_pose(found: Registration, lens: LensSpec, pose: np.ndarray, table_z_m: float) -> np.ndarray | None:
    """Where the camera is now, from matches on a horizontal plane.

    Args:
        found: Matches; those off the plane are told apart and ignored.
        lens: Intrinsics.
        pose: (4, 4) ``T_base_camera`` of the reference picture.
        table_z_m: Height of the plane in the base frame [m].

    Returns:
        (4, 4) ``T_base_camera`` of the fresh picture; None when the matches on the plane do not fix it.
    """
    if found.method != "features":
        return None
    rays = pixel_directions(lens, found.before) @ pose[:3, :3].T
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = (table_z_m - pose[2, 3]) / rays[:, 2]
    on_table = np.isfinite(distance) & (distance > 0.02) & (distance < _FAR_M)
    if on_table.sum() < _MIN_MATCHES:
        return None
    points = pose[:3, 3] + rays[on_table] * distance[on_table, None]
    directions = pixel_directions(lens, found.now[on_table])
    ahead = directions[:, 2] > 0.1
    points, seen, pixels = points[ahead], directions[ahead, :2] / directions[ahead, 2:], found.now[on_table][ahead]
    start = inverse(pose)
    rvec, tvec = cv2.Rodrigues(start[:3, :3])[0], start[:3, 3].reshape(3, 1).copy()
    cv2.setRNGSeed(0)  # the same pictures give the same answer
    near = _NEAR_PX * lens.width_px / 640
    solved, rvec, tvec, inliers = cv2.solvePnPRansac(
        points.reshape(-1, 1, 3),
        seen.reshape(-1, 1, 2),
        np.eye(3),
        np.zeros(4),
        rvec,
        tvec,
        useExtrinsicGuess=True,
        iterationsCount=500,
        reprojectionError=near / lens.focal_px[0],
        flags=cv2.SOLVEPNP_ITERATIVE,
    )
    if not solved or inliers is None or len(inliers) < max(_MIN_MATCHES, _MIN_AGREE * len(points)):
        return None
    use = inliers.ravel()
    rvec, tvec = cv2.solvePnPRefineLM(points[use], seen[use].reshape(-1, 1, 2), np.eye(3), np.zeros(4), rvec, tvec)
    back = np.concatenate([rvec.ravel(), tvec.ravel()])
    return inverse(exp(back)) if _certain(points[use], pixels[use], back, lens) else None


def _certain(points: np.ndarray, pixels: np.ndarray, back: np.ndarray, lens: LensSpec) -> bool:
    predicted, by_pose, _ = project_with_jacobians(lens.model, lens_parameters(lens), back[:3], back[3:], points)
    noise = max(float(np.sqrt(((predicted - pixels) ** 2).sum() / max(2 * len(points) - 6, 1))), 0.1)
    std = noise * np.sqrt(np.diag(np.linalg.pinv(by_pose.T @ by_pose)))
    return bool(std[3:].max() < _MAX_STD_M and std[:3].max() < _MAX_STD_RAD)


def _by_features(reference: np.ndarray, image: np.ndarray, lens: LensSpec) -> Registration | None:
    finder = cv2.SIFT.create(nfeatures=3000, contrastThreshold=0.02)
    first, about_first = finder.detectAndCompute(reference, np.zeros(0, np.uint8))
    second, about_second = finder.detectAndCompute(image, np.zeros(0, np.uint8))
    if about_first is None or about_second is None or min(len(first), len(second)) < _MIN_MATCHES:
        return None
    good = [
        pair[0]
        for pair in cv2.BFMatcher(cv2.NORM_L2).knnMatch(about_first, about_second, k=2)
        if len(pair) == 2 and pair[0].distance < _RATIO * pair[1].distance
    ]
    if len(good) < _MIN_MATCHES:
        return None
    before = np.array([first[match.queryIdx].pt for match in good])
    now = np.array([second[match.trainIdx].pt for match in good])
    cv2.setRNGSeed(0)
    homography, mask = cv2.findHomography(before, now, cv2.USAC_MAGSAC, 2 * _NEAR_PX * lens.width_px / 640)
    if homography is None or mask.sum() < max(_MIN_MATCHES, _MIN_AGREE * len(good)):
        return None
    keep = mask.ravel() > 0
    outline = cv2.contourArea(cv2.convexHull(before[keep].astype(np.float32)))
    if outline < _MIN_SPREAD * reference.size:
        return None
    turned = _turn_of(pixel_directions(lens, before[keep]), pixel_directions(lens, now[keep]))
    return Registration(before=before[keep], now=now[keep], turned=turned, method="features")


def _turn_of(before: np.ndarray, now: np.ndarray) -> np.ndarray:
    """(3,) turn of the camera that brings rays onto rays best (Kabsch), with a second round without the worst half."""
    use = np.ones(len(before), dtype=bool)
    rotation = np.eye(3)
    for _ in range(3):
        u, _, vt = np.linalg.svd(before[use].T @ now[use])
        rotation = u @ np.diag([1, 1, np.sign(np.linalg.det(u @ vt))]) @ vt  # R_before_now
        error = np.linalg.norm(before - now @ rotation.T, axis=1)
        use = error <= np.median(error)
    return rotation_vector(rotation)


def _by_alignment(reference: np.ndarray, image: np.ndarray, lens: LensSpec) -> Registration | None:
    turn: np.ndarray = np.zeros(3)
    for width in _WIDTHS:
        if width > 2 * reference.shape[1]:
            break
        height = max(round(width * reference.shape[0] / reference.shape[1]), 16)
        aligner = _Aligner(_small(reference, width, height), _small(image, width, height), resized(lens, width, height))
        if aligner.plain:
            return None
        if width == _WIDTHS[0]:
            steps = np.radians(_STARTS_DEG)
            starts = [aligner.refined(np.array([tilt, pan, 0.0]), 8) for tilt in steps for pan in steps]
            turn = max([np.zeros(3), *starts], key=aligner.agreement)
        turn = aligner.refined(turn, 25)
        if aligner.agreement(np.zeros(3)) >= aligner.agreement(turn):
            turn = np.zeros(3)
        share = aligner.agreement(turn)
    if share < _MIN_EDGES:
        return None
    rows, columns = reference.shape
    grid = np.stack(np.meshgrid(np.linspace(4, columns - 5, 12), np.linspace(4, rows - 5, 9)), axis=-1).reshape(-1, 2)
    now = pixel_directions(lens, grid) @ rotations(turn)
    pixels, _, _ = project_with_jacobians(lens.model, lens_parameters(lens), np.zeros(3), np.zeros(3), now)
    return Registration(before=grid, now=pixels, turned=turn, method="alignment")


def _small(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    small = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32)
    return cv2.GaussianBlur(small, (0, 0), 1.0)


def _slope(picture: np.ndarray) -> np.ndarray:
    """Steepness of the grey levels, one number a pixel."""
    return np.hypot(cv2.Sobel(picture, cv2.CV_32F, 1, 0), cv2.Sobel(picture, cv2.CV_32F, 0, 1)).ravel()


class _Aligner:
    """Aligns two small grey pictures by a turn of the camera, robustly (Gauss-Newton with Tukey's weights)."""

    def __init__(self, reference: np.ndarray, image: np.ndarray, lens: LensSpec) -> None:
        self._reference, self._image, self._lens = reference, image, lens
        rows, columns = reference.shape
        grid = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), axis=-1).reshape(-1, 2).astype(float)
        self._rays = pixel_directions(lens, grid)
        slope = _slope(reference)
        bound = max(float(np.quantile(slope, 1 - _EDGE_SHARE)), 8.0)
        self._edges = slope >= bound
        # A plain wall agrees with anything whose grey levels are near its own. Weaker light makes weaker edges.
        self.plain = bool((_slope(image) >= bound / 2).sum() < _PLAIN * self._edges.sum())
        self._slope_x = cv2.Sobel(image, cv2.CV_32F, 1, 0) / 8
        self._slope_y = cv2.Sobel(image, cv2.CV_32F, 0, 1) / 8

    def agreement(self, turn: np.ndarray) -> float:
        """Share of the reference's edges that are found where the turn puts them."""
        difference, inside, _ = self._difference(turn)
        use = inside & self._edges
        if use.sum() < 0.3 * self._edges.sum() or not use.any():
            return 0.0
        return float((np.abs(difference[use] - np.median(difference[use])) < _EDGE_LEVELS).mean())

    def refined(self, turn: np.ndarray, steps: int) -> np.ndarray:
        """Improves a turn."""
        for _ in range(steps):
            difference, inside, pixels = self._difference(turn)
            if inside.sum() < 0.3 * len(inside):
                break
            jacobian = self._jacobian(turn, pixels)[inside]
            error = difference[inside] - np.median(difference[inside])  # the light may have changed
            scale = max(1.4826 * float(np.median(np.abs(error))), 3.0)
            weight = np.clip(1 - (error / (4 * scale)) ** 2, 0, None) ** 2
            normal = (jacobian * weight[:, None]).T @ jacobian
            if np.trace(normal) <= 0:  # an empty picture: nothing to hold on to
                break
            step = np.linalg.solve(
                normal + 1e-6 * np.trace(normal) * np.eye(3), -(jacobian * weight[:, None]).T @ error
            )
            turn = turn + np.clip(step, -0.05, 0.05)
            if np.abs(step).max() < 1e-5:
                break
        return turn

    def _difference(self, turn: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Grey levels of the fresh picture less the reference's, where both are, and the pixels looked at."""
        now = self._rays @ rotations(turn)  # rays in the turned camera
        pixels, _, _ = project_with_jacobians(
            self._lens.model, lens_parameters(self._lens), np.zeros(3), np.zeros(3), now
        )
        values = self._sample(self._image, pixels)
        rows, columns = self._reference.shape
        inside = (
            (pixels >= 1).all(axis=1) & (pixels[:, 0] <= columns - 2) & (pixels[:, 1] <= rows - 2) & (now[:, 2] > 0.05)
        )
        return values - self._reference.ravel(), inside, pixels

    def _jacobian(self, turn: np.ndarray, pixels: np.ndarray) -> np.ndarray:
        """(N, 3) derivative of the fresh picture's grey level by the turn."""
        now = self._rays @ rotations(turn)
        half, columns = 1e-4, []
        for axis in np.eye(3):
            moved, _, _ = project_with_jacobians(
                self._lens.model, lens_parameters(self._lens), np.zeros(3), np.zeros(3), now @ rotations(half * axis)
            )
            flow = (moved - pixels) / half
            columns.append(
                self._sample(self._slope_x, pixels) * flow[:, 0] + self._sample(self._slope_y, pixels) * flow[:, 1]
            )
        return np.stack(columns, axis=1)

    @staticmethod
    def _sample(picture: np.ndarray, pixels: np.ndarray) -> np.ndarray:
        places = pixels.astype(np.float32).reshape(*picture.shape, 2)
        return cv2.remap(picture, places, np.zeros(0, np.float32), cv2.INTER_LINEAR).ravel().astype(float)
