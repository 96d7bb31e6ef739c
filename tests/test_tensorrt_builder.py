"""Building engines: for real with TensorRT for RTX, which compiles without a GPU, and every refusal on the fake one."""

import dataclasses
import shutil
from pathlib import Path

import pytest

from policy.cuda import Device
from policy.engine import main
from policy.errors import BackendError
from policy.tensorrt_api import import_tensorrt, log_of
from policy.tensorrt_builder import TIMING_CACHE, BuildOptions, build_engines, build_plan
from policy.tensorrt_layers import Layer, count_layers, inspected_layers, logged_layers
from policy.tensorrt_plan import ENGINE_FOLDER, read_engines
from tests.fake_cuda import FakeCuda
from tests.fake_tensorrt import PLAN, install, make_tensorrt
from wam.errors import BundleError
from wam.manifest import read_manifest

DEVICE = Device(name="Fake GPU", compute_capability="12.0", driver="13.2", memory_bytes=1)
WITHOUT_GPU = BuildOptions(compute_capability="12.0")


@pytest.fixture
def rtx():
    pytest.importorskip("tensorrt_rtx")
    return import_tensorrt("tensorrt_rtx")


@pytest.fixture
def fake():
    return make_tensorrt(FakeCuda())


@pytest.fixture
def own_bundle(micro_bundle, tmp_path):
    return Path(shutil.copytree(micro_bundle, tmp_path / "bundle"))


# -- the real builder -------------------------------------------------------------------------------------------------


def test_real_engines_of_a_bundle(rtx, own_bundle):
    manifest = read_manifest(own_bundle)
    built = build_engines(rtx, own_bundle, manifest, DEVICE, WITHOUT_GPU)
    assert built == read_engines(own_bundle)
    assert built.runtime_version == rtx.__version__
    assert set(built.engines) == set(manifest.graphs)
    for engine in built.engines.values():
        assert (own_bundle / ENGINE_FOLDER / engine.file).stat().st_size > 10_000
        assert engine.counts["layers"] > 3
    read_manifest(own_bundle).check_files(own_bundle)  # the bundle itself is as it was


@pytest.mark.slow
def test_real_engines_of_the_tiny_model_on_the_command_line(rtx, tmp_path, capsys):
    from wam.export import export_bundle
    from wam.robot import load_robot
    from wam.untrained import save_untrained_checkpoint

    bundle = tmp_path / "bundle"
    export_bundle(save_untrained_checkpoint(tmp_path / "run", load_robot("sim6")), bundle)
    arguments = [str(bundle), "--runtime", "tensorrt_rtx", "--compute-capability", "12.0"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert f"engines: {bundle / ENGINE_FOLDER} (tensorrt_rtx {rtx.__version__}, none)" in printed
    assert "denoise:" in printed
    counts = read_engines(bundle).engines["denoise"].counts
    assert 50 < counts["layers"] < 250


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_real_attention_is_one_kernel_at_the_geometry_of_fastwam(rtx, tmp_path, dtype):
    """Two layers of its action expert: width 1024, 24 heads of 128, 98 tokens of the observation, 32 actions."""
    from wam.bundle_graphs import write_graphs
    from wam.config import preset
    from wam.export_source import RandomWeights
    from wam.robot import load_robot

    geometry = dataclasses.replace(
        preset("tiny", load_robot("sim6")),
        num_layers=2,
        num_heads=24,
        head_dim=128,
        action_width=1024,
        ffn_ratio=4,
        image_size_px=(224, 224),
        patch_px=16,
        chunk_length=32,
        prompt_length=128,
        learned_positions=False,
        action_prediction="velocity",
    )
    graphs = write_graphs(geometry, RandomWeights(geometry, 0), tmp_path, dtype=dtype)
    keys = next(tensor for tensor in graphs["denoise"].inputs if tensor.name == "frame_keys_00")
    assert (keys.shape, keys.dtype) == ((24, 98, 128), dtype)
    plans = {name: build_plan(rtx, tmp_path / graph.file, WITHOUT_GPU) for name, graph in graphs.items()}
    assert sum(plan.seconds for plan in plans.values()) < 300
    denoise, context = plans["denoise"].counts, plans["context"].counts
    assert (denoise["fused_attention"], denoise["bare_softmax"]) == (4, 0)  # self and cross attention of each block
    assert (context["fused_attention"], context["bare_softmax"]) == (2, 0)  # the last block gives keys and values only
    assert len(memoryview(plans["denoise"].data)) > 50e6  # the weights are in it, read from the bundle's one file


def test_a_graph_that_is_none_is_refused_with_the_parsers_words(rtx, tmp_path):
    path = tmp_path / "noise.onnx"
    path.write_bytes(b"not a graph")
    with pytest.raises(BackendError, match=r"TensorRT 1\..* cannot read .*noise\.onnx: .*(parse|Parse|Failed)"):
        build_plan(rtx, path, WITHOUT_GPU)


def test_an_operator_that_tensorrt_lacks_is_named(rtx, tmp_path):
    onnx = pytest.importorskip("onnx")
    value = onnx.helper.make_tensor_value_info
    node = onnx.helper.make_node("Det", ["x"], ["y"], name="/blocks.0/Det")
    graph = onnx.helper.make_graph(
        [node], "g", [value("x", onnx.TensorProto.FLOAT, [3, 3])], [value("y", onnx.TensorProto.FLOAT, [])]
    )
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)]), tmp_path / "det.onnx")
    with pytest.raises(BackendError, match=r"cannot read .*det\.onnx: .*/blocks\.0/Det.*operator Det"):
        build_plan(rtx, tmp_path / "det.onnx", WITHOUT_GPU)


# -- the builder's protocol, on the fake library ----------------------------------------------------------------------


def test_engines_are_described_by_hash_version_device_and_options(fake, own_bundle):
    built = build_engines(fake, own_bundle, read_manifest(own_bundle), DEVICE, BuildOptions(workspace_gib=0.5))
    assert (built.runtime, built.runtime_version, built.device) == ("tensorrt", "10.16.0", "Fake GPU")
    assert built.flags == {
        "strongly_typed": True,
        "workspace_gib": 0.5,
        "optimization_level": 3,
        "tf32": False,
        "compute_capability": "",
    }
    assert built.engines["denoise"].counts == {"layers": 1, "fused_attention": 1, "bare_softmax": 0}
    assert (own_bundle / ENGINE_FOLDER / "denoise.plan").read_bytes().startswith(PLAN)
    assert not fake.config._flags  # TensorFloat-32 is on unless it is cleared


def test_tf32_can_be_allowed(fake, own_bundle):
    build_engines(fake, own_bundle, read_manifest(own_bundle), DEVICE, BuildOptions(tf32=True))
    assert fake.config._flags == {fake.BuilderFlag.TF32}


def test_the_timing_cache_is_handed_on_and_survives_a_rebuild(fake, own_bundle):
    manifest = read_manifest(own_bundle)
    build_engines(fake, own_bundle, manifest, DEVICE, BuildOptions())
    cache = own_bundle / ENGINE_FOLDER / TIMING_CACHE
    assert cache.read_bytes() == b"+" * len(manifest.graphs)
    build_engines(fake, own_bundle, manifest, DEVICE, BuildOptions(), overwrite=True)
    assert cache.read_bytes() == b"+" * 2 * len(manifest.graphs)


def test_a_timing_cache_of_another_machine_is_dropped(fake, own_bundle, caplog):
    manifest = read_manifest(own_bundle)
    build_engines(fake, own_bundle, manifest, DEVICE, BuildOptions())
    fake.fails.add("set_timing_cache")
    plan = build_plan(fake, own_bundle / "levels.onnx", BuildOptions(), timing_cache=b"old")
    assert plan.timing_cache == b"+"
    assert any("kernels are measured again" in record.message for record in caplog.records)


def test_engines_are_not_replaced_unasked(fake, own_bundle):
    manifest = read_manifest(own_bundle)
    build_engines(fake, own_bundle, manifest, DEVICE, BuildOptions())
    with pytest.raises(BackendError, match="engines exists: add --overwrite"):
        build_engines(fake, own_bundle, manifest, DEVICE, BuildOptions())


def test_a_failed_build_leaves_the_old_engines(fake, own_bundle):
    manifest = read_manifest(own_bundle)
    before = build_engines(fake, own_bundle, manifest, DEVICE, BuildOptions())
    fake.fails.add("build_serialized_network")
    message = r"cannot build an engine from .*prompt\.onnx: could not find any implementation for node"
    with pytest.raises(BackendError, match=message):
        build_engines(fake, own_bundle, manifest, DEVICE, BuildOptions(), overwrite=True)
    assert read_engines(own_bundle) == before
    assert not [path for path in own_bundle.iterdir() if path.name.startswith(".")]


def test_a_parser_error_names_node_and_operator(fake, own_bundle):
    fake.fails.add("parse_from_file")
    message = r"no such operator \(node /blocks\.0/Einsum, operator Einsum\)"
    with pytest.raises(BackendError, match=message):
        build_plan(fake, own_bundle / "levels.onnx", BuildOptions())


def test_a_bundle_that_cannot_be_written_is_one_message(fake, own_bundle, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("policy.tensorrt_builder.tempfile.mkdtemp", full)
    with pytest.raises(BackendError, match="engines cannot be written .* No space left on device"):
        build_engines(fake, own_bundle, read_manifest(own_bundle), DEVICE, BuildOptions())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimization_level": 6}, "optimization_level is 6 but must be a number from 0 to 5"),
        ({"workspace_gib": 0.0}, "workspace_gib is 0.0 but a builder needs some scratch memory"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(BackendError, match=message):
        BuildOptions(**options)


def test_only_tensorrt_for_rtx_builds_without_a_gpu(fake, rtx, own_bundle):
    with pytest.raises(BackendError, match=r"tensorrt 10\.16\.0 cannot build for compute capability 8\.7 without"):
        build_plan(fake, own_bundle / "levels.onnx", BuildOptions(compute_capability="8.7"))
    with pytest.raises(BackendError, match=r"tensorrt_rtx .* cannot build for compute capability 8\.7 without"):
        build_plan(rtx, own_bundle / "levels.onnx", BuildOptions(compute_capability="8.7"))


def test_the_command_refuses_a_changed_bundle_and_an_unknown_runtime(own_bundle):
    with pytest.raises(BackendError, match=r"unknown TensorRT runtime 'tensorrtx' \(did you mean 'tensorrt"):
        main([str(own_bundle), "--runtime", "tensorrtx"])
    (own_bundle / "denoise.onnx").write_bytes(b"")
    with pytest.raises(BundleError, match=r"denoise\.onnx has sha256"):
        main([str(own_bundle)])


def test_the_command_builds_for_the_gpu_at_hand(monkeypatch, own_bundle, capsys):
    install(monkeypatch)
    assert main([str(own_bundle)]) == 0
    assert "tensorrt 10.16.0, Fake GPU" in capsys.readouterr().out
    assert read_engines(own_bundle).compute_capability == "12.0"


def test_one_logger_per_library_keeps_the_last_errors(fake):
    log = log_of(fake)
    assert log_of(fake) is log
    assert log_of(make_tensorrt(FakeCuda())) is not log
    log.handle.log(fake.ILogger.ERROR, "first")
    log.handle.log(fake.ILogger.INFO, "chatter")
    log.handle.log(fake.ILogger.INTERNAL_ERROR, "second")
    assert log.errors() == "first; second"
    assert log.errors() == "TensorRT gave no reason"


# -- layers -----------------------------------------------------------------------------------------------------------

RTX_LOG = """Layers:
Name: entry_signal, LayerType: signal, Inputs: [], Constants: []
Name: __myl_FcAdd_myl0_1, LayerType: runtime_fusion, Inputs: [ { Name: /Softmax_output_0, Dimensions: [1] }]
Name: _gemm_mha_v2_myl0_27, LayerType: kgen, Inputs: []
Name: __myl_MaxrSubExpSumDivMul_myl0_108, LayerType: kgen, Inputs: []

I/O Tensors:
 Name: actions, IOMode: Input
"""
TENSORRT_LOG = """Engine Layer Information:
Layer(Myelin): {ForeignNode[a...b]}, Tactic: 0x0, x (Float[1]) -> y (Float[1])
Layer(SoftMax): softmax_3, Tactic: 0x1, x (Float[1]) -> y (Float[1])
"""


def test_layers_are_read_from_a_builders_log():
    layers = logged_layers(["something else", RTX_LOG, TENSORRT_LOG])
    assert [layer.name for layer in layers] == [
        "entry_signal",
        "__myl_FcAdd_myl0_1",
        "_gemm_mha_v2_myl0_27",
        "__myl_MaxrSubExpSumDivMul_myl0_108",
        "{ForeignNode[a...b]}",
        "softmax_3",
    ]
    assert count_layers(layers) == {"layers": 5, "fused_attention": 1, "bare_softmax": 2}


def test_layers_are_read_from_an_engine(fake, own_bundle):
    plan = PLAN + str(own_bundle / "levels.onnx").encode()
    engine = fake.Runtime(log_of(fake).handle).deserialize_cuda_engine(plan)
    assert inspected_layers(fake, engine) == [
        Layer(name="_gemm_mha_v2_1", kind="kgen"),
        Layer(name="a bare name", kind=""),
    ]


def test_descriptions_survive_a_round_trip(fake, own_bundle):
    built = build_engines(fake, own_bundle, read_manifest(own_bundle), DEVICE, BuildOptions())
    again = dataclasses.replace(built, driver="13.3")
    again.write(own_bundle / ENGINE_FOLDER)
    assert read_engines(own_bundle) == again
