"""Parity of exported graphs: ONNX Runtime against PyTorch, stage by stage and for the whole action chunk.

Each stage gets the inputs PyTorch gave it, so an error is charged to the graph that makes it; the whole chunk is then
run on ONNX Runtime's own keys and values, as on a robot, so that errors may also add up.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor

from wam.errors import BundleError
from wam.graphs import Stage, example_inputs
from wam.manifest import GraphSpec, ParityReport, TensorSpec
from wam.model import WorldActionModel
from wam.sigmas import sigma_schedule

__all__ = ["TOLERANCES", "check_parity", "measure_parity"]

# Largest absolute difference by the type of the graphs that ran. Float32 rounding through four layers stays about 1e-6,
# that of float16 about 5e-4.
TOLERANCES = {"float32": 1e-4, "float16": 5e-3}
SAMPLES = 4  # random inputs per comparison
FIRST_SEED = 1000  # away from the seed that traced the graphs

Runner = Callable[[str, Mapping[str, np.ndarray]], dict[str, np.ndarray]]


def measure_parity(
    model: WorldActionModel,
    stages: Sequence[Stage],
    graphs: Mapping[str, GraphSpec],
    folder: Path,
    step_counts: Sequence[int],
    *,
    dtype: str,
    layers: str,
) -> ParityReport:
    """Compares the graphs in ``folder`` with the model they came from.

    Args:
        model: The reference, on the CPU in float32.
        stages: Its stages, as exported.
        graphs: Their descriptions.
        folder: Where their files are.
        step_counts: Numbers of denoising steps for which the whole chunk is compared.
        dtype: Type of the graphs' matrix products, one of ``TOLERANCES``.
        layers: How much of the model this is, for the report.

    Returns:
        Largest absolute differences over all samples; nothing is judged here.
    """
    run = _onnx_runner(graphs, folder)
    graph_errors = dict.fromkeys(graphs, 0.0)
    chunk_errors = {str(n_steps): 0.0 for n_steps in step_counts}
    for sample in range(SAMPLES):
        start = example_inputs(model.config, FIRST_SEED + sample)
        tensors = dict(start)
        for stage in stages:
            tensors |= _sigmas(sample, model.config.chunk_length)
            outputs = stage(tensors)
            found = run(stage.name, _arrays(tensors, graphs[stage.name].inputs))
            graph_errors[stage.name] = max(graph_errors[stage.name], _difference(outputs, found))
            tensors |= outputs
        for n_steps in step_counts:
            error = _chunk_difference(model, stages, run, start, n_steps)
            chunk_errors[str(n_steps)] = max(chunk_errors[str(n_steps)], error)
    return ParityReport(
        reference=f"torch {torch.__version__} cpu float32",
        runtime=f"onnxruntime {onnxruntime.__version__} CPUExecutionProvider",
        graph_dtype=dtype,
        layers=layers,
        samples=SAMPLES,
        tolerance=TOLERANCES[dtype],
        graphs=graph_errors,
        chunk=chunk_errors,
    )


def check_parity(report: ParityReport) -> None:
    """Refuses a report above its tolerance.

    Raises:
        BundleError: Names every comparison that failed, with its difference.
    """
    measured = {f"graph {name}": error for name, error in report.graphs.items()}
    measured |= {f"chunk of {name} step(s)": error for name, error in report.chunk.items()}
    failed = [f"{name} {error:.1e}" for name, error in measured.items() if not error <= report.tolerance]
    if failed:
        raise BundleError(
            f"the exported graphs do not compute what the model does: {', '.join(failed)}, above "
            f"{report.tolerance:.0e} ({report.runtime} against {report.reference}). No bundle was written; check that "
            "the weights are finite, and try other versions of torch or onnxruntime."
        )


def _onnx_runner(graphs: Mapping[str, GraphSpec], folder: Path) -> Runner:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    sessions = {
        name: onnxruntime.InferenceSession(str(folder / graph.file), options, providers=["CPUExecutionProvider"])
        for name, graph in graphs.items()
    }

    def run(name: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        graph = graphs[name]
        found = sessions[name].run(None, {tensor.name: arrays[tensor.name] for tensor in graph.inputs})
        return {tensor.name: array for tensor, array in zip(graph.outputs, found, strict=True)}

    return run


def _sigmas(sample: int, chunk_length: int) -> dict[str, Tensor]:
    """A different interval of the schedule for every sample, and in the last one another level for every token."""
    high = torch.full((chunk_length,), 1.0 - sample / SAMPLES)
    if sample == SAMPLES - 1:
        high = torch.linspace(1.0 / SAMPLES, 1.0, chunk_length)
    return {"sigma": high, "sigma_next": high - 1.0 / SAMPLES}


def _chunk_difference(
    model: WorldActionModel, stages: Sequence[Stage], run: Runner, start: Mapping[str, Tensor], n_steps: int
) -> float:
    sigmas = sigma_schedule(n_steps, model.config.action_shift)
    by_name = {stage.name: stage for stage in stages}

    def reference(name: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        tensors = {key: torch.from_numpy(array) for key, array in arrays.items()}
        return {key: tensor.numpy() for key, tensor in by_name[name](tensors).items()}

    arrays = {name: tensor.numpy() for name, tensor in start.items()}
    return _largest(_chunk(reference, arrays, sigmas), _chunk(run, arrays, sigmas))


def _chunk(run: Runner, arrays: Mapping[str, np.ndarray], sigmas: Sequence[float]) -> np.ndarray:
    values = dict(arrays)
    values |= run("prompt", values)
    values |= run("context", values)
    for sigma, sigma_next in itertools.pairwise(sigmas):
        shape = values["actions"].shape[:1]  # (H,)
        values["sigma"], values["sigma_next"] = (np.full(shape, s, dtype=np.float32) for s in (sigma, sigma_next))
        values |= run("levels", values)
        values["actions"] = run("denoise", values)["actions_next"]
    return values["actions"]


def _arrays(tensors: Mapping[str, Tensor], wanted: Sequence[TensorSpec]) -> dict[str, np.ndarray]:
    """Inputs of a graph, in its types."""
    return {spec.name: tensors[spec.name].numpy().astype(spec.dtype) for spec in wanted}


def _difference(expected: Mapping[str, Tensor], found: Mapping[str, np.ndarray]) -> float:
    return max(_largest(tensor.numpy(), found[name]) for name, tensor in expected.items())


def _largest(expected: np.ndarray, found: np.ndarray) -> float:
    """Largest absolute difference, relative to the largest value where that is above 1; infinite if not finite."""
    difference = float(np.abs(expected - found.astype(np.float32)).max()) / max(1.0, float(np.abs(expected).max()))
    return difference if np.isfinite(difference) else float("inf")
