"""Which engines are opened at all: what does not fit the bundle, the GPU or TensorRT is refused before it is read."""

import dataclasses
import shutil
import sys
from pathlib import Path

import pytest

from policy.errors import BackendError, PlanError
from policy.load import load_policy, open_backend
from policy.tensorrt_backend import TensorRtBackend
from policy.tensorrt_plan import ENGINE_FOLDER
from tests.fake_cuda import FakeCuda
from tests.fake_tensorrt import install
from wam.manifest import file_sha256, read_manifest
from wam.robot import load_robot


@pytest.fixture
def own_bundle(engines, tmp_path):
    """A copy that a test may damage."""
    return Path(shutil.copytree(engines, tmp_path / "bundle"))


def refused(fake_gpu, bundle, match):
    """Loading is refused before TensorRT sees a plan; "auto" falls back on ONNX Runtime and says why."""
    fake_gpu[1].opened = 0
    with pytest.raises(PlanError, match=match):
        TensorRtBackend(bundle, read_manifest(bundle))
    assert fake_gpu[1].opened == 0


def test_a_bundle_without_engines_says_how_to_build_them(fake_gpu, micro_bundle):
    refused(fake_gpu, micro_bundle, "has no engines for TensorRT: build them on this machine with wam engine")


def test_a_changed_plan_is_not_opened(fake_gpu, own_bundle):
    plan = own_bundle / ENGINE_FOLDER / "denoise.plan"
    plan.write_bytes(plan.read_bytes()[:-1] + b"?")
    refused(fake_gpu, own_bundle, r"denoise\.plan is not the plan that was built here, its sha256 differs")


@pytest.mark.parametrize("size", [0, 10])
def test_a_cut_plan_is_not_opened(fake_gpu, own_bundle, size):
    plan = own_bundle / ENGINE_FOLDER / "context.plan"
    plan.write_bytes(plan.read_bytes()[:size])
    refused(fake_gpu, own_bundle, r"context\.plan.*(sha256 differs|cannot mmap an empty file)")


def test_a_missing_plan_is_named(fake_gpu, own_bundle):
    (own_bundle / ENGINE_FOLDER / "prompt.plan").unlink()
    refused(fake_gpu, own_bundle, "the plan of 'prompt' cannot be read")


def test_engines_of_another_gpu_are_not_opened(fake_gpu, engines):
    fake_gpu[0].name = "Other GPU"
    refused(fake_gpu, engines, r"built for Fake GPU \(compute capability 12\.0\) but this GPU is Other GPU \(12\.0\)")
    fake_gpu[0].name, fake_gpu[0].capability = "Fake GPU", (8, 7)
    refused(fake_gpu, engines, r"but this GPU is Fake GPU \(8\.7\)")


def test_engines_of_another_tensorrt_are_not_opened(fake_gpu, engines):
    fake_gpu[1].__version__ = "10.16.1"
    refused(fake_gpu, engines, r"built by tensorrt 10\.16\.0 but this machine has tensorrt 10\.16\.1")


def test_an_older_driver_is_refused_and_a_newer_one_is_not(fake_gpu, engines):
    fake_gpu[0].driver = 12080
    refused(fake_gpu, engines, r"built under a driver for CUDA 13\.2 but this one stops at 12\.8")
    fake_gpu[0].driver = 13040
    TensorRtBackend(engines, read_manifest(engines))


def test_engines_of_another_bundle_are_not_opened(fake_gpu, own_bundle):
    graph = own_bundle / "denoise.onnx"
    graph.write_bytes(graph.read_bytes() + b"\x00")
    other = read_manifest(own_bundle)
    other = dataclasses.replace(other, files={**other.files, "denoise.onnx": file_sha256(graph)})
    other.write(own_bundle)
    refused(fake_gpu, own_bundle, r"built from another bundle \(different: denoise\)")


def test_engines_of_other_weights_are_not_opened(fake_gpu, own_bundle):
    other = read_manifest(own_bundle)
    dataclasses.replace(other, files={**other.files, "model.safetensors": 64 * "0"}).write(own_bundle)
    refused(fake_gpu, own_bundle, r"built from another bundle \(different: weights\)")


def edited(engines, old, new):
    path = engines / ENGINE_FOLDER / "engines.json"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"format_version": 1', '"format_version": 2', "has format 2 but this software reads 1"),
        ('"driver"', '"drover"', "unknown field 'drover'.*wam engine"),
        ('"denoise.plan"', '"../denoise.plan"', r"'\.\./denoise\.plan' lies outside the engine folder"),
        ('"layers": ', '"layers": -', "counts.layers is -.* but must be a whole number"),
        ("{", "[", "is not valid JSON"),
        ('"levels": {', '"level": {', r"there are engines for .*'level'.* but the bundle has graphs"),
    ],
)
def test_a_damaged_description_is_refused(fake_gpu, own_bundle, old, new, message):
    edited(own_bundle, old, new)
    refused(fake_gpu, own_bundle, message)


def test_auto_takes_engines_that_fit(engines):
    policy = load_policy(engines, load_robot("sim6"))
    assert policy.backend_name == "tensorrt"
    assert policy.device == "cuda, 1 thread(s)"


def test_auto_says_why_engines_are_not_used(fake_gpu, engines, caplog):
    fake_gpu[1].__version__ = "11.4"
    assert load_policy(engines, load_robot("sim6"), threads=1).backend_name == "onnx"
    assert any(
        "are not used: the engines were built by tensorrt 10.16.0" in record.message for record in caplog.records
    )


def test_a_policy_for_the_cpu_leaves_engines_alone(engines):
    assert load_policy(engines, load_robot("sim6"), device="cpu").backend_name == "onnx"
    with pytest.raises(BackendError, match="runs on an NVIDIA GPU, not on device 'cpu'"):
        load_policy(engines, load_robot("sim6"), backend="tensorrt", device="cpu")


def test_no_device_is_one_message(monkeypatch, engines):
    install(monkeypatch, cuda=FakeCuda(devices=0))
    with pytest.raises(BackendError, match="no NVIDIA driver .* error 100: fake no_device"):
        TensorRtBackend(engines, read_manifest(engines))


def test_a_missing_tensorrt_is_one_message(monkeypatch, engines):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(BackendError, match="backend 'tensorrt' needs TensorRT.*JetPack"):
        TensorRtBackend(engines, read_manifest(engines))


def test_auto_takes_the_first_runtime_that_computes_the_bundles_type(micro_bundle):
    manifest = dataclasses.replace(read_manifest(micro_bundle), dtype="bfloat16")
    assert open_backend(micro_bundle, manifest, device="cpu").name == "torch"
    quantised = dataclasses.replace(manifest, weights=None)
    with pytest.raises(BackendError, match="ONNX Runtime cannot run on a CPU.* no weights for torch"):
        open_backend(micro_bundle, quantised, device="cpu")
