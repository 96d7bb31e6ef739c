"""The three stages of inference as static ONNX graphs, opset 20, batch 1, float32.

``prompt`` runs once per task, ``context`` once per observation and ``denoise`` once per step; the step includes the
Euler update, so N steps are N runs and the number of steps stays a choice of the robot. No mask is exported: the fast
question sees every key (``wam.visibility``).

The TorchScript exporter followed by ONNX Runtime's constant folding gives the same few hundred nodes, and the same
speed, as torch's newer exporter in a tenth of the time: 2 against 20 CPU-s for all three graphs. Traces and paths that
it leaves in a graph are taken out, so a graph depends on weights and versions alone.

Shape legend: K cameras, H chunk, A action width, T prompt words.
"""

import io
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from wam.config import ModelConfig
from wam.manifest import GraphSpec, TensorSpec
from wam.model import ContextCache, PromptCache, WorldActionModel
from wam.text import VOCABULARY_SIZE

__all__ = ["OPSET", "Stage", "example_inputs", "export_graph", "stages"]

OPSET = 20  # the newest that ONNX Runtime and TensorRT 10.3 both read whole; it brought Gelu as one operator


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One graph to be: a module with named, positional inputs and outputs."""

    name: str  # of the graph and its file
    module: nn.Module
    inputs: tuple[str, ...]  # in call order
    outputs: tuple[str, ...]  # in return order

    def __call__(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Runs the module on its inputs, picked by name."""
        with torch.no_grad():
            out = self.module(*(tensors[name] for name in self.inputs))
        return dict(zip(self.outputs, out, strict=True))


def stages(model: WorldActionModel) -> tuple[Stage, ...]:
    """Returns the three stages of a model, in the order in which they feed each other."""
    prompt, cache = ("video_prompt_kv", "action_prompt_kv"), ("self_kv", "cross_kv")
    return (
        Stage(name="prompt", module=_Prompt(model), inputs=("token_ids",), outputs=prompt),
        Stage(name="context", module=_Context(model), inputs=("images", "proprio", *prompt), outputs=cache),
        Stage(
            name="denoise",
            module=_Denoise(model),
            inputs=("actions", "sigma", "sigma_next", *cache),
            outputs=("actions_next",),
        ),
    )


def example_inputs(config: ModelConfig, seed: int) -> dict[str, Tensor]:
    """Draws random inputs of the whole chain, on the CPU: all but the keys and values, which the stages make."""
    generator = torch.Generator().manual_seed(seed)
    images = (1, config.n_cameras, *config.image_size_px, 3)
    return {
        "token_ids": torch.randint(0, VOCABULARY_SIZE, (1, config.prompt_length), generator=generator),
        "images": torch.randint(0, 256, images, generator=generator).to(torch.uint8),
        "proprio": torch.randn(1, config.action_dim, generator=generator),
        "actions": torch.randn(1, config.chunk_length, config.action_dim, generator=generator),
    }


def export_graph(stage: Stage, tensors: Mapping[str, Tensor], path: Path) -> GraphSpec:
    """Writes one graph.

    Args:
        stage: What to export.
        tensors: An example of every input, by name; shapes are fixed to these.
        path: The ``.onnx`` file.

    Returns:
        Its description for the manifest.
    """
    arguments = tuple(tensors[name] for name in stage.inputs)
    traced = io.BytesIO()
    # The exporter warns that it is the older one and that traced Python values become constants; both are meant.
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            stage.module,
            arguments,
            traced,
            dynamo=False,
            opset_version=OPSET,
            input_names=list(stage.inputs),
            output_names=list(stage.outputs),
        )
    _fold_shapes(traced.getvalue(), path)
    graph = _without_traces(onnx.load(path))
    onnx.checker.check_model(graph, full_check=True)
    onnx.save(graph, path)
    outputs = stage(tensors)
    return GraphSpec(
        file=path.name,
        inputs=tuple(_tensor_spec(name, tensors[name]) for name in stage.inputs),
        outputs=tuple(_tensor_spec(name, tensor) for name, tensor in outputs.items()),
    )


class _Prompt(nn.Module):
    def __init__(self, model: WorldActionModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, token_ids: Tensor) -> tuple[Tensor, Tensor]:
        return tuple(self.model.encode_prompt(token_ids))


class _Context(nn.Module):
    def __init__(self, model: WorldActionModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, proprio: Tensor, video_kv: Tensor, action_kv: Tensor) -> tuple[Tensor, Tensor]:
        return tuple(self.model.encode_context(images, proprio, PromptCache(video_kv, action_kv)))


class _Denoise(nn.Module):
    def __init__(self, model: WorldActionModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, actions: Tensor, sigma: Tensor, sigma_next: Tensor, self_kv: Tensor, cross_kv: Tensor
    ) -> tuple[Tensor]:
        return (self.model.denoise_step(actions, sigma, sigma_next, ContextCache(self_kv, cross_kv)),)


def _tensor_spec(name: str, tensor: Tensor) -> TensorSpec:
    return TensorSpec(name=name, shape=tuple(tensor.shape), dtype=str(tensor.dtype).removeprefix("torch."))


def _fold_shapes(traced: bytes, path: Path) -> None:
    """Writes the graph with everything that static shapes decide computed: a third of the nodes remain."""
    options = onnxruntime.SessionOptions()
    # Basic rewrites stay within the ONNX standard; the extended ones would tie the file to ONNX Runtime.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(traced, options, providers=["CPUExecutionProvider"])


def _without_traces(graph: onnx.ModelProto) -> onnx.ModelProto:
    used = {node.domain for node in graph.graph.node}
    unused = [opset for opset in graph.opset_import if opset.domain not in used]
    for opset in unused:
        graph.opset_import.remove(opset)
    graph.doc_string = ""
    del graph.metadata_props[:]
    del graph.graph.metadata_props[:]
    del graph.graph.value_info[:]  # shapes are static: any reader infers them again
    for item in (*graph.graph.node, *graph.graph.input, *graph.graph.output, *graph.graph.initializer):
        item.doc_string = ""
        del item.metadata_props[:]
    return graph
