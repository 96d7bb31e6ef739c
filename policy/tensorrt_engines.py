"""Plans into engines that run: read, compared with their hash, deserialised, compared with the manifest, bound, queued.

The bytes that are hashed are the very bytes TensorRT gets, and all plans are hashed before the first is deserialised.
"""

import hashlib
import math
import mmap
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from policy.errors import BackendError, PlanError
from policy.tensorrt_api import dtype_name, log_of
from policy.tensorrt_plan import REBUILD, EngineManifest
from wam.manifest import GraphSpec, TensorSpec

__all__ = ["ITEM_BYTES", "LoadedEngine", "load_engines", "tensor_bytes"]

ITEM_BYTES: Mapping[str, int] = {
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "int64": 8,
    "int32": 4,
    "int8": 1,
    "uint8": 1,
    "bool": 1,
}


class LoadedEngine:
    """One engine with its only execution context.

    Args:
        trt: TensorRT.
        runtime: Its ``Runtime``.
        name: Of the graph.
        plan: The serialised engine, already checked.
        graph: Inputs and outputs it must have.

    Raises:
        PlanError: It cannot be deserialised, or its inputs and outputs are not those of the manifest.
    """

    def __init__(self, trt: Any, runtime: Any, name: str, plan: Any, graph: GraphSpec) -> None:
        self.name = name
        self._runtime = runtime  # must outlive the engine
        self._log = log_of(trt)
        self.engine = runtime.deserialize_cuda_engine(plan)
        if self.engine is None:
            raise PlanError(f"TensorRT cannot open the engine of '{name}': {self._log.errors()}; {REBUILD}")
        self._check_tensors(trt, graph)
        self._context = self.engine.create_execution_context()
        if self._context is None:
            raise BackendError(
                f"TensorRT cannot run the engine of '{name}': {self._log.errors()}. Most often GPU memory is lacking: "
                "close other programs."
            )

    def enqueue(self, addresses: Mapping[str, int], stream: int) -> None:
        """Binds every tensor to its device address and queues one run.

        Raises:
            BackendError: TensorRT refused.
        """
        for tensor, address in addresses.items():
            if not self._context.set_tensor_address(tensor, address):
                raise BackendError(f"TensorRT refuses the address of '{tensor}' ({self.name}): {self._log.errors()}.")
        if not self._context.execute_async_v3(stream):
            raise BackendError(f"TensorRT failed to run '{self.name}': {self._log.errors()}.")

    def can_be_captured(self, stream: int) -> bool:
        """Whether a CUDA graph may record this engine; only TensorRT for RTX, which compiles as it runs, may say no."""
        ask = getattr(self._context, "is_stream_capturable", None)
        return True if ask is None else bool(ask(stream))

    def _check_tensors(self, trt: Any, graph: GraphSpec) -> None:
        found = {}
        for number in range(self.engine.num_io_tensors):
            tensor = self.engine.get_tensor_name(number)
            side = "input" if self.engine.get_tensor_mode(tensor) == trt.TensorIOMode.INPUT else "output"
            dtype = dtype_name(trt, self.engine.get_tensor_dtype(tensor))
            found[tensor] = (side, tuple(self.engine.get_tensor_shape(tensor)), dtype)
        sides = {"input": graph.inputs, "output": graph.outputs}
        expected = {t.name: (side, t.shape, t.dtype) for side, tensors in sides.items() for t in tensors}
        if found != expected:
            wrong = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
            raise PlanError(
                f"the engine of '{self.name}' has {[(name, found.get(name)) for name in wrong]} but the manifest says "
                f"{[(name, expected.get(name)) for name in wrong]}: {REBUILD}"
            )


def load_engines(
    trt: Any, folder: Path, built: EngineManifest, graphs: Mapping[str, GraphSpec]
) -> dict[str, LoadedEngine]:
    """Opens all engines of a folder.

    Raises:
        PlanError: A plan is not the one that was built, or does not fit the manifest.
        BackendError: TensorRT cannot be started.
    """
    with ExitStack() as stack:
        plans = {name: stack.enter_context(_checked(folder, built, name)) for name in graphs}
        runtime = trt.Runtime(log_of(trt).handle)
        return {name: LoadedEngine(trt, runtime, name, plan, graphs[name]) for name, plan in plans.items()}


def tensor_bytes(tensor: TensorSpec) -> int:
    """Returns the size of a tensor [bytes]."""
    return ITEM_BYTES[tensor.dtype] * math.prod(tensor.shape)


def _checked(folder: Path, built: EngineManifest, name: str) -> mmap.mmap:
    """Maps a plan into memory, rather than reading it: a large one is needed once, by TensorRT."""
    engine = built.engines[name]
    path = folder / engine.file
    try:
        with path.open("rb") as stream:
            plan = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:  # ValueError: the file is empty
        raise PlanError(f"the plan of '{name}' cannot be read ({path}: {error}): {REBUILD}") from error
    if hashlib.sha256(plan).hexdigest() != engine.sha256:
        plan.close()
        raise PlanError(
            f"{path} is not the plan that was built here, its sha256 differs: it is damaged or was exchanged, and a "
            f"plan is code, so it is not opened; {REBUILD}"
        )
    return plan
