"""One random rig, calibrated from start to end, and how far each result is from the truth; OpenCV's beside it.

Every number of a trial is an error against known truth. "Plain" is OpenCV's ``calibrateCamera`` and
``calibrateHandEye`` on exactly the same corners and robot poses, once as they are and once with a tenth of them bad.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from calibration.board_views import measure_boards
from calibration.boards import Board
from calibration.detection import Detection, detect
from calibration.errors import CalibrationError
from calibration.hand_eye import calibrate_hand_eye
from calibration.hand_eye_problem import RobotMotion
from calibration.hand_eye_start import METHODS, closed_form
from calibration.intrinsics import calibrate_intrinsics
from calibration.rendering import BoardRenderer
from calibration.rigid import pose, separation
from calibration.synthetic import Rig, random_rig, spoiled, views_around
from calibration.timing import JointTrack, latency_from_poses
from wam.calibration_spec import LensSpec
from wam.lens import FISHEYE, lens_from_parameters, lens_parameters

__all__ = ["MODELS", "TrialPlan", "run_trial"]

MODELS = {"plumb_bob": "pinhole", "rational_polynomial": "rational", FISHEYE: "fisheye"}
_CORNER_NOISE_PX = 0.2
_ROBOT_NOISE_M, _ROBOT_NOISE_DEG = 5e-4, 0.1
_LENS_VIEWS, _POSES, _JOINT_POSES = 40, 25, 40
_BAD_SHARE = 0.1
_FRAME_RATE_HZ, _STATE_RATE_HZ, _MOTION_S = 30.0, 100.0, 8.0


@dataclass(frozen=True, kw_only=True)
class TrialPlan:
    """What to do with one rig."""

    seed: int
    rendered: bool = False  # pictures drawn by MuJoCo, with blur and noise, in place of projected corners

    @property
    def model(self) -> str:
        """Lens model: four pinhole, one rational and one fisheye lens in six; a rendered one is never a fisheye."""
        choice = ("plumb_bob", "plumb_bob", "rational_polynomial", "plumb_bob", FISHEYE, "plumb_bob")[self.seed % 6]
        return "plumb_bob" if self.rendered and choice == FISHEYE else choice

    @property
    def eye_in_hand(self) -> bool:
        """Half of the rigs."""
        return self.seed // 3 % 2 == 0


def run_trial(plan: TrialPlan) -> dict[str, float | str | bool]:
    """Calibrates one rig; returns plain errors by name, ready for JSON.

    A calibration that is refused leaves its errors out and says so in ``refused``.
    """
    rig = random_rig(plan.seed, eye_in_hand=plan.eye_in_hand, model=plan.model)
    rng = np.random.default_rng([plan.seed, 11])
    record: dict[str, float | str | bool] = {
        "seed": plan.seed,
        "lens": plan.model,
        "mount": "hand" if plan.eye_in_hand else "base",
        "rendered": plan.rendered,
    }
    refused = []
    lens = rig.lens
    for name, part in _PARTS.items():
        if plan.rendered and name in {"joints", "time"}:
            continue
        try:
            found = part(rig, rng, lens, plan)
        except CalibrationError as error:
            refused.append(f"{name}: {error}")
            continue
        if name == "intrinsics":
            lens = lens_from_parameters(plan.model, np.array(found.pop("parameters")), (lens.width_px, lens.height_px))
        record |= found
    return {**record, "refused": "; ".join(refused)}


def _lens_part(rig: Rig, rng: np.random.Generator, lens: LensSpec, plan: TrialPlan) -> dict:
    noise = 0.0 if plan.rendered else _CORNER_NOISE_PX
    truth = views_around(rng, rig.board, lens, _LENS_VIEWS, noise_px=noise)
    views = truth if not plan.rendered else _render(rig.board, lens, _poses_of(rig.board, truth, lens), rng)
    result = calibrate_intrinsics(rig.board, views, MODELS[plan.model])
    found = lens_parameters(result.lens)
    errors = {f"lens_{name}": value for name, value in _lens_errors(found, lens).items()}
    errors |= {"rms_px": result.rms_px, "leave_out_px": result.leave_out_px, "parameters": found.tolist()}
    errors |= {f"plain_lens_{name}": value for name, value in _plain_lens(rig.board, views, lens).items()}
    if not plan.rendered:
        bad = [spoiled(rng, view, _BAD_SHARE) for view in views]
        robust = calibrate_intrinsics(rig.board, bad, MODELS[plan.model])
        errors |= {f"bad_lens_{name}": v for name, v in _lens_errors(lens_parameters(robust.lens), lens).items()}
        errors |= {f"bad_plain_lens_{name}": value for name, value in _plain_lens(rig.board, bad, lens).items()}
    return errors


def _arm_part(rig: Rig, rng: np.random.Generator, lens: LensSpec, plan: TrialPlan) -> dict:
    positions, tools = _moved(rig, rng, _POSES)
    if plan.rendered:
        views = _render(rig.board, rig.lens, [rig.camera_to_board(tool) for tool in tools], rng)
    else:
        views = [rig.view(tool, rng, noise_px=_CORNER_NOISE_PX, source=str(i)) for i, tool in enumerate(tools)]
    errors = _arm_errors(rig, views, positions, lens, "")
    if not plan.rendered:
        views = [spoiled(rng, view, _BAD_SHARE) for view in views]
        positions = positions.copy()
        for index in rng.choice(_POSES, round(_BAD_SHARE * _POSES), replace=False):
            positions[index] += np.radians(rng.uniform(-15, 15, positions.shape[1]))
        errors |= _arm_errors(rig, views, positions, lens, "bad_")
    return errors


def _joint_part(rig: Rig, rng: np.random.Generator, lens: LensSpec, plan: TrialPlan) -> dict:
    positions, tools = _moved(rig, rng, _JOINT_POSES)
    views = [rig.view(tool, rng, noise_px=_CORNER_NOISE_PX, source=str(i)) for i, tool in enumerate(tools)]
    result = calibrate_hand_eye(
        measure_boards(rig.board, views, lens),
        RobotMotion.of_joints(rig.kinematics, positions - rig.offsets),
        eye_in_hand=rig.eye_in_hand,
        joints=rig.kinematics.joints,
    )
    errors = [
        abs(float(np.degrees(joint.offset_rad - truth)))
        for joint, truth in zip(result.offsets, rig.offsets, strict=True)
        if joint.estimated
    ]
    return {"joint_deg": float(np.mean(errors)), "joint_worst_deg": max(errors), "joints_estimated": len(errors)}


def _time_part(rig: Rig, rng: np.random.Generator, lens: LensSpec, plan: TrialPlan) -> dict:
    """Joints swing irregularly around a pose in which the board is seen; the camera lags by -20 to 150 ms."""
    middle = _moved(rig, rng, 1)[0][0]
    latency = float(rng.uniform(-0.02, 0.15))
    waves = rng.uniform((0.3, 0.0), (1.3, 2 * np.pi), (len(middle), 3, 2))
    sizes = rng.uniform(0.3, 1.0, (len(middle), 3)) * np.radians([1.5, 1.5, 1.5, 3.0, 4.0, 5.0])[:, None]

    def angles(times: np.ndarray) -> np.ndarray:
        phase = 2 * np.pi * waves[..., 0] * times[:, None, None] + waves[..., 1]
        return middle + (sizes * np.sin(phase)).sum(axis=2)

    count = int(_MOTION_S * _STATE_RATE_HZ)
    states = np.sort(np.arange(count) / _STATE_RATE_HZ + rng.normal(0, 5e-4, count))
    reported = angles(states) + rng.normal(0, 2e-4, (count, len(middle)))
    stamps = np.arange(0.3, _MOTION_S - 0.3, 1 / _FRAME_RATE_HZ)
    tools = rig.kinematics.poses(angles(stamps - latency))
    views = [rig.view(tool, rng, noise_px=_CORNER_NOISE_PX, source=str(i)) for i, tool in enumerate(tools)]
    good = [index for index, view in enumerate(views) if not view.problem]
    boards = measure_boards(rig.board, [views[index] for index in good], lens).poses
    track = JointTrack(stamps=states, positions=reported)
    exact = latency_from_poses(
        stamps[good], boards, track, rig.kinematics, camera=rig.camera, eye_in_hand=rig.eye_in_hand
    )
    rough = latency_from_poses(stamps[good], boards, track, rig.kinematics)
    return {
        "time_ms": 1e3 * abs(exact.latency_s - latency),
        "time_without_hand_eye_ms": 1e3 * abs(rough.latency_s - latency),
    }


def _moved(rig: Rig, rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """True joint angles and true tool poses with the robot's noise between them."""
    reported, tools = rig.poses(rng, count, position_m=_ROBOT_NOISE_M, angle_rad=float(np.radians(_ROBOT_NOISE_DEG)))
    return reported + rig.offsets, tools


def _arm_errors(
    rig: Rig, views: Sequence[Detection], positions: np.ndarray, lens: LensSpec, prefix: str
) -> dict[str, float]:
    good = [index for index, view in enumerate(views) if not view.problem]
    kept, motion = [views[i] for i in good], RobotMotion.of_joints(rig.kinematics, positions[good])
    boards = measure_boards(rig.board, kept, lens)
    result = calibrate_hand_eye(boards, motion, eye_in_hand=rig.eye_in_hand)
    millimetres, degrees = separation(result.camera, rig.camera)
    errors = {f"{prefix}arm_mm": float(millimetres), f"{prefix}arm_deg": float(degrees)}
    plain = _plain_boards(rig.board, kept, lens)
    robot = motion.poses(np.zeros(len(motion.joints)))
    for method in METHODS:
        camera = closed_form(robot, plain, eye_in_hand=rig.eye_in_hand, method=method)
        if camera is not None:
            millimetres, degrees = separation(camera, rig.camera)
            errors[f"{prefix}plain_{method}_mm"] = float(millimetres)
            errors[f"{prefix}plain_{method}_deg"] = float(degrees)
    return errors


def _plain_boards(board: Board, views: Sequence[Detection], lens: LensSpec) -> np.ndarray:
    """(N, 4, 4) poses by ``cv2.solvePnP``, as one would without this package."""
    poses = []
    for view in views:
        points, pixels = board.points[view.ids], view.pixels.reshape(-1, 1, 2)
        distortion = np.array(lens.distortion)
        if lens.model == FISHEYE:
            rays = cv2.fisheye.undistortPoints(pixels, lens.matrix, distortion)
            _, rvec, tvec = cv2.solvePnP(points, np.array(rays), np.eye(3), np.zeros(4))
        else:
            _, rvec, tvec = cv2.solvePnP(points, pixels, lens.matrix, distortion)
        poses.append(pose(cv2.Rodrigues(rvec)[0], tvec.ravel()))
    return np.array(poses)


def _plain_lens(board: Board, views: Sequence[Detection], lens: LensSpec) -> dict[str, float]:
    """OpenCV's own calibration; for a fisheye, whose function often refuses, nothing when it does."""
    size = (lens.width_px, lens.height_px)
    try:
        if lens.model == FISHEYE:
            points = [board.points[view.ids].reshape(1, -1, 3) for view in views]
            pixels = [view.pixels.reshape(1, -1, 2) for view in views]
            matrix, distortion = np.eye(3), np.zeros(4)
            flags = cv2.fisheye.CALIB_RECOMPUTE_EXTRINSIC | cv2.fisheye.CALIB_FIX_SKEW
            cv2.fisheye.calibrate(points, pixels, size, matrix, distortion, flags=flags)
        else:
            _, found, _, _, _ = cv2.calibrateCamera(
                [board.points[view.ids].astype(np.float32) for view in views],
                [view.pixels.astype(np.float32) for view in views],
                size,
                np.eye(3),
                np.zeros(8),
                flags=cv2.CALIB_RATIONAL_MODEL if lens.model == "rational_polynomial" else 0,
            )
            matrix = np.array(found)
    except cv2.error:
        return {}
    return _lens_errors(np.array([matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2]]), lens)


def _lens_errors(parameters: np.ndarray, lens: LensSpec) -> dict[str, float]:
    focal = np.abs(parameters[:2] / np.array(lens.focal_px) - 1)
    center = np.linalg.norm(parameters[2:4] - np.array(lens.center_px))
    return {"focal_percent": float(100 * focal.max()), "center_px": float(center)}


def _poses_of(board: Board, views: Sequence[Detection], lens: LensSpec) -> list[np.ndarray]:
    return list(measure_boards(board, views, lens).poses)


def _render(board: Board, lens: LensSpec, poses: Sequence[np.ndarray], rng: np.random.Generator) -> list[Detection]:
    with BoardRenderer(board, lens) as renderer:
        return [
            detect(board, renderer.draw(pose_, rng, blur_px=float(rng.uniform(0.4, 1.2))), f"picture {index}")
            for index, pose_ in enumerate(poses)
        ]


_PARTS = {"intrinsics": _lens_part, "hand-eye": _arm_part, "joints": _joint_part, "time": _time_part}
