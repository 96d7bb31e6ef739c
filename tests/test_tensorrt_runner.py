"""The TensorRT backend against a fake GPU that runs late: right numbers, right order of calls, one graph per chunk."""

import dataclasses

import numpy as np
import pytest

from policy.errors import BackendError, PlanError
from policy.load import load_policy, open_backend
from policy.tensorrt_backend import KEPT_SCHEDULES, TensorRtBackend
from policy.tensorrt_plan import read_engines
from tests.fake_cuda import Error
from tests.stage_inputs import noise, observation, words
from wam.manifest import read_manifest
from wam.robot import load_robot
from wam.sigmas import sigma_schedule

SCHEDULES = [tuple(sigma_schedule(n_steps, 1.0)) for n_steps in (1, 2, 4)]
TIGHT = {"rtol": 0, "atol": 1e-6}


@pytest.fixture
def manifest(engines):
    return read_manifest(engines)


@pytest.fixture
def backend(engines, manifest):
    return TensorRtBackend(engines, manifest)


@pytest.fixture
def reference(engines, manifest):
    return open_backend(engines, manifest, "onnx", threads=1, device="cpu")


def test_chunks_are_those_of_onnx_runtime_over_observations_prompts_and_schedules(backend, reference, manifest):
    prompts = [[runs.encode_prompt(words(manifest, seed)) for runs in (backend, reference)] for seed in range(3)]
    for turn in range(12):
        sigmas = SCHEDULES[turn % len(SCHEDULES)]
        chunks = []
        for runs, prompt in zip((backend, reference), prompts[turn // 2 % 3], strict=True):
            runs.encode_context(*observation(manifest, turn), prompt)
            chunks.append(runs.denoise(noise(manifest, turn), sigmas))
        np.testing.assert_allclose(*chunks, **TIGHT)


def test_a_second_chunk_of_the_same_observation_leaves_the_context_alone(fake_gpu, backend, reference, manifest):
    for runs in (backend, reference):
        runs.encode_context(*observation(manifest, 0), runs.encode_prompt(words(manifest, 0)))
    for seed in range(4):
        chunks = [runs.denoise(noise(manifest, seed), SCHEDULES[1]) for runs in (backend, reference)]
        np.testing.assert_allclose(*chunks, **TIGHT)
    contexts = [name for name, _ in fake_gpu[1].runs if name.startswith("frame")]
    assert len(contexts) == 2  # queued once, recorded once; never again


def test_a_warm_chunk_is_one_graph_and_one_wait(fake_gpu, backend, manifest):
    cuda, trt = fake_gpu
    prompt = backend.encode_prompt(words(manifest, 0))
    for seed in range(2):
        backend.encode_context(*observation(manifest, seed), prompt)
        backend.denoise(noise(manifest, seed), SCHEDULES[2])
    cuda.calls.clear()
    trt.runs.clear()
    backend.encode_context(*observation(manifest, 2), prompt)
    assert cuda.calls == ["cudaEventSynchronize"]  # of an upload two observations ago: no wait in practice
    cuda.calls.clear()
    backend.denoise(noise(manifest, 2), SCHEDULES[2])
    copy, record, launch, wait = "cudaMemcpyAsync", "cudaEventRecord", "cudaGraphLaunch", "cudaStreamSynchronize"
    assert cuda.calls == [copy, copy, record, copy, launch, copy, wait]
    assert not trt.runs  # nothing is queued engine by engine


def test_buffers_are_shared_and_swapped(fake_gpu, backend, manifest):
    _, trt = fake_gpu
    backend.encode_context(*observation(manifest, 0), backend.encode_prompt(words(manifest, 0)))
    trt.runs.clear()
    backend.denoise(noise(manifest, 0), SCHEDULES[2])
    runs = [(name, addresses) for name, addresses in trt.runs if name != "gain"]
    assert [name.split("_")[0] for name, _ in runs[:5]] == ["frame"] + ["actions"] * 4
    context, steps = runs[0][1], [addresses for _, addresses in runs[1:5]]
    shared = {tensor.name for tensor in manifest.graphs["context"].outputs}
    assert shared <= steps[0].keys()
    for addresses in steps:
        assert all(addresses[name] == context[name] for name in shared)
    ends = [(addresses["actions"], addresses["actions_next"]) for addresses in steps]
    assert ends == [ends[0], ends[0][::-1]] * 2
    assert len({addresses["gain"] for addresses in steps}) == 4  # every step has tables of its own
    assert runs[5:] == runs[:5]  # what was recorded is what was queued


def test_a_changed_prompt_is_copied_once(fake_gpu, backend, manifest):
    cuda, _ = fake_gpu
    prompts = [backend.encode_prompt(words(manifest, seed)) for seed in range(2)]
    copies = len(manifest.graphs["prompt"].outputs)
    for prompt, expected in ((prompts[0], copies), (prompts[0], 0), (prompts[1], copies), (prompts[1], 0)):
        backend.encode_context(*observation(manifest, 0), prompt)
        cuda.calls.clear()
        backend._take_observation()
        assert cuda.calls.count("cudaMemcpyAsync") == 2 + expected


def test_a_forgotten_prompt_gives_its_memory_back(fake_gpu, backend, manifest):
    cuda, _ = fake_gpu
    before = len(cuda.memory)
    prompt = backend.encode_prompt(words(manifest, 0))
    assert len(cuda.memory) == before + len(manifest.graphs["prompt"].outputs)
    del prompt
    assert len(cuda.memory) == before


def test_single_steps_take_a_noise_level_per_token(backend, reference, manifest):
    for runs in (backend, reference):
        runs.encode_context(*observation(manifest, 3), runs.encode_prompt(words(manifest, 0)))
    sigma = np.linspace(0.0, 1.0, manifest.chunk_length, dtype=np.float32)
    chunks = [noise(manifest, 0), noise(manifest, 0)]
    for shrink in (0.75, 0.5, 0.0):  # the first queues and records, the others are launched
        sigma_next = shrink * sigma
        chunks = [
            runs.denoise_step(chunk, sigma, sigma_next)
            for runs, chunk in zip((backend, reference), chunks, strict=True)
        ]
        np.testing.assert_allclose(*chunks, **TIGHT)
        sigma = sigma_next
    np.testing.assert_array_equal(chunks[0][0], noise(manifest, 0)[0])  # sigma 0 all along: committed, untouched


def test_steps_and_chunks_may_alternate(fake_gpu, backend, reference, manifest):
    prompts = [runs.encode_prompt(words(manifest, 0)) for runs in (backend, reference)]
    levels = np.full(manifest.chunk_length, 1.0, np.float32), np.full(manifest.chunk_length, 0.5, np.float32)
    for turn in range(4):
        chunks = []
        for runs, prompt in zip((backend, reference), prompts, strict=True):
            runs.encode_context(*observation(manifest, turn), prompt)
            half = runs.denoise_step(noise(manifest, turn), *levels)
            chunks += [half, runs.denoise(noise(manifest, turn), SCHEDULES[turn % 3])]
        np.testing.assert_allclose(chunks[0], chunks[2], **TIGHT)
        np.testing.assert_allclose(chunks[1], chunks[3], **TIGHT)


def test_an_observation_may_be_staged_while_a_chunk_is_in_flight(fake_gpu, backend, reference, manifest):
    cuda, _ = fake_gpu
    prompts = [runs.encode_prompt(words(manifest, 0)) for runs in (backend, reference)]
    expected = []
    for seed in range(2):
        reference.encode_context(*observation(manifest, seed), prompts[1])
        expected.append(reference.denoise(noise(manifest, 0), SCHEDULES[1]))
    backend.encode_context(*observation(manifest, 0), prompts[0])
    # The upload of the first observation is queued and has not run when the next one arrives.
    arrives = iter([lambda: backend.encode_context(*observation(manifest, 1), prompts[0])])
    cuda.before["cudaStreamSynchronize"] = lambda: next(arrives, lambda: None)()
    np.testing.assert_allclose(backend.denoise(noise(manifest, 0), SCHEDULES[1]), expected[0], **TIGHT)
    np.testing.assert_allclose(backend.denoise(noise(manifest, 0), SCHEDULES[1]), expected[1], **TIGHT)


def test_the_newest_of_several_staged_observations_counts(backend, reference, manifest):
    prompts = [runs.encode_prompt(words(manifest, 0)) for runs in (backend, reference)]
    for seed in (0, 1, 2):
        backend.encode_context(*observation(manifest, seed), prompts[0])
    reference.encode_context(*observation(manifest, 2), prompts[1])
    chunks = [runs.denoise(noise(manifest, 0), SCHEDULES[0]) for runs in (backend, reference)]
    np.testing.assert_allclose(*chunks, **TIGHT)


def test_old_schedules_are_dropped_with_their_memory(fake_gpu, backend, manifest):
    cuda, _ = fake_gpu
    backend.encode_context(*observation(manifest, 0), backend.encode_prompt(words(manifest, 0)))
    held = []
    for number in range(KEPT_SCHEDULES + 3):
        backend.denoise(noise(manifest, 0), (1.0, 0.9 - 0.01 * number, 0.0))
        held.append((len(cuda.memory), len(cuda.graphs)))
    assert held[KEPT_SCHEDULES - 1] == held[-1]


def test_closing_gives_everything_back(fake_gpu, backend, manifest):
    cuda, _ = fake_gpu
    prompt = backend.encode_prompt(words(manifest, 0))
    backend.encode_context(*observation(manifest, 0), prompt)
    backend.denoise(noise(manifest, 0), SCHEDULES[1])
    backend.close()
    backend._prompt = None
    del prompt
    assert not cuda.memory
    assert not cuda.host
    assert not cuda.graphs
    assert not cuda.events
    assert not cuda.queues


def test_where_a_graph_is_impossible_steps_are_launched_one_by_one(fake_gpu, backend, reference, manifest, caplog):
    _, trt = fake_gpu
    trt.fails.add("capture")
    for turn in range(3):
        chunks = []
        for runs in (backend, reference):
            runs.encode_context(*observation(manifest, turn), runs.encode_prompt(words(manifest, 0)))
            chunks.append(runs.denoise(noise(manifest, turn), SCHEDULES[2]))
        np.testing.assert_allclose(*chunks, **TIGHT)
    warnings = [record.message for record in caplog.records if "no CUDA graph" in record.message]
    assert len(warnings) == 1
    assert "not permitted while a stream is captured" in warnings[0]


def test_denoising_nothing_is_refused(backend, manifest):
    with pytest.raises(BackendError, match="call encode_context before it"):
        backend.denoise(noise(manifest, 0), SCHEDULES[0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("set_tensor_address", "TensorRT refuses the address of '.*: address is not aligned"),
        ("execute_async_v3", "TensorRT failed to run '.*': a kernel could not be launched"),
    ],
)
def test_a_call_that_answers_false_is_an_error_with_the_logs_words(fake_gpu, backend, manifest, call, message):
    backend.encode_context(*observation(manifest, 0), backend.encode_prompt(words(manifest, 0)))
    fake_gpu[1].fails.add(call)
    with pytest.raises(BackendError, match=message):
        backend.denoise(noise(manifest, 0), SCHEDULES[0])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        ("deserialize_cuda_engine", PlanError, "cannot open the engine of 'prompt': magic tag .* wam engine"),
        ("create_execution_context", BackendError, "cannot run the engine of 'prompt': out of memory"),
    ],
)
def test_an_engine_that_does_not_open_is_an_error_with_the_logs_words(
    fake_gpu, engines, manifest, call, error, message
):
    fake_gpu[1].fails.add(call)
    with pytest.raises(error, match=message):
        TensorRtBackend(engines, manifest)


def test_cuda_errors_carry_their_name_and_text(fake_gpu, engines, manifest):
    fake_gpu[0].fails["cudaMalloc"] = Error.OUT_OF_MEMORY
    with pytest.raises(BackendError, match="cudaMalloc failed with CUDA error 2: fake out_of_memory"):
        TensorRtBackend(engines, manifest)


def test_an_engine_with_other_tensors_is_refused(fake_gpu, engines, manifest):
    graphs = dict(manifest.graphs)
    sigma, sigma_next = graphs["levels"].inputs
    other = dataclasses.replace(sigma, shape=(1, 99))
    graphs["levels"] = dataclasses.replace(graphs["levels"], inputs=(other, sigma_next))
    changed = dataclasses.replace(manifest, graphs=graphs)
    assert read_engines(engines).engines.keys() == graphs.keys()
    with pytest.raises(PlanError, match=r"the engine of 'levels' has \[\('sigma', .*\(1, 99\).*wam engine"):
        TensorRtBackend(engines, changed)


def test_loading_runs_and_records_the_chunk_that_was_asked_for(fake_gpu, engines):
    cuda, _ = fake_gpu
    policy = load_policy(engines, load_robot("sim6"), backend="tensorrt", n_steps=2)
    assert policy.n_steps == 2
    assert cuda.calls.count("cudaStreamBeginCapture") == 1
    assert cuda.calls.count("cudaGraphLaunch") == 2  # of three warm-up chunks the first is queued
