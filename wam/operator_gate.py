"""Refuses graphs that TensorRT's parser would refuse, on the machine that exports them.

For each TensorRT version there is a table of the operators it reads and the tensor types these take, with its sources
(``tensorrt_operators.json``): no double or complex tensor passes, and 8-bit images only as inputs. Beyond the table,
what must be constant is constant, quantisation is symmetric, and the operator set is one that the version reads.
Types inside the graph come from ONNX shape inference, so weights are never loaded.

A refusal names node, operator, reason and the line of this repository that made the node.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

import onnx
from onnx import TensorProto, helper, numpy_helper

from wam.errors import BundleError, unknown_name

__all__ = ["TARGETS", "Refusal", "check_operators", "refusals", "require_operators"]

TARGETS = ("10.3", "10.16", "11.4")  # JetPack 6, JetPack 7.2 and the newest for RTX cards
TABLE = "tensorrt_operators.json"
SHOWN = 5  # refusals in one message
QUANTISED = frozenset({"int8", "int4", "float8", "float4"})
FLOATS = frozenset({"float32", "float16", "bfloat16"})
# Inputs that TensorRT wants to know when it builds: place -> what it is.
CONSTANT_INPUTS = {
    "Slice": {3: "axes"},
    "Squeeze": {1: "axes"},
    "Unsqueeze": {1: "axes"},
    "Reshape": {1: "shape"},
    "Split": {1: "sizes"},
    "CumSum": {1: "axis"},
    "OneHot": {1: "depth"},
    **{f"Reduce{kind}": {1: "axes"} for kind in ("Max", "Mean", "Min", "Prod", "Sum", "L1", "L2", "SumSquare")},
}
ZERO_POINTS = {"QuantizeLinear": 2, "DequantizeLinear": 2}
TYPE_NAMES = {
    TensorProto.FLOAT: "float32",
    TensorProto.FLOAT16: "float16",
    TensorProto.BFLOAT16: "bfloat16",
    TensorProto.FLOAT8E4M3FN: "float8",
    TensorProto.FLOAT4E2M1: "float4",
    TensorProto.INT4: "int4",
    TensorProto.INT8: "int8",
    TensorProto.UINT8: "uint8",
    TensorProto.INT32: "int32",
    TensorProto.INT64: "int64",
    TensorProto.BOOL: "bool",
    TensorProto.DOUBLE: "double",
    TensorProto.COMPLEX64: "complex64",
    TensorProto.COMPLEX128: "complex128",
}


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """One thing that a TensorRT version does not take."""

    target: str  # TensorRT version
    node: str  # name of the node; empty where the whole graph is meant
    operator: str  # its operator
    reason: str  # what is wrong
    source: str  # line that made it; empty where unknown

    def __str__(self) -> str:
        """One line for people."""
        where = (
            f"node '{self.node}' ({self.operator}, from {self.source or 'an unknown line'})" if self.node else "graph"
        )
        return f"TensorRT {self.target}: {where}: {self.reason}"


@dataclass(frozen=True, kw_only=True)
class _Table:
    opsets: tuple[int, int]
    operators: Mapping[str, frozenset[str]]


def require_operators(path: Path, targets: Sequence[str] = TARGETS) -> None:
    """Refuses a graph that a version does not take.

    Raises:
        BundleError: Names every such node, version, reason and source line (the first few in full).
    """
    found = check_operators(path, targets)
    if found:
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        listing = "; ".join(map(str, found[:SHOWN]))
        raise BundleError(
            f"graph {path.stem} cannot be read by TensorRT: {listing}{more}. Write that line with other operators, or "
            "name the versions you need with --tensorrt."
        )


def check_operators(path: Path, targets: Sequence[str] = TARGETS) -> list[Refusal]:
    """Checks a graph on disk; its weights are not read."""
    return refusals(onnx.load(path, load_external_data=False), targets)


def refusals(model: onnx.ModelProto, targets: Sequence[str] = TARGETS) -> list[Refusal]:
    """Returns all that the given TensorRT versions would not take.

    Raises:
        BundleError: There is no table for a version.
    """
    types = _types(model)
    return [refusal for target in targets for refusal in _check(model, types, target, _table(target))]


def _check(model: onnx.ModelProto, types: Mapping[str, str], target: str, table: _Table) -> list[Refusal]:
    found = []
    lowest, highest = table.opsets
    for opset in model.opset_import:
        if opset.domain == "" and not lowest <= opset.version <= highest:
            reason = f"operator set {opset.version} is outside {lowest} to {highest}"
            found.append(Refusal(target=target, node="", operator="", reason=reason, source=""))
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        for reason in _reasons(node, types, constants, table):
            refusal = Refusal(
                target=target, node=node.name, operator=node.op_type, reason=reason, source=node.doc_string
            )
            found.append(refusal)
    return found


def _reasons(
    node: onnx.NodeProto, types: Mapping[str, str], constants: Mapping[str, TensorProto], table: _Table
) -> list[str]:
    if node.domain not in ("", "ai.onnx"):
        return [f"operators of '{node.domain}' are no part of ONNX"]
    if node.op_type not in table.operators:
        return [f"operator {node.op_type} is not supported"]
    reasons = []
    allowed = table.operators[node.op_type]
    if node.op_type in ZERO_POINTS:
        allowed |= FLOATS | (QUANTISED & table.operators["DequantizeLinear"])
    for name in (*node.input, *node.output):
        kind = types.get(name, "unknown") if name else ""
        if kind and kind not in allowed:
            reasons.append(f"tensor '{name}' is {kind}, but it takes {', '.join(sorted(allowed))}")
    for place, what in CONSTANT_INPUTS.get(node.op_type, {}).items():
        if place < len(node.input) and node.input[place] and node.input[place] not in constants:
            reasons.append(f"its {what} '{node.input[place]}' must be a constant")
    if node.op_type == "LayerNormalization" and len(node.output) > 1:
        reasons.append("only its first output is supported")
    zero = ZERO_POINTS.get(node.op_type)
    if zero is not None and len(node.input) > zero and not _is_zero(constants.get(node.input[zero])):
        reasons.append(f"its zero point '{node.input[zero]}' must be 0")
    return reasons


def _is_zero(tensor: TensorProto | None) -> bool:
    if tensor is None or tensor.data_location == TensorProto.EXTERNAL:
        return False
    return not bytes(tensor.raw_data).strip(b"\0") if tensor.raw_data else not numpy_helper.to_array(tensor).any()


def _types(model: onnx.ModelProto) -> dict[str, str]:
    """Element type of every value."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for value in (*graph.input, *graph.output, *graph.value_info):
        types[value.name] = value.type.tensor_type.elem_type
    return {name: TYPE_NAMES.get(kind, helper.tensor_dtype_to_string(kind)) for name, kind in types.items()}


@cache
def _table(target: str) -> _Table:
    tables = json.loads(resources.files("wam").joinpath(TABLE).read_text())
    if target not in TARGETS:
        raise BundleError(unknown_name("TensorRT version", target, TARGETS))
    operators: dict[str, str] = {}
    chain = [tables[target]]
    while "like" in chain[-1]:
        chain.append(tables[chain[-1]["like"]])
    for table in reversed(chain):
        operators |= table.get("operators", {}) | table.get("changed", {})
    lowest, highest = tables[target]["opsets"]
    return _Table(
        opsets=(lowest, highest), operators={name: frozenset(kinds.split()) for name, kinds in operators.items()}
    )
