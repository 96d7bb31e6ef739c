"""TensorRT backend: engines built on this machine, buffers allocated once, one CUDA graph for a whole chunk.

A chunk is one launch: ``context`` and all N denoising steps are recorded into one CUDA graph the first time a schedule
is asked for, which a policy does when it is loaded. Keys and values that ``context`` writes are the very tensors
``denoise`` reads, the steps swap two action buffers, and what noise levels do was computed when the schedule was
recorded. Nothing is allocated, cast, stacked or waited for between two steps.

Observations are double-buffered: ``encode_context`` only writes page-locked memory and may be called from another
thread while ``denoise`` waits for the chunk before. Which buffer is which follows from the manifest's tensors alone.

Shape legend: K cameras, H chunk length, A action width, P proprio width, T prompt words, N denoising steps.
"""

import functools
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from policy.cuda import Cuda, Recording
from policy.errors import BackendError
from policy.tensorrt_api import import_tensorrt
from policy.tensorrt_buffers import DeviceMemory, Observations, PromptHandle, fill, from_bits, to_bits
from policy.tensorrt_engines import load_engines
from policy.tensorrt_layers import Layer, inspected_layers
from policy.tensorrt_plan import ENGINE_FOLDER, read_engines
from wam.manifest import INVERSE_GRAPH, GraphSpec, Manifest

__all__ = ["TensorRtBackend"]

logger = logging.getLogger(__name__)

KEPT_SCHEDULES = 16  # recorded graphs; the oldest is dropped


class TensorRtBackend:
    """Runs a bundle's engines.

    Args:
        bundle: Folder whose files were checked against the manifest, with engines built by ``wam engine``.
        manifest: Its manifest.
        threads: Ignored: the CPU only launches.
        device: "cuda" or "auto".

    Raises:
        PlanError: There are no engines, or they are not for this bundle, GPU and TensorRT, or are damaged.
        BackendError: TensorRT, the driver or the device is missing.
    """

    name = "tensorrt"
    device = "cuda"
    threads = 1

    def __init__(self, bundle: Path, manifest: Manifest, *, threads: int | None = None, device: str = "auto") -> None:
        if device == "cpu":
            raise BackendError("backend 'tensorrt' runs on an NVIDIA GPU, not on device 'cpu': choose backend 'onnx'.")
        built = read_engines(bundle)
        trt = self._trt = import_tensorrt(built.runtime)
        self._cuda = Cuda()
        built.check(manifest, runtime=trt.__name__, runtime_version=trt.__version__, device=self._cuda.device)
        self._engines = load_engines(trt, bundle / ENGINE_FOLDER, built, manifest.graphs)
        self._graphs = manifest.graphs
        self._stream = self._cuda.stream()
        self._lock = threading.Lock()  # of everything that is queued on the stream
        self._memory = DeviceMemory(self._cuda)
        self._allocate()
        self._schedules: dict[tuple[float, ...], _Schedule] = {}
        self._context_run = self._recording(self._run_context)
        self._step_run = self._recording(self._run_free_step)
        self._prompt: PromptHandle | None = None  # whose keys and values are in the shared buffers
        self._context_is_new = False
        self._has_context = False
        logger.info("%s %s on %s", trt.__name__, trt.__version__, self._cuda.device.name)

    def encode_prompt(self, token_ids: np.ndarray) -> PromptHandle:
        """See ``Backend.encode_prompt``."""
        with self._lock:
            handle = PromptHandle(self._cuda, self._graphs["prompt"].outputs)
            fill(self._instruction, token_ids)
            self._cuda.upload(self._addresses[self._graphs["prompt"].inputs[0].name], self._instruction, self._stream)
            self._engines["prompt"].enqueue(self._bound("prompt") | handle.addresses, self._stream)
            self._cuda.synchronise(self._stream)
            return handle

    def encode_context(self, images: np.ndarray, proprio: np.ndarray, prompt: PromptHandle) -> None:
        """See ``Backend.encode_context``; the engine itself runs with the first step of the next ``denoise``."""
        self._observations.stage((images, proprio), prompt)

    def denoise(self, noise: np.ndarray, sigmas: Sequence[float]) -> np.ndarray:
        """See ``Backend.denoise``."""
        with self._lock:
            self._take_observation()
            schedule = self._schedule(tuple(sigmas))
            fill(self._host_actions, noise)
            self._cuda.upload(self._actions[0], self._host_actions, self._stream)
            schedule.runs[self._context_is_new].launch()
            return self._finish(self._actions[schedule.n_steps % 2])

    def denoise_step(self, actions: np.ndarray, sigma: np.ndarray, sigma_next: np.ndarray) -> np.ndarray:
        """See ``Backend.denoise_step``."""
        with self._lock:
            self._take_observation()
            if self._context_is_new:
                self._context_run.launch()
            for host, array in zip((self._host_actions, *self._host_levels), (actions, sigma, sigma_next), strict=True):
                fill(host, array)
            self._cuda.upload(self._actions[0], self._host_actions, self._stream)
            self._step_run.launch()
            return self._finish(self._actions[1])

    def actions_between(self, now: np.ndarray, later: np.ndarray) -> np.ndarray:
        """See ``Backend.actions_between``."""
        graph = self._graphs[INVERSE_GRAPH]
        inputs = {spec.name: image for spec, image in zip(graph.inputs, (now, later), strict=True)}
        return self.run_stage(INVERSE_GRAPH, inputs, graph)[graph.outputs[0].name]  # (O, A)

    def run_stage(self, name: str, inputs: Mapping[str, np.ndarray], graph: GraphSpec) -> dict[str, np.ndarray]:
        """See ``policy.stages.StageRunner``; buffers are made for this run, so it costs more than a chunk."""
        memory = DeviceMemory(self._cuda)
        with self._lock:
            try:
                device = {t.name: memory.device(t) for side in _sides(graph) for t in side}
                for tensor in graph.inputs:
                    host = memory.host(tensor)
                    fill(host, to_bits(inputs[tensor.name], tensor.dtype))
                    self._cuda.upload(device[tensor.name], host, self._stream)
                self._engines[name].enqueue(device, self._stream)
                results = {tensor.name: memory.host(tensor) for tensor in graph.outputs}
                for tensor in graph.outputs:
                    self._cuda.download(results[tensor.name], device[tensor.name], self._stream)
                self._cuda.synchronise(self._stream)
                return {tensor.name: from_bits(results[tensor.name], tensor.dtype) for tensor in graph.outputs}
            finally:
                self._cuda.synchronise(self._stream)
                memory.close()

    def layers(self) -> dict[str, list[Layer]]:
        """Returns what TensorRT made of each graph."""
        return {name: inspected_layers(self._trt, loaded.engine) for name, loaded in self._engines.items()}

    def memory_bytes(self) -> int:
        """Returns the device's memory in use, of this process and all others [bytes]."""
        return self._cuda.memory_used()

    def close(self) -> None:
        """Gives everything back; the backend cannot be used afterwards."""
        with self._lock:
            self._cuda.synchronise(self._stream)
            for schedule in self._schedules.values():
                schedule.close()
            self._schedules.clear()
            self._context_run.close()
            self._step_run.close()
            self._engines.clear()
            self._observations.close()
            self._memory.close()
            self._cuda.destroy_stream(self._stream)

    # -- buffers ------------------------------------------------------------------------------------------------------

    def _allocate(self) -> None:
        """Makes every buffer but those of a schedule: one per tensor name, and a second one for the actions."""
        graphs, memory = self._graphs, self._memory
        tensors = {t.name: t for graph in graphs.values() for t in (*graph.inputs, *graph.outputs)}
        actions, (result,) = graphs["denoise"].inputs[0], graphs["denoise"].outputs
        tables = {t.name for t in (*graphs["levels"].inputs, *graphs["levels"].outputs)}
        apart = {actions.name, result.name} | tables
        self._addresses = {name: memory.device(tensor) for name, tensor in tensors.items() if name not in apart}
        self._actions = [memory.device(actions), memory.device(result)]
        self._action_names = (actions.name, result.name)
        self._step_tables = self._new_tables()
        self._instruction = memory.host(graphs["prompt"].inputs[0])
        self._host_actions = memory.host(actions)
        self._host_levels = [memory.host(tensor) for tensor in graphs["levels"].inputs]
        self._observations = Observations(self._cuda, graphs["context"].inputs[:2])

    def _new_tables(self) -> dict[str, int]:
        """Device buffers for the noise levels of one step and for what they do."""
        return {t.name: self._memory.device(t) for side in _sides(self._graphs["levels"]) for t in side}

    def _bound(self, graph: str, extra: Mapping[str, int] | None = None) -> dict[str, int]:
        known = self._addresses | dict(extra or {})
        return {t.name: known[t.name] for side in _sides(self._graphs[graph]) for t in side}

    # -- what is queued -----------------------------------------------------------------------------------------------

    def _take_observation(self) -> None:
        """Uploads the observation that was staged last, if there is a new one."""
        targets = [self._addresses[tensor.name] for tensor in self._graphs["context"].inputs[:2]]
        prompt = self._observations.upload(targets, self._stream)
        if prompt is not None:
            if prompt is not self._prompt:
                prompt.copy_to(self._addresses, self._stream)
                self._prompt = prompt
            self._context_is_new = self._has_context = True
        if not self._has_context:
            raise BackendError("denoise needs an observation: call encode_context before it.")

    def _run_context(self) -> None:
        self._engines["context"].enqueue(self._bound("context"), self._stream)

    def _fill_tables(self, tables: Mapping[str, int]) -> None:
        """Queues the upload of the noise levels in the host buffers and the engine that turns them into tables."""
        for tensor, host in zip(self._graphs["levels"].inputs, self._host_levels, strict=True):
            self._cuda.upload(tables[tensor.name], host, self._stream)
        self._engines["levels"].enqueue(self._bound("levels", tables), self._stream)

    def _run_step(self, number: int, tables: Mapping[str, int]) -> None:
        here, there = self._actions[number % 2], self._actions[(number + 1) % 2]
        names = dict(zip(self._action_names, (here, there), strict=True))
        self._engines["denoise"].enqueue(self._bound("denoise", {**tables, **names}), self._stream)

    def _run_free_step(self) -> None:
        """One step at the noise levels that are in the host buffers, each token its own."""
        self._fill_tables(self._step_tables)
        self._run_step(0, self._step_tables)

    def _finish(self, result: int) -> np.ndarray:
        """Waits for a chunk and returns it; the one synchronisation of a chunk."""
        self._cuda.download(self._host_actions, result, self._stream)
        self._cuda.synchronise(self._stream)
        self._context_is_new = False
        return self._host_actions.reshape(self._host_actions.shape[-2:]).copy()  # (H, A)

    def _schedule(self, sigmas: tuple[float, ...]) -> "_Schedule":
        if sigmas not in self._schedules:
            while len(self._schedules) >= KEPT_SCHEDULES:
                oldest = self._schedules.pop(next(iter(self._schedules)))
                oldest.close()
                self._memory.release(address for levels in oldest.tables for address in levels.values())
            self._schedules[sigmas] = self._new_schedule(sigmas)
        return self._schedules[sigmas]

    def _new_schedule(self, sigmas: tuple[float, ...]) -> "_Schedule":
        tables = [self._new_tables() for _ in sigmas[1:]]
        for number, levels in enumerate(tables):
            for host, sigma in zip(self._host_levels, sigmas[number : number + 2], strict=True):
                host[...] = sigma
            self._fill_tables(levels)
            self._cuda.synchronise(self._stream)  # the host buffers are filled again for the next step

        def queue(*, with_context: bool) -> None:
            if with_context:
                self._run_context()
            for number, levels in enumerate(tables):
                self._run_step(number, levels)

        runs = {new: self._recording(functools.partial(queue, with_context=new)) for new in (False, True)}
        return _Schedule(tables=tables, runs=runs)

    def _recording(self, work: Callable[[], None]) -> Recording:
        # All engines are of one library and one device: what holds for one of them holds for all.
        return Recording(
            self._cuda, self._stream, work, recordable=self._engines["denoise"].can_be_captured(self._stream)
        )


@dataclass(frozen=True, kw_only=True)
class _Schedule:
    """The steps of one choice of noise levels."""

    tables: Sequence[Mapping[str, int]]  # (N,) device buffers with what each step's noise levels do
    runs: Mapping[bool, Recording]  # whether ``context`` runs first -> the whole chunk

    @property
    def n_steps(self) -> int:
        """N."""
        return len(self.tables)

    def close(self) -> None:
        """Gives the recorded graphs back."""
        for run in self.runs.values():
            run.close()


def _sides(graph: Any) -> tuple[Any, Any]:
    return graph.inputs, graph.outputs
