"""What an inference backend is: three stages, called in order, that hide where keys and values live.

``encode_prompt`` runs once per task, ``encode_context`` once per observation and ``denoise`` once per action chunk.
Keys and values stay with the backend, on its device: only images, proprio, noise and the finished chunk cross this
border.

Shape legend: I instants, K cameras, H chunk length, A action width, P proprio width, T prompt words, O actions between
two instants.
"""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

__all__ = ["Backend", "Imaginer", "Streaming"]


class Backend(Protocol):
    """Runs the model of one bundle, batch 1."""

    name: str  # as in policy.load.BACKENDS
    device: str  # "cpu" or "cuda"
    threads: int  # CPU threads inside one operator

    def encode_prompt(self, token_ids: np.ndarray) -> Any:
        """Encodes an instruction.

        Args:
            token_ids: (T,) int64 of ``wam.text.token_ids``.

        Returns:
            A handle for ``encode_context``; it stays valid as long as the backend.
        """

    def encode_context(self, images: np.ndarray, proprio: np.ndarray, prompt: Any) -> None:
        """Encodes an observation and keeps the result for ``denoise``.

        Args:
            images: (K, height, width, 3) rgb_hwc_u8 at the model's size, or (I, K, height, width, 3) for a model that
                looks back on I instants, oldest first.
            proprio: (P,) float32, normalised, or (I, P).
            prompt: A handle of ``encode_prompt``.
        """

    def denoise(self, noise: np.ndarray, sigmas: Sequence[float]) -> np.ndarray:
        """Denoises an action chunk for the observation encoded last.

        Args:
            noise: (H, A) float32, standard normal.
            sigmas: Noise levels from 1 down to 0; one network evaluation per interval.

        Returns:
            (H, A) float32, normalised; a fresh array.
        """

    def denoise_step(self, actions: np.ndarray, sigma: np.ndarray, sigma_next: np.ndarray) -> np.ndarray:
        """Takes one Euler step for the observation encoded last, with a noise level for every action.

        Args:
            actions: (H, A) float32 at their noise levels.
            sigma: (H,) float32 in [0, 1].
            sigma_next: (H,) float32, at most sigma; where it equals sigma the action stays as it is and informs the
                others, which is how a committed prefix conditions the rest of a chunk.

        Returns:
            (H, A) float32; a fresh array.
        """

    def actions_between(self, now: np.ndarray, later: np.ndarray) -> np.ndarray:
        """Names the actions between two instants, for a bundle with an inverse-dynamics head (``has_inverse``).

        Args:
            now: (K, height, width, 3) rgb_hwc_u8 at the model's size.
            later: The same, ``future_offset`` control steps later.

        Returns:
            (O, A) float32, normalised; a fresh array. O is ``future_offset``.
        """


@runtime_checkable
class Streaming(Protocol):
    """A backend that keeps what it computed of earlier observations, so that a new one costs one instant."""

    def encode_stream(self, images: np.ndarray, proprio: np.ndarray, prompt: Any, stamps: Sequence[float]) -> None:
        """As ``Backend.encode_context``, of instants whose times are known.

        Args:
            images: (I, K, height, width, 3).
            proprio: (I, P).
            prompt: A handle of ``encode_prompt``.
            stamps: (I,) robot times [s], oldest first; those seen before are not computed again.
        """

    def forget(self) -> None:
        """Begins an episode: nothing of the last one is used again."""


class Imaginer(Protocol):
    """Predicts what the cameras will see."""

    def imagine(
        self, images: np.ndarray, proprio: np.ndarray, token_ids: np.ndarray, *, n_steps: int, seed: int
    ) -> np.ndarray:
        """Returns (K, height, width, 3) rgb_hwc_u8, ``future_offset`` control steps ahead; arguments as above."""
