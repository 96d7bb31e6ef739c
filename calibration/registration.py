"""Registers two pictures of one scene: which points of the first are where in the second, and what that says.

Features (SIFT) where there are enough of them, otherwise an alignment of all grey levels (ECC), which also works for
small pictures with little in them.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from calibration.errors import CalibrationError
from calibration.rigid import exp, inverse
from wam.calibration_spec import LensSpec
from wam.lens import pixel_directions, pixel_rays

__all__ = ["Matches", "register", "table_pose"]

_MIN_MATCHES = 24
_MIN_ON_TABLE = 16
_RATIO = 0.8  # of best to second-best distance of descriptors (Lowe 2004)
_FAR_M = 4.0  # table points further away say little
_MIN_ECC = 0.75


@dataclass(frozen=True, kw_only=True)
class Matches:
    """Corresponding points."""

    before: np.ndarray  # (N, 2) pixels of the reference picture
    now: np.ndarray  # (N, 2) where they are in the fresh one
    method: str  # "features" or "alignment"


def register(reference: np.ndarray, image: np.ndarray) -> Matches:
    """Finds corresponding points of two grey pictures of equal size.

    Raises:
        CalibrationError: They show different scenes, or nothing to hold on to.
    """
    matched = _features(reference, image)
    if matched is not None:
        return matched
    aligned = _aligned(reference, image)
    if aligned is not None:
        return aligned
    raise CalibrationError(
        "the picture cannot be registered to the reference: the scene, the light or the camera's direction changed too "
        "much. Put the arm where it was and clear the table; if the camera was really moved far, calibrate again."
    )


def table_pose(matches: Matches, lens: LensSpec, pose: np.ndarray, table_z_m: float) -> np.ndarray | None:
    """Where the camera is now, from matches on a horizontal plane.

    Args:
        matches: Corresponding points; those off the plane are told apart and ignored.
        lens: Intrinsics.
        pose: (4, 4) ``T_base_camera`` of the reference picture.
        table_z_m: Height of the plane in the base frame [m].

    Returns:
        (4, 4) ``T_base_camera`` of the fresh picture; None when too few points lie on the plane.
    """
    rays = pixel_directions(lens, matches.before) @ pose[:3, :3].T
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = (table_z_m - pose[2, 3]) / rays[:, 2]
    on_table = np.isfinite(distance) & (distance > 0.02) & (distance < _FAR_M)
    if on_table.sum() < _MIN_ON_TABLE:
        return None
    points = pose[:3, 3] + rays[on_table] * distance[on_table, None]
    seen = pixel_rays(lens, matches.now[on_table])
    start = inverse(pose)
    rvec, tvec = cv2.Rodrigues(start[:3, :3])[0], start[:3, 3].reshape(3, 1).copy()
    cv2.setRNGSeed(0)
    found, rvec, tvec, inliers = cv2.solvePnPRansac(
        points.reshape(-1, 1, 3),
        seen.reshape(-1, 1, 2),
        np.eye(3),
        np.zeros(4),
        rvec,
        tvec,
        useExtrinsicGuess=True,
        iterationsCount=400,
        reprojectionError=1.5 / lens.focal_px[0],
        flags=cv2.SOLVEPNP_ITERATIVE,
    )
    if not found or inliers is None or len(inliers) < _MIN_ON_TABLE:
        return None
    use = inliers.ravel()
    rvec, tvec = cv2.solvePnPRefineLM(points[use], seen[use].reshape(-1, 1, 2), np.eye(3), np.zeros(4), rvec, tvec)
    return inverse(exp(np.concatenate([rvec.ravel(), tvec.ravel()])))


def _features(reference: np.ndarray, image: np.ndarray) -> Matches | None:
    finder = cv2.SIFT.create(nfeatures=3000, contrastThreshold=0.02)
    first, about_first = finder.detectAndCompute(reference, None)
    second, about_second = finder.detectAndCompute(image, None)
    if about_first is None or about_second is None or min(len(first), len(second)) < _MIN_MATCHES:
        return None
    matcher = cv2.BFMatcher(cv2.NORM_L2)
    good = [
        pair[0]
        for pair in matcher.knnMatch(about_first, about_second, k=2)
        if len(pair) == 2 and pair[0].distance < _RATIO * pair[1].distance
    ]
    if len(good) < _MIN_MATCHES:
        return None
    before = np.array([first[match.queryIdx].pt for match in good])
    now = np.array([second[match.trainIdx].pt for match in good])
    cv2.setRNGSeed(0)
    homography, mask = cv2.findHomography(before, now, cv2.USAC_MAGSAC, 4.0)
    if homography is None or mask.sum() < _MIN_MATCHES:
        return None
    keep = mask.ravel() > 0
    # Points off the dominating plane are near it for a small motion; what is far off is a wrong match.
    near = np.linalg.norm(cv2.perspectiveTransform(before[:, None], homography)[:, 0] - now, axis=1) < 12.0
    return Matches(before=before[keep | near], now=now[keep | near], method="features")


def _aligned(reference: np.ndarray, image: np.ndarray) -> Matches | None:
    warp: np.ndarray = np.eye(3, dtype=np.float32)
    criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 200, 1e-6)
    try:
        for blur in (9, 5):  # coarse first: the basin of attraction is as wide as the blur
            score, warp = cv2.findTransformECC(
                reference, image, warp, cv2.MOTION_HOMOGRAPHY, criteria, np.ones_like(reference), blur
            )
    except cv2.error:  # it diverged
        return None
    if score < _MIN_ECC:
        return None
    height, width = reference.shape
    grid = np.stack(np.meshgrid(np.linspace(4, width - 5, 12), np.linspace(4, height - 5, 9)), axis=-1).reshape(-1, 2)
    now = cv2.perspectiveTransform(grid[:, None], warp.astype(float))[:, 0]
    return Matches(before=grid, now=now, method="alignment")
