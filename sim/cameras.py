"""Cameras of a compiled model: set from a calibration, read, moved; and lens distortion on rendered pictures.

Poses are of optical frames (x right, y down, z forward); MuJoCo's cameras look along -z with y upwards, so both differ
by half a turn about x. Setting works on the compiled model, so a model that is not touched draws what it always drew.
"""

import numpy as np

from sim.errors import SimError
from sim.gl import mujoco
from wam.calibration_spec import CameraCalibration, LensSpec
from wam.errors import unknown_name
from wam.lens import PinholeView, pinhole_view, resized
from wam.robot import CameraSpec, RobotSpec

__all__ = ["calibrate_cameras", "camera_lens", "camera_pose", "set_camera_pose", "set_lens"]

_FLIP = np.diag([1.0, -1.0, -1.0])  # R_mujoco_optical, its own inverse
_PIXEL_M = 1e-6  # any sensor will do: MuJoCo keeps focal lengths in metres on it
_ASPECT = 0.01  # by which a lens's picture may differ in shape from the robot's
_PLAIN = 1e-12  # distortion coefficients below this are none


def calibrate_cameras(model: mujoco.MjModel, robot: RobotSpec) -> dict[str, PinholeView]:
    """Sets the model's cameras from the robot's calibration.

    Args:
        model: Changed in place: intrinsics and poses of the cameras that are calibrated.
        robot: Its calibration may know lens, pose, both or nothing of each camera.

    Returns:
        For each camera with distortion, the larger picture that must be drawn and then bent.

    Raises:
        SimError: The robot has no calibration, or one that does not fit the model.
    """
    if robot.calibration is None or not robot.calibration.cameras:
        raise SimError(
            f"robot '{robot.name}' holds no calibration of its cameras, so simulated ones cannot be set from it: run "
            "`wam calibrate` or leave --calibrated-cameras out."
        )
    views: dict[str, PinholeView] = {}
    for spec in robot.cameras:
        known = robot.calibration.camera(spec.name)
        if known.lens is not None:
            view = _set_calibrated_lens(model, spec, known.lens)
            if view is not None:
                views[spec.name] = view
        if known.pose is not None:
            set_camera_pose(model, spec.name, known.pose.matrix, body=_body_of(model, known, robot))
    return views


def camera_pose(model: mujoco.MjModel, data: mujoco.MjData, camera: str) -> np.ndarray:
    """(4, 4) ``T_world_camera`` of a camera's optical frame, after ``mj_forward``."""
    index = model.camera(camera).id
    matrix = np.eye(4)
    matrix[:3, :3] = data.cam_xmat[index].reshape(3, 3) @ _FLIP
    matrix[:3, 3] = data.cam_xpos[index]
    return matrix


def set_camera_pose(model: mujoco.MjModel, camera: str, pose: np.ndarray, *, body: int = 0) -> None:
    """Fixes a camera to a body.

    Args:
        model: Changed in place.
        camera: Name of the camera, whatever it followed before.
        pose: (4, 4) ``T_body_camera`` of its optical frame.
        body: Body id; 0 is the world.
    """
    index = model.camera(camera).id
    quat_wxyz = np.zeros(4)
    mujoco.mju_mat2Quat(quat_wxyz, np.ascontiguousarray(pose[:3, :3] @ _FLIP).ravel())
    model.cam_mode[index] = mujoco.mjtCamLight.mjCAMLIGHT_FIXED
    model.cam_targetbodyid[index] = -1
    model.cam_bodyid[index] = body
    model.cam_pos[index], model.cam_quat[index] = pose[:3, 3], quat_wxyz


def camera_lens(model: mujoco.MjModel, spec: CameraSpec) -> LensSpec:
    """Intrinsics with which a camera is drawn at the robot file's size, read from the model."""
    index = model.camera(spec.name).id
    width, height = spec.width_px, spec.height_px
    sensor = model.cam_sensorsize[index]
    if sensor[0] > 0:
        fx, fy, left, up = model.cam_intrinsic[index]
        focal = (float(fx / sensor[0] * width), float(fy / sensor[1] * height))
        center = (width / 2 - left / sensor[0] * width - 0.5, height / 2 - up / sensor[1] * height - 0.5)
    else:
        value = height / 2 / float(np.tan(np.radians(model.cam_fovy[index]) / 2))
        focal, center = (value, value), ((width - 1) / 2, (height - 1) / 2)
    return LensSpec(
        model="plumb_bob",
        width_px=width,
        height_px=height,
        focal_px=focal,
        center_px=(float(center[0]), float(center[1])),
        distortion=(0.0,) * 5,
    )


def set_lens(model: mujoco.MjModel, camera: str, lens: LensSpec) -> None:
    """Gives a camera focal length and principal point of a lens; its distortion is not MuJoCo's to draw."""
    index = model.camera(camera).id
    width, height = lens.width_px, lens.height_px
    (fx, fy), (cx, cy) = lens.focal_px, lens.center_px
    # The principal point counts from the middle of the picture, to the left and upwards.
    offset = (width / 2 - (cx + 0.5), height / 2 - (cy + 0.5))
    model.cam_resolution[index] = (width, height)
    model.cam_sensorsize[index] = (width * _PIXEL_M, height * _PIXEL_M)
    model.cam_intrinsic[index] = np.array([fx, fy, *offset]) * _PIXEL_M
    # Aspect-free readers of the model, such as a viewer, still look at the field of view.
    model.cam_fovy[index] = np.degrees(2 * np.arctan2(height / 2, fy))
    buffer = model.vis.global_
    buffer.offwidth, buffer.offheight = max(buffer.offwidth, width), max(buffer.offheight, height)


def _set_calibrated_lens(model: mujoco.MjModel, spec: CameraSpec, lens: LensSpec) -> PinholeView | None:
    shape = (lens.width_px / lens.height_px) / (spec.width_px / spec.height_px)
    if abs(shape - 1) > _ASPECT:
        raise SimError(
            f"the lens of camera '{spec.name}' was calibrated for {lens.width_px} x {lens.height_px} px but the robot "
            f"file gives {spec.width_px} x {spec.height_px}, another shape: calibrate at the size that is used."
        )
    shown = resized(lens, spec.width_px, spec.height_px)
    if max(abs(value) for value in shown.distortion) < _PLAIN and lens.model != "equidistant":
        set_lens(model, spec.name, shown)
        return None
    view = pinhole_view(shown)
    set_lens(model, spec.name, view.lens)
    return view


def _body_of(model: mujoco.MjModel, known: CameraCalibration, robot: RobotSpec) -> int:
    """Id of the body in whose frame the camera's pose is given."""
    bodies = [model.body(i).name for i in range(model.nbody)]
    base = robot.kinematics.base if robot.kinematics else ""
    name = known.body or base
    if not name:
        return 0
    if name not in bodies:
        if name in [joint.name for joint in robot.joints]:  # the body behind the last joint has no name of its own
            return int(model.joint(name).bodyid[0])
        fix = f"The calibration of camera '{known.name}' gives its pose in that frame."
        raise SimError(unknown_name("body of the simulated robot", name, bodies, fix=fix))
    return int(model.body(name).id)
