"""What is done to a graph before and after nvidia-modelopt quantises it."""

import re
from collections.abc import Sequence

import onnx
from onnx import TensorProto, helper, numpy_helper

from wam.onnx_fold import evaluate

__all__ = ["separate_products", "stored_quantised"]


def stored_quantised(model: onnx.ModelProto) -> onnx.ModelProto:
    """Replaces weights that are quantised when a graph is loaded by their 8-bit values."""
    opset = next(item.version for item in model.opset_import if item.domain == "")
    arrays = {tensor.name: tensor for tensor in model.graph.initializer}
    readers: dict[str, int] = {}
    for node in model.graph.node:
        for name in node.input:
            readers[name] = readers.get(name, 0) + 1
    for node in list(model.graph.node):
        if node.op_type == "QuantizeLinear" and node.input[0] in arrays:
            values = {name: numpy_helper.to_array(arrays[name]) for name in node.input}
            stored = numpy_helper.from_array(evaluate(node, values, opset)[0], node.output[0])
            stored.data_type = arrays[node.input[2]].data_type if len(node.input) > 2 else TensorProto.INT8
            model.graph.initializer.append(stored)
            model.graph.node.remove(node)
            if readers[node.input[0]] == 1:
                model.graph.initializer.remove(arrays[node.input[0]])
    return model


def separate_products(model: onnx.ModelProto, patterns: Sequence[str], block: int) -> onnx.ModelProto:
    """Turns Gemm nodes into a MatMul of the same name and an Add, which is what 4-bit weights are written for.

    Args:
        model: Graph with its weights; it is changed.
        patterns: Regular expressions of the names of the nodes.
        block: Nodes whose input width is no multiple of it stay as they are.

    Returns:
        The same graph.
    """
    arrays = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes = []
    for node in model.graph.node:
        wanted = node.op_type == "Gemm" and any(re.fullmatch(pattern, node.name) for pattern in patterns)
        weight = arrays.get(node.input[1]) if wanted else None
        if weight is None:
            nodes.append(node)
            continue
        turned = helper.get_node_attr_value(node, "transB") if any(a.name == "transB" for a in node.attribute) else 0
        values = numpy_helper.to_array(weight)
        values = values.T.copy() if turned else values  # (inputs, outputs)
        if values.shape[0] % block:
            nodes.append(node)
            continue
        name, product = f"{weight.name}.turned", f"{node.output[0]}.product"
        model.graph.initializer.append(numpy_helper.from_array(values, name))
        biased = len(node.input) > 2
        nodes.append(
            helper.make_node(
                "MatMul", [node.input[0], name], [product if biased else node.output[0]], node.name, node.doc_string
            )
        )
        if biased:
            given = [product, node.input[2]]
            nodes.append(helper.make_node("Add", given, [node.output[0]], f"{node.name}/Add", node.doc_string))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    return model
