"""wam verify: real checks on this machine's backends, engines on the fake GPU, and a verdict that can fail."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from policy.errors import PolicyError
from policy.stages import OnnxStages, Reference, example_inputs, reference_of, run_chunk
from policy.tensorrt_buffers import from_bits, to_bits
from policy.tensorrt_plan import ENGINE_FOLDER
from policy.verify import VerifyConfig, main, verify
from policy.verify_backends import open_candidate
from policy.verify_checks import FAIL, NOT_RUN, NOTE, PASS, chunk_check, golden_check, layer_check, stage_checks
from tests.fake_tensorrt import install
from wam.cli import main as wam_main
from wam.errors import BundleError
from wam.manifest import GOLDEN_FILE, read_manifest


@pytest.fixture(autouse=True)
def _quick_environment(monkeypatch):
    """The probes of `wam doctor` have tests of their own and take seconds."""
    from wam.doctor_probes import Finding

    monkeypatch.setattr("policy.verify.run_probe", lambda name: Finding(status="ok", value=name))


@pytest.fixture
def own_bundle(micro_bundle, tmp_path):
    return Path(shutil.copytree(micro_bundle, tmp_path / "bundle"))


def status_of(report, backend, name):
    return next(check["status"] for check in report["checks"] if (check["backend"], check["name"]) == (backend, name))


def test_a_sound_bundle_passes_and_what_cannot_run_says_why(micro_bundle, tmp_path, capsys):
    out = tmp_path / "report.json"
    assert main([str(micro_bundle), "--runs", "8", "--threads", "1", "--out", str(out)]) == 0
    report = json.loads(out.read_text())
    assert report["passed"]
    assert status_of(report, "tensorrt", "open") == NOT_RUN
    assert next(c["detail"] for c in report["checks"] if c["backend"] == "tensorrt").startswith("no NVIDIA driver")
    assert status_of(report, "onnx", "chunk") == status_of(report, "torch", "chunk") == PASS
    assert status_of(report, "onnx", "golden chunk") == status_of(report, "torch", "golden chunk") == PASS
    for stage in ("prompt", "context", "levels", "denoise"):
        assert status_of(report, "torch", f"stage {stage}") == PASS
    assert report["latency"]["onnx"]["wall_ms"]["count"] == 8
    assert report["latency"]["torch"]["wall_ms"]["p50"] > 0
    assert {"system", "GPU", "python", "tensorrt"} <= report["environment"].keys()
    printed = capsys.readouterr().out
    assert "verdict: passed" in printed
    assert f"report:  {out}" in printed


def test_engines_are_built_compared_and_listed(monkeypatch, own_bundle, tmp_path):
    install(monkeypatch)
    out = tmp_path / "report.json"
    report = verify(VerifyConfig(bundle=own_bundle, backends=("tensorrt",), runs=4, out=out))
    assert report["passed"]
    assert (own_bundle / ENGINE_FOLDER / "denoise.plan").is_file()
    assert status_of(report, "tensorrt", "build") == NOTE
    assert all(status_of(report, "tensorrt", f"stage {s}") == PASS for s in ("prompt", "context", "levels", "denoise"))
    assert status_of(report, "tensorrt", "layers") == PASS
    assert report["layers"]["tensorrt"]["denoise"]["names"] == ["_gemm_mha_v2_1", "a bare name"]
    assert report["latency"]["tensorrt"]["device"].startswith("cuda")
    again = verify(VerifyConfig(bundle=own_bundle, backends=("tensorrt",), runs=0, out=out))
    assert "build" not in [check["name"] for check in again["checks"]]


def test_missing_engines_fail_when_nothing_may_be_built(monkeypatch, micro_bundle, tmp_path):
    install(monkeypatch)
    config = VerifyConfig(bundle=micro_bundle, backends=("tensorrt",), build=False, runs=0, out=tmp_path / "r.json")
    report = verify(config)
    assert not report["passed"]
    assert status_of(report, "tensorrt", "open") == FAIL


class Wrong:
    """A backend whose chunks are off by a constant, or not numbers."""

    device, threads = "cpu", 1

    def __init__(self, right, off):
        self._right, self._off = right, off

    def encode_prompt(self, token_ids):
        return self._right.encode_prompt(token_ids)

    def encode_context(self, images, proprio, prompt):
        self._right.encode_context(images, proprio, prompt)

    def denoise(self, noise, sigmas):
        return self._right.denoise(noise, sigmas) + np.float32(self._off)

    def run_stage(self, name, inputs, graph):
        return {key: value + np.float32(self._off) for key, value in self._right.run_stage(name, inputs, graph).items()}


@pytest.mark.parametrize(("off", "status"), [(0.0, PASS), (1e-3, PASS), (100.0, FAIL), (float("nan"), FAIL)])
def test_chunks_are_judged_by_the_spread_of_the_noise(micro_bundle, off, status):
    from policy.torch_backend import TorchBackend

    manifest = read_manifest(micro_bundle)
    wrong = Wrong(TorchBackend(micro_bundle, manifest, device="cpu"), off)
    check = chunk_check("torch", wrong, reference_of(micro_bundle, manifest), manifest, 2)
    assert check.status == status
    assert check.limit == 0.5
    assert "two seeds differ by" in check.detail


@pytest.mark.parametrize(("off", "status"), [(0.0, PASS), (1e-3, FAIL), (float("nan"), FAIL)])
def test_stages_are_judged_by_the_rounding_of_their_type(micro_bundle, off, status):
    manifest = read_manifest(micro_bundle)
    reference = reference_of(micro_bundle, manifest)
    checks = stage_checks("x", Wrong(OnnxStages(micro_bundle, manifest), off), reference, manifest)
    assert [check.name for check in checks] == [f"stage {name}" for name in manifest.graphs]
    assert {check.status for check in checks} == {status}


@pytest.mark.parametrize(("off", "status"), [(0.0, PASS), (100.0, FAIL), (float("nan"), FAIL)])
def test_the_bundles_own_sample_is_a_reference_without_torch(micro_bundle, off, status):
    from policy.onnx_backend import OnnxBackend

    manifest = read_manifest(micro_bundle)
    golden = load_file(micro_bundle / GOLDEN_FILE)
    wrong = Wrong(OnnxBackend(micro_bundle, manifest, threads=1, device="cpu"), off)
    check = golden_check("onnx", wrong, golden, manifest)
    assert check.status == status
    assert "against PyTorch at export" in check.detail


def test_a_quantised_bundle_is_judged_by_its_chunks(micro_bundle, tmp_path):
    manifest = dataclasses.replace(read_manifest(micro_bundle), quantisation={"scheme": "int8"}, weights=None)
    reference = reference_of(micro_bundle, manifest)
    checks = stage_checks("tensorrt", Wrong(OnnxStages(micro_bundle, manifest), 1.0), reference, manifest)
    assert {check.status for check in checks} == {NOTE}
    candidate, (opened,) = open_candidate("torch", micro_bundle, manifest, build=False, threads=1)
    assert candidate is None
    assert (opened.status, opened.detail) == (NOT_RUN, "the bundle is quantised and holds no weights for torch")


def test_a_wrong_backend_fails_the_command(monkeypatch, micro_bundle, tmp_path, capsys):
    from policy.load import BACKENDS
    from policy.torch_backend import TorchBackend

    def wrong(*arguments, **options):
        return Wrong(TorchBackend(*arguments, device="cpu"), 100.0)

    monkeypatch.setattr("policy.verify_backends.BACKENDS", {**BACKENDS, "torch": wrong})
    arguments = [str(micro_bundle), "--backends", "torch", "--runs", "0", "--out", str(tmp_path / "r.json")]
    assert main(arguments) == 1
    assert "verdict: FAILED" in capsys.readouterr().out


def test_a_damaged_bundle_is_an_error_with_status_two(own_bundle, tmp_path, capsys):
    (own_bundle / "model.safetensors").write_bytes(b"")
    assert wam_main(["verify", str(own_bundle), "--out", str(tmp_path / "r.json")]) == 2
    assert "model.safetensors has sha256" in capsys.readouterr().err
    with pytest.raises(BundleError, match="is not a policy bundle"):
        verify(VerifyConfig(bundle=tmp_path, out=tmp_path / "r.json"))


def test_timing_that_would_take_hours_is_left_out(monkeypatch, micro_bundle, tmp_path):
    monkeypatch.setattr("policy.verify.LONGEST_TIMING_S", 0.0)
    report = verify(VerifyConfig(bundle=micro_bundle, backends=("onnx",), runs=4, out=tmp_path / "r.json"))
    assert report["passed"]
    assert status_of(report, "onnx", "latency") == NOT_RUN
    assert not report["latency"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backends": ("tensort",)}, r"unknown backend 'tensort' \(did you mean 'tensorrt'\?\)"),
        ({"runs": -1}, "runs -1 and threads 0 must be 0 or more"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(PolicyError, match=message):
        VerifyConfig(bundle=Path("nowhere"), **options)


def test_example_inputs_hold_back_nothing(micro_bundle):
    manifest = read_manifest(micro_bundle)
    values = example_inputs(manifest, 0)
    levels = [values[tensor.name].ravel() for tensor in manifest.graphs["levels"].inputs]
    assert (levels[1] <= levels[0]).all()
    assert levels[0][0] == levels[1][0] == 0.0  # a committed action
    other = example_inputs(manifest, 1)
    images = manifest.graphs["context"].inputs[0].name
    assert (values[images] != other[images]).any()


def test_a_chunk_run_stage_by_stage_is_the_backends_chunk(micro_bundle):
    from policy.onnx_backend import OnnxBackend

    manifest = read_manifest(micro_bundle)
    start, sigmas = example_inputs(manifest, 5), (1.0, 0.5, 0.0)
    noise = np.random.default_rng(5).standard_normal(
        (manifest.chunk_length, manifest.model.action_dim), dtype=np.float32
    )
    stages = OnnxStages(micro_bundle, manifest)
    backend = OnnxBackend(micro_bundle, manifest, threads=1, device="cpu")
    images, proprio = (start[tensor.name] for tensor in manifest.graphs["context"].inputs[:2])
    prompt = backend.encode_prompt(start[manifest.graphs["prompt"].inputs[0].name].ravel())
    backend.encode_context(images.reshape(images.shape[-4:]), proprio.ravel(), prompt)
    np.testing.assert_allclose(
        run_chunk(stages, manifest, start, noise, sigmas), backend.denoise(noise, sigmas), rtol=0, atol=1e-6
    )


def test_unfused_attention_is_noted_in_half_precision_only():
    counts = {"denoise": {"layers": 50, "fused_attention": 3, "bare_softmax": 1}}
    assert layer_check("tensorrt", counts, "bfloat16").status == NOTE
    assert "attention was not fused everywhere" in layer_check("tensorrt", counts, "bfloat16").detail
    assert layer_check("tensorrt", counts, "float32").status == PASS


def test_a_bfloat16_bundle_is_compared_with_torch(micro_bundle):
    manifest = dataclasses.replace(read_manifest(micro_bundle), dtype="bfloat16")
    reference = reference_of(micro_bundle, manifest)
    assert reference.name == "torch on the CPU in float32"
    assert isinstance(reference, Reference)


def test_bfloat16_bits_are_torchs():
    torch = pytest.importorskip("torch")
    values = np.random.default_rng(0).standard_normal(1000, dtype=np.float32) * 100
    expected = torch.from_numpy(values).bfloat16()
    bits = to_bits(values, "bfloat16")
    np.testing.assert_array_equal(bits.view(np.int16), expected.view(torch.int16).numpy())
    np.testing.assert_array_equal(from_bits(bits, "bfloat16"), expected.float().numpy())
    np.testing.assert_array_equal(from_bits(to_bits(values, "float16"), "float16"), values.astype(np.float16))
