"""Quantisation: what it needs, what it refuses, and what becomes of weights that are stored in eight bits."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import wam.quantise
from wam.errors import ConfigError
from wam.export import export_bundle
from wam.quantise import QuantiseConfig, _stored_quantised, quantise_bundle
from wam.robot import load_robot
from wam.untrained import save_untrained_checkpoint


def test_unknown_scheme_lists_the_known(tmp_path):
    with pytest.raises(ConfigError, match=r"unknown scheme 'int7' \(did you mean 'int8'\?\); valid names: fp8, int8"):
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
    stored = _stored_quantised(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]))
    onnx.checker.check_model(stored, full_check=True)
    kinds = {tensor.name: tensor.data_type for tensor in stored.graph.initializer}
    assert kinds["wq"] == TensorProto.INT8
    assert "w" not in kinds
    assert [node.op_type for node in stored.graph.node] == ["DequantizeLinear", "MatMul"]
