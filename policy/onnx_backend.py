"""ONNX Runtime backend, on the CPU or on CUDA: buffers allocated once, bound once, nothing copied between stages.

The keys and values that ``context`` writes are the very buffers ``denoise`` reads, and the denoising steps swap two
action buffers; each step of each schedule has its own binding and its own modulation tables, which ``levels`` filled
when the schedule was first asked for. A chunk is one ``context`` run and N ``denoise`` runs without allocation. Threads
do not spin: beside ROS and the camera drivers a spinning pool takes their cores.

Shape legend: K cameras, H chunk length, A action width, P proprio width, T prompt words.
"""

import itertools
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from policy.errors import BackendError
from wam.errors import BundleError
from wam.manifest import INVERSE_GRAPH, GraphSpec, Manifest, TensorSpec

__all__ = ["OnnxBackend", "default_threads"]

logger = logging.getLogger(__name__)

# Below this a second thread costs more in wake-ups than it computes: 1.5 M parameters take 0.48 + 0.29 ms (context,
# step) with one thread and 0.56 + 0.37 ms with two that do not spin.
SINGLE_THREAD_BYTES = 40e6
ONNX_TYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(bfloat16)": "bfloat16",
    "tensor(uint8)": "uint8",
    "tensor(int64)": "int64",
}
BFLOAT16 = 16  # ONNX's number of the type: numpy has none
CUDA = "CUDAExecutionProvider"
# TensorFloat-32 keeps ten bits of mantissa, which alone breaks the bundle's parity tolerance.
CUDA_OPTIONS = {"use_tf32": "0"}


class OnnxBackend:
    """Runs a bundle's three graphs.

    Args:
        bundle: Folder whose files were checked against the manifest.
        manifest: Its manifest.
        threads: Threads inside one operator; None takes the bundle's wish, or else ``default_threads``.
        device: "cpu", "cuda" or "auto": CUDA where this ONNX Runtime has it.

    Raises:
        BackendError: onnxruntime or the device is missing, or the device cannot run a bundle of this type.
        BundleError: A graph cannot be loaded, or its inputs and outputs are not those of the manifest.
    """

    name = "onnx"

    def __init__(self, bundle: Path, manifest: Manifest, *, threads: int | None = None, device: str = "auto") -> None:
        size = sum((bundle / name).stat().st_size for name in manifest.files) / 2  # context and denoise share it about
        threads = threads or manifest.threads or default_threads(size)
        self._start(bundle, manifest.graphs, manifest.dtype, threads, device)

    @classmethod
    def of_graphs(
        cls, folder: Path, graphs: Mapping[str, GraphSpec], dtype: str, *, threads: int, device: str = "cpu"
    ) -> Self:
        """Runs graphs that belong to no bundle, such as those of ``wam.bundle_graphs.write_graphs``.

        Args:
            folder: Where their files are.
            graphs: By name, as in a manifest.
            dtype: Type of their matrix products.
            threads: Threads inside one operator.
            device: "cpu", "cuda" or "auto".
        """
        backend = cls.__new__(cls)
        backend._start(folder, graphs, dtype, threads, device)
        return backend

    def _start(self, folder: Path, graphs: Mapping[str, GraphSpec], dtype: str, threads: int, device: str) -> None:
        self._ort = _import_onnxruntime()
        self.device = _device(self._ort, device)
        if dtype == "bfloat16" and self.device == "cpu":
            raise BackendError(
                "the bundle is bfloat16, which ONNX Runtime cannot run on a CPU: export it with --dtype float32 or "
                "float16, or run it on a GPU."
            )
        self.threads = threads
        self._graphs = graphs
        self._sessions = {name: self._open(folder / graph.file, graph) for name, graph in self._graphs.items()}
        images, proprio = self._graphs["context"].inputs[:2]
        self._images, self._proprio = self._buffer(images), self._buffer(proprio)
        self._cache = [self._buffer(tensor) for tensor in self._graphs["context"].outputs]
        self._actions = [self._buffer(self._graphs["denoise"].inputs[0]) for _ in range(2)]
        self._steps: dict[tuple[float, ...], list[Any]] = {}
        self._single: _Step | None = None
        self._context: tuple[Any, Any] | None = None  # (prompt handle, binding)
        logger.info("onnxruntime %s on %s, %s, %d thread(s)", self._ort.__version__, self.device, dtype, self.threads)

    def encode_prompt(self, token_ids: np.ndarray) -> Any:
        """See ``Backend.encode_prompt``."""
        graph = self._graphs["prompt"]
        ids = self._buffer(graph.inputs[0])
        ids.update_inplace(np.ascontiguousarray(token_ids))  # (T,)
        handle = [self._buffer(tensor) for tensor in graph.outputs]
        self._sessions["prompt"].run_with_iobinding(self._bind("prompt", [ids], handle))
        return handle

    def encode_context(self, images: np.ndarray, proprio: np.ndarray, prompt: Any) -> None:
        """See ``Backend.encode_context``."""
        if self._context is None or self._context[0] is not prompt:
            self._context = (prompt, self._bind("context", [self._images, self._proprio, *prompt], self._cache))
        self._images.update_inplace(np.ascontiguousarray(images))  # (K, height, width, 3)
        self._proprio.update_inplace(np.ascontiguousarray(proprio))  # (P,)
        self._sessions["context"].run_with_iobinding(self._context[1])

    def denoise(self, noise: np.ndarray, sigmas: Sequence[float]) -> np.ndarray:
        """See ``Backend.denoise``."""
        key = tuple(sigmas)
        if key not in self._steps:
            self._steps[key] = self._bind_steps(key)
        self._actions[0].update_inplace(np.ascontiguousarray(noise))  # (H, A)
        for binding in self._steps[key]:
            self._sessions["denoise"].run_with_iobinding(binding)
        return self._actions[(len(key) - 1) % 2].numpy().copy()  # (H, A)

    def denoise_step(self, actions: np.ndarray, sigma: np.ndarray, sigma_next: np.ndarray) -> np.ndarray:
        """See ``Backend.denoise_step``."""
        if self._single is None:
            self._single = self._make_step()
        step = self._single
        for value, level in zip(step.levels, (sigma, sigma_next), strict=True):
            value.update_inplace(np.ascontiguousarray(level, dtype=np.float32))  # (H,)
        self._actions[0].update_inplace(np.ascontiguousarray(actions, dtype=np.float32))  # (H, A)
        self._sessions["levels"].run_with_iobinding(step.make_tables)
        self._sessions["denoise"].run_with_iobinding(step.denoise)
        return self._actions[1].numpy().copy()  # (H, A)

    def actions_between(self, now: np.ndarray, later: np.ndarray) -> np.ndarray:
        """See ``Backend.actions_between``."""
        feeds = {spec.name: image for spec, image in zip(self._graphs[INVERSE_GRAPH].inputs, (now, later), strict=True)}
        return self._sessions[INVERSE_GRAPH].run(None, feeds)[0]  # (O, A)

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
        kind = BFLOAT16 if tensor.dtype == "bfloat16" else np.dtype(tensor.dtype)
        return self._ort.OrtValue.ortvalue_from_shape_and_type(tensor.shape, kind, self.device, 0)

    def _bind(self, name: str, inputs: Sequence[Any], outputs: Sequence[Any]) -> Any:
        binding = self._sessions[name].io_binding()
        for tensor, value in zip(self._graphs[name].inputs, inputs, strict=True):
            binding.bind_ortvalue_input(tensor.name, value)
        for tensor, value in zip(self._graphs[name].outputs, outputs, strict=True):
            binding.bind_ortvalue_output(tensor.name, value)
        return binding

    def _bind_steps(self, sigmas: tuple[float, ...]) -> list[Any]:
        """Runs ``levels`` once for every step of a schedule; each step keeps its tables."""
        here, there = self._actions
        bindings = []
        for pair in itertools.pairwise(sigmas):
            step = self._make_step(here, there)
            for value, sigma, tensor in zip(step.levels, pair, self._graphs["levels"].inputs, strict=True):
                value.update_inplace(np.full(tensor.shape, sigma, dtype=np.float32))
            self._sessions["levels"].run_with_iobinding(step.make_tables)
            bindings.append(step.denoise)
            here, there = there, here
        return bindings

    def _make_step(self, here: Any = None, there: Any = None) -> "_Step":
        graph = self._graphs["levels"]
        levels = [self._buffer(tensor) for tensor in graph.inputs]
        tables = [self._buffer(tensor) for tensor in graph.outputs]
        first, second = self._actions if here is None else (here, there)
        return _Step(
            levels=levels,
            make_tables=self._bind("levels", levels, tables),
            denoise=self._bind("denoise", [first, *tables, *self._cache], [second]),
        )


@dataclass(frozen=True, kw_only=True)
class _Step:
    """One Euler step with buffers of its own for what its noise levels decide."""

    levels: list[Any]  # sigma, sigma_next
    make_tables: Any  # binding of ``levels``
    denoise: Any  # binding of ``denoise``


def default_threads(graph_bytes: float) -> int:
    """Returns the threads for a graph with weights of a size [bytes]: one if small, else all cores of this process."""
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
