"""Everything that static shapes and weights decide is taken out of a traced graph.

Shapes are known, so all that is computed from them is a constant. What depends on weights alone, such as a transposed
or sliced weight, becomes a ``Derived`` value: the recipe is kept and the weight is not touched, so a graph of any size
is folded without its weights. Only what the inputs decide remains, a third of the nodes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

__all__ = ["Derived", "Folded", "evaluate", "fold"]

REARRANGING = ("Reshape", "Squeeze", "Transpose", "Unsqueeze")  # of one tensor, by a constant or an attribute
LARGEST_CONSTANT = 1 << 20  # elements; nothing that shapes decide is larger


@dataclass(frozen=True, kw_only=True)
class Derived:
    """A value that weights decide: one operator on weights, constants or other derived values."""

    node: onnx.NodeProto
    inputs: tuple[str, ...]  # names of weights, constants and derived values
    output: int  # which output of the operator


@dataclass(frozen=True, kw_only=True)
class Folded:
    """A graph in which only nodes remain that the inputs decide."""

    nodes: list[onnx.NodeProto]
    constants: dict[str, np.ndarray]  # by value name; also those that only recipes need
    derived: dict[str, Derived]  # by value name
    weights: frozenset[str]  # names of the graph inputs that are parameters
    opset: int
    shapes: dict[str, tuple[int, ...]] = field(repr=False)  # value name -> static shape, where known


def fold(model: onnx.ModelProto, inputs: frozenset[str]) -> Folded:
    """Folds a traced graph.

    Args:
        model: As ``wam.onnx_trace.trace`` returned it.
        inputs: Names of its real inputs; every other graph input is a weight.
    """
    return _Folder(model, inputs).run()


def evaluate(node: onnx.NodeProto, values: Mapping[str, np.ndarray], opset: int) -> list[np.ndarray]:
    """Runs one operator on arrays, which may be of half precision."""
    graph = onnx.helper.make_graph(
        [node],
        "one",
        [onnx.helper.make_value_info(name, onnx.TypeProto()) for name in dict.fromkeys(node.input) if name],
        [onnx.helper.make_value_info(name, onnx.TypeProto()) for name in node.output],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    return [np.asarray(out) for out in ReferenceEvaluator(model).run(None, dict(values))]


class _Folder:
    def __init__(self, model: onnx.ModelProto, inputs: frozenset[str]) -> None:
        self.model = model
        self.opset = next(item.version for item in model.opset_import if item.domain == "")
        self.outputs = {value.name for value in model.graph.output}
        self.weights = frozenset(value.name for value in model.graph.input) - inputs
        self.values: dict[str, onnx.TypeProto] = {value.name: value.type for value in model.graph.input}
        self.constants: dict[str, np.ndarray] = {}
        self.derived: dict[str, Derived] = {}
        self.alias: dict[str, str] = {}
        self.kept: list[onnx.NodeProto] = []

    def run(self) -> Folded:
        for node in self.model.graph.node:
            self._visit(node)
        return Folded(
            nodes=self._casts_first(self._without_relays(_used(self.kept, self.outputs))),
            constants=self.constants,
            derived=self.derived,
            weights=self.weights,
            opset=self.opset,
            shapes={name: shape for name in self.values if (shape := self._shape(name)) is not None},
        )

    def _shape(self, name: str) -> tuple[int, ...] | None:
        if name not in self.values or not self.values[name].tensor_type.HasField("shape"):
            return None
        sizes = self.values[name].tensor_type.shape.dim
        return tuple(size.dim_value for size in sizes) if all(size.HasField("dim_value") for size in sizes) else None

    def _infer(self, node: onnx.NodeProto) -> None:
        """Notes types and shapes of what a node gives; all that it reads is known by then."""
        known = {name: self.constants[name] for name in node.input if name in self.constants}
        self.values |= onnx.shape_inference.infer_node_outputs(
            onnx.defs.get_schema(node.op_type, self.opset, node.domain),
            node,
            {name: self.values[name] for name in node.input if name},
            {name: numpy_helper.from_array(np.asarray(value, order="C")) for name, value in known.items()},
            opset_imports=list(self.model.opset_import),
        )

    def _visit(self, node: onnx.NodeProto) -> None:
        for place, name in enumerate(node.input):
            node.input[place] = self.alias.get(name, name)
        named = [name for name in node.input if name]
        if node.op_type == "Constant":
            self._constant(node.output[0], numpy_helper.to_array(onnx.helper.get_node_attr_value(node, "value")))
            return
        if node.op_type == "If" and node.input[0] in self.constants:
            self._take_branch(node)
            return
        if node.op_type == "Shape" and self._shape(node.input[0]) is not None and not node.attribute:
            self._constant(node.output[0], np.array(self._shape(node.input[0]), dtype=np.int64))
            return
        if named and all(name in self.constants for name in named):
            found = evaluate(node, {name: self.constants[name] for name in named}, self.opset)
            for name, value in zip(node.output, found, strict=True):
                self._constant(name, value)
            return
        self._infer(node)
        if self._same_value(node) and node.output[0] not in self.outputs:
            self.alias[node.output[0]] = node.input[0]
        elif named and all(name in self.constants or name in self.weights or name in self.derived for name in named):
            for place, name in enumerate(node.output):
                self.derived[name] = Derived(node=node, inputs=tuple(named), output=place)
        else:
            self.kept.append(node)

    def _take_branch(self, node: onnx.NodeProto) -> None:
        """Puts the branch that a decided condition takes in place of the choice."""
        taken = "then_branch" if bool(self.constants[node.input[0]]) else "else_branch"
        branch = onnx.helper.get_node_attr_value(node, taken)
        for inner in branch.node:
            inner.doc_string = node.doc_string
            self._visit(inner)
        for name, value in zip(node.output, branch.output, strict=True):
            self.alias[name] = self.alias.get(value.name, value.name)

    def _without_relays(self, nodes: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
        """Lets whoever makes a value give it the output's name, in place of a node that hands it on unchanged."""
        made = {name for node in nodes for name in node.output}
        renamed: dict[str, str] = {}
        for node in nodes:
            source, relay = node.input[0] if node.input else "", node.output[0]
            if relay in self.outputs and source in made - self.outputs - set(renamed) and self._same_value(node):
                renamed[source] = relay
        kept = [node for node in nodes if renamed.get(node.input[0] if node.input else "") != node.output[0]]
        for node in kept:
            for names in (node.input, node.output):
                names[:] = [renamed.get(name, name) for name in names]
        return kept

    def _casts_first(self, nodes: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
        """Moves the cast of 8-bit images before what only rearranges them: TensorRT casts 8-bit tensors, no more."""
        readers: dict[str, list[onnx.NodeProto]] = {}
        for node in nodes:
            for name in node.input:
                readers.setdefault(name, []).append(node)
        for node in reversed(nodes):  # a cast climbs a whole chain
            kind = self.values[node.input[0]].tensor_type.elem_type if node.op_type in REARRANGING else None
            after = readers.get(node.output[0], [])
            if kind == TensorProto.UINT8 and len(after) == 1 and after[0].op_type == "Cast":
                cast = after[0]
                node.op_type, cast.op_type = cast.op_type, node.op_type
                node.name, cast.name = cast.name, node.name
                rest, attributes = list(node.input[1:]), list(node.attribute)
                del node.input[1:], node.attribute[:]
                node.attribute.extend(cast.attribute)
                del cast.attribute[:]
                cast.attribute.extend(attributes)
                cast.input.extend(rest)
        return nodes

    def _constant(self, name: str, value: np.ndarray) -> None:
        if value.size > LARGEST_CONSTANT:
            raise AssertionError(f"constant {name} has {value.size} elements: make it a buffer of the module.")
        self.constants[name] = value
        dtype = onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
        self.values[name] = onnx.helper.make_tensor_type_proto(dtype, value.shape)

    def _same_value(self, node: onnx.NodeProto) -> bool:
        """Whether a node hands its first input on unchanged."""
        if node.op_type == "Identity":
            return True
        first = node.input[0] if node.input else ""
        if node.op_type == "Cast":
            return onnx.helper.get_node_attr_value(node, "to") == self.values[first].tensor_type.elem_type
        if node.op_type == "Slice":
            steps = self.constants.get(node.input[4]) if len(node.input) > 4 else np.ones(1)
            whole = steps is not None and bool((steps == 1).all())
            return whole and self._shape(first) == self._shape(node.output[0]) is not None
        if node.op_type in ("Reshape", "Expand") or (node.op_type == "Concat" and len(node.input) == 1):
            return self._shape(first) == self._shape(node.output[0]) is not None
        return False


def _used(nodes: list[onnx.NodeProto], outputs: set[str]) -> list[onnx.NodeProto]:
    """Drops nodes that no output needs."""
    needed, kept = set(outputs), []
    for node in reversed(nodes):
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)
    return kept[::-1]
