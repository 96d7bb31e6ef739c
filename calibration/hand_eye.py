"""Hand-eye calibration: where the camera is on the tool (eye-in-hand) or in the base frame (eye-to-hand).

Each view measures where the tool must be, given the camera's pose, the board's pose and the joints' zeros; the robot
says where it is. All three are refined together so that the two agree, each view weighted with what is known of the
robot's and the corners' noise. Bad views are found with a Cauchy weighting and then left out.

With the error at the tool ``xi = log(inverse(T_base_tool) @ predicted)``, where predicted is
``T_base_board @ inverse(T_camera_board) @ inverse(T_tool_camera)`` for eye-in-hand and
``T_base_camera @ T_camera_board @ inverse(T_tool_board)`` for eye-to-hand, corner noise reaches ``xi`` through the
adjoint of ``T_tool_camera`` or of ``T_tool_board @ inverse(T_camera_board)``.

Shape legend: N views, J joints, M unknowns.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from calibration.board_views import AMBIGUOUS, BoardViews
from calibration.errors import CalibrationError
from calibration.hand_eye_problem import Problem, RobotMotion, RobotNoise, State, refine
from calibration.hand_eye_start import start
from calibration.motions import MIN_POSES, MotionReport, check_motions
from wam.errors import unknown_name

__all__ = ["HandEyeResult", "JointOffset", "calibrate_hand_eye"]

_REJECT = 27.9  # squared error over its expectation, 6 degrees of freedom: 1 in 10 000 good views
_CAUCHY = 12.6  # the same for 1 in 20: where the weighting begins to bite
_MEDIAN = 5.35  # median of a chi-square of 6 degrees of freedom
_JOINT_STD_RAD = float(np.radians(0.3))  # a zero that is less certain cannot be told from the other unknowns
_MAX_STD_MM, _MAX_STD_DEG = 5.0, 0.7
_DISAGREE = 5.0  # times the stated noise: more poses do not mend that
_SCALE = 0.015  # relative error of the board's size that is refused


@dataclass(frozen=True, kw_only=True)
class JointOffset:
    """The zero of one joint."""

    name: str
    offset_rad: float  # true angle = reported angle + offset
    std_rad: float
    estimated: bool  # False: it cannot be told from the other unknowns, and was left at zero


@dataclass(frozen=True, kw_only=True)
class HandEyeResult:
    """A calibrated camera pose and what speaks for and against it."""

    eye_in_hand: bool
    camera: np.ndarray  # (4, 4) T_tool_camera, or T_base_camera for a camera that stands still
    board: np.ndarray  # (4, 4) T_base_board, or T_tool_board for a camera that stands still
    offsets: tuple[JointOffset, ...]  # empty when joint zeros were not asked for
    std_mm: float  # standard deviation of the camera's position, in its worst direction
    std_deg: float  # of its orientation, about its worst axis
    residuals: np.ndarray  # (N, 6) error at the tool in each view, rotation [rad] and translation [m]
    inlier: np.ndarray  # (N,) bool, views that took part
    sources: tuple[str, ...]
    noise_factor: float  # how much larger the errors are than the stated noise
    scale: float  # size of the board as the robot's motion measures it, over the described one
    motion: MotionReport

    @property
    def residual_mm(self) -> np.ndarray:
        """(N,) distance between where the robot and the views put the tool [mm]."""
        return 1e3 * np.linalg.norm(self.residuals[:, 3:], axis=1)

    @property
    def residual_deg(self) -> np.ndarray:
        """(N,) angle between the two [degree]."""
        return np.degrees(np.linalg.norm(self.residuals[:, :3], axis=1))


def calibrate_hand_eye(
    views: BoardViews,
    motion: RobotMotion,
    *,
    eye_in_hand: bool,
    noise: RobotNoise | None = None,
    joints: Sequence[str] = (),
) -> HandEyeResult:
    """Calibrates one camera.

    Args:
        views: Board poses of N views.
        motion: The robot at the same N instants.
        eye_in_hand: The camera is on the tool and the board stands still; otherwise the other way round.
        noise: How exactly the robot knows its pose.
        joints: Joints whose zeros are estimated as well.

    Raises:
        CalibrationError: Too few views, degenerate motion, a board of another size, or nothing that explains the views.
    """
    for name in joints:
        if name not in motion.joints:
            raise CalibrationError(unknown_name("joint", name, motion.joints))
    noise = noise or RobotNoise()
    poses = motion.poses(np.zeros(len(motion.joints)))
    if len(poses) != len(views):
        raise CalibrationError(
            f"there are {len(views)} views but {len(poses)} robot poses: one pose per view is needed."
        )
    report = check_motions(poses)
    found = start(poses, views.poses, eye_in_hand=eye_in_hand)
    if found is None:
        raise CalibrationError(
            "no closed-form method finds a camera pose: check that views and robot poses belong together."
        )
    free = np.array([name in joints for name in motion.joints], dtype=bool)
    problem = Problem(views=views, motion=motion, eye_in_hand=eye_in_hand, noise=noise, free=free)
    state = State(camera=found[0], board=found[1], offsets=np.zeros(len(motion.joints)))
    state, problem, inlier = _solve(problem, state)
    while problem.free.any():
        std = np.sqrt(np.diag(problem.covariance(state, inlier)))[12:]
        worst = int(np.argmax(np.where(problem.free, std, -1)))
        if std[worst] <= _JOINT_STD_RAD:
            break
        problem = replace(problem, free=problem.free & (np.arange(len(free)) != worst))
        state = replace(state, offsets=np.where(problem.free, state.offsets, 0.0))
        state, problem, inlier = _solve(problem, state)
    return _result(problem, state, inlier, free, report)


def _solve(problem: Problem, state: State) -> tuple[State, Problem, np.ndarray]:
    """Refines with a robust weighting, settles ambiguous views, leaves bad views out and refines again."""
    for _ in range(2):
        for _ in range(4):
            squared = problem.squared(state)
            weights = 1 / (1 + squared / (_CAUCHY * max(float(np.median(squared)) / _MEDIAN, 1e-6)))
            state = refine(problem, state, weights)
        problem = replace(problem, views=_settled(problem, state))
    inlier: np.ndarray = np.ones(len(problem.views), dtype=bool)
    for _ in range(6):
        squared = problem.squared(state)
        factor = max(float(np.median(squared[inlier])) / _MEDIAN, 0.25)
        kept = squared < _REJECT * factor
        if kept.sum() < max(MIN_POSES, len(kept) // 2):
            raise CalibrationError(
                f"only {kept.sum()} of {len(kept)} views agree on one camera pose: check that each view belongs to its "
                "robot pose (the arm must stand still), that the camera and the board are fixed firmly, that "
                "eye-in-hand or eye-to-hand is the right choice, and the joint order of the robot file."
            )
        state = refine(problem, state, kept.astype(float))
        same = np.array_equal(kept, inlier)
        inlier = kept
        if same:
            break
    return state, problem, inlier


def _settled(problem: Problem, state: State) -> BoardViews:
    """Takes the second-best pose of a view where it agrees better with the other views."""
    views = problem.views
    swapped = replace(views, poses=views.others, others=views.poses)
    better = problem.squared(state) > replace(problem, views=swapped).squared(state)
    swap = (better & (views.ratios < AMBIGUOUS))[:, None, None]
    return replace(
        views, poses=np.where(swap, views.others, views.poses), others=np.where(swap, views.poses, views.others)
    )


def _result(
    problem: Problem, state: State, inlier: np.ndarray, asked: np.ndarray, report: MotionReport
) -> HandEyeResult:
    freedom = max(6 * int(inlier.sum()) - 12 - int(problem.free.sum()), 1)
    factor = float(np.sqrt(problem.squared(state)[inlier].sum() / freedom))
    covariance = max(factor, 1.0) ** 2 * problem.covariance(state, inlier)
    std_mm = 1e3 * float(np.sqrt(np.linalg.eigvalsh(covariance[3:6, 3:6])[-1]))
    std_deg = float(np.degrees(np.sqrt(np.linalg.eigvalsh(covariance[:3, :3])[-1])))
    if std_mm > _MAX_STD_MM or std_deg > _MAX_STD_DEG:
        advice = "; ".join(report.advice()) or "add poses, with the board larger in the picture"
        if factor > _DISAGREE:
            advice = (
                f"and they disagree by {factor:.0f} times the robot's noise: check that eye-in-hand or eye-to-hand is "
                f"the right choice and that the arm stood still in every picture; then {advice}"
            )
        raise CalibrationError(
            f"the views leave the camera's pose uncertain by {std_mm:.1f} mm and {std_deg:.2f} degrees (at most "
            f"{_MAX_STD_MM:g} mm and {_MAX_STD_DEG:g} are accepted): {advice}."
        )
    std = np.sqrt(np.diag(covariance)[12:])
    return HandEyeResult(
        eye_in_hand=problem.eye_in_hand,
        camera=state.camera,
        board=state.board,
        offsets=tuple(
            JointOffset(
                name=name,
                offset_rad=float(state.offsets[index]),
                std_rad=float(std[index]) if problem.free[index] else float("nan"),
                estimated=bool(problem.free[index]),
            )
            for index, name in enumerate(problem.motion.joints)
            if asked[index]
        ),
        std_mm=std_mm,
        std_deg=std_deg,
        residuals=problem.errors(state),
        inlier=inlier,
        sources=problem.views.sources,
        noise_factor=factor,
        scale=_checked_scale(problem, state, inlier, factor),
        motion=report,
    )


def _checked_scale(problem: Problem, state: State, inlier: np.ndarray, factor: float) -> float:
    """The board's size as the robot's motion measures it; refuses one that is clearly not as described."""
    scale = refine(problem, state, inlier.astype(float), scale=True).scale
    std = max(factor, 1.0) * float(np.sqrt(problem.covariance(state, inlier, scale=True)[-1, -1]))
    if abs(scale - 1) > max(_SCALE, 5 * std):
        raise CalibrationError(
            f"the robot's motion says that the board is {100 * scale:.1f} % of the described size: measure its squares "
            "with a ruler (printers scale pages) and describe those, or check that the kinematic model is of this arm."
        )
    return scale
