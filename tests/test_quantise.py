"""Quantisation: what it needs, what it refuses, and what becomes of weights that are stored in eight bits."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import wam.quantise
from wam.errors import ConfigError
from wam.export import export_bundle
from wam.quantise import QuantiseConfig, quantise_bundle
from wam.quantise_graph import separate_products, stored_quantised
from wam.robot import load_robot
from wam.untrained import save_untrained_checkpoint


def test_unknown_scheme_lists_the_known(tmp_path):
    with pytest.raises(
        ConfigError, match=r"unknown scheme 'int7' \(did you mean 'int8'\?\); valid names: fp8, int4, int8"
    ):
        QuantiseConfig(bundle=tmp_path, dataset=tmp_path, out=tmp_path / "out", scheme="int7")


def test_missing_environment_names_the_command(tmp_path, monkeypatch):
    checkpoint = save_untrained_checkpoint(tmp_path / "run", load_robot("sim6"), preset_name="micro")
    export_bundle(checkpoint, tmp_path / "bundle", n_steps=1)
    monkeypatch.setattr(wam.quantise, "ENVIRONMENT", tmp_path / "nothing")
    config = QuantiseConfig(bundle=tmp_path / "bundle", dataset=tmp_path, out=tmp_path / "out")
    with pytest.raises(ConfigError, match="run `make quantise-environment` there"):
        quantise_bundle(config)
    assert not (tmp_path / "out").exists()


def test_weights_are_stored_in_eight_bits():
    weight = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)
    nodes = [
        helper.make_node("QuantizeLinear", ["w", "scale", "zero"], ["wq"]),
        helper.make_node("DequantizeLinear", ["wq", "scale", "zero"], ["wd"]),
        helper.make_node("MatMul", ["x", "wd"], ["y"]),
    ]
    arrays = {"w": weight, "scale": np.float32(1 / 127), "zero": np.int8(0)}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (2, 3))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (2, 4))],
        initializer=[numpy_helper.from_array(value, name) for name, value in arrays.items()],
    )
    stored = stored_quantised(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]))
    onnx.checker.check_model(stored, full_check=True)
    kinds = {tensor.name: tensor.data_type for tensor in stored.graph.initializer}
    assert kinds["wq"] == TensorProto.INT8
    assert "w" not in kinds
    assert [node.op_type for node in stored.graph.node] == ["DequantizeLinear", "MatMul"]


def test_products_are_separated_where_a_block_fits():
    rng = np.random.default_rng(0)
    arrays = {
        "wide": rng.standard_normal((3, 8), dtype=np.float32),
        "bias": rng.standard_normal(3, dtype=np.float32),
        "narrow": rng.standard_normal((5, 3), dtype=np.float32),
        "plain": rng.standard_normal((8, 8), dtype=np.float32),
    }
    nodes = [
        helper.make_node("Gemm", ["x", "plain"], ["a"], "blocks.0.out/Gemm"),
        helper.make_node("Gemm", ["a", "wide", "bias"], ["b"], "blocks.0.qkv/Gemm", transB=1),
        helper.make_node("Gemm", ["b", "narrow"], ["y"], "blocks.1.qkv/Gemm", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (2, 8))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (2, 5))],
        initializer=[numpy_helper.from_array(value, name) for name, value in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    x = rng.standard_normal((2, 8), dtype=np.float32)
    expected = ReferenceEvaluator(model).run(None, {"x": x})[0]
    found = separate_products(model, [r"blocks\.\d\.(qkv|out)/Gemm"], 8)
    onnx.checker.check_model(found, full_check=True)
    names = [(node.name, node.op_type) for node in found.graph.node]
    assert names[0] == ("blocks.0.out/Gemm", "MatMul")  # without a bias there is nothing to add
    assert names[1:3] == [("blocks.0.qkv/Gemm", "MatMul"), ("blocks.0.qkv/Gemm/Add", "Add")]
    assert names[3] == ("blocks.1.qkv/Gemm", "Gemm")  # three inputs are no multiple of eight
    assert {tensor.name for tensor in found.graph.initializer} == {"wide.turned", "bias", "narrow", "plain.turned"}
    np.testing.assert_allclose(ReferenceEvaluator(found).run(None, {"x": x})[0], expected, rtol=1e-5, atol=1e-5)
