"""ArmSim: one arm, one task, stepped in simulated time.

A command is a setpoint for every axis; the servos follow a straight line from the setpoint in force to the new one
over ``control_dt`` and then hold it, whatever the physics rate. ``command`` and ``advance`` are separate, so that an
evaluation can let the world move on while a policy still thinks. Everything random comes from the seed of ``reset``.
"""

from collections.abc import Sequence

import numpy as np

from sim.cameras import calibrate_cameras
from sim.errors import SimError
from sim.fixtures import Fixture
from sim.gl import mujoco, open_renderer
from sim.kinematics import heading
from sim.layout import Layout, name_cube, sample_layout
from sim.scene import build_model, cube_name, place_layout
from sim.tasks import HOLD_SECONDS, SceneState, get_task
from wam.errors import unknown_name
from wam.lens import PinholeView
from wam.robot import RobotSpec
from wam.spec import Observation

__all__ = ["ArmSim", "choose_physics_dt"]

# Tried in this order; the first multiple of the control rate is taken. 250 Hz (4 ms) is enough for stable grasps.
PHYSICS_RATES_HZ = (250, 300, 400, 500, 1000)
_FINGERS = ("left", "right")
# MuJoCo resets the world when one of these is raised; whatever follows is not the episode that was started.
_FATAL_WARNINGS = tuple(int(getattr(mujoco.mjtWarning, f"mjWARN_{what}")) for what in ("BADQPOS", "BADQVEL", "BADQACC"))


def choose_physics_dt(control_rate_hz: float) -> float:
    """Returns the physics time step [s] for a control rate [Hz].

    Raises:
        SimError: No usual physics rate is a multiple of the control rate.
    """
    for rate in PHYSICS_RATES_HZ:
        if _whole(rate / control_rate_hz):
            return 1.0 / rate
    raise SimError(
        f"control rate {control_rate_hz:g} Hz divides none of the physics rates {PHYSICS_RATES_HZ} Hz: choose for "
        "example 10, 20, 25, 30 or 50 Hz, or give physics_dt."
    )


class ArmSim:
    """One simulated arm with one task; ``reset`` before use, ``close`` after it."""

    def __init__(
        self,
        task: str,
        robot: RobotSpec,
        *,
        control_rate_hz: float | None = None,
        physics_dt: float | None = None,
        distractors: int = 0,
        named: int = 0,
        calibrated_cameras: bool = False,
        fixtures: Sequence[Fixture] = (),
    ) -> None:
        """Builds the scene.

        Args:
            task: A name from ``sim.tasks.task_names()``.
            robot: The robot; there must be an MJCF of its name in ``sim/assets``.
            control_rate_hz: Rate of commands [Hz]; the robot's own when None.
            physics_dt: Physics time step [s]; chosen by ``choose_physics_dt`` when None. Must divide the control step.
            distractors: Number of cubes of other colours beside the named one.
            named: Which cube of a seed's scene the instruction names; above 0 the scene stays and the wish changes.
            calibrated_cameras: Draws through the lenses and from the places that the robot's calibration holds.
            fixtures: What else there is to be seen, for example a calibration board.

        Raises:
            SimError: Unknown task, no model of this robot, a physics step that does not divide the control step, or
                no such cube.
        """
        self.task = get_task(task)
        self._named = named
        if named and self.task.others is not None:
            raise SimError(
                f"task '{task}' cannot name another cube: its distractors start where it cannot be solved; use named 0."
            )
        if not 0 <= named <= distractors:
            raise SimError(f"named is {named} but must lie in 0 to the number of distractors, {distractors}.")
        self.robot = robot
        rate = robot.control_rate_hz if control_rate_hz is None else float(control_rate_hz)
        if not (np.isfinite(rate) and rate > 0):
            raise SimError(f"control rate is {rate} Hz but must be a positive number.")
        self.control_dt = 1.0 / rate
        self.physics_dt = choose_physics_dt(rate) if physics_dt is None else float(physics_dt)
        self._ticks_per_step = self._ticks(self.control_dt, "control step")
        self.max_steps = round(self.task.max_seconds * rate)
        self._distractors = distractors
        self.model = build_model(
            robot,
            n_cubes=1 + distractors,
            with_goal=self.task.goal is not None,
            with_bin=self.task.bin is not None,
            physics_dt=self.physics_dt,
            fixtures=fixtures,
        )
        self.bent: dict[str, PinholeView] = calibrate_cameras(self.model, robot) if calibrated_cameras else {}
        self.data = mujoco.MjData(self.model)
        self._renderers: dict[tuple[int, int], mujoco.Renderer] = {}
        self._index_model()
        self.reset(0)

    @property
    def time(self) -> float:
        """Simulated time since reset [s]."""
        return self._tick * self.physics_dt

    @property
    def setpoint(self) -> np.ndarray:
        """(A,) float32 where the servos are told to be at this instant [rad, opening]."""
        share = min(1.0, (self._tick - self._command_tick) / self._ticks_per_step)
        return (self._from + share * (self._to - self._from)).astype(np.float32)

    @property
    def finished(self) -> bool:
        """Success has held for ``HOLD_SECONDS`` up to now, checked after every ``advance``."""
        if self._success_tick is None:
            return False
        return (self._tick - self._success_tick) * self.physics_dt >= HOLD_SECONDS - 1e-9

    def reset(self, seed: int) -> None:
        """Starts a new episode; the same seed gives the same scene and the same pixels."""
        self.layout: Layout = self._layout(seed)
        self.instruction = self.task.instruct(self.layout)
        mujoco.mj_resetDataKeyframe(self.model, self.data, self.model.key("home").id)
        place_layout(self.model, self.data, self.layout)
        self.data.qpos[self.arm_dofs] += self.layout.start_offset
        mujoco.mj_forward(self.model, self.data)
        self._tick = self._command_tick = 0
        self._success_tick: int | None = None
        self.failed = False
        self._from = self._to = self.proprio().astype(float)
        self._cube_start, self._tip_start = self._cube_position(), self.data.site_xpos[self.tip_site].copy()

    def instruction_of(self, seed: int) -> str:
        """What the episode of a seed asks for; nothing is reset."""
        return self.task.instruct(self._layout(seed))

    def _layout(self, seed: int) -> Layout:
        scene = sample_layout(
            np.random.default_rng(seed),
            cubes=self.task.cubes,
            others=self.task.others or self.task.cubes,
            goal=self.task.goal,
            bin_=self.task.bin,
            distractors=self._distractors,
            n_joints=len(self.robot.joints),
        )
        return name_cube(scene, self._named)

    def proprio(self) -> np.ndarray:
        """(P,) float32 measured joint positions [rad] and gripper opening [0, 1]."""
        return np.append(self.data.qpos[self.arm_dofs], self._opening()).astype(np.float32)

    def render(self, camera: str) -> np.ndarray:
        """Draws one camera at the robot file's size.

        Returns:
            (height, width, 3) rgb_hwc_u8.

        Raises:
            SimError: The robot has no such camera, or this machine cannot render.
        """
        found = next((spec for spec in self.robot.cameras if spec.name == camera), None)
        if found is None:
            raise SimError(unknown_name("camera", camera, self.robot.camera_names))
        view = self.bent.get(camera)
        size = (found.height_px, found.width_px) if view is None else (view.lens.height_px, view.lens.width_px)
        if size not in self._renderers:
            self._renderers[size] = open_renderer(self.model, *size)
        renderer = self._renderers[size]
        renderer.update_scene(self.data, camera=camera)
        return renderer.render() if view is None else view.distort(renderer.render())

    def observation(self) -> Observation:
        """Everything a policy sees at this instant; draws all of the robot's cameras."""
        images = {name: self.render(name) for name in self.robot.camera_names}
        return Observation(images=images, proprio=self.proprio(), task=self.instruction, stamp=self.time)

    def state(self) -> SceneState:
        """Ground truth for experts and success checks."""
        rotation = self.data.xmat[self._cube_body].reshape(3, 3)
        touched = self._touching_fingers()
        return SceneState(
            tip=self.data.site_xpos[self.tip_site].copy(),
            tip_yaw=heading(self.data.site_xmat[self.tip_site].reshape(3, 3)),
            opening=self._opening(),
            cube=self._cube_position(),
            cube_yaw=float(np.arctan2(rotation[1, 0], rotation[0, 0])),
            cube_start=self._cube_start,
            tip_start=self._tip_start,
            holding=len(touched) == len(_FINGERS),
            touching=bool(touched),
            goal_xy=self.layout.goal_xy,
            bin_xy=self.layout.bin_xy,
        )

    def success(self) -> bool:
        """The task is solved at this instant."""
        return not self.failed and self.task.success(self.state())

    def progress(self) -> float:
        """How far the task has come, [0, 1]."""
        return 0.0 if self.failed else self.task.progress(self.state())

    def command(self, target: np.ndarray) -> None:
        """Gives a new setpoint; it is reached after ``control_dt`` of ``advance``.

        Args:
            target: (A,) joint targets [rad] and gripper opening [0, 1]; clamped to the robot's limits.

        Raises:
            SimError: Wrong shape, or a number that is not finite (MuJoCo would reset the world in silence).
        """
        target = np.asarray(target, dtype=float)
        if target.shape != (self.robot.action_dim,) or not np.isfinite(target).all():
            raise SimError(
                f"command {np.array2string(target, precision=3)} refused: it must be ({self.robot.action_dim},) finite "
                f"numbers, {', '.join(self.robot.action_names)}."
            )
        self._from = self.setpoint.astype(float)
        self._to = np.clip(target, self.robot.lower, self.robot.upper)
        self._command_tick = self._tick

    def advance(self, seconds: float) -> None:
        """Runs physics for a multiple of ``physics_dt``; the last setpoint holds.

        Raises:
            SimError: ``seconds`` is not a multiple of ``physics_dt``.
        """
        for _ in range(self._ticks(seconds, "advance")):
            self._tick += 1
            share = min(1.0, (self._tick - self._command_tick) / self._ticks_per_step)
            self.data.ctrl[self._actuators] = (self._from + share * (self._to - self._from)) * self._ctrl_scale
            mujoco.mj_step(self.model, self.data)
        if any(self.data.warning[number].number for number in _FATAL_WARNINGS):
            self.failed = True
        if not self.success():
            self._success_tick = None
        elif self._success_tick is None:
            self._success_tick = self._tick

    def step(self, target: np.ndarray) -> None:
        """One control step: ``command`` and ``advance(control_dt)``."""
        self.command(target)
        self.advance(self.control_dt)

    def close(self) -> None:
        """Frees the renderers; the simulation can still be stepped, and opens them again when asked to draw."""
        while self._renderers:
            self._renderers.popitem()[1].close()

    def _index_model(self) -> None:
        model, robot = self.model, self.robot
        self.arm_dofs = np.array([model.joint(joint.name).qposadr[0] for joint in robot.joints])
        self.tip_site = model.site("tip").id
        self._finger_qpos = np.array([model.joint(f"{side}_finger").qposadr[0] for side in _FINGERS])
        self._finger_range = float(model.joint("left_finger").range[1])
        self._actuators = np.array([model.actuator(name).id for name in robot.action_names])
        self._ctrl_scale = np.append(np.ones(len(robot.joints)), self._finger_range)
        self._cube_body = model.body(cube_name(0)).id
        self._cube_geom = model.geom(cube_name(0)).id
        self._pads = {model.geom(f"{side}_pad").id for side in _FINGERS}

    def _ticks(self, seconds: float, what: str) -> int:
        ticks = seconds / self.physics_dt if self.physics_dt > 0 else np.nan
        if not (np.isfinite(ticks) and ticks >= 0 and _whole(ticks)):
            raise SimError(
                f"{what} of {seconds:.6g} s is not a multiple of the physics step of {self.physics_dt:.6g} s: choose a "
                "control rate or delay that is, or another physics_dt."
            )
        return round(ticks)

    def _opening(self) -> float:
        return float(np.clip(self.data.qpos[self._finger_qpos].mean() / self._finger_range, 0.0, 1.0))

    def _cube_position(self) -> np.ndarray:
        return self.data.xpos[self._cube_body].copy()

    def _touching_fingers(self) -> set[int]:
        pairs = self.data.contact.geom[self.data.contact.dist <= 0]  # (contacts, 2)
        pairs = pairs[(pairs == self._cube_geom).any(axis=1)]
        return self._pads & set(pairs.ravel().tolist())


def _whole(number: float) -> bool:
    return abs(number - round(number)) < 1e-6 * max(1.0, number) and (number == 0 or round(number) >= 1)
