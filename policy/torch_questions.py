"""Two more ways to get a chunk from the same weights: with the future imagined beside it, or from an imagined future.

``torch_joint`` denoises future and actions together; ``torch_inverse`` imagines the future first and then asks which
actions lead there. Both run eagerly in torch and are slower than the fast question by the cost of the video; they are
there to be compared with it (``wam evaluate --backend torch_joint``), on models trained for these questions.

Shape legend: K cameras, H chunk length, A action width, P proprio width.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from policy.errors import BackendError
from policy.torch_backend import TorchBackend

__all__ = ["InverseTorchBackend", "JointTorchBackend"]

VIDEO_SEED = 0  # of the future's noise: one, so that a chunk is decided by the action noise it is given
IMAGINATION_STEPS = 10  # denoising steps of the future that ``torch_inverse`` reads actions from


class JointTorchBackend(TorchBackend):
    """Denoises the future and the actions together."""

    name = "torch_joint"

    def encode_context(self, images: np.ndarray, proprio: np.ndarray, prompt: Any) -> None:
        """See ``Backend.encode_context``; keeps what the video expert needs as well."""
        from wam.instants import present  # these import torch
        from wam.visibility import Group

        model = self._model
        with self._torch.inference_mode():
            batch = self._batch(images)
            now = present(batch, model.config)
            self._cross = model.observation_kv(self._batch(proprio), prompt, model.tokenizer.image_tokens(now))
            self._context = model.encode_context_tokens(model.frame_tokens(batch), self._cross)
            self._cached = {Group.FRAME: self._context.frame}
            self._condition = model.tokenizer.future_condition(now)

    def denoise(self, noise: np.ndarray, sigmas: Sequence[float]) -> np.ndarray:
        """See ``Backend.denoise``."""
        from wam.question_sampling import sample_joint  # imports torch

        with self._torch.inference_mode():
            _, actions = sample_joint(
                self._model,
                self._cached,
                self._cross,
                self._video_noise(),
                self._batch(noise),
                len(sigmas) - 1,
                self._condition,
            )
            return actions[0].cpu().numpy().copy()  # (H, A)

    def denoise_step(self, actions: np.ndarray, sigma: np.ndarray, sigma_next: np.ndarray) -> np.ndarray:
        """Refused: one step of the actions alone is not defined while the future is denoised beside them.

        Raises:
            BackendError: Always.
        """
        del actions, sigma, sigma_next
        raise BackendError(
            f"backend '{self.name}' cannot denoise one step at a time, which real-time chunking needs: use onnx, torch "
            "or tensorrt, or another mode."
        )

    def _video_noise(self) -> Any:
        config = self._model.config
        generator = self._torch.Generator().manual_seed(VIDEO_SEED)
        shape = (1, config.future_tokens, config.token_dim)
        return self._torch.randn(shape, generator=generator).to(self.device)


class InverseTorchBackend(JointTorchBackend):
    """Imagines the future, then denoises the actions that lead there."""

    name = "torch_inverse"

    def denoise(self, noise: np.ndarray, sigmas: Sequence[float]) -> np.ndarray:
        """See ``Backend.denoise``."""
        from wam.question_sampling import sample_inverse  # imports torch
        from wam.sampling import sample_video

        model = self._model
        with self._torch.inference_mode():
            future = sample_video(
                model, self._context, self._cross, self._video_noise(), IMAGINATION_STEPS, self._condition
            )
            batch = self._batch(noise)
            actions = sample_inverse(model, self._cached, self._cross, future, batch, len(sigmas) - 1, self._condition)
            return actions[0].cpu().numpy().copy()  # (H, A)
