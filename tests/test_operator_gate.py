"""The operator gate: what TensorRT would not read is refused with node, reason and source line."""

import json
from importlib import resources

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from wam.errors import BundleError
from wam.operator_gate import TARGETS, refusals, require_operators


def model(*nodes, inputs=(("x", TensorProto.FLOAT),), output=TensorProto.FLOAT, opset=20, constants=()):
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info(name, kind, (2, 3)) for name, kind in inputs],
        [helper.make_tensor_value_info("y", output, None)],
        initializer=[numpy_helper.from_array(value, name) for name, value in constants],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


def node(operator, inputs=("x",), **attributes):
    made = helper.make_node(operator, list(inputs), ["y"], name=f"block/{operator}", **attributes)
    made.doc_string = "wam/blocks.py:96 in forward"
    return made


@pytest.mark.parametrize("target", TARGETS)
def test_ordinary_operators_pass(target):
    assert refusals(model(node("Softmax", axis=-1)), [target]) == []
    assert refusals(model(node("Gelu", approximate="tanh")), [target]) == []


@pytest.mark.parametrize(
    ("graph", "reason"),
    [
        (model(node("Det")), "operator Det is not supported"),
        (model(node("Relu"), inputs=(("x", TensorProto.DOUBLE),), output=TensorProto.DOUBLE), "'x' is double"),
        (model(node("Identity"), inputs=(("x", TensorProto.COMPLEX64),), output=TensorProto.COMPLEX64), "is complex64"),
        (model(node("Neg"), inputs=(("x", TensorProto.UINT8),), output=TensorProto.UINT8), "'x' is uint8"),
        (model(node("Cast", to=TensorProto.DOUBLE), output=TensorProto.DOUBLE), "'y' is double"),
        (model(node("Relu"), opset=26), "operator set 26 is outside 9 to"),
        (
            model(node("Reshape", ("x", "s")), inputs=(("x", TensorProto.FLOAT), ("s", TensorProto.INT64))),
            "its shape 's' must be a constant",
        ),
        (
            model(
                node("QuantizeLinear", ("x", "scale", "zero")),
                output=TensorProto.INT8,
                constants=(("scale", np.float32(0.1)), ("zero", np.int8(3))),
            ),
            "zero point 'zero' must be 0",
        ),
    ],
)
def test_what_a_parser_would_refuse_is_refused_by_all(graph, reason):
    found = refusals(graph)
    assert {refusal.target for refusal in found} == set(TARGETS)
    for target in TARGETS:
        assert any(reason in refusal.reason for refusal in found if refusal.target == target)


def test_refusal_names_node_and_source_line(tmp_path):
    onnx.save(model(node("Det")), tmp_path / "denoise.onnx")
    with pytest.raises(
        BundleError, match=r"graph denoise .*node 'block/Det' \(Det, from wam/blocks\.py:96 in forward\)"
    ):
        require_operators(tmp_path / "denoise.onnx")


def test_foreign_domains_and_newer_operators_are_refused():
    foreign = node("FusedMatMul", ("x", "x"))
    foreign.domain = "com.microsoft"
    made = model(foreign)
    made.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    assert "operators of 'com.microsoft'" in refusals(made, ["11.4"])[0].reason
    rms = model(node("RMSNormalization", ("x", "s")), opset=23, constants=(("s", np.ones(3, np.float32)),))
    assert {refusal.target for refusal in refusals(rms)} == {"10.3"}


def test_unknown_version_lists_the_known():
    with pytest.raises(BundleError, match=r"unknown TensorRT version '9'.*10\.16, 10\.3, 11\.4"):
        refusals(model(node("Relu")), ["9"])


def test_table_agrees_with_the_installed_parser():
    trt = pytest.importorskip("tensorrt_rtx")
    logger = trt.Logger(trt.Logger.ERROR)
    parser = trt.OnnxParser(trt.Builder(logger).create_network(0), logger)
    table = json.loads(resources.files("wam").joinpath("tensorrt_operators.json").read_text())
    known = {schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""}
    # RTX leaves out what needs plugins; none of it is in our graphs.
    missing = {name for name in table["10.3"]["operators"] if name in known and not parser.supports_operator(name)}
    assert missing <= {"DeformConv"}
