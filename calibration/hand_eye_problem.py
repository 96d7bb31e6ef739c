"""The equations of hand-eye calibration: unknowns, errors, their derivatives and covariance, one weighted refinement.

Conventions are those of ``calibration.hand_eye``. A step moves a state by ``camera @ exp(step[:6])``,
``board @ exp(step[6:12])``, joint offsets by the next J numbers and, where it is asked for, the board's scale.

Shape legend: N views, J joints, M unknowns.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from calibration.board_views import BoardViews
from calibration.kinematics import ForwardKinematics
from calibration.rigid import adjoint, exp, inverse, log

__all__ = ["Problem", "RobotMotion", "RobotNoise", "State", "refine"]

_PRIOR_RAD = float(np.radians(10.0))  # joint zeros are not further off; keeps unobservable ones finite


@dataclass(frozen=True, kw_only=True)
class RobotNoise:
    """How exactly the robot knows where its tool is, one standard deviation per coordinate."""

    position_m: float = 5e-4
    angle_rad: float = float(np.radians(0.1))


@dataclass(frozen=True, kw_only=True)
class RobotMotion:
    """Where the robot says its tool was, and how that depends on the joints' zeros."""

    poses: Callable[[np.ndarray], np.ndarray]  # (J,) zero offsets [rad] -> (N, 4, 4) T_base_tool
    jacobians: Callable[[np.ndarray], np.ndarray]  # (J,) -> (N, 6, J) as ForwardKinematics.jacobians
    joints: tuple[str, ...] = ()  # names, J of them; empty when poses were given and not joint positions

    @classmethod
    def of_poses(cls, poses: np.ndarray) -> "RobotMotion":
        """From (N, 4, 4) poses that came from elsewhere; joint zeros cannot be estimated then."""
        return cls(poses=lambda _: poses, jacobians=lambda _: np.zeros((len(poses), 6, 0)))

    @classmethod
    def of_joints(cls, kinematics: ForwardKinematics, positions: np.ndarray) -> "RobotMotion":
        """From (N, J) joint positions [rad]."""
        return cls(
            poses=lambda offsets: kinematics.poses(positions + offsets),
            jacobians=lambda offsets: kinematics.jacobians(positions + offsets),
            joints=kinematics.joints,
        )


@dataclass(frozen=True, kw_only=True)
class State:
    """The unknowns."""

    camera: np.ndarray  # (4, 4)
    board: np.ndarray  # (4, 4)
    offsets: np.ndarray  # (J,) [rad]
    scale: float = 1.0  # of the board

    def moved(self, step: np.ndarray) -> "State":
        """Another state, (12 + J [+ 1],) away."""
        count = len(self.offsets)
        return State(
            camera=self.camera @ exp(step[:6]),
            board=self.board @ exp(step[6:12]),
            offsets=self.offsets + step[12 : 12 + count],
            scale=self.scale + (step[12 + count] if len(step) > 12 + count else 0.0),
        )


@dataclass(frozen=True, kw_only=True)
class Problem:
    """The measurements and which unknowns are free."""

    views: BoardViews
    motion: RobotMotion
    eye_in_hand: bool
    noise: RobotNoise
    free: np.ndarray  # (J,) bool

    def errors(self, state: State, robot: np.ndarray | None = None) -> np.ndarray:
        """(N, 6) errors at the tool; ``robot`` are the tool's poses when they are known already."""
        boards = self.views.poses
        if state.scale != 1.0:
            boards = boards.copy()
            boards[:, :3, 3] *= state.scale
        robot = self.motion.poses(state.offsets) if robot is None else robot
        if self.eye_in_hand:
            predicted = state.board @ inverse(boards) @ inverse(state.camera)
        else:
            predicted = state.camera @ boards @ inverse(state.board)
        return log(inverse(robot) @ predicted)

    def whitening(self, state: State) -> np.ndarray:
        """(N, 6, 6) factors that turn errors into independent ones of unit variance."""
        robot = np.diag([self.noise.angle_rad**2] * 3 + [self.noise.position_m**2] * 3)
        factors = []
        for pose, covariance in zip(self.views.poses, self.views.covariances, strict=True):
            lever = adjoint(state.camera if self.eye_in_hand else state.board @ inverse(pose))
            factors.append(np.linalg.inv(np.linalg.cholesky(robot + lever @ covariance @ lever.T)))
        return np.array(factors)

    def jacobian(self, state: State, *, scale: bool = False) -> np.ndarray:
        """(N, 6, 12 + J [+ 1]) derivatives of the errors by a step, to first order in the errors."""
        count = len(self.views)
        steps = 12 + len(self.free) + scale
        result = np.zeros((count, 6, steps))
        boards = self.views.poses
        for index in range(count):
            if self.eye_in_hand:
                result[index, :, :6] = -adjoint(state.camera)
                result[index, :, 6:12] = adjoint(state.camera @ boards[index])
            else:
                result[index, :, :6] = adjoint(state.board @ inverse(boards[index]))
                result[index, :, 6:12] = -adjoint(state.board)
            if scale:
                shift = np.concatenate([np.zeros(3), boards[index, :3, 3]])
                lever = adjoint(state.camera) if self.eye_in_hand else adjoint(state.board @ inverse(boards[index]))
                result[index, :, -1] = (-1 if self.eye_in_hand else 1) * lever @ shift
        result[:, :, 12 : 12 + len(self.free)] = -self.motion.jacobians(state.offsets) * self.free
        return result

    def covariance(self, state: State, inlier: np.ndarray, *, scale: bool = False) -> np.ndarray:
        """(M, M) covariance of the unknowns; joints that are not free have none."""
        whitened = np.einsum("nij,njm->nim", self.whitening(state), self.jacobian(state, scale=scale))[inlier]
        unknown = self.unknown(scale=scale)
        stacked = whitened.reshape(-1, whitened.shape[-1])[:, unknown]
        normal = stacked.T @ stacked
        prior = np.zeros(len(unknown))
        prior[12 : 12 + len(self.free)] = _PRIOR_RAD**-2
        normal += np.diag(prior[unknown])
        unit = 1 / np.sqrt(np.diag(normal))  # unknowns differ by orders of magnitude
        result = np.zeros((len(unknown), len(unknown)))
        result[np.ix_(unknown, unknown)] = unit[:, None] * np.linalg.pinv(unit[:, None] * normal * unit) * unit
        return result

    def unknown(self, *, scale: bool = False) -> np.ndarray:
        """(M,) bool: which numbers of a step are estimated."""
        return np.concatenate([np.ones(12, dtype=bool), self.free, np.ones(int(scale), dtype=bool)])

    def squared(self, state: State) -> np.ndarray:
        """(N,) squared errors over their expectation."""
        return (np.einsum("nij,nj->ni", self.whitening(state), self.errors(state)) ** 2).sum(axis=1)


def refine(problem: Problem, state: State, weights: np.ndarray, *, scale: bool = False) -> State:
    """Weighted least squares from a state; joints that are not free stay."""
    from scipy.optimize import least_squares  # a robot that only runs the daily check does without

    count = len(problem.free)
    open_ = problem.unknown(scale=scale)
    whitening = np.sqrt(weights)[:, None, None] * problem.whitening(state)

    def full(step: np.ndarray) -> np.ndarray:
        whole = np.zeros(len(open_))
        whole[open_] = step
        return whole

    def residuals(step: np.ndarray) -> np.ndarray:
        moved = state.moved(full(step))
        errors = np.einsum("nij,nj->ni", whitening, problem.errors(moved)).ravel()
        return np.concatenate([errors, moved.offsets[problem.free] / _PRIOR_RAD])

    def jacobian(step: np.ndarray) -> np.ndarray:
        moved = state.moved(full(step))
        rows = np.einsum("nij,njm->nim", whitening, problem.jacobian(moved, scale=scale)).reshape(-1, len(open_))
        prior = np.zeros((count, len(open_)))
        prior[:, 12 : 12 + count] = np.eye(count) / _PRIOR_RAD
        return np.concatenate([rows, prior[problem.free]])[:, open_]

    fit = least_squares(residuals, np.zeros(int(open_.sum())), jac=jacobian, x_scale="jac", max_nfev=30)
    return state.moved(full(fit.x))
