"""Forward dynamics: from an observation and an action chunk to what the cameras will show, again and again.

One call looks ``future_offset`` control steps ahead; for longer, the last imagined frame is the next observation
(chaining), so nothing but the start is real. The proprio of the next observation is read off the commands: joint
targets are reached within a step or two, so it is the action in force at the end, less what a servo that lags has not
caught up with.

Shape legend: B batch, K cameras, N chunks one after the other, H chunk, A action width, P proprio width.
"""

import logging
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from wam.checkpoint import Checkpoint
from wam.errors import ConfigError, ValueContractError
from wam.text import token_ids, untold
from wam.video_sampling import VideoSampling, imagine_future

__all__ = ["ForwardDynamics", "Imagined"]

logger = logging.getLogger(__name__)

MOST_SAID = 1000  # instructions that are looked up; free text cannot fill the memory
SEED_STRIDE = 1009  # a prime: noise of one chunk and of the next do not meet


class Imagined(NamedTuple):
    """Observations that were imagined."""

    images: np.ndarray  # (B, K, height, width, 3) uint8, or (B, N, ...) of a roll
    proprio: np.ndarray  # (B, P) float32 [rad, opening], or (B, N, P)


class ForwardDynamics:
    """The learned simulator.

    Args:
        checkpoint: Of a model that was trained with the forward question (``--loss.questions.forward``).
        sampling: How the future is denoised.
        servo_lag_s: How far the measured joints trail their commands while they move [s].

    Raises:
        ConfigError: The model reads instructions through a text encoder or looks back on earlier instants, or the lag
            is longer than a control step.
    """

    def __init__(
        self, checkpoint: Checkpoint, sampling: VideoSampling | None = None, *, servo_lag_s: float = 0.0
    ) -> None:
        self.checkpoint, self.config = checkpoint, checkpoint.config
        self._sampling = sampling or VideoSampling()
        if self.config.text != "words":
            raise ConfigError(
                f"the model of {checkpoint.path} reads instructions through '{self.config.text}' but rolling forward "
                "needs one that reads words: use the presets tiny or small."
            )
        if self.config.n_instants > 1:
            raise ConfigError(
                f"the model of {checkpoint.path} looks back on {self.config.n_instants - 1} instants, but rolling "
                "forward chains single observations: train one with --n-obs-steps 1."
            )
        self._said: set[str] = set()  # instructions that were looked up
        self._lag_share = servo_lag_s / checkpoint.robot.control_dt
        if not 0.0 <= self._lag_share <= 1.0:
            raise ConfigError(
                f"servo_lag_s is {servo_lag_s} but must lie between 0 and a control step of "
                f"{checkpoint.robot.control_dt:g} s."
            )

    @property
    def steps(self) -> int:
        """Control steps that one chunk is rolled forward; the rest of the chunk only says where it leads."""
        return self.config.future_offset

    def next(
        self, images: np.ndarray, proprio: np.ndarray, tasks: Sequence[str], chunks: np.ndarray, *, seed: int = 0
    ) -> Imagined:
        """Imagines what is seen ``steps`` control steps later.

        Args:
            images: (B, K, height, width, 3) uint8 at the model's size.
            proprio: (B, P) measured positions [rad, opening].
            tasks: B instructions.
            chunks: (B, H, A) absolute targets [rad, opening].
            seed: Of the noise.

        Raises:
            ValueContractError: Chunks of another shape than the model's.
        """
        wanted = (len(images), self.config.chunk_length, self.config.action_dim)
        if chunks.shape != wanted:
            raise ValueContractError(f"chunks are {chunks.shape} but the model takes {wanted}: batch, actions, axes.")
        model, transforms = self.checkpoint.model, self.checkpoint.transforms
        self._say_untold(tasks)
        words = np.stack([token_ids(task, self.config.prompt_length) for task in tasks])  # (B, T)
        with torch.no_grad():
            future = imagine_future(
                model,
                torch.from_numpy(np.ascontiguousarray(images)),
                torch.from_numpy(transforms.normalise_proprio(proprio)),
                model.encode_prompt(torch.from_numpy(words)),
                self._sampling,
                actions=torch.from_numpy(transforms.encode_actions(chunks, proprio)),
                empty_prompt=model.encode_prompt(torch.from_numpy(np.zeros_like(words))),
                seed=seed,
            )
        return Imagined(future[:, -1].numpy(), self._proprio_after(proprio, chunks))

    def roll(
        self, images: np.ndarray, proprio: np.ndarray, tasks: Sequence[str], chunks: np.ndarray, *, seed: int = 0
    ) -> Imagined:
        """Imagines one chunk after the other.

        Args:
            images: (B, K, height, width, 3) uint8, the real start.
            proprio: (B, P) its measured positions [rad, opening].
            tasks: B instructions.
            chunks: (B, N, H, A) absolute targets; of each chunk the first ``steps`` actions are executed.
            seed: Of the noise.

        Returns:
            (B, N, K, height, width, 3) frames at the end of each chunk, and (B, N, P) proprio.
        """
        found = []
        for number in range(chunks.shape[1]):
            images, proprio = self.next(images, proprio, tasks, chunks[:, number], seed=seed * SEED_STRIDE + number)
            found.append((images, proprio))
        return Imagined(*(np.stack(values, axis=1) for values in zip(*found, strict=True)))

    def _say_untold(self, tasks: Sequence[str]) -> None:
        for task in dict.fromkeys(tasks):
            if task not in self._said and len(self._said) < MOST_SAID:
                self._said.add(task)
                sentence = untold(task, self.checkpoint.instructions)
                if sentence:
                    logger.warning("%s.", sentence)

    def _proprio_after(self, proprio: np.ndarray, chunks: np.ndarray) -> np.ndarray:
        last = chunks[:, self.steps - 1]
        before = chunks[:, self.steps - 2] if self.steps > 1 else proprio
        return (last - self._lag_share * (last - before)).astype(np.float32)
