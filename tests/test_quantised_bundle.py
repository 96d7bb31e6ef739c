"""An 8-bit bundle through the loader of a robot, and bundles whose weights were cut short.

nvidia-modelopt lives in an environment that a test machine need not have; ONNX Runtime's own quantiser stands in for
it here. It inserts the same QuantizeLinear/DequantizeLinear pairs around the same nodes, and all that comes before and
behind it is ``wam quantise`` itself: calibration record, stored 8-bit weights, operator gate, accuracy gate, manifest.
"""

import dataclasses
import re
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

import wam.quantise
import wam.quantise_graph
from policy.errors import BackendError
from policy.load import load_policy
from policy.onnx_backend import OnnxBackend
from wam.errors import BundleError
from wam.manifest import file_sha256, read_manifest
from wam.quantise import QuantiseConfig, quantise_bundle
from wam.quantise_data import Sample
from wam.robot import load_robot
from wam.spec import Observation

ROBOT = load_robot("sim6")


class Recorded(CalibrationDataReader):
    """Hands out recorded inputs, one run at a time."""

    def __init__(self, inputs):
        count = len(next(iter(inputs.values())))
        self.runs = iter([{name: values[index] for name, values in inputs.items()} for index in range(count)])

    def get_next(self):
        return next(self.runs, None)


def stand_in(python, model, inputs, nodes, scheme, work):
    """Takes the place of the call of nvidia-modelopt."""
    del python
    assert scheme == "int8"
    names = [node.name for node in model.graph.node if any(re.fullmatch(pattern, node.name) for pattern in nodes)]
    assert names, "no node of the graph has a name that is to be quantised"
    work.mkdir()
    onnx.save(model, work / "graph.onnx")
    quantize_static(
        work / "graph.onnx",
        work / "quantised.onnx",
        Recorded(inputs),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["Gemm"],
        nodes_to_quantize=names,
        extra_options={"ActivationSymmetric": True, "AddQDQPairToWeight": True, "QuantizeBias": False},
    )
    return wam.quantise_graph.stored_quantised(onnx.load(work / "quantised.onnx"))


def sample(seed, manifest):
    rng = np.random.default_rng(seed)
    model = manifest.model
    return Sample(
        instruction=rng.integers(0, 100, model.prompt_length),
        images=rng.integers(0, 256, (model.n_cameras, *model.image_size_px, 3), dtype=np.uint8),
        proprio=rng.standard_normal(model.state_dim, dtype=np.float32),
    )


def observation(seed):
    rng = np.random.default_rng(seed)
    images = {c.name: rng.integers(0, 256, (c.height_px, c.width_px, 3), dtype=np.uint8) for c in ROBOT.cameras}
    proprio = rng.uniform(ROBOT.lower, ROBOT.upper).astype(np.float32)
    return Observation(images=images, proprio=proprio, task="lift the red cube", stamp=0.0)


@pytest.fixture(scope="module")
def int8_bundle(micro_bundle, tmp_path_factory):
    folder = tmp_path_factory.mktemp("quantised")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wam.quantise, "_python", lambda: Path("unused"))
        patch.setattr(wam.quantise, "_quantised", stand_in)
        patch.setattr(
            wam.quantise,
            "dataset_samples",
            lambda dataset, manifest, count, cache: tuple(
                [sample(start + index, manifest) for index in range(count)] for start in (0, 100)
            ),
        )
        quantise_bundle(QuantiseConfig(bundle=micro_bundle, dataset=folder, out=folder / "int8", observations=3))
    return folder / "int8"


def test_an_int8_bundle_gives_chunks_near_those_of_the_bundle_it_came_from(micro_bundle, int8_bundle):
    manifest = read_manifest(int8_bundle)
    assert (manifest.quantisation["scheme"], manifest.weights) == ("int8", None)
    for name, stays in (("context", "prompt"), ("denoise", "levels")):
        graph = onnx.load(int8_bundle / manifest.graphs[name].file).graph
        assert TensorProto.INT8 in {tensor.data_type for tensor in graph.initializer if len(tensor.dims) == 2}
        assert "DequantizeLinear" in {node.op_type for node in graph.node}
        plain = onnx.load(int8_bundle / manifest.graphs[stays].file).graph
        assert "DequantizeLinear" not in {node.op_type for node in plain.node}
    policies = [load_policy(folder, ROBOT, threads=1, device="cpu") for folder in (micro_bundle, int8_bundle)]
    assert policies[1].backend_name == "onnx"
    for seed in range(3):
        exact, rounded = (policy.infer(observation(seed), noise_seed=seed).actions for policy in policies)
        other = policies[0].infer(observation(seed), noise_seed=seed + 50).actions
        assert rounded.shape == exact.shape
        assert np.isfinite(rounded).all()
        assert 0.0 < np.abs(rounded - exact).mean() < 0.5 * np.abs(other - exact).mean()


def test_an_int8_bundle_takes_single_steps(int8_bundle):
    manifest = read_manifest(int8_bundle)
    backend = OnnxBackend(int8_bundle, manifest, threads=1, device="cpu")
    seen = sample(7, manifest)
    backend.encode_context(seen.images, seen.proprio, backend.encode_prompt(seen.instruction))
    shape = (manifest.chunk_length, manifest.model.action_dim)
    noise = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    high, low = (np.full(shape[0], level, dtype=np.float32) for level in (1.0, 0.0))
    np.testing.assert_allclose(backend.denoise_step(noise, high, low), backend.denoise(noise, (1.0, 0.0)), atol=1e-5)


def test_torch_refuses_an_int8_bundle_and_names_what_runs_it(int8_bundle):
    with pytest.raises(BackendError, match="holds quantised graphs and no weights for torch: choose backend 'onnx'"):
        load_policy(int8_bundle, ROBOT, backend="torch")


def cut(path, share):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


@pytest.mark.parametrize("backend", ["auto", "onnx", "torch"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.9])
def test_weights_cut_short_are_one_error_before_any_runtime_opens_them(micro_bundle, tmp_path, backend, share):
    folder = Path(shutil.copytree(micro_bundle, tmp_path / "bundle"))
    cut(folder / "model.safetensors", share)
    with pytest.raises(BundleError, match=r"model\.safetensors has sha256 .*damaged or changed.*copy the whole bundle"):
        load_policy(folder, ROBOT, backend=backend, device="cpu")


@pytest.mark.parametrize("backend", ["onnx", "torch"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.9])
def test_weights_cut_short_before_the_manifest_was_written(micro_bundle, tmp_path, backend, share):
    folder = Path(shutil.copytree(micro_bundle, tmp_path / "bundle"))
    weights = folder / "model.safetensors"
    cut(weights, share)
    manifest = read_manifest(folder)
    files = {**manifest.files, weights.name: file_sha256(weights)}
    dataclasses.replace(manifest, files=files).write(folder)
    with pytest.raises(BundleError, match="cannot load|does not fit"):
        load_policy(folder, ROBOT, backend=backend, device="cpu")
