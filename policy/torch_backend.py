"""PyTorch backend: the same three stages from the bundle's safetensors, for machines with torch and for imagination.

It is the reference the ONNX graphs are compared with, and the only backend that can predict video. torch is
imported when a backend is made, never with this module.

Shape legend: K cameras, H chunk length, A action width, P proprio width, T prompt words.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from policy.errors import BackendError
from wam.errors import BundleError, unknown_name
from wam.manifest import GraphSpec, Manifest

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
        dtype: Type of the large matrix products and of keys and values, one of ``DTYPES``, or "auto": the bundle's.
            Norms, positions, modulation and the residual stream are in float32 whatever it is.

    Raises:
        BackendError: torch, the device or the type is missing, or the bundle has no weights for torch.
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
        dtype: str = "auto",
    ) -> None:
        if dtype not in ("auto", *DTYPES):
            raise BackendError(unknown_name("dtype", dtype, ["auto", *DTYPES]))
        torch = _import_torch()
        if threads is not None:
            torch.set_num_threads(threads)
        device = _device(torch, device)
        chosen = manifest.dtype if dtype == "auto" else dtype
        self._start(_load_model(bundle, manifest, chosen, device), device)

    @classmethod
    def of_model(cls, model: Any, device: str = "cpu") -> Self:
        """Runs a model that is in memory, as it is.

        Args:
            model: A ``wam.model.WorldActionModel``.
            device: Where to put it, "cpu" or "cuda".
        """
        backend = cls.__new__(cls)
        backend._start(model, device)
        return backend

    def _start(self, model: Any, device: str) -> None:
        self._torch = _import_torch()
        self.threads: int = self._torch.get_num_threads()
        self.device = device
        self._model = model.to(device)
        self._context: Any = None
        self._stages: dict[str, Any] = {}
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
        from wam.sampling import denoise_chunk  # imports torch

        with self._torch.inference_mode():
            actions = denoise_chunk(self._model, self._context, self._batch(noise), sigmas)  # (1, H, A)
            return actions[0].cpu().numpy().copy()  # (H, A)

    def denoise_step(self, actions: np.ndarray, sigma: np.ndarray, sigma_next: np.ndarray) -> np.ndarray:
        """See ``Backend.denoise_step``."""
        with self._torch.inference_mode():
            batch = (self._batch(array) for array in (actions, sigma, sigma_next))  # (1, H, A), (1, H), (1, H)
            return self._model.denoise_step(*batch, self._context)[0].cpu().numpy().copy()  # (H, A)

    def actions_between(self, now: np.ndarray, later: np.ndarray) -> np.ndarray:
        """See ``Backend.actions_between``."""
        from wam.inverse_dynamics import actions_between  # imports torch

        with self._torch.inference_mode():
            found = actions_between(self._model, self._batch(now), self._batch(later))
            return found[0].float().cpu().numpy().copy()  # (O, A)

    def run_stage(self, name: str, inputs: Mapping[str, np.ndarray], graph: GraphSpec) -> dict[str, np.ndarray]:
        """See ``policy.stages.StageRunner``."""
        torch = self._torch
        if not self._stages:
            from wam.graphs import stages  # imports torch

            clean = self._model.clean_modulation(torch.zeros(1, device=self.device))
            self._stages = {stage.name: stage for stage in stages(self._model, clean)}
        with torch.inference_mode():
            tensors = {
                spec.name: torch.from_numpy(np.ascontiguousarray(inputs[spec.name]))
                .reshape(spec.shape)
                .to(self.device, getattr(torch, spec.dtype))
                for spec in graph.inputs
            }
            outputs = self._stages[name](tensors)
            return {key: tensor.float().cpu().numpy() for key, tensor in outputs.items()}

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


def _load_model(bundle: Path, manifest: Manifest, dtype: str, device: str) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from wam.precision import lower_matmuls  # these import torch
    from wam.skeleton import skeleton

    if not manifest.weights:
        raise BackendError(f"bundle {bundle} holds quantised graphs and no weights for torch: choose backend 'onnx'.")
    model: Any = skeleton(manifest.model)
    try:
        # Assigned, not copied: the weights are in memory once, and on the device from the start.
        model.load_state_dict(load_file(bundle / manifest.weights, device=device), assign=True)
    except (SafetensorError, RuntimeError) as error:  # RuntimeError: names or shapes that do not fit
        raise BundleError(f"{bundle / manifest.weights} does not fit the manifest's model: {error}") from error
    model = model.float() if dtype == "float32" else lower_matmuls(model, dtype)
    return model.eval().requires_grad_(False)
