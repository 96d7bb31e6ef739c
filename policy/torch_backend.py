"""PyTorch backend: the same three stages from the bundle's safetensors, for machines with torch and for imagination.

It is the reference the ONNX graphs are compared with, and the only backend that can predict video. torch is
imported when a backend is made, never with this module.

Shape legend: K cameras, H chunk length, A action width, P proprio width, T prompt words.
"""

import itertools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from policy.errors import BackendError
from wam.errors import BundleError, unknown_name
from wam.manifest import Manifest

__all__ = ["DTYPES", "TorchBackend"]

logger = logging.getLogger(__name__)

DTYPES = ("float32", "bfloat16", "float16")


class TorchBackend:
    """Runs a bundle's weights eagerly.

    Args:
        bundle: Folder whose files were checked against the manifest.
        manifest: Its manifest.
        threads: Sets torch's threads for this whole process; None leaves them as they are.
        device: "cpu", "cuda" or "auto": CUDA where torch finds it.
        dtype: Type of the matrix products and of keys and values, one of ``DTYPES``; norms, positions, modulation and
            the residual stream stay in float32.

    Raises:
        BackendError: torch, the device or the type is missing.
        BundleError: The weights do not fit the manifest's model.
    """

    name = "torch"

    def __init__(
        self,
        bundle: Path,
        manifest: Manifest,
        *,
        threads: int | None = None,
        device: str = "auto",
        dtype: str = "float32",
    ) -> None:
        if dtype not in DTYPES:
            raise BackendError(unknown_name("dtype", dtype, DTYPES))
        self._torch = _import_torch()
        if threads is not None:
            self._torch.set_num_threads(threads)
        self.threads: int = self._torch.get_num_threads()
        self.device = _device(self._torch, device)
        self.dtype = dtype
        self._model = _lowered(_load_model(bundle, manifest), getattr(self._torch, dtype)).to(self.device)
        self._context: Any = None
        logger.info("torch %s on %s, %d thread(s)", self._torch.__version__, self.device, self.threads)

    def encode_prompt(self, token_ids: np.ndarray) -> Any:
        """See ``Backend.encode_prompt``."""
        with self._torch.inference_mode():
            return self._model.encode_prompt(self._batch(token_ids))

    def encode_context(self, images: np.ndarray, proprio: np.ndarray, prompt: Any) -> None:
        """See ``Backend.encode_context``."""
        with self._torch.inference_mode():
            self._context = self._model.encode_context(self._batch(images), self._batch(proprio), prompt)

    def denoise(self, noise: np.ndarray, sigmas: Sequence[float]) -> np.ndarray:
        """See ``Backend.denoise``."""
        with self._torch.inference_mode():
            actions = self._batch(noise)  # (1, H, A)
            levels = actions.new_tensor(list(sigmas))[:, None]  # (N + 1, 1)
            for level, level_next in itertools.pairwise(levels):
                actions = self._model.denoise_step(actions, level, level_next, self._context)
            return actions[0].cpu().numpy().copy()  # (H, A)

    def denoise_step(self, actions: np.ndarray, sigma: np.ndarray, sigma_next: np.ndarray) -> np.ndarray:
        """See ``Backend.denoise_step``."""
        with self._torch.inference_mode():
            batch = (self._batch(array) for array in (actions, sigma, sigma_next))  # (1, H, A), (1, H), (1, H)
            return self._model.denoise_step(*batch, self._context)[0].cpu().numpy().copy()  # (H, A)

    def imagine(
        self, images: np.ndarray, proprio: np.ndarray, token_ids: np.ndarray, *, n_steps: int, seed: int
    ) -> np.ndarray:
        """See ``Imaginer.imagine``."""
        from wam.sampling import imagine_frame  # imports torch

        prompt = self.encode_prompt(token_ids)
        frame = imagine_frame(
            self._model, self._batch(images), self._batch(proprio), prompt, n_steps=n_steps, seed=seed
        )
        return frame[0].cpu().numpy().copy()  # (K, height, width, 3)

    def _batch(self, array: np.ndarray) -> Any:
        return self._torch.from_numpy(np.ascontiguousarray(array)).to(self.device)[None]


def _lowered(model: Any, dtype: Any) -> Any:
    if str(dtype) == "torch.float32":
        return model
    from wam.precision import lower_matmuls  # imports torch

    return lower_matmuls(model, dtype)


def _import_torch() -> Any:
    try:
        import torch  # only here: a robot runs without it
    except ImportError as error:
        raise BackendError(
            f"backend 'torch' and imagined frames need torch, which cannot be imported ({error}): install "
            "world_action_model[train], or use backend 'onnx' without imagination."
        ) from error
    return torch


def _device(torch: Any, device: str) -> str:
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise BackendError("device 'cuda' was asked for but torch finds no CUDA device: see wam doctor, or use 'cpu'.")
    return device


def _load_model(bundle: Path, manifest: Manifest) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from wam.model import WorldActionModel  # imports torch

    model = WorldActionModel(manifest.model)
    try:
        model.load_state_dict(load_file(bundle / manifest.weights))
    except (SafetensorError, RuntimeError) as error:  # RuntimeError: names or shapes that do not fit
        raise BundleError(f"{bundle / manifest.weights} does not fit the manifest's model: {error}") from error
    return model.eval().requires_grad_(False)
