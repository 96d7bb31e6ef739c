"""Gymnasium environments of the suite: ``gymnasium.make("wam/lift-v0")`` after ``import sim.envs``.

Observation keys are those of ``wam.spec``, so they equal the dataset's; the instruction travels in ``info["task"]``,
because a gymnasium Text space would fix its alphabet. Actions are absolute targets, as everywhere. The reward is 1
while the task is solved, else 0. An episode terminates once success has held for half a second or the simulation broke,
and truncates at the task's last step.
"""

from typing import Any

import gymnasium
import numpy as np

from sim.arm_sim import ArmSim
from sim.errors import SimError
from sim.tasks import task_names
from wam.robot import RobotSpec, load_robot
from wam.spec import OBS_STATE, TASK, image_key

__all__ = ["ArmEnv", "env_id", "register_envs"]

STATE_MARGIN = 0.5  # measured joints overshoot their limits a little under load [rad]


class ArmEnv(gymnasium.Env[dict[str, np.ndarray], np.ndarray]):
    """One task of the arm as a gymnasium environment."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 - as gymnasium declares it

    def __init__(
        self,
        task: str,
        *,
        robot: RobotSpec | str = "sim6",
        control_rate_hz: float | None = None,
        distractors: int = 0,
        render_mode: str | None = None,
    ) -> None:
        """Builds the scene.

        Args:
            task: A name from ``sim.tasks.task_names()``.
            robot: A robot, its name or the path of its file.
            control_rate_hz: Rate of steps [Hz]; the robot's own when None.
            distractors: Number of cubes of other colours beside the named one.
            render_mode: ``rgb_array`` or None; either way ``render`` draws the robot's first camera.

        Raises:
            SimError: Unknown task or render mode, or a rate the physics cannot divide.
        """
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise SimError(f"render_mode is {render_mode!r} but this environment only knows 'rgb_array' (or None).")
        self.robot = robot if isinstance(robot, RobotSpec) else load_robot(robot)
        self.sim = ArmSim(task, self.robot, control_rate_hz=control_rate_hz, distractors=distractors)
        self.render_mode = render_mode
        low, high = self.robot.lower, self.robot.upper
        spaces: dict[str, gymnasium.Space[Any]] = {
            image_key(camera.name): gymnasium.spaces.Box(0, 255, (camera.height_px, camera.width_px, 3), np.uint8)
            for camera in self.robot.cameras
        }
        spaces[OBS_STATE] = gymnasium.spaces.Box(low - STATE_MARGIN, high + STATE_MARGIN, dtype=np.float32)
        self.observation_space: gymnasium.Space[Any] = gymnasium.spaces.Dict(spaces)
        self.action_space = gymnasium.spaces.Box(low, high, dtype=np.float32)
        self._steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Starts an episode; a given seed is the seed of the scene, as in ``ArmSim.reset``."""
        super().reset(seed=seed)
        self.sim.reset(int(self.np_random.integers(2**31)) if seed is None else seed)
        self._steps = 0
        return self._observe(), self._info(self.sim.success())

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Moves towards absolute targets for one control step."""
        self.sim.step(action)
        self._steps += 1
        solved = self.sim.success()
        ended = self.sim.finished or self.sim.failed
        return self._observe(), float(solved), ended, self._steps >= self.sim.max_steps, self._info(solved)

    def render(self) -> np.ndarray:
        """Returns the robot's first camera, (height, width, 3) rgb_hwc_u8."""
        return self.sim.render(self.robot.camera_names[0])

    def close(self) -> None:
        """Frees the renderers."""
        self.sim.close()

    def _observe(self) -> dict[str, np.ndarray]:
        observation = self.sim.observation()
        images = {image_key(name): image for name, image in observation.images.items()}
        return {**images, OBS_STATE: observation.proprio}

    def _info(self, solved: bool) -> dict[str, Any]:
        info = {"is_success": solved, "progress": self.sim.progress(), "failed": self.sim.failed}
        return {**info, "stamp": self.sim.time, TASK: self.sim.instruction}


def env_id(task: str) -> str:
    """Name of a task's environment for ``gymnasium.make``."""
    return f"wam/{task}-v0"


def register_envs() -> None:
    """Makes every task known to gymnasium; done once when this module is imported."""
    for task in task_names():
        if env_id(task) not in gymnasium.registry:
            gymnasium.register(id=env_id(task), entry_point="sim.envs:ArmEnv", kwargs={"task": task})


register_envs()
