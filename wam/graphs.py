"""The stages of inference as static ONNX graphs, opset 20, batch 1, float32.

``prompt`` runs once per task, ``context`` once per observation and ``denoise`` once per step; the step includes the
Euler update, so N steps are N runs and the number of steps stays a choice of the robot. ``levels`` turns the noise
levels of one step into its modulation tables: it runs once per schedule, when a policy is loaded, and takes 15 % off
every step. No mask is exported: the fast question sees every key (``wam.visibility``). Keys, values and tables are one
tensor each: stacked ones would be split again in every step.

The TorchScript exporter followed by ONNX Runtime's constant folding gives the same few hundred nodes, and the same
speed, as torch's newer exporter in a tenth of the time: 2 against 20 CPU-s for all three graphs. Traces and paths that
it leaves in a graph are taken out, so a graph depends on weights and versions alone.

Shape legend: K cameras, H chunk, A action width, T prompt words.
"""

import io
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from wam.blocks import HeadModulation, KeysValues, Modulation
from wam.config import ModelConfig
from wam.manifest import GraphSpec, TensorSpec
from wam.model import ContextCache, ExpertModulation, LayersKV, PromptCache, StepTables, WorldActionModel
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
    """Returns the stages of a model, in the order in which they feed each other."""
    layers = model.config.num_layers
    # The last video block gives only keys and values: nothing of it attends to the instruction.
    prompt = (*_kv_names("prompt_video", layers - 1), *_kv_names("prompt_action", layers))
    cache = (*_kv_names("frame", layers), *_kv_names("cross", layers))
    tables = ("gain", *_table_names(layers))
    return (
        Stage(name="prompt", module=_Prompt(model), inputs=("token_ids",), outputs=prompt),
        Stage(name="context", module=_Context(model), inputs=("images", "proprio", *prompt), outputs=cache),
        Stage(name="levels", module=_Levels(model), inputs=("sigma", "sigma_next"), outputs=tables),
        Stage(name="denoise", module=_Denoise(model), inputs=("actions", *tables, *cache), outputs=("actions_next",)),
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
        "sigma": torch.ones(1, config.chunk_length),
        "sigma_next": torch.zeros(1, config.chunk_length),
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


class _Part(nn.Module):
    def __init__(self, model: WorldActionModel) -> None:
        super().__init__()
        self.model = model
        self.layers = model.config.num_layers


class _Prompt(_Part):
    def forward(self, token_ids: Tensor) -> tuple[Tensor, ...]:
        prompt = self.model.encode_prompt(token_ids)
        return _flat((prompt.video[:-1], prompt.action))


class _Context(_Part):
    def forward(self, images: Tensor, proprio: Tensor, *prompt: Tensor) -> tuple[Tensor, ...]:
        video, action = _split(prompt, self.layers - 1)
        nothing = KeysValues(*(part[:, :, :0] for part in action[-1]))  # stands where no one looks
        return _flat(self.model.encode_context(images, proprio, PromptCache((*video, nothing), action)))


class _Levels(_Part):
    def forward(self, sigma: Tensor, sigma_next: Tensor) -> tuple[Tensor, ...]:
        tables = self.model.step_tables(sigma, sigma_next)
        blocks = (table for block in tables.modulation.blocks for table in block)
        return (tables.gain, *blocks, *tables.modulation.head)


class _Denoise(_Part):
    def forward(self, actions: Tensor, gain: Tensor, *rest: Tensor) -> tuple[Tensor]:
        width = len(Modulation._fields)
        end = width * self.layers
        blocks = tuple(Modulation(*rest[start : start + width]) for start in range(0, end, width))
        caches = end + len(HeadModulation._fields)
        modulation = ExpertModulation(blocks, HeadModulation(*rest[end:caches]))
        context = ContextCache(*_split(rest[caches:], self.layers))
        return (self.model.denoise(actions, StepTables(modulation, gain), context),)


def _kv_names(kind: str, layers: int) -> tuple[str, ...]:
    return tuple(f"{kind}_{part}_{layer:02d}" for layer in range(layers) for part in KeysValues._fields)


def _table_names(layers: int) -> tuple[str, ...]:
    blocks = tuple(f"{part}_{layer:02d}" for layer in range(layers) for part in Modulation._fields)
    return (*blocks, *(f"head_{part}" for part in HeadModulation._fields))


def _flat(caches: Iterable[LayersKV]) -> tuple[Tensor, ...]:
    return tuple(tensor for layers in caches for kv in layers for tensor in kv)


def _split(tensors: tuple[Tensor, ...], first: int) -> tuple[LayersKV, LayersKV]:
    """The inverse of ``_flat``: ``first`` layers, and the rest."""
    pairs = tuple(KeysValues(*tensors[start : start + 2]) for start in range(0, len(tensors), 2))
    return pairs[:first], pairs[first:]


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
