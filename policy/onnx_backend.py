"""ONNX Runtime backend, on the CPU or on CUDA: buffers allocated once, bound once, nothing copied between stages.

The keys and values that ``context`` writes are the very buffers ``denoise`` reads, and the denoising steps swap two
action buffers; each step of each schedule has its own binding, so a chunk is one ``context`` run and N ``denoise`` runs
without allocation. Threads do not spin: beside ROS and the camera drivers a spinning pool takes their cores.

Shape legend: K cameras, H chunk length, A action width, P proprio width, T prompt words.
"""

import itertools
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from policy.errors import BackendError
from wam.errors import BundleError
from wam.manifest import GraphSpec, Manifest, TensorSpec

__all__ = ["OnnxBackend", "default_threads"]

logger = logging.getLogger(__name__)

# Below this a second thread costs more in wake-ups than it computes: 1.5 M parameters take 0.48 + 0.29 ms (context,
# step) with one thread and 0.56 + 0.37 ms with two that do not spin.
SINGLE_THREAD_BYTES = 40e6
ONNX_TYPES = {"tensor(float)": "float32", "tensor(uint8)": "uint8", "tensor(int64)": "int64"}
CUDA = "CUDAExecutionProvider"
# TensorFloat-32 keeps ten bits of mantissa, which alone breaks the bundle's parity tolerance.
CUDA_OPTIONS = {"use_tf32": "0"}


class OnnxBackend:
    """Runs a bundle's three graphs.

    Args:
        bundle: Folder whose files were checked against the manifest.
        manifest: Its manifest.
        threads: Threads inside one operator; None takes ``default_threads``.
        device: "cpu", "cuda" or "auto": CUDA where this ONNX Runtime has it.

    Raises:
        BackendError: onnxruntime or the device is missing.
        BundleError: A graph cannot be loaded, or its inputs and outputs are not those of the manifest.
    """

    name = "onnx"

    def __init__(self, bundle: Path, manifest: Manifest, *, threads: int | None = None, device: str = "auto") -> None:
        self._ort = _import_onnxruntime()
        self.device = _device(self._ort, device)
        sizes = ((bundle / graph.file).stat().st_size for graph in manifest.graphs.values())
        self.threads = default_threads(max(sizes)) if threads is None else threads
        self._graphs = manifest.graphs
        self._sessions = {name: self._open(bundle / graph.file, graph) for name, graph in self._graphs.items()}
        images, proprio = self._graphs["context"].inputs[:2]
        self._images, self._proprio = self._buffer(images), self._buffer(proprio)
        self._cache = [self._buffer(tensor) for tensor in self._graphs["context"].outputs]
        self._actions = [self._buffer(self._graphs["denoise"].inputs[0]) for _ in range(2)]
        self._steps: dict[tuple[float, ...], list[Any]] = {}
        self._context: tuple[Any, Any] | None = None  # (prompt handle, binding)
        logger.info("onnxruntime %s on %s, %d thread(s)", self._ort.__version__, self.device, self.threads)

    def encode_prompt(self, token_ids: np.ndarray) -> Any:
        """See ``Backend.encode_prompt``."""
        graph = self._graphs["prompt"]
        ids = self._buffer(graph.inputs[0])
        ids.update_inplace(token_ids[None])  # (1, T)
        handle = [self._buffer(tensor) for tensor in graph.outputs]
        self._sessions["prompt"].run_with_iobinding(self._bind("prompt", [ids], handle))
        return handle

    def encode_context(self, images: np.ndarray, proprio: np.ndarray, prompt: Any) -> None:
        """See ``Backend.encode_context``."""
        if self._context is None or self._context[0] is not prompt:
            self._context = (prompt, self._bind("context", [self._images, self._proprio, *prompt], self._cache))
        self._images.update_inplace(np.ascontiguousarray(images[None]))  # (1, K, height, width, 3)
        self._proprio.update_inplace(np.ascontiguousarray(proprio[None]))  # (1, P)
        self._sessions["context"].run_with_iobinding(self._context[1])

    def denoise(self, noise: np.ndarray, sigmas: Sequence[float]) -> np.ndarray:
        """See ``Backend.denoise``."""
        key = tuple(sigmas)
        if key not in self._steps:
            self._steps[key] = self._bind_steps(key)
        self._actions[0].update_inplace(np.ascontiguousarray(noise[None]))  # (1, H, A)
        for binding in self._steps[key]:
            self._sessions["denoise"].run_with_iobinding(binding)
        return self._actions[(len(key) - 1) % 2].numpy()[0].copy()  # (H, A)

    def _open(self, path: Path, graph: GraphSpec) -> Any:
        options = self._ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # warnings here are about graph details nobody can act on
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        cuda = [(CUDA, CUDA_OPTIONS)] if self.device == "cuda" else []
        try:
            session = self._ort.InferenceSession(str(path), options, providers=[*cuda, "CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises a dozen classes of its own, without a common base
            raise BundleError(f"ONNX Runtime cannot load {path}: {error}; export the bundle again.") from error
        for kind, found, expected in (
            ("inputs", session.get_inputs(), graph.inputs),
            ("outputs", session.get_outputs(), graph.outputs),
        ):
            have = [(tensor.name, tuple(tensor.shape), ONNX_TYPES.get(tensor.type, tensor.type)) for tensor in found]
            want = [(tensor.name, tensor.shape, tensor.dtype) for tensor in expected]
            if have != want:
                raise BundleError(f"{path} has {kind} {have} but the manifest says {want}: export the bundle again.")
        return session

    def _buffer(self, tensor: TensorSpec) -> Any:
        return self._ort.OrtValue.ortvalue_from_shape_and_type(tensor.shape, np.dtype(tensor.dtype), self.device, 0)

    def _bind(self, name: str, inputs: Sequence[Any], outputs: Sequence[Any]) -> Any:
        binding = self._sessions[name].io_binding()
        for tensor, value in zip(self._graphs[name].inputs, inputs, strict=True):
            binding.bind_ortvalue_input(tensor.name, value)
        for tensor, value in zip(self._graphs[name].outputs, outputs, strict=True):
            binding.bind_ortvalue_output(tensor.name, value)
        return binding

    def _bind_steps(self, sigmas: tuple[float, ...]) -> list[Any]:
        here, there = self._actions
        shape = self._graphs["levels"].inputs[0].shape  # (1, H)
        bindings = []
        for pair in itertools.pairwise(np.full(shape, sigma, dtype=np.float32) for sigma in sigmas):
            bindings.append(self._bind("denoise", [here, *self._tables(*pair), *self._cache], [there]))
            here, there = there, here
        return bindings

    def _tables(self, sigma: np.ndarray, sigma_next: np.ndarray) -> list[Any]:
        """Runs ``levels`` for one step into buffers of its own."""
        graph = self._graphs["levels"]
        levels = [self._buffer(tensor) for tensor in graph.inputs]
        for value, array in zip(levels, (sigma, sigma_next), strict=True):
            value.update_inplace(array)
        tables = [self._buffer(tensor) for tensor in graph.outputs]
        self._sessions["levels"].run_with_iobinding(self._bind("levels", levels, tables))
        return tables


def default_threads(graph_bytes: float) -> int:
    """Returns the threads for a graph of a size [bytes]: one for a small model, else the cores this process may use."""
    return 1 if graph_bytes < SINGLE_THREAD_BYTES else len(os.sched_getaffinity(0))


def _import_onnxruntime() -> Any:
    try:
        import onnxruntime  # only here: a robot may run another backend
    except ImportError as error:
        raise BackendError(
            f"backend 'onnx' needs onnxruntime, which cannot be imported ({error}): install onnxruntime, or "
            "onnxruntime-gpu for CUDA, or choose backend 'torch'."
        ) from error
    return onnxruntime


def _device(ort: Any, device: str) -> str:
    providers = ort.get_available_providers()
    if device == "auto":
        return "cuda" if CUDA in providers else "cpu"
    if device == "cuda" and CUDA not in providers:
        raise BackendError(
            f"device 'cuda' was asked for but this ONNX Runtime has only {', '.join(providers)}: install "
            "onnxruntime-gpu in place of onnxruntime, or use device 'cpu'."
        )
    return device
