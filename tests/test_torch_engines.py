"""The torch backends: compiled and eager agree, per-token steps, types, and on a GPU one recorded graph per chunk."""

import contextlib
import subprocess
import sys
import types

import numpy as np
import pytest
import torch

from policy.errors import BackendError
from policy.load import open_backend
from policy.torch_backend import TorchBackend
from policy.torch_compiled import KEPT_SCHEDULES, CompiledTorchBackend, _Run
from tests.stage_inputs import noise, observation, words
from wam.manifest import read_manifest
from wam.sigmas import sigma_schedule

TIGHT = {"rtol": 0, "atol": 2e-6}


@pytest.fixture
def manifest(micro_bundle):
    return read_manifest(micro_bundle)


@pytest.fixture
def uncompiled(monkeypatch):
    """Leaves torch's compiler out: what is tested is everything around it, in milliseconds."""
    monkeypatch.setattr("policy.torch_compiled._compiler", lambda torch, device: lambda function: function)


def compare(backends, manifest, *, tolerance=TIGHT):
    """Chunks and single steps over observations, prompts and schedules."""
    prompts = [[runs.encode_prompt(words(manifest, seed)) for runs in backends] for seed in range(2)]
    sigma = np.linspace(0.0, 1.0, manifest.chunk_length, dtype=np.float32)
    for turn in range(6):
        chunks, repeated, steps = [], [], []
        for runs, prompt in zip(backends, prompts[turn // 3], strict=True):
            runs.encode_context(*observation(manifest, turn), prompt)
            if turn % 2:
                steps.append(runs.denoise_step(noise(manifest, turn), sigma, 0.5 * sigma))
            chunks.append(runs.denoise(noise(manifest, turn), sigma_schedule(1 + turn % 3, 1.0)))
            repeated.append(runs.denoise(noise(manifest, turn + 1), sigma_schedule(2, 1.0)))
        for pair in filter(None, (chunks, repeated, steps)):
            np.testing.assert_allclose(*pair, **tolerance)


def test_static_buffers_change_nothing(uncompiled, micro_bundle, manifest):
    backends = [kind(micro_bundle, manifest, device="cpu") for kind in (CompiledTorchBackend, TorchBackend)]
    compare(backends, manifest)


COMPARISON = """
import runpy, sys, types
from pathlib import Path
sys.modules["tests"] = types.ModuleType("tests")  # an installed library calls its own tests so
sys.modules["tests"].__path__ = ["tests"]
from policy.torch_backend import TorchBackend
from policy.torch_compiled import CompiledTorchBackend
from wam.manifest import read_manifest
compare = runpy.run_path("tests/test_torch_engines.py")["compare"]
bundle, device, dtype, tolerance = Path(sys.argv[1]), sys.argv[2], sys.argv[3], float(sys.argv[4])
manifest = read_manifest(bundle)
backends = [kind(bundle, manifest, device=device, dtype=dtype) for kind in (CompiledTorchBackend, TorchBackend)]
for _ in range(2):
    compare(backends, manifest, tolerance={"rtol": 0, "atol": tolerance})
assert device == "cpu" or all(run._graph is not None for run in backends[0]._runs.values())
"""


def compare_alone(repository, bundle, device, dtype, tolerance):
    """In a process without the checks of jaxtyping, which cannot be compiled as one graph."""
    command = [sys.executable, "-c", COMPARISON, str(bundle), device, dtype, str(tolerance)]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=800, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_compiled_stages_agree_with_eager_ones(repository, micro_bundle):
    compare_alone(repository, micro_bundle, "cpu", "float32", 2e-6)


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("bfloat16", 5e-2)])
def test_one_graph_per_chunk_agrees_with_eager_on_a_gpu(repository, micro_bundle, dtype, tolerance):
    compare_alone(repository, micro_bundle, "cuda", dtype, tolerance)


class FakeGraph:
    """A CUDA graph that only notes what happens to it."""

    def __init__(self, events):
        self._events = events

    def replay(self):
        self._events.append("replay")


def fake_torch(events, *, fails=False):
    """As much of torch as recording takes."""

    def capture(graph, stream):
        if fails:
            raise RuntimeError("operation not permitted when stream is capturing")
        events.append("capture")
        return contextlib.nullcontext()

    stream = types.SimpleNamespace(wait_stream=lambda other: None)
    cuda = types.SimpleNamespace(
        CUDAGraph=lambda: FakeGraph(events),
        graph=capture,
        Stream=lambda: stream,
        current_stream=lambda: stream,
        stream=lambda _: contextlib.nullcontext(),
    )
    return types.SimpleNamespace(cuda=cuda)


def test_a_chunk_is_recorded_once_and_replayed_as_one_graph():
    events = []
    run = _Run(fake_torch(events), "cuda", [lambda: events.append("context"), lambda: events.append("steps")])
    for _ in range(3):
        run.launch()
    once = ["context", "steps"]
    assert events == [*once, *once, "capture", *once, "replay", "replay"]


def test_a_graph_that_cannot_be_recorded_is_said_once(caplog):
    run = _Run(fake_torch([], fails=True), "cuda", [lambda: 7])
    assert [run.launch() for _ in range(3)] == [7, 7, 7]
    assert len([record for record in caplog.records if "no CUDA graph" in record.message]) == 1


def test_old_schedules_are_dropped(uncompiled, micro_bundle, manifest):
    backend = CompiledTorchBackend(micro_bundle, manifest, device="cpu")
    backend.encode_context(*observation(manifest, 0), backend.encode_prompt(words(manifest, 0)))
    for number in range(KEPT_SCHEDULES + 4):
        backend.denoise(noise(manifest, 0), (1.0, 0.9 - 0.01 * number, 0.0))
    assert len(backend._runs) == KEPT_SCHEDULES


def test_denoising_nothing_is_refused(uncompiled, micro_bundle, manifest):
    with pytest.raises(BackendError, match="call encode_context before it"):
        CompiledTorchBackend(micro_bundle, manifest, device="cpu").denoise(noise(manifest, 0), (1.0, 0.0))


@pytest.mark.parametrize(("dtype", "expected"), [("bfloat16", torch.bfloat16), ("float16", torch.float16)])
def test_half_precision_lowers_products_and_little_else(micro_bundle, manifest, dtype, expected):
    backend = TorchBackend(micro_bundle, manifest, device="cpu", dtype=dtype)
    block = backend._model.experts["action"].blocks[0]
    assert block.qkv.weight.dtype == expected
    assert block.norm_q.weight.dtype == torch.float32
    full = TorchBackend(micro_bundle, manifest, device="cpu")
    chunks = []
    for runs in (backend, full):
        runs.encode_context(*observation(manifest, 0), runs.encode_prompt(words(manifest, 0)))
        chunks.append(runs.denoise(noise(manifest, 0), sigma_schedule(4, 1.0)))
    assert 0 < np.abs(chunks[0] - chunks[1]).max() < 0.1


def test_unknown_types_and_missing_devices_are_refused(micro_bundle, manifest):
    with pytest.raises(BackendError, match=r"unknown dtype 'bfloat8' \(did you mean 'bfloat16'\?\)"):
        TorchBackend(micro_bundle, manifest, dtype="bfloat8")
    if not torch.cuda.is_available():
        with pytest.raises(BackendError, match="torch finds no CUDA device"):
            open_backend(micro_bundle, manifest, "torch_compiled", device="cuda")
