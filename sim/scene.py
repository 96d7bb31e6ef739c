"""Builds the MuJoCo model of one task: the arm's MJCF plus cubes, bin and goal, and puts a layout into it.

Cubes are free bodies; bin and goal are mocap bodies, so a new episode moves them without a new model.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sim.errors import SimError
from sim.fixtures import Fixture, add_fixture
from sim.gl import mujoco
from sim.layout import BIN_HALF, COLOURS, CUBE_HALF, Layout
from wam.errors import unknown_name
from wam.robot import RobotSpec

__all__ = ["BIN_HEIGHT", "GOAL_RADIUS", "build_model", "check_robot", "cube_name", "place_layout"]

BIN_HEIGHT = 0.045  # top of the bin's walls over the table [m]
GOAL_RADIUS = 0.055  # radius of the marked goal [m]
ASSETS = Path(__file__).resolve().parent / "assets"
_WALL = 0.004  # half thickness of the bin's walls and floor [m]


def build_model(
    robot: RobotSpec,
    *,
    n_cubes: int,
    with_goal: bool,
    with_bin: bool,
    physics_dt: float,
    fixtures: Sequence[Fixture] = (),
) -> mujoco.MjModel:
    """Compiles the scene.

    Args:
        robot: The robot; its name chooses the MJCF, its cameras the size of the off-screen buffer.
        n_cubes: Number of free cubes, named ``cube_name(i)``.
        with_goal: Adds the flat goal marker, mocap body ``goal``.
        with_bin: Adds the open bin, mocap body ``bin``.
        physics_dt: Physics time step [s].
        fixtures: What else there is to be seen.

    Raises:
        SimError: No MJCF for this robot, or the MJCF lacks one of its joints or cameras.
    """
    path = ASSETS / f"{robot.name}.xml"
    if not path.is_file():
        fix = f"The simulation needs an MJCF of the same name in {ASSETS.name}/."
        raise SimError(unknown_name("simulated robot", robot.name, (p.stem for p in ASSETS.glob("*.xml")), fix=fix))
    spec = mujoco.MjSpec.from_file(str(path))
    spec.option.timestep = physics_dt
    spec.visual.global_.offwidth = max(camera.width_px for camera in robot.cameras)
    spec.visual.global_.offheight = max(camera.height_px for camera in robot.cameras)
    for index in range(n_cubes):
        _add_cube(spec, cube_name(index))
    if with_goal:
        _add_goal(spec)
    if with_bin:
        _add_bin(spec)
    for fixture in fixtures:
        add_fixture(spec, fixture)
    _extend_home(spec, n_cubes)
    model = spec.compile()
    check_robot(model, robot)
    return model


def cube_name(index: int) -> str:
    """Name of the body and geom of a cube; 0 is the one the instruction names."""
    return f"cube_{index}"


def check_robot(model: mujoco.MjModel, robot: RobotSpec) -> None:
    """Checks that the model has an actuator per action and every camera of the robot.

    Raises:
        SimError: A name is missing.
    """
    actuators = [model.actuator(i).name for i in range(model.nu)]
    cameras = [model.camera(i).name for i in range(model.ncam)]
    for kind, wanted, present in (("actuator", robot.action_names, actuators), ("camera", robot.camera_names, cameras)):
        for name in wanted:
            if name not in present:
                raise SimError(
                    f"robot '{robot.name}' has '{name}', but its MJCF does not: "
                    + unknown_name(kind, name, present, fix="Give both the same names.")
                )


def place_layout(model: mujoco.MjModel, data: mujoco.MjData, layout: Layout) -> None:
    """Moves and colours cubes, goal and bin; changes ``model`` (colours) and ``data`` (poses), calls no physics."""
    for index, cube in enumerate(layout.cubes):
        joint = model.joint(cube_name(index))
        start = joint.qposadr[0]
        data.qpos[start : start + 3] = (*cube.xy, CUBE_HALF)
        data.qpos[start + 3 : start + 7] = (np.cos(cube.yaw / 2), 0, 0, np.sin(cube.yaw / 2))  # quat_wxyz
        model.geom(cube_name(index)).rgba[:3] = COLOURS[cube.colour]
    if layout.goal_xy is not None:
        data.mocap_pos[model.body("goal").mocapid[0]] = (*layout.goal_xy, 0)
    if layout.bin_xy is not None and layout.bin_colour is not None:
        body = model.body("bin")
        data.mocap_pos[body.mocapid[0]] = (*layout.bin_xy, 0)
        first = body.geomadr[0]
        model.geom_rgba[first : first + body.geomnum[0], :3] = COLOURS[layout.bin_colour]


def _add_cube(spec: mujoco.MjSpec, name: str) -> None:
    body = spec.worldbody.add_body(name=name, pos=(0.4, 0, CUBE_HALF))
    body.add_freejoint(name=name)
    body.add_geom(
        _world(spec),
        name=name,
        type=mujoco.mjtGeom.mjGEOM_BOX,
        size=[CUBE_HALF] * 3,
        density=500,
        friction=(1.0, 0.02, 0.0005),
        condim=4,
        rgba=(1, 1, 1, 1),
    )


def _add_goal(spec: mujoco.MjSpec) -> None:
    body = spec.worldbody.add_body(name="goal", mocap=True)
    for radius, height, rgba in ((GOAL_RADIUS, 0.0005, (0.12, 0.12, 0.14, 1)), (0.032, 0.001, (0.96, 0.96, 0.96, 1))):
        body.add_geom(
            type=mujoco.mjtGeom.mjGEOM_CYLINDER, size=(radius, height, 0), rgba=rgba, contype=0, conaffinity=0
        )


def _add_bin(spec: mujoco.MjSpec) -> None:
    body = spec.worldbody.add_body(name="bin", mocap=True)
    side, middle = BIN_HALF - _WALL, BIN_HEIGHT / 2
    boxes = [((0.0, 0.0, _WALL), (BIN_HALF, BIN_HALF, _WALL))]
    boxes += [((sign * side, 0.0, middle), (_WALL, BIN_HALF, middle)) for sign in (-1, 1)]
    boxes += [((0.0, sign * side, middle), (BIN_HALF, _WALL, middle)) for sign in (-1, 1)]
    for pos, size in boxes:
        body.add_geom(_world(spec), type=mujoco.mjtGeom.mjGEOM_BOX, pos=pos, size=size, rgba=(1, 1, 1, 1))


def _world(spec: mujoco.MjSpec) -> mujoco.MjsDefault:
    return spec.find_default("world")


def _extend_home(spec: mujoco.MjSpec, n_cubes: int) -> None:
    """The home key holds the arm only; every free cube adds seven numbers."""
    home = spec.key("home")
    home.qpos = np.concatenate([home.qpos, np.tile([0.4, 0, CUBE_HALF, 1, 0, 0, 0], n_cubes)])
