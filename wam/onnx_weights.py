"""Gives a folded graph its weights, by reference: initialisers point into the bundle's one safetensors file.

A weight that a node uses as it is, or a run of its rows, is an offset and a length in ``model.safetensors``. What must
be computed from weights, such as a transposed one, is evaluated tensor by tensor and stored in the graph, or, when
large, in a file beside it. Nothing is loaded but the tensor at hand.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from wam.manifest import TensorSpec
from wam.onnx_fold import Derived, Folded, evaluate
from wam.weight_file import Place

__all__ = ["MODEL_PREFIX", "GraphWeights", "assemble"]

IR_VERSION = 9  # the oldest that opset 20 allows: what it lacks nobody needs, and every reader has it
INLINE_BYTES = 1 << 20  # a computed tensor above this goes to the file beside the graph
ALIGNMENT = 4096  # bytes; a mapped page
MODEL_PREFIX = "model."  # of the network inside every stage's module
ONNX_TYPES = {
    torch.float32: TensorProto.FLOAT,
    torch.float16: TensorProto.FLOAT16,
    torch.bfloat16: TensorProto.BFLOAT16,
    torch.int64: TensorProto.INT64,
    torch.uint8: TensorProto.UINT8,
}
BFLOAT16 = helper.tensor_dtype_to_np_dtype(TensorProto.BFLOAT16)  # numpy has none of its own
SAME_BYTES = ("Unsqueeze", "Squeeze", "Reshape", "Identity")


@dataclass(frozen=True, kw_only=True)
class GraphWeights:
    """Where the weights of a graph are."""

    places: Mapping[str, Place]  # in the weights file, by name in the state_dict
    file: str  # name of the weights file, beside the graph
    read: Callable[[str], Tensor]  # one tensor of it, as stored
    constants: Mapping[str, Tensor]  # values of the module's own buffers, by parameter name


def assemble(
    folded: Folded, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], weights: GraphWeights, path: Path
) -> onnx.ModelProto:
    """Writes a graph and, if it needs one, the file of its computed weights beside it.

    Args:
        folded: What ``wam.onnx_fold.fold`` returned.
        inputs: The graph's inputs.
        outputs: The graph's outputs.
        weights: Where its weights are.
        path: The ``.onnx`` file.

    Returns:
        The graph that was written.
    """
    builder = _Builder(folded, weights, path)
    for node in folded.nodes:
        builder.add(node)
    graph = helper.make_graph(
        builder.nodes,
        path.stem,
        [_value_info(tensor) for tensor in inputs],
        [_value_info(tensor) for tensor in outputs],
        initializer=list(builder.initializers.values()),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", builder.opset)], ir_version=IR_VERSION)
    model.producer_name = "world_action_model"
    onnx.save(model, path)
    return model


class _Builder:
    def __init__(self, folded: Folded, weights: GraphWeights, path: Path) -> None:
        self.folded, self.weights, self.path = folded, weights, path
        self.opset = folded.opset
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, TensorProto] = {}
        self.names: dict[str, str] = {}  # value -> initialiser that holds it
        self.taken: dict[str, int] = {}  # node name -> how often it was given

    def add(self, node: onnx.NodeProto) -> None:
        """Adds a node, and initialisers for what it reads."""
        node = onnx.NodeProto.FromString(node.SerializeToString())
        if node.op_type == "Gemm":
            self._untranspose(node)
        for place, name in enumerate(node.input):
            node.input[place] = self._initializer(name) or name
        node.name = self._node_name(node)
        self.nodes.append(node)

    def _untranspose(self, node: onnx.NodeProto) -> None:
        """Lets Gemm read a weight as it is stored instead of a transposed copy of it."""
        recipe = self.folded.derived.get(node.input[1])
        if recipe is None or recipe.node.op_type != "Transpose" or not self._plain(recipe.inputs[0]):
            return
        attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
        node.input[1] = recipe.inputs[0]
        attributes["transB"] = 1 - attributes.get("transB", 0)
        del node.attribute[:]
        node.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items() if value)

    def _plain(self, name: str) -> bool:
        """Whether a value is bytes of the weights file as they are."""
        return self._place(name) is not None

    def _initializer(self, name: str) -> str:
        """Makes sure that a value which weights or constants decide is an initialiser; returns its name, or ""."""
        if name in self.names:
            return self.names[name]
        place = self._place(name)
        if place is not None:
            tensor = self._external(self._weight_name(name), place, self.weights.file)
        elif name in self.folded.constants:
            value = self.folded.constants[name]
            tensor = numpy_helper.from_array(np.asarray(value, order="C"), _content_name(value))
        elif name in self.folded.derived or name in self.folded.weights:
            tensor = self._stored(self._weight_name(name), self._value(name))
        else:
            return ""
        self.initializers.setdefault(tensor.name, tensor)
        self.names[name] = tensor.name
        return tensor.name

    def _place(self, name: str) -> Place | None:
        """Where a value lies in the weights file, if nothing has to be computed."""
        if name in self.folded.weights:
            return self.weights.places.get(name.removeprefix(MODEL_PREFIX))
        recipe = self.folded.derived.get(name)
        if recipe is None:
            return None
        whole = self._place(recipe.inputs[0])
        shape = self.folded.shapes.get(name)
        if whole is None or shape is None:
            return None
        if recipe.node.op_type in SAME_BYTES:
            return Place(offset=whole.offset, length=whole.length, dtype=whole.dtype, shape=shape)
        if recipe.node.op_type == "Slice":
            return self._rows(recipe, whole, shape)
        return None

    def _rows(self, recipe: Derived, whole: Place, shape: tuple[int, ...]) -> Place | None:
        starts, _, axes, *steps = (self.folded.constants.get(name) for name in recipe.inputs[1:])
        if axes is None or starts is None or axes.tolist() != [0] or any(step.tolist() != [1] for step in steps):
            return None
        row = whole.length // whole.shape[0]
        start = int(starts[0]) % whole.shape[0]
        return Place(offset=whole.offset + start * row, length=shape[0] * row, dtype=whole.dtype, shape=shape)

    def _value(self, name: str) -> np.ndarray:
        if name in self.folded.constants:
            return self.folded.constants[name]
        if name in self.weights.constants:
            return _to_numpy(self.weights.constants[name])
        if name in self.folded.weights:
            return _to_numpy(self.weights.read(name.removeprefix(MODEL_PREFIX)))
        recipe = self.folded.derived[name]
        values = {part: self._value(part) for part in recipe.inputs}
        return evaluate(recipe.node, values, self.opset)[recipe.output]

    def _stored(self, name: str, value: np.ndarray) -> TensorProto:
        value = np.asarray(value, order="C")
        if value.nbytes <= INLINE_BYTES:
            return numpy_helper.from_array(value, name)
        beside = self.path.with_name(f"{self.path.name}.data")
        with beside.open("ab") as stream:
            stream.write(b"\0" * (-stream.tell() % ALIGNMENT))
            offset = stream.tell()
            stream.write(value.view(np.uint8).data)
        dtype = _torch_dtype(value)
        return self._external(
            name, Place(offset=offset, length=value.nbytes, dtype=dtype, shape=value.shape), beside.name
        )

    def _external(self, name: str, place: Place, file: str) -> TensorProto:
        tensor = TensorProto(name=name, data_type=ONNX_TYPES[place.dtype], dims=place.shape)
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", file), ("offset", place.offset), ("length", place.length)):
            tensor.external_data.add(key=key, value=str(value))
        return tensor

    def _weight_name(self, name: str) -> str:
        """Name of the weight behind a value, as in the state_dict, with the number of a value derived from it."""
        source = name
        while source in self.folded.derived:
            source = next(part for part in self.folded.derived[source].inputs if part not in self.folded.constants)
        plain = source.removeprefix(MODEL_PREFIX)
        if source == name:
            return plain
        known = [value for value in self.names if value in self.folded.derived]
        return f"{plain}~{len(known)}"

    def _node_name(self, node: onnx.NodeProto) -> str:
        """Nodes that multiply by a weight are named after it: layer lists and quantisation read these names."""
        weights = [name for name in node.input if name in self.initializers and "weight" in name]
        name = f"{weights[0].split('.weight')[0]}/{node.op_type}" if weights else node.name.lstrip("/")
        self.taken[name] = self.taken.get(name, 0) + 1
        return name if self.taken[name] == 1 else f"{name}_{self.taken[name]}"


def _content_name(value: np.ndarray) -> str:
    """Equal constants share one initialiser."""
    described = f"{value.dtype} {value.shape} ".encode() + value.tobytes()
    return f"constant_{hashlib.sha256(described).hexdigest()[:16]}"


def _value_info(tensor: TensorSpec) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(tensor.name, ONNX_TYPES[getattr(torch, tensor.dtype)], tensor.shape)


def _to_numpy(tensor: Tensor) -> np.ndarray:
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype is torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(BFLOAT16)
    return tensor.numpy()


def _torch_dtype(value: np.ndarray) -> torch.dtype:
    return torch.bfloat16 if value.dtype == BFLOAT16 else torch.from_numpy(value[:0]).dtype
