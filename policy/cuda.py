"""The little of CUDA that an engine needs: memory, one stream, events and graphs, through NVIDIA's Python bindings.

Not through torch: a Jetson has TensorRT from JetPack and no torch, while ``cuda-bindings`` is one small wheel, for
x86-64 and aarch64 alike, that asks for nothing but the driver. Only functions that its releases 12 and 13 both have are
used. Every call's error code is checked, and none is made before a device was found.
"""

import contextlib
import ctypes
import importlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from policy.errors import BackendError

__all__ = ["Cuda", "Device", "Recording", "no_device_reason"]

logger = logging.getLogger(__name__)

BINDINGS = "cuda.bindings.runtime"


@dataclass(frozen=True, kw_only=True)
class Device:
    """The GPU that this process uses."""

    name: str  # as the driver calls it
    compute_capability: str  # "8.7"
    driver: str  # newest CUDA version the driver can run, "13.2"
    memory_bytes: int  # of the whole device; shared with the CPU on a Jetson


class Cuda:
    """CUDA device 0 of this process, as the environment shows it.

    Pointers, streams, events and graphs are the driver's handles; whoever makes one gives it back.

    Raises:
        BackendError: The bindings are not installed, or there is no driver or device.
    """

    def __init__(self) -> None:
        try:
            self._runtime: Any = importlib.import_module(BINDINGS)
        except ImportError as error:
            raise BackendError(
                f"CUDA needs NVIDIA's Python bindings, which cannot be imported ({error}): install cuda-bindings of "
                "the driver's CUDA release (world_action_model[trt] brings it), or choose backend 'onnx'."
            ) from error
        try:
            count = self._call("cudaGetDeviceCount")
        except BackendError as error:
            raise BackendError(f"no NVIDIA driver ({error}): see wam doctor, or choose backend 'onnx'.") from error
        if count < 1:
            raise BackendError("the driver finds no NVIDIA device: see wam doctor, or choose backend 'onnx'.")
        self.device = self._device()

    def malloc(self, size: int) -> int:
        """Allocates device memory [bytes] and returns its address."""
        return int(self._call("cudaMalloc", size))

    def free(self, address: int) -> None:
        """Gives device memory back."""
        self._call("cudaFree", address)

    def malloc_host(self, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        """Allocates page-locked host memory, which copies run from without waiting for the CPU."""
        kind = np.dtype(dtype)
        size = kind.itemsize * int(np.prod(shape))
        address = int(self._call("cudaMallocHost", size))
        block = (ctypes.c_byte * size).from_address(address)
        return np.frombuffer(block, dtype=kind).reshape(shape)

    def free_host(self, array: np.ndarray) -> None:
        """Gives page-locked memory back; the array must not be touched afterwards."""
        self._call("cudaFreeHost", array.ctypes.data)

    def stream(self) -> int:
        """Makes a stream that does not wait for the default one."""
        return int(self._call("cudaStreamCreateWithFlags", self._runtime.cudaStreamNonBlocking))

    def destroy_stream(self, stream: int) -> None:
        """Gives a stream back."""
        self._call("cudaStreamDestroy", stream)

    def synchronise(self, stream: int) -> None:
        """Waits until a stream has done all it was given."""
        self._call("cudaStreamSynchronize", stream)

    def upload(self, address: int, array: np.ndarray, stream: int) -> None:
        """Queues a copy of a contiguous host array to the device; the array must stay as it is until it is done."""
        self._copy(address, array.ctypes.data, array.nbytes, "cudaMemcpyHostToDevice", stream)

    def download(self, array: np.ndarray, address: int, stream: int) -> None:
        """Queues a copy from the device into a contiguous host array."""
        self._copy(array.ctypes.data, address, array.nbytes, "cudaMemcpyDeviceToHost", stream)

    def copy(self, address: int, source: int, size: int, stream: int) -> None:
        """Queues a copy of ``size`` bytes on the device."""
        self._copy(address, source, size, "cudaMemcpyDeviceToDevice", stream)

    def event(self) -> int:
        """Makes an event without a time stamp."""
        return int(self._call("cudaEventCreateWithFlags", self._runtime.cudaEventDisableTiming))

    def destroy_event(self, event: int) -> None:
        """Gives an event back."""
        self._call("cudaEventDestroy", event)

    def record(self, event: int, stream: int) -> None:
        """Makes the event mark what the stream was given up to now."""
        self._call("cudaEventRecord", event, stream)

    def wait(self, event: int) -> None:
        """Waits until what the event marks is done; at once for an event that was never recorded."""
        self._call("cudaEventSynchronize", event)

    @contextlib.contextmanager
    def capturing(self, stream: int) -> Iterator[list[int]]:
        """Records what the block gives to the stream, instead of running it.

        Yields:
            A list that holds the executable graph once the block has ended well; after an error it stays empty and the
            capture is ended all the same, so that the stream can be used again.
        """
        graphs: list[int] = []
        # Thread-local: other threads of a robot's process may use CUDA meanwhile, for a camera's decoder say.
        mode = self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", stream, mode)
        try:
            yield graphs
        except BaseException:
            self._runtime.cudaStreamEndCapture(stream)  # an error of its own would hide the one that is on its way
            raise
        graph = self._call("cudaStreamEndCapture", stream)
        graphs.append(int(self._call("cudaGraphInstantiate", graph, 0)))
        self._call("cudaGraphDestroy", graph)

    def launch(self, graph: int, stream: int) -> None:
        """Queues one run of an executable graph."""
        self._call("cudaGraphLaunch", graph, stream)

    def destroy_graph(self, graph: int) -> None:
        """Gives an executable graph back."""
        self._call("cudaGraphExecDestroy", graph)

    def memory_used(self) -> int:
        """Bytes of the device that are in use, by this process and all others."""
        free, total = self._call("cudaMemGetInfo")
        return int(total) - int(free)

    def _device(self) -> Device:
        properties = self._call("cudaGetDeviceProperties", 0)
        driver = int(self._call("cudaDriverGetVersion"))  # 13020 is 13.2
        return Device(
            name=bytes(properties.name).rstrip(b"\0").decode(errors="replace"),
            compute_capability=f"{properties.major}.{properties.minor}",
            driver=f"{driver // 1000}.{driver % 1000 // 10}",
            memory_bytes=int(properties.totalGlobalMem),
        )

    def _copy(self, target: int, source: int, size: int, kind: str, stream: int) -> None:
        self._call("cudaMemcpyAsync", target, source, size, getattr(self._runtime.cudaMemcpyKind, kind), stream)

    def _call(self, name: str, *arguments: Any) -> Any:
        """Calls a function of the runtime and returns its value, without its error code."""
        error, *values = getattr(self._runtime, name)(*arguments)
        if int(error) != 0:
            _, text = self._runtime.cudaGetErrorString(error)
            raise BackendError(f"{name} failed with CUDA error {int(error)}: {text.decode(errors='replace')}")
        if not values:
            return None
        return values[0] if len(values) == 1 else tuple(values)


class Recording:
    """Work that is queued at its first launch and recorded then, into a CUDA graph for all later ones.

    Args:
        cuda: The device.
        stream: What the work is queued on.
        work: Queues it, always on the same buffers; may run twice, and must not wait for the device.
        recordable: False where a graph is known to be impossible: the work is then queued at every launch.
    """

    def __init__(self, cuda: Cuda, stream: int, work: Callable[[], None], *, recordable: bool = True) -> None:
        self._cuda, self._stream, self._work = cuda, stream, work
        self._recordable = recordable
        self._graph: int | None = None

    @property
    def recorded(self) -> bool:
        """Whether the next launch is one graph."""
        return self._graph is not None

    def launch(self) -> None:
        """Queues the work once."""
        if self._graph is not None:
            self._cuda.launch(self._graph, self._stream)
            return
        self._work()
        if self._recordable:
            # Only now: engines may allocate and choose kernels at their first run, which cannot be recorded.
            self._cuda.synchronise(self._stream)
            self._graph = self._record()
            self._recordable = self.recorded

    def close(self) -> None:
        """Gives the graph back."""
        if self._graph is not None:
            self._cuda.destroy_graph(self._graph)
            self._graph = None

    def _record(self) -> int | None:
        try:
            with self._cuda.capturing(self._stream) as graphs:
                self._work()
        except BackendError as error:
            logger.warning("no CUDA graph, so every kernel is launched on its own and a chunk takes longer: %s", error)
            return None
        return graphs[0]


def no_device_reason() -> str:
    """Why CUDA cannot be used here, in words; empty when it can."""
    try:
        Cuda()
    except BackendError as error:
        return str(error)
    return ""
