"""Hand-eye calibration, both kinds, and joint zeros against known truth; degenerate motion and wrong boards."""

from dataclasses import replace

import numpy as np
import pytest

from calibration.board_views import measure_boards
from calibration.errors import CalibrationError
from calibration.hand_eye import HandEyeResult, calibrate_hand_eye
from calibration.hand_eye_problem import RobotMotion
from calibration.hand_eye_start import METHODS, closed_form
from calibration.rigid import exp, separation
from calibration.synthetic import Rig, random_rig, spoiled

ROBOT_NOISE = {"position_m": 5e-4, "angle_rad": float(np.radians(0.1))}
MOUNTS = pytest.mark.parametrize("eye_in_hand", [True, False], ids=["hand", "base"])


def calibrated(
    rig: Rig,
    count: int = 25,
    *,
    bad_corners: float = 0.0,
    wrong_poses: int = 0,
    board_scale: float = 1.0,
    zeros: bool = False,
) -> tuple[HandEyeResult, np.ndarray, np.ndarray]:
    """The result; what was wrong on purpose (indices); and the plain closed forms' errors [mm]."""
    rng = np.random.default_rng(rig.seed)
    reported, tools = rig.poses(rng, count, **ROBOT_NOISE)
    angles = reported if zeros else reported + rig.offsets
    views = [rig.view(tool, rng, noise_px=0.2, source=str(index)) for index, tool in enumerate(tools)]
    views = [spoiled(rng, view, bad_corners) for view in views]
    wrong = rng.choice(count, wrong_poses, replace=False)
    angles[wrong] += np.radians(rng.uniform(5, 15, (wrong_poses, angles.shape[1])))
    described = replace(rig.board, square_m=rig.board.square_m * board_scale, marker_m=rig.board.marker_m * board_scale)
    boards = measure_boards(described, views, rig.lens)
    motion = RobotMotion.of_joints(rig.kinematics, angles)
    plain = []
    for method in METHODS:
        camera = closed_form(rig.kinematics.poses(angles), boards.poses, eye_in_hand=rig.eye_in_hand, method=method)
        plain.append(np.inf if camera is None else float(separation(camera, rig.camera)[0]))
    joints = rig.kinematics.joints if zeros else ()
    return calibrate_hand_eye(boards, motion, eye_in_hand=rig.eye_in_hand, joints=joints), wrong, np.array(plain)


@MOUNTS
@pytest.mark.parametrize("seeds", [(0,), pytest.param((1, 2, 3, 4, 5), marks=pytest.mark.slow)], ids=["one", "more"])
def test_the_camera_is_found(eye_in_hand: bool, seeds: tuple[int, ...]) -> None:
    millimetres, degrees = [], []
    for seed in seeds:
        rig = random_rig(seed, eye_in_hand=eye_in_hand)
        result, _, _ = calibrated(rig)
        distance, angle = separation(result.camera, rig.camera)
        assert distance < 5 * result.std_mm + 0.2  # the stated uncertainty is no guess
        millimetres.append(float(distance))
        degrees.append(float(angle))
        board = separation(result.board, rig.board_pose)
        assert board[0] < 4
        assert board[1] < 0.5
        assert result.scale == pytest.approx(1.0, abs=0.01)
    assert np.median(millimetres) < 1.0
    assert np.median(degrees) < 0.2


@pytest.mark.slow
@MOUNTS
def test_bad_corners_and_wrong_poses_are_left_out(eye_in_hand: bool) -> None:
    rig = random_rig(2, eye_in_hand=eye_in_hand)
    result, wrong, plain = calibrated(rig, bad_corners=0.1, wrong_poses=3)
    assert not result.inlier[wrong].any()
    assert result.inlier.sum() >= 18
    distance, angle = separation(result.camera, rig.camera)
    assert distance < 2.0
    assert angle < 0.4
    assert distance < plain.min() / 3


@pytest.mark.parametrize("eye_in_hand", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["hand", "base"])
def test_joint_zeros_are_found(eye_in_hand: bool) -> None:
    rig = random_rig(4, eye_in_hand=eye_in_hand)
    result, _, _ = calibrated(rig, 40, zeros=True)
    found = {joint.name: joint for joint in result.offsets}
    errors = [
        abs(float(np.degrees(found[name].offset_rad - true)))
        for name, true in zip(rig.kinematics.joints, rig.offsets, strict=True)
        if found[name].estimated
    ]
    assert len(errors) >= 4
    assert np.mean(errors) < 0.1
    # A zero of the first joint turns the whole world with the board: nothing in the pictures could tell.
    assert not found["yaw"].estimated
    assert found["yaw"].offset_rad == 0.0


def test_the_same_data_give_the_same_answer() -> None:
    rig = random_rig(1, eye_in_hand=True)
    np.testing.assert_array_equal(calibrated(rig, 10)[0].camera, calibrated(rig, 10)[0].camera)


# ------------------------------------------------------------------------------------------------ refusals


def refused(rig: Rig, tools: np.ndarray) -> str:
    rng = np.random.default_rng(0)
    views = [rig.view(tool, rng, noise_px=0.2, source=str(index)) for index, tool in enumerate(tools)]
    boards = measure_boards(rig.board, [view for view in views if not view.problem], rig.lens)
    kept = np.array([not view.problem for view in views])
    with pytest.raises(CalibrationError) as caught:
        calibrate_hand_eye(boards, RobotMotion.of_poses(tools[kept]), eye_in_hand=rig.eye_in_hand)
    return str(caught.value)


def in_view(rig: Rig) -> np.ndarray:
    """A true tool pose in which the board is seen."""
    return rig.poses(np.random.default_rng(5), 1)[1][0]


def test_too_few_poses_are_refused() -> None:
    rig = random_rig(0, eye_in_hand=True)
    tools = rig.poses(np.random.default_rng(0), 5)[1]
    assert "5 poses show the board but a hand-eye calibration needs 6, better 25" in refused(rig, tools)


def test_motion_without_turning_is_refused() -> None:
    rig = random_rig(0, eye_in_hand=True)
    start = in_view(rig)
    steps = [exp(np.array([0, 0, 0, 0.004 * x, 0.004 * y, 0.004 * (x + y)])) for x in range(3) for y in range(3)]
    message = refused(rig, np.array([start @ step for step in steps]))
    assert "the tool hardly turns between the poses" in message
    assert "moving it without turning does not help" in message


def test_turns_about_one_axis_are_refused_and_the_other_axis_is_named() -> None:
    rig = random_rig(0, eye_in_hand=True)
    start = in_view(rig)
    turns = np.linspace(-0.3, 0.3, 12)
    message = refused(rig, np.array([start @ exp(np.array([0, 0, angle, 0, 0, 0])) for angle in turns]))
    assert "about one axis only (about its z axis" in message
    assert "as well, by 20 to 40 degrees both ways" in message


def test_a_board_of_another_size_than_described_is_refused() -> None:
    with pytest.raises(
        CalibrationError, match=r"the board is (9[45]|96)\.\d % of the described size: measure its squares"
    ):
        calibrated(random_rig(0, eye_in_hand=True), 12, board_scale=1.05)


def test_poses_that_belong_to_other_views_are_refused() -> None:
    rig = random_rig(0, eye_in_hand=True)
    rng = np.random.default_rng(0)
    tools = rig.poses(rng, 20)[1]
    views = [rig.view(tool, rng, noise_px=0.2) for tool in tools]
    boards = measure_boards(rig.board, views, rig.lens)
    with pytest.raises(CalibrationError, match="views agree on one camera pose|uncertain by|of the described size"):
        calibrate_hand_eye(boards, RobotMotion.of_poses(rng.permutation(tools)), eye_in_hand=True)


def test_the_wrong_mount_is_what_is_to_be_checked() -> None:
    rig = random_rig(0, eye_in_hand=True)
    rng = np.random.default_rng(0)
    tools = rig.poses(rng, 12)[1]
    boards = measure_boards(rig.board, [rig.view(tool, rng, noise_px=0.2) for tool in tools], rig.lens)
    with pytest.raises(CalibrationError, match="eye-in-hand or eye-to-hand is the right choice"):
        calibrate_hand_eye(boards, RobotMotion.of_poses(tools), eye_in_hand=False)


def test_an_unknown_joint_and_a_missing_pose_are_refused() -> None:
    rig = random_rig(0, eye_in_hand=True)
    rng = np.random.default_rng(0)
    reported, tools = rig.poses(rng, 8)
    boards = measure_boards(rig.board, [rig.view(tool, rng, noise_px=0.2) for tool in tools], rig.lens)
    motion = RobotMotion.of_joints(rig.kinematics, reported)
    with pytest.raises(CalibrationError, match="did you mean 'elbow'"):
        calibrate_hand_eye(boards, motion, eye_in_hand=True, joints=["elbo"])
    with pytest.raises(CalibrationError, match="there are 8 views but 7 robot poses"):
        calibrate_hand_eye(boards, RobotMotion.of_poses(tools[:7]), eye_in_hand=True)


def test_pictures_of_another_size_than_the_lens_is_for_are_refused() -> None:
    rig = random_rig(0, eye_in_hand=True)
    rng = np.random.default_rng(0)
    view = replace(rig.view(in_view(rig), rng, noise_px=0.2, source="a.png"), size_px=(320, 240))
    with pytest.raises(
        CalibrationError, match="picture a.png is 320 x 240 px but the intrinsics of the camera are for"
    ):
        measure_boards(rig.board, [view], rig.lens)
