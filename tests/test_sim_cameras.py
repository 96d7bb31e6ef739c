"""Simulated cameras: set from a calibration they show what that lens shows from that place, distortion included."""

import dataclasses

import cv2
import numpy as np
import pytest

from calibration.rigid import apply, exp, inverse
from sim.arm_sim import ArmSim
from sim.cameras import calibrate_cameras, camera_lens, camera_pose, set_camera_pose
from sim.errors import SimError
from sim.gl import mujoco
from sim.scene import build_model
from wam.calibration_spec import CameraCalibration, LensSpec, PoseSpec, RobotCalibration
from wam.lens import project
from wam.robot import load_robot

ROBOT = load_robot("sim6")
SIZE = (200, 160)  # width, height


def large(robot=ROBOT, size=SIZE):
    cameras = tuple(dataclasses.replace(camera, width_px=size[0], height_px=size[1]) for camera in robot.cameras)
    return dataclasses.replace(robot, cameras=cameras)


def lens(model: str = "plumb_bob", distortion: tuple[float, ...] = (0.0,) * 5) -> LensSpec:
    return LensSpec(
        model=model,
        width_px=SIZE[0],
        height_px=SIZE[1],
        focal_px=(190.0, 186.0),
        center_px=(104.0, 73.5),
        distortion=distortion,
    )


def with_camera(**known):
    camera = CameraCalibration(name="front", **known)
    return dataclasses.replace(large(), calibration=RobotCalibration(cameras=(camera,)))


def drawn_cube(sim: ArmSim) -> np.ndarray:
    """(2,) middle of the named cube's pixels, found by its colour [px]."""
    shown, hidden = sim.render("front"), None
    sim.model.geom("cube_0").rgba[3] = 0.0
    hidden = sim.render("front")
    sim.model.geom("cube_0").rgba[3] = 1.0
    rows, columns = np.nonzero(np.abs(shown.astype(int) - hidden.astype(int)).sum(axis=2) > 30)
    assert len(rows) > 20
    return np.array([columns.mean(), rows.mean()])


def cube_in_camera(sim: ArmSim) -> np.ndarray:
    """(8, 3) corners of the cube in the front camera's optical frame [m]."""
    index = sim.model.geom("cube_0").id
    half = sim.model.geom_size[index]
    corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) * half
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = sim.data.geom_xmat[index].reshape(3, 3), sim.data.geom_xpos[index]
    return apply(inverse(camera_pose(sim.model, sim.data, "front")), apply(pose, corners))


def outline_middle(lens_: LensSpec, corners: np.ndarray) -> np.ndarray:
    """(2,) centroid of the area the cube covers [px]."""
    hull = cv2.convexHull(project(lens_, corners).astype(np.float32))
    moments = cv2.moments(hull)
    return np.array([moments["m10"], moments["m01"]]) / moments["m00"]


@pytest.mark.parametrize(
    ("model", "distortion"),
    [
        ("plumb_bob", (0.0,) * 5),
        ("plumb_bob", (-0.28, 0.07, 0.002, -0.001, 0.0)),
        ("rational_polynomial", (0.1, 0.02, 0.0, 0.0, 0.0, 0.2, 0.0, 0.0)),
        ("equidistant", (-0.02, 0.004, 0.0, 0.0)),
    ],
)
def test_a_calibrated_lens_is_what_is_drawn(model: str, distortion: tuple[float, ...]) -> None:
    wanted = lens(model, distortion)
    sim = ArmSim("lift", with_camera(lens=wanted), calibrated_cameras=True)
    sim.reset(3)
    assert sim.render("front").shape == (SIZE[1], SIZE[0], 3)
    expected = outline_middle(wanted, cube_in_camera(sim))
    # Without the principal point's offset and the distortion the cube would be several pixels away.
    np.testing.assert_allclose(drawn_cube(sim), expected, atol=0.8)
    sim.close()


def test_a_calibrated_pose_is_where_the_camera_is() -> None:
    sim = ArmSim("lift", large())
    sim.reset(3)
    place = camera_pose(sim.model, sim.data, "front") @ exp(np.array([0.02, -0.05, 0.03, 0.02, -0.01, 0.03]))
    sim.close()
    robot = with_camera(body="", pose=PoseSpec.from_matrix(place))
    moved = ArmSim("lift", robot, calibrated_cameras=True)
    moved.reset(3)
    np.testing.assert_allclose(camera_pose(moved.model, moved.data, "front"), place, atol=1e-6)
    expected = outline_middle(camera_lens(moved.model, robot.cameras[0]), cube_in_camera(moved))
    np.testing.assert_allclose(drawn_cube(moved), expected, atol=0.8)
    moved.close()


def test_a_camera_on_the_arm_moves_with_its_body() -> None:
    pose = exp(np.array([0.1, 0.0, 0.2, -0.05, 0.01, 0.02]))
    camera = CameraCalibration(name="wrist", body="hand", pose=PoseSpec.from_matrix(pose))
    robot = dataclasses.replace(large(), calibration=RobotCalibration(cameras=(camera,)))
    sim = ArmSim("lift", robot, calibrated_cameras=True)
    sim.reset(0)
    hand = np.eye(4)
    hand[:3, :3], hand[:3, 3] = sim.data.body("hand").xmat.reshape(3, 3), sim.data.body("hand").xpos
    np.testing.assert_allclose(camera_pose(sim.model, sim.data, "wrist"), hand @ pose, atol=1e-6)


def test_without_a_calibration_the_pictures_are_what_they_were() -> None:
    plain, calibrated = ArmSim("lift", ROBOT), None
    model = build_model(ROBOT, n_cubes=1, with_goal=False, with_bin=False, physics_dt=0.004)
    calibrated = dataclasses.replace(
        ROBOT,
        calibration=RobotCalibration(
            cameras=tuple(CameraCalibration(name=spec.name, lens=camera_lens(model, spec)) for spec in ROBOT.cameras)
        ),
    )
    same = ArmSim("lift", calibrated, calibrated_cameras=True)
    ignored = ArmSim("lift", calibrated)
    for camera in ROBOT.camera_names:
        for sim in (plain, same, ignored):
            sim.reset(5)
        np.testing.assert_array_equal(plain.render(camera), ignored.render(camera))
        # The lens that the model has anyway, given as a calibration, draws the same picture.
        difference = np.abs(plain.render(camera).astype(int) - same.render(camera).astype(int))
        assert (difference > 8).mean() < 0.002
    for sim in (plain, same, ignored):
        sim.close()


def test_lens_is_read_back_from_the_model() -> None:
    robot = with_camera(lens=lens())
    model = build_model(robot, n_cubes=1, with_goal=False, with_bin=False, physics_dt=0.004)
    assert calibrate_cameras(model, robot) == {}
    found = camera_lens(model, robot.cameras[0])
    np.testing.assert_allclose(found.focal_px, lens().focal_px, rtol=1e-6)
    np.testing.assert_allclose(found.center_px, lens().center_px, atol=1e-4)


def test_set_pose_is_read_back() -> None:
    sim = ArmSim("lift", ROBOT)
    pose = exp(np.array([0.3, -0.2, 0.5, 0.1, 0.2, 0.7]))
    set_camera_pose(sim.model, "front", pose)
    mujoco.mj_forward(sim.model, sim.data)
    np.testing.assert_allclose(camera_pose(sim.model, sim.data, "front"), pose, atol=1e-9)


def test_errors_say_what_to_do() -> None:
    with pytest.raises(SimError, match=r"holds no calibration of its cameras.*leave --calibrated-cameras out"):
        ArmSim("lift", ROBOT, calibrated_cameras=True)
    wide = dataclasses.replace(lens(), width_px=400)
    with pytest.raises(SimError, match="400 x 160 px but the robot file gives 200 x 160, another shape"):
        ArmSim("lift", with_camera(lens=wide), calibrated_cameras=True)
    with pytest.raises(SimError, match="unknown body of the simulated robot 'tool9'"):
        ArmSim("lift", with_camera(body="tool9", pose=PoseSpec.from_matrix(np.eye(4))), calibrated_cameras=True)
