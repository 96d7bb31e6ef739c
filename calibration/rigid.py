"""Rigid motions as (…, 4, 4) matrices: exponential, logarithm, inverse, adjoint, differences in mm and degrees.

``T_a_b`` is the pose of b in a, so ``T_a_b @ T_b_c = T_a_c``. A twist is (…, 6): rotation vector [rad], then
translation [m], and ``exp`` applies them separately: R = Rodrigues(rotation), t = translation. For the small errors it
is used for, that agrees with the screw motion to first order and keeps millimetres apart from degrees.

Source: Rodrigues' formula; Blanco, "A tutorial on SE(3) transformation parameterizations", 2010.
"""

import numpy as np

__all__ = ["adjoint", "apply", "exp", "inverse", "log", "pose", "rotation_vector", "rotations", "separation", "skew"]

_SMALL = 1e-6  # below this angle [rad] sin(a)/a is taken from its series
_HALF_TURN = np.pi - 1e-3  # beyond this angle [rad] the antisymmetric part is too small to give the axis


def skew(vectors: np.ndarray) -> np.ndarray:
    """Cross-product matrices (…, 3, 3) of (…, 3) vectors."""
    x, y, z = np.moveaxis(np.asarray(vectors, dtype=float), -1, 0)
    zero = np.zeros_like(x)
    rows = [[zero, -z, y], [z, zero, -x], [-y, x, zero]]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def rotations(vectors: np.ndarray) -> np.ndarray:
    """(…, 3) rotation vectors [rad] to (…, 3, 3) rotation matrices."""
    vectors = np.asarray(vectors, dtype=float)
    angle = np.linalg.norm(vectors, axis=-1)[..., None, None]
    safe = np.where(angle < _SMALL, 1.0, angle)
    first = np.where(angle < _SMALL, 1.0 - angle**2 / 6, np.sin(safe) / safe)
    second = np.where(angle < _SMALL, 0.5 - angle**2 / 24, (1 - np.cos(safe)) / safe**2)
    cross = skew(vectors)
    return np.eye(3) + first * cross + second * (cross @ cross)


def rotation_vector(matrices: np.ndarray) -> np.ndarray:
    """(…, 3, 3) rotation matrices to (…, 3) rotation vectors, angles in [0, pi] rad."""
    m = np.asarray(matrices, dtype=float)
    axis = np.stack(
        [m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]], axis=-1
    )  # 2 sin(angle) * unit axis
    sine = np.linalg.norm(axis, axis=-1, keepdims=True) / 2
    angle = np.arctan2(sine, (np.trace(m, axis1=-2, axis2=-1)[..., None] - 1) / 2)
    vector = axis / 2 * np.where(sine < _SMALL, 1.0, angle / np.where(sine < _SMALL, 1.0, sine))
    turned = angle > _HALF_TURN  # the sine vanishes there as well, so the axis comes from the symmetric part
    return np.where(turned, angle * _axis_of_half_turn(m, axis), vector) if turned.any() else vector


def pose(rotation: np.ndarray, translation: np.ndarray) -> np.ndarray:
    """Builds (…, 4, 4) from (…, 3, 3) and (…, 3)."""
    rotation, translation = np.asarray(rotation, dtype=float), np.asarray(translation, dtype=float)
    matrix = np.zeros((*np.broadcast_shapes(rotation.shape[:-2], translation.shape[:-1]), 4, 4))
    matrix[..., :3, :3], matrix[..., :3, 3], matrix[..., 3, 3] = rotation, translation, 1.0
    return matrix


def exp(twists: np.ndarray) -> np.ndarray:
    """(…, 6) twists to (…, 4, 4) motions."""
    twists = np.asarray(twists, dtype=float)
    return pose(rotations(twists[..., :3]), twists[..., 3:])


def log(motions: np.ndarray) -> np.ndarray:
    """(…, 4, 4) motions to (…, 6) twists; the inverse of ``exp``."""
    motions = np.asarray(motions, dtype=float)
    return np.concatenate([rotation_vector(motions[..., :3, :3]), motions[..., :3, 3]], axis=-1)


def inverse(motions: np.ndarray) -> np.ndarray:
    """Inverts (…, 4, 4) motions."""
    motions = np.asarray(motions, dtype=float)
    back = np.swapaxes(motions[..., :3, :3], -1, -2)
    return pose(back, -(back @ motions[..., :3, 3, None])[..., 0])


def apply(motion: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Moves (N, 3) points by one (4, 4) motion."""
    return np.asarray(points) @ motion[:3, :3].T + motion[:3, 3]


def adjoint(motion: np.ndarray) -> np.ndarray:
    """(6, 6) map with motion @ exp(x) @ inverse(motion) = exp(adjoint @ x), to first order."""
    result = np.zeros((6, 6))
    result[:3, :3] = result[3:, 3:] = motion[:3, :3]
    result[3:, :3] = skew(motion[:3, 3]) @ motion[:3, :3]
    return result


def separation(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance of origins [mm] and angle between orientations [degree], for (…, 4, 4) poses in one frame."""
    angle = np.linalg.norm(rotation_vector(np.swapaxes(first[..., :3, :3], -1, -2) @ second[..., :3, :3]), axis=-1)
    return 1e3 * np.linalg.norm(first[..., :3, 3] - second[..., :3, 3], axis=-1), np.degrees(angle)


def _axis_of_half_turn(matrices: np.ndarray, towards: np.ndarray) -> np.ndarray:
    """(…, 3) unit axes: the eigenvector of the symmetric part's largest eigenvalue, signed like ``towards``."""
    symmetric = (matrices + np.swapaxes(matrices, -1, -2)) / 2
    axis = np.linalg.eigh(symmetric)[1][..., :, -1]
    sign = np.where((axis * towards).sum(axis=-1, keepdims=True) < 0, -1.0, 1.0)
    return sign * axis
