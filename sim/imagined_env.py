"""A gymnasium environment in which the model is the simulator: ``gymnasium.make("wam/imagined-v0", ...)``.

An episode starts from a real observation, of a recorded dataset or of a MuJoCo scene, and goes on in imagination:
nothing but the start is real, and MuJoCo is only imported when it gives the start. An action is one **chunk**, because
that is what the model knows the consequences of: (H, A) absolute targets, of which the first ``future_offset`` are
executed. Observation keys are those of ``sim.envs``, images at the model's size. Nothing in an imagined world says
whether the task is solved, so the reward is 0 unless a ``judge`` reads it from the images, and an episode only ends by
truncation, after ``horizon`` chunks.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from sim.start_frames import DatasetStarts, SimulatedStarts, Start, Starts
from wam.checkpoint import Checkpoint, load_checkpoint
from wam.errors import ConfigError
from wam.forward_dynamics import ForwardDynamics
from wam.spec import OBS_STATE, TASK, image_key
from wam.video_sampling import VideoSampling

__all__ = ["ENV_ID", "ImaginedEnv", "Judge"]

ENV_ID = "wam/imagined-v0"
STATE_MARGIN = 0.5  # measured joints overshoot their limits a little under load [rad]

Judge = Callable[[np.ndarray], float]  # (K, height, width, 3) uint8 -> progress in [0, 1]


class ImaginedEnv(gymnasium.Env[dict[str, np.ndarray], np.ndarray]):
    """Rolls a world-action model forward under given chunks."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 2}  # noqa: RUF012 - as gymnasium declares it

    def __init__(
        self,
        checkpoint: Checkpoint | Path | str,
        *,
        dataset: Path | str | None = None,
        task: str | None = None,
        horizon: int = 4,
        sampling: VideoSampling | None = None,
        servo_lag_s: float = 0.0,
        judge: Judge | None = None,
        render_mode: str | None = None,
    ) -> None:
        """Loads the model.

        Args:
            checkpoint: A checkpoint trained with the forward question, or where it lies.
            dataset: LeRobot v3 dataset whose frames are the starts; or give ``task``.
            task: Task whose MuJoCo scenes are the starts.
            horizon: Chunks after which an episode is truncated: imagined frames drift the further they are from the
                real one.
            sampling: How the future is denoised.
            servo_lag_s: See ``ForwardDynamics``.
            judge: Progress by the images, the reward after each chunk.
            render_mode: ``rgb_array`` or None; either way ``render`` draws all cameras side by side.

        Raises:
            ConfigError: Both or none of dataset and task, an impossible horizon or render mode.
        """
        if (dataset is None) == (task is None):
            raise ConfigError("give either dataset, recorded frames to start from, or task, MuJoCo scenes.")
        if horizon < 1:
            raise ConfigError(f"horizon is {horizon} but an episode needs at least 1 chunk.")
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ConfigError(f"render_mode is {render_mode!r} but this environment only knows 'rgb_array' (or None).")
        loaded = checkpoint if isinstance(checkpoint, Checkpoint) else load_checkpoint(Path(checkpoint))
        self.dynamics = ForwardDynamics(loaded, sampling, servo_lag_s=servo_lag_s)
        self.robot, self.render_mode = loaded.robot, render_mode
        self._horizon, self._judge = horizon, judge
        self._starts: Starts = (
            SimulatedStarts(str(task), loaded) if dataset is None else DatasetStarts(Path(dataset), loaded)
        )
        low, high = self.robot.lower, self.robot.upper
        size = (*loaded.config.image_size_px, 3)
        spaces: dict[str, gymnasium.Space[Any]] = {
            image_key(name): gymnasium.spaces.Box(0, 255, size, np.uint8) for name in self.robot.camera_names
        }
        spaces[OBS_STATE] = gymnasium.spaces.Box(low - STATE_MARGIN, high + STATE_MARGIN, dtype=np.float32)
        self.observation_space: gymnasium.Space[Any] = gymnasium.spaces.Dict(spaces)
        length = loaded.config.chunk_length
        self.action_space = gymnasium.spaces.Box(
            np.tile(low, (length, 1)), np.tile(high, (length, 1)), dtype=np.float32
        )
        self._start: Start | None = None
        self._chunks = self._noise_seed = 0

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Starts an episode from a real observation; the seed decides which, and the noise of what is imagined.

        Args:
            seed: As gymnasium defines it.
            options: ``start`` chooses the start itself: a frame of the dataset, or the seed of a scene.
        """
        super().reset(seed=seed)
        chosen = dict(options or {}).get("start")
        draw = int(self.np_random.integers(2**31))
        self._start = self._starts.at(int(chosen)) if chosen is not None else self._starts.draw(draw)
        self._images, self._proprio = self._start.images, self._start.proprio
        self._noise_seed, self._chunks = draw % 2**20, 0
        return self._observe(), self._info()

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Rolls forward under one chunk, (H, A) absolute targets; numbers beyond the robot's limits are clamped."""
        if self._start is None:
            raise ConfigError("step before reset: there is no observation to roll forward from.")
        chunk = np.clip(np.asarray(action, dtype=np.float32), self.robot.lower, self.robot.upper)
        images, proprio = self.dynamics.next(
            self._images[None],
            self._proprio[None],
            [self._start.task],
            chunk[None],
            seed=self._noise_seed + self._chunks,
        )
        self._images, self._proprio = images[0], proprio[0]
        self._chunks += 1
        reward = 0.0 if self._judge is None else float(self._judge(self._images))
        return self._observe(), reward, False, self._chunks >= self._horizon, self._info()

    def render(self) -> np.ndarray:
        """Returns all cameras side by side, (height, K·width, 3) rgb_hwc_u8."""
        if self._start is None:
            raise ConfigError("render before reset: nothing has been seen yet.")
        return np.concatenate(list(self._images), axis=1)

    def close(self) -> None:
        """Frees what the starts hold."""
        self._starts.close()

    def _observe(self) -> dict[str, np.ndarray]:
        images = {
            image_key(name): image.copy() for name, image in zip(self.robot.camera_names, self._images, strict=True)
        }
        return {**images, OBS_STATE: self._proprio.copy()}

    def _info(self) -> dict[str, Any]:
        assert self._start is not None
        stamp = self._chunks * self.dynamics.steps * self.robot.control_dt
        return {TASK: self._start.task, "start": self._start.origin, "stamp": stamp, "imagined": self._chunks > 0}


if ENV_ID not in gymnasium.registry:
    gymnasium.register(id=ENV_ID, entry_point="sim.imagined_env:ImaginedEnv")
