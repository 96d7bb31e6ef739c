"""Export of a model too large for memory, at a small size: nothing is run to be traced, parity by two layers."""

import dataclasses

import onnx
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import wam.bundle_parity
import wam.onnx_trace
from wam.bundle_graphs import write_graphs
from wam.config import preset
from wam.export import export_bundle
from wam.export_source import ExportSource, RandomWeights
from wam.manifest import GRAPH_NAMES, read_manifest
from wam.onnx_trace import on_meta, trace
from wam.operator_gate import check_operators
from wam.parity import TOLERANCES
from wam.robot import load_robot
from wam.untrained import limit_transforms
from wam.vae import random_vae
from wam.vae_fold import FirstFrameVae

pytest.importorskip("diffusers")

ROBOT = load_robot("sim6")


@pytest.fixture(scope="module")
def source() -> ExportSource:
    """Wan's structure with three layers and an autoencoder a few channels wide."""
    config = dataclasses.replace(preset("wan_micro", ROBOT), num_layers=3)
    torch.manual_seed(0)
    return ExportSource(
        config=config,
        transforms=limit_transforms(config, ROBOT),
        robot=ROBOT,
        weights=RandomWeights(config, 0),
        origin={"name": "untrained", "sha256": "none", "step": 0},
        vae=random_vae(config, base_dim=4).eval().requires_grad_(False),
    )


def test_an_autoencoder_is_traced_without_being_run(source, tmp_path, monkeypatch):
    def run(*arguments):
        raise AssertionError(f"a convolution was run on a tensor of shape {tuple(arguments[0].shape)}")

    monkeypatch.setattr(wam.onnx_trace, "CONV2D", run)
    write_graphs(source.config, source.weights, tmp_path, dtype="bfloat16", values=False, vae=source.vae)
    graph = onnx.load(tmp_path / "context.onnx", load_external_data=False).graph
    layers = [part for part in FirstFrameVae(source.vae).modules() if hasattr(part, "weight") and part.weight.ndim == 4]
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    assert len(convolutions) == len(layers) > 10
    assert {node.doc_string.partition(":")[0] for node in convolutions} <= {"wam/vae_fold.py"}


class Convolve(nn.Module):
    """One convolution as torch writes it."""

    def __init__(self, options, bias):
        super().__init__()
        self.options = options
        self.weight = nn.Parameter(torch.randn(6, 4 // options.get("groups", 1), 3, 3))
        self.bias = nn.Parameter(torch.randn(6)) if bias else None

    def forward(self, x):
        """(B, 4, height, width) → (B, 6, ...)."""
        return F.conv2d(x, self.weight, self.bias, **self.options)


@pytest.mark.parametrize("options", [{}, {"stride": 2}, {"padding": (0, 1)}, {"stride": (1, 2), "padding": 1}])
@pytest.mark.parametrize("bias", [True, False])
def test_a_traced_convolution_has_the_shape_and_the_numbers_of_torchs(options, bias):
    module, x = nn.Sequential(Convolve(options, bias)), torch.randn(2, 4, 9, 8)
    expected = module(x)
    weights = {name: value.detach().numpy() for name, value in module.state_dict().items()}
    model = trace(on_meta(module), {"x": x.to("meta")}, ["y"])
    shape = [size.dim_value for size in model.graph.output[0].type.tensor_type.shape.dim]
    assert shape == list(expected.shape)
    found = onnx.reference.ReferenceEvaluator(model).run(None, {"x": x.numpy(), **weights})[0]
    torch.testing.assert_close(torch.from_numpy(found), expected.detach(), atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_large_model_is_compared_by_its_first_and_last_layer(source, tmp_path, monkeypatch, dtype):
    monkeypatch.setattr(wam.bundle_parity, "BYTES_PER_WEIGHT", 1 << 60)  # as if there were no memory for it
    export_bundle(source, tmp_path / "bundle", dtype=dtype, n_steps=2)
    manifest = read_manifest(tmp_path / "bundle")
    manifest.check_files(tmp_path / "bundle")
    runs_as = "float32" if dtype == "bfloat16" else dtype  # a CPU runs no bfloat16: a twin stands in
    assert (manifest.dtype, manifest.parity.graph_dtype, manifest.parity.layers) == (dtype, runs_as, "0, 2 of 0 to 2")
    worst = max(*manifest.parity.graphs.values(), *manifest.parity.chunk.values())
    assert 0.0 < worst <= TOLERANCES[runs_as]
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]  # the twin is gone
    for name in GRAPH_NAMES:
        path = tmp_path / "bundle" / f"{name}.onnx"
        onnx.checker.check_model(path, full_check=True)
        assert check_operators(path) == []
