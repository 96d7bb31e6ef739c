"""Compiled PyTorch backend: no engines to build, and on a GPU one CUDA graph for a whole chunk.

The stages are compiled by torch once and, on CUDA, ``context`` and all N denoising steps are then recorded into a
single CUDA graph: one launch per chunk rather than one per step or kernel. Keys and values live in static buffers that
``context`` writes and every step reads. Without Triton, which torch's compiler needs on a GPU, the graph records the
eager kernels: more of them, still one launch. On the CPU there is no graph, only compiled stages.

Shape legend: K cameras, H chunk length, A action width, P proprio width, N denoising steps.
"""

import importlib.util
import itertools
import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from policy.errors import BackendError
from policy.torch_backend import TorchBackend

__all__ = ["CompiledTorchBackend"]

logger = logging.getLogger(__name__)

KEPT_SCHEDULES = 16  # recorded graphs; the oldest is dropped


class CompiledTorchBackend(TorchBackend):
    """Runs a bundle's weights compiled; arguments and errors as for ``TorchBackend``."""

    name = "torch_compiled"

    def _start(self, model: Any, device: str) -> None:
        super()._start(model, device)
        compiled = _compiler(self._torch, self.device)
        self._compute_context = compiled(self._model.encode_context)
        self._compute_step = compiled(self._model.denoise)
        self._stage = _Static(self._torch, self.device)
        self._prompt: Any = None  # the handle whose values are in the static buffers
        self._context_is_new = False
        self._runs: dict[Any, _Run] = {}

    def encode_context(self, images: np.ndarray, proprio: np.ndarray, prompt: Any) -> None:
        """See ``Backend.encode_context``; the stage itself runs with the first step of the next ``denoise``."""
        with self._torch.inference_mode():
            self._stage.put("images", self._torch.from_numpy(images)[None])
            self._stage.put("proprio", self._torch.from_numpy(proprio)[None])
            if prompt is not self._prompt:
                self._stage.put("prompt", prompt)
                self._prompt = prompt
            self._context_is_new = True

    def denoise(self, noise: np.ndarray, sigmas: Sequence[float]) -> np.ndarray:
        """See ``Backend.denoise``."""
        with self._torch.inference_mode():
            self._stage.put("actions", self._torch.from_numpy(noise)[None])
            return self._launch(tuple(sigmas), self._denoise_work)

    def denoise_step(self, actions: np.ndarray, sigma: np.ndarray, sigma_next: np.ndarray) -> np.ndarray:
        """See ``Backend.denoise_step``."""
        with self._torch.inference_mode():
            for name, array in (("actions", actions), ("sigma", sigma), ("sigma_next", sigma_next)):
                self._stage.put(name, self._torch.from_numpy(array)[None])
            return self._launch((), self._step_work)

    def _denoise_work(self, sigmas: tuple[float, ...]) -> Callable[[], Any]:
        levels = self._torch.tensor(sigmas, device=self.device)[:, None].expand(-1, self._model.config.chunk_length)
        tables = [self._model.step_tables(*(level[None] for level in pair)) for pair in itertools.pairwise(levels)]

        def work() -> Any:
            actions = self._stage.get("actions")
            for table in tables:
                actions = self._compute_step(actions, table, self._stage.get("context"))
            return actions

        return work

    def _step_work(self, _: tuple[float, ...]) -> Callable[[], Any]:
        def work() -> Any:
            tables = self._model.step_tables(self._stage.get("sigma"), self._stage.get("sigma_next"))
            return self._compute_step(self._stage.get("actions"), tables, self._stage.get("context"))

        return work

    def _context_work(self) -> None:
        self._stage.put(
            "context", self._compute_context(*(self._stage.get(n) for n in ("images", "proprio", "prompt")))
        )

    def _launch(self, sigmas: tuple[float, ...], make: Callable[[tuple[float, ...]], Callable[[], Any]]) -> np.ndarray:
        """Runs ``context`` if the observation is new, then the steps; recorded at its second call on CUDA."""
        if self._prompt is None:
            raise BackendError("denoise needs an observation: call encode_context before it.")
        key = (sigmas, self._context_is_new)
        if key not in self._runs:
            while len(self._runs) >= KEPT_SCHEDULES:
                self._runs.pop(next(iter(self._runs)))
            parts = [self._context_work] if self._context_is_new else []
            self._runs[key] = _Run(self._torch, self.device, [*parts, make(sigmas)])
        actions = self._runs[key].launch()
        self._context_is_new = False
        return actions[0].cpu().numpy().copy()  # (H, A)


class _Static:
    """Named trees of tensors that stay where they are: a graph's inputs and what its parts hand to each other."""

    def __init__(self, torch: Any, device: str) -> None:
        self._torch, self._device = torch, device
        self._trees: dict[str, Any] = {}

    def get(self, name: str) -> Any:
        return self._trees[name]

    def put(self, name: str, tree: Any) -> None:
        """Copies values into the buffers of that name, which are made at the first call."""
        if name not in self._trees:
            self._trees[name] = _map(lambda tensor: self._torch.empty_like(tensor, device=self._device), tree)
        targets, sources = _leaves(self._trees[name]), _leaves(tree)
        if sources[0].device == targets[0].device:
            self._torch._foreach_copy_(targets, sources)  # one launch for hundreds of keys and values
        else:
            for target, source in zip(targets, sources, strict=True):
                target.copy_(source)


class _Run:
    """One kind of chunk, whose last part gives the actions; on CUDA one graph from its second launch on."""

    def __init__(self, torch: Any, device: str, parts: Sequence[Callable[[], Any]]) -> None:
        self._torch, self._parts = torch, parts
        self._records = device == "cuda"
        self._graph: Any = None
        self._result: Any = None

    def launch(self) -> Any:
        if self._graph is not None:
            self._graph.replay()
            return self._result
        result = self._work()  # compiles, and lets libraries choose kernels and allocate, which cannot be recorded
        if self._records:
            self._record()
        return result

    def _work(self) -> Any:
        return [part() for part in self._parts][-1]

    def _record(self) -> None:
        torch = self._torch
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # once more where it will be recorded: libraries keep workspaces per stream
            self._work()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=side):
                self._result = self._work()
        except RuntimeError as error:
            logger.warning("no CUDA graph, so every kernel is launched on its own and a chunk takes longer: %s", error)
            self._records = False
            return
        self._graph = graph


def _compiler(torch: Any, device: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    if device == "cuda" and importlib.util.find_spec("triton") is None:
        logger.warning("triton is not installed, so nothing is compiled: the CUDA graph records eager kernels")
        return lambda function: function
    # Measuring kernels pays on a GPU, where a step reads its weights once and little else; CUDA graphs are our own.
    mode = "max-autotune-no-cudagraphs" if device == "cuda" else None
    return lambda function: torch.compile(function, fullgraph=True, dynamic=False, mode=mode)


def _map(function: Callable[[Any], Any], tree: Any) -> Any:
    """Applies a function to every tensor of nested tuples, named ones included."""
    if not isinstance(tree, tuple):
        return function(tree)
    parts = [_map(function, part) for part in tree]
    return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)


def _leaves(tree: Any) -> list[Any]:
    return [leaf for part in tree for leaf in _leaves(part)] if isinstance(tree, tuple) else [tree]
