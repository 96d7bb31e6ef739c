"""One stage of a bundle at a time, by name: what verification runs on every backend and compares.

A stage runner takes and gives float32 whatever the bundle's type is; it casts where the graph wants half precision. The
reference is ONNX Runtime on the CPU, except for bfloat16, which it does not compute: there it is torch in float32, on
the same rounded weights.

Shape legend: H chunk length, A action width, N denoising steps.
"""

import importlib.util
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from policy.errors import BackendError
from policy.torch_backend import TorchBackend
from wam.manifest import GraphSpec, Manifest, TensorSpec
from wam.text import VOCABULARY_SIZE

__all__ = ["OnnxStages", "Reference", "StageRunner", "example_inputs", "reference_of", "run_chunk"]


class StageRunner(Protocol):
    """Runs stages of one bundle."""

    def run_stage(self, name: str, inputs: Mapping[str, np.ndarray], graph: GraphSpec) -> dict[str, np.ndarray]:
        """Runs one stage.

        Args:
            name: Of the graph.
            inputs: All its inputs by name, and possibly more; floating point as float32.
            graph: Its description.

        Returns:
            Its outputs by name; floating point as float32.
        """


class OnnxStages:
    """ONNX Runtime, without bindings or buffers of its own."""

    def __init__(
        self, bundle: Path, manifest: Manifest, *, providers: Sequence[Any] = ("CPUExecutionProvider",)
    ) -> None:
        import onnxruntime  # only here: a robot may run another runtime

        self._options = onnxruntime.SessionOptions()
        self._options.log_severity_level = 3
        self._open: Callable[[Path], Any] = lambda path: onnxruntime.InferenceSession(
            str(path), self._options, providers=list(providers)
        )
        self._paths = {name: bundle / graph.file for name, graph in manifest.graphs.items()}
        self._sessions: dict[str, Any] = {}

    def run_stage(self, name: str, inputs: Mapping[str, np.ndarray], graph: GraphSpec) -> dict[str, np.ndarray]:
        """See ``StageRunner.run_stage``."""
        if name not in self._sessions:
            self._sessions[name] = self._open(self._paths[name])
        feeds = {spec.name: inputs[spec.name].astype(spec.dtype).reshape(spec.shape) for spec in graph.inputs}
        values = self._sessions[name].run([spec.name for spec in graph.outputs], feeds)
        return {spec.name: _plain(value) for spec, value in zip(graph.outputs, values, strict=True)}


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What every backend is compared with."""

    name: str  # in words
    stages: StageRunner


def reference_of(bundle: Path, manifest: Manifest) -> Reference:
    """Opens the reference of a bundle.

    Raises:
        BackendError: What it needs is not installed.
    """
    if manifest.dtype != "bfloat16":
        if importlib.util.find_spec("onnxruntime") is None:
            raise BackendError("the reference needs onnxruntime: pip install onnxruntime.")
        return Reference(name="ONNX Runtime on the CPU", stages=OnnxStages(bundle, manifest))
    if importlib.util.find_spec("torch") is None:
        raise BackendError(
            "the reference of a bfloat16 bundle needs torch, because ONNX Runtime does not compute bfloat16 on a CPU: "
            "install torch, or export the checkpoint in float16 for this machine."
        )
    torch_stages = TorchBackend(bundle, manifest, device="cpu", dtype="float32")
    return Reference(name="torch on the CPU in float32", stages=_Widened(torch_stages))


class _Widened:
    """A float32 model of a half-precision bundle: it is given float32 where the bundle's graphs take less."""

    def __init__(self, stages: StageRunner) -> None:
        self._stages = stages

    def run_stage(self, name: str, inputs: Mapping[str, np.ndarray], graph: GraphSpec) -> dict[str, np.ndarray]:
        wide = tuple(
            TensorSpec(name=t.name, shape=t.shape, dtype="float32" if t.dtype == "bfloat16" else t.dtype)
            for t in graph.inputs
        )
        return self._stages.run_stage(name, inputs, GraphSpec(file=graph.file, inputs=wide, outputs=graph.outputs))


def example_inputs(manifest: Manifest, seed: int) -> dict[str, np.ndarray]:
    """Draws what no stage makes: instruction, images, proprio, actions and noise levels that fall towards 0."""
    rng = np.random.default_rng(seed)
    made = {tensor.name for graph in manifest.graphs.values() for tensor in graph.outputs}
    inputs = {t.name: t for graph in manifest.graphs.values() for t in graph.inputs if t.name not in made}
    values = {name: _draw(tensor, rng) for name, tensor in inputs.items()}
    sigma, sigma_next = manifest.graphs["levels"].inputs
    # Every token has levels of its own, and the first ones are committed: their levels are 0 and stay so.
    values[sigma.name] = np.linspace(0.0, 1.0, int(np.prod(sigma.shape)), dtype=np.float32).reshape(sigma.shape)
    values[sigma_next.name] = (rng.random() * values[sigma.name]).astype(np.float32)
    return values


def run_chunk(
    stages: StageRunner, manifest: Manifest, start: Mapping[str, np.ndarray], noise: np.ndarray, sigmas: Sequence[float]
) -> np.ndarray:
    """Runs a whole chunk stage by stage.

    Args:
        stages: What runs them.
        manifest: Of the bundle.
        start: Instruction, images and proprio by name.
        noise: (H, A) float32.
        sigmas: (N + 1,) noise levels from 1 down to 0.

    Returns:
        (H, A) float32, normalised.
    """
    graphs = manifest.graphs
    values = dict(start)
    for name in ("prompt", "context"):
        values |= stages.run_stage(name, values, graphs[name])
    levels = graphs["levels"].inputs
    actions, result = graphs["denoise"].inputs[0].name, graphs["denoise"].outputs[0].name
    values[actions] = noise
    for pair in itertools.pairwise(sigmas):
        values |= {t.name: np.full(t.shape, sigma, np.float32) for t, sigma in zip(levels, pair, strict=True)}
        values |= stages.run_stage("levels", values, graphs["levels"])
        values[actions] = stages.run_stage("denoise", values, graphs["denoise"])[result]
    return values[actions].reshape(noise.shape)


def _draw(tensor: TensorSpec, rng: np.random.Generator) -> np.ndarray:
    if tensor.dtype == "uint8":
        return rng.integers(0, 256, tensor.shape, dtype=np.uint8)
    if tensor.dtype == "int64":
        return rng.integers(0, VOCABULARY_SIZE, tensor.shape)
    return rng.standard_normal(tensor.shape, dtype=np.float32)


def _plain(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32) if array.dtype == np.float16 else array
