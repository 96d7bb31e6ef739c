"""Inverse kinematics by damped least squares on a MuJoCo site.

Poses are ``T_world_tool``: the tool's z axis points out of the fingers, and the fingers close along its y axis.
"""

import numpy as np

from sim.gl import mujoco

__all__ = ["heading", "solve_ik", "tool_down"]

DAMPING = 0.02  # keeps steps small near singular poses; far below the arm's lever arms in metres
STEP_LIMIT = 0.4  # largest joint change per iteration [rad]: beyond it the linearisation is useless


def tool_down(yaw: float) -> np.ndarray:
    """Returns the (3, 3) rotation of a tool that points straight down, turned by ``yaw`` [rad] about world z."""
    cos, sin = np.cos(yaw), np.sin(yaw)
    return np.array([[-cos, -sin, 0.0], [-sin, cos, 0.0], [0.0, 0.0, -1.0]])


def heading(rotation: np.ndarray) -> float:
    """Returns the yaw [rad] of a tool that points roughly down; the inverse of ``tool_down``."""
    return float(np.arctan2(-rotation[0, 1], rotation[1, 1]))


def solve_ik(
    model: mujoco.MjModel,
    scratch: mujoco.MjData,
    site: int,
    dofs: np.ndarray,
    position: np.ndarray,
    rotation: np.ndarray,
    *,
    iterations: int = 20,
    tolerance: float = 1e-4,
) -> tuple[np.ndarray, float]:
    """Finds joint positions that put a site at a pose, starting from ``scratch.qpos``.

    Args:
        model: The model; joint limits are respected.
        scratch: Data to work in. Its positions of the given joints are changed, nothing else is read.
        site: Site id of the tool.
        dofs: (n,) indices of the hinge joints' degrees of freedom, equal to their qpos indices.
        position: (3,) wanted position [m].
        rotation: (3, 3) wanted rotation.
        iterations: Upper bound on Newton steps.
        tolerance: Stops below this error [m, rad].

    Returns:
        (n,) joint positions [rad] and the remaining error, the norm of [m, rad].
    """
    low, high = model.jnt_range[model.dof_jntid[dofs]].T
    jacobian = np.zeros((6, model.nv))
    for _ in range(iterations):
        mujoco.mj_kinematics(model, scratch)
        error = _pose_error(scratch.site_xpos[site], scratch.site_xmat[site].reshape(3, 3), position, rotation)
        if np.linalg.norm(error) < tolerance:
            break
        mujoco.mj_comPos(model, scratch)
        mujoco.mj_jacSite(model, scratch, jacobian[:3], jacobian[3:], site)
        reduced = jacobian[:, dofs]  # (6, n)
        step = reduced.T @ np.linalg.solve(reduced @ reduced.T + DAMPING**2 * np.eye(6), error)
        step *= min(1.0, STEP_LIMIT / max(np.abs(step).max(), 1e-9))
        scratch.qpos[dofs] = np.clip(scratch.qpos[dofs] + step, low, high)
    return scratch.qpos[dofs].copy(), float(np.linalg.norm(error))


def _pose_error(
    present: np.ndarray, present_rotation: np.ndarray, position: np.ndarray, rotation: np.ndarray
) -> np.ndarray:
    """(6,) translation [m] and rotation vector [rad] from the present to the wanted pose, in the world frame."""
    twist = rotation @ present_rotation.T
    quat_wxyz, turn = np.zeros(4), np.zeros(3)
    mujoco.mju_mat2Quat(quat_wxyz, np.ascontiguousarray(twist).ravel())
    mujoco.mju_quat2Vel(turn, quat_wxyz, 1.0)
    return np.concatenate([position - present, turn])
