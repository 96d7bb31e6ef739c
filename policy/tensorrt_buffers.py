"""Memory of the TensorRT backend: device buffers by tensor, prompts that outlive a call, observations twice."""

import threading
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from policy.cuda import Cuda
from policy.tensorrt_engines import tensor_bytes
from wam.manifest import TensorSpec

__all__ = ["DeviceMemory", "Observations", "PromptHandle", "fill", "from_bits", "to_bits"]

BITS = {"bfloat16": "uint16"}  # types that numpy lacks -> what their bits are held in


class DeviceMemory:
    """Buffers that live as long as the backend, unless they are released before."""

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self._device: set[int] = set()
        self._host: list[np.ndarray] = []

    def device(self, tensor: TensorSpec) -> int:
        """Allocates device memory for a tensor and returns its address."""
        address = self._cuda.malloc(tensor_bytes(tensor))
        self._device.add(address)
        return address

    def host(self, tensor: TensorSpec) -> np.ndarray:
        """Allocates page-locked host memory of a tensor's shape and type, or of its ``BITS``."""
        array = self._cuda.malloc_host(tensor.shape, BITS.get(tensor.dtype, tensor.dtype))
        self._host.append(array)
        return array

    def release(self, addresses: Iterable[int]) -> None:
        """Gives some device memory back."""
        for address in addresses:
            self._device.remove(address)
            self._cuda.free(address)

    def close(self) -> None:
        """Gives all of it back."""
        self.release(tuple(self._device))
        for array in self._host:
            self._cuda.free_host(array)
        self._host.clear()


class PromptHandle:
    """Keys and values of one instruction, on the device; freed when nobody holds it any more."""

    def __init__(self, cuda: Cuda, tensors: Sequence[TensorSpec]) -> None:
        self._cuda = cuda
        self._sizes = {tensor.name: tensor_bytes(tensor) for tensor in tensors}
        self.addresses = {name: cuda.malloc(size) for name, size in self._sizes.items()}
        # Not at exit: the driver may be gone by then, and the process gives everything back anyway.
        weakref.finalize(self, _free, cuda, tuple(self.addresses.values())).atexit = False

    def copy_to(self, targets: Mapping[str, int], stream: int) -> None:
        """Queues copies into the buffers the engines are bound to; once per change of task."""
        for name, address in self.addresses.items():
            self._cuda.copy(targets[name], address, self._sizes[name], stream)


class Observations:
    """Two places in page-locked memory: one may be on its way to the device while the other is being written.

    Args:
        cuda: The device.
        tensors: Inputs that make up an observation, in the order in which they are staged.
    """

    def __init__(self, cuda: Cuda, tensors: Sequence[TensorSpec]) -> None:
        self._cuda = cuda
        self._lock = threading.Lock()
        self._places = [[cuda.malloc_host(t.shape, t.dtype) for t in tensors] for _ in range(2)]
        self._uploaded = [cuda.event() for _ in self._places]  # marks the end of a place's last upload
        self._next = 0
        self._staged: tuple[int, Any] | None = None  # (place, prompt)

    def stage(self, arrays: Sequence[np.ndarray], prompt: PromptHandle) -> None:
        """Writes an observation; it replaces one that was staged and not yet taken."""
        with self._lock:
            place = self._next
            self._cuda.wait(self._uploaded[place])
            for target, array in zip(self._places[place], arrays, strict=True):
                fill(target, array)
            self._staged = (place, prompt)
            self._next = 1 - place

    def upload(self, addresses: Sequence[int], stream: int) -> PromptHandle | None:
        """Queues the upload of what was staged and returns its prompt; None when nothing new was staged."""
        with self._lock:
            if self._staged is None:
                return None
            place, prompt = self._staged
            self._staged = None
            for address, array in zip(addresses, self._places[place], strict=True):
                self._cuda.upload(address, array, stream)
            self._cuda.record(self._uploaded[place], stream)
            return prompt

    def close(self) -> None:
        """Gives the memory back."""
        for array in (array for place in self._places for array in place):
            self._cuda.free_host(array)
        for event in self._uploaded:
            self._cuda.destroy_event(event)
        self._places.clear()


def fill(buffer: np.ndarray, values: np.ndarray) -> None:
    """Writes values into a buffer of as many elements; graphs may have a batch axis that callers have not."""
    np.copyto(buffer, np.reshape(values, buffer.shape))


def to_bits(values: np.ndarray, dtype: str) -> np.ndarray:
    """Casts to a tensor's type; bfloat16, which numpy lacks, to its bits, rounded to the nearest even."""
    if dtype not in BITS:
        return values.astype(dtype)
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_bits(buffer: np.ndarray, dtype: str) -> np.ndarray:
    """The inverse of ``to_bits``, as a fresh array; floating point becomes float32."""
    if dtype in BITS:
        return (buffer.astype(np.uint32) << 16).view(np.float32)
    return buffer.astype(np.float32) if dtype in {"float16", "float32"} else buffer.copy()


def _free(cuda: Cuda, addresses: Iterable[int]) -> None:
    for address in addresses:
        cuda.free(address)
