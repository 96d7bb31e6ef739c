"""Weights and graphs of a bundle, written from weights on disk without ever holding a whole model.

The weights go tensor by tensor into the bundle's safetensors file, in the types of the bundle; the graphs are traced
from a model without values and refer to that file. A model of six thousand million parameters takes as much memory as
its largest tensor.
"""

import itertools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wam.config import ModelConfig
from wam.errors import BundleError
from wam.graphs import Stage, example_inputs, stages, tensor_spec
from wam.manifest import GraphSpec
from wam.onnx_fold import fold
from wam.onnx_trace import on_meta, trace
from wam.onnx_weights import MODEL_PREFIX, GraphWeights, assemble
from wam.operator_gate import TARGETS, require_operators
from wam.precision import DTYPES, lower_matmuls
from wam.skeleton import clean_modulation, computed_buffers, skeleton
from wam.tensor_files import TensorSource, open_weights
from wam.vae_fold import FirstFrameVae
from wam.weight_file import planned_places, weight_places, write_weights

__all__ = ["write_graphs"]

logger = logging.getLogger(__name__)

# ONNX convolutions take bfloat16 from operator set 22 on, which TensorRT 10.3 does not read, and float16 may overflow.
CONVOLUTIONS = DTYPES | {"bfloat16": torch.float32}
TRACE_SEED = 0  # of the example inputs; graphs do not depend on it


def write_graphs(
    config: ModelConfig,
    source: TensorSource,
    folder: Path,
    *,
    dtype: str,
    weights_file: str = "model.safetensors",
    targets: Sequence[str] = TARGETS,
    values: bool = True,
    vae: nn.Module | None = None,
    encoded: bool = False,
) -> dict[str, GraphSpec]:
    """Writes the weights and the graphs of a model.

    Args:
        config: Geometry of the model.
        source: Its weights, by their names in the state_dict.
        folder: Where to write.
        dtype: Type of the large matrix products, a name of ``wam.precision.DTYPES``.
        weights_file: Name of the weights file.
        targets: TensorRT versions that must be able to read the graphs.
        vae: diffusers' autoencoder, for a model whose tokenizer is one.
        values: Whether weights are read and written; without them the graphs are as good for every check but running.
        encoded: The observation enters as tokens, as for ``wam.graphs.stages``.

    Returns:
        Descriptions of the graphs by name.

    Raises:
        BundleError: Weights are missing, of another shape or not finite, or a graph is refused by the operator gate.
    """
    if not values:
        source = _Zeros(source)
    model = skeleton(config)
    clean = clean_modulation(model, source.read)
    buffers = computed_buffers(model)
    lower_matmuls(model, dtype)
    layout = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in model.state_dict().items()}
    _check_shapes(layout, source.shapes())
    if values:
        _write_weights(layout, source, folder / weights_file)
    encoder = None if vae is None else FirstFrameVae(vae, CONVOLUTIONS[dtype])
    parts = stages(model, clean, encoder, encoded=encoded)
    constants = {f"model.{name}": buffer for name, buffer in buffers.items()}
    for part in parts:
        constants |= _own_values(part.module)
    weights = GraphWeights(
        places=weight_places(folder / weights_file) if values else planned_places(layout),
        file=weights_file,
        read=open_weights(folder / weights_file).read if values else source.read,
        constants=constants,
    )
    tensors = {name: tensor.to("meta") for name, tensor in example_inputs(config, TRACE_SEED).items()}
    tensors["tokens"] = torch.empty(config.n_instants * config.tokens_per_frame, config.token_dim, device="meta")
    graphs = {}
    for part in parts:
        logger.info("exporting %s", part.name)
        on_meta(part.module)
        inputs = {name: tensors[name] for name in part.inputs}
        outputs = part(inputs)
        path = folder / f"{part.name}.onnx"
        graphs[part.name] = _write_graph(part, inputs, outputs, weights, path)
        require_operators(path, targets)
        tensors |= outputs
    return graphs


def _write_graph(
    part: Stage, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor], weights: GraphWeights, path: Path
) -> GraphSpec:
    spec = GraphSpec(
        file=path.name,
        inputs=tuple(tensor_spec(name, tensor) for name, tensor in inputs.items()),
        outputs=tuple(tensor_spec(name, tensor) for name, tensor in outputs.items()),
    )
    traced = trace(part.module, inputs, part.outputs)
    assemble(fold(traced, frozenset(inputs)), spec.inputs, spec.outputs, weights, path)
    return spec


def _own_values(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers of a stage that are not the network's, by the names they get in its graph."""
    named = itertools.chain(module.named_parameters(), module.named_buffers())
    return {name: value.detach() for name, value in named if not name.startswith(MODEL_PREFIX)}


class _Zeros:
    """Weights of the right shapes that take no memory."""

    def __init__(self, source: TensorSource) -> None:
        self._shapes = source.shapes()

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return self._shapes

    def read(self, name: str) -> Tensor:
        return torch.zeros(()).expand(self._shapes[name])


def _check_shapes(layout: Mapping[str, tuple[tuple[int, ...], torch.dtype]], found: Mapping[str, Any]) -> None:
    wrong = [
        f"{name} is {found.get(name, 'missing')}, not {shape}"
        for name, (shape, _) in layout.items()
        if found.get(name) != shape
    ]
    if wrong:
        raise BundleError(f"the weights do not fit the model's configuration: {'; '.join(wrong[:5])}.")


def _write_weights(layout: Mapping[str, tuple[tuple[int, ...], torch.dtype]], source: TensorSource, path: Path) -> None:
    with write_weights(path, layout) as writer:
        for name in writer.names:
            tensor = source.read(name)
            lowered = tensor.to(layout[name][1])
            if not torch.isfinite(lowered).all():
                where = "the weights" if not torch.isfinite(tensor).all() else f"{lowered.dtype}, unlike the weights,"
                raise BundleError(
                    f"weight {name} is not finite in {where}: no bundle was written. Take an older checkpoint, or "
                    "export with --dtype bfloat16 where float16 overflows."
                )
            writer.write(name, lowered)
