"""A CUDA runtime that computes on the CPU, strict where the real one is.

Work on a stream is only queued, and runs when somebody waits for it: reading a result too early, or writing over memory
that is still to be uploaded, gives wrong numbers here as it would on a GPU. While a stream is being captured nothing
runs and nothing may be waited for or allocated.
"""

import ctypes
import enum
import types

import numpy as np

FIRST_ADDRESS = 1 << 56  # above any address of the CPU


class Error(enum.IntEnum):
    SUCCESS = 0
    INVALID_VALUE = 1
    OUT_OF_MEMORY = 2
    NO_DEVICE = 100
    CAPTURE_UNSUPPORTED = 900


class FakeCuda(types.ModuleType):
    """Stands in for ``cuda.bindings.runtime``."""

    cudaStreamNonBlocking = 1
    cudaEventDisableTiming = 2
    cudaStreamCaptureMode = types.SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)
    cudaMemcpyKind = types.SimpleNamespace(
        cudaMemcpyHostToDevice="up", cudaMemcpyDeviceToHost="down", cudaMemcpyDeviceToDevice="across"
    )

    def __init__(self, *, name="Fake GPU", capability=(12, 0), driver=13020, devices=1):
        super().__init__("cuda.bindings.runtime")
        self.name, self.capability, self.driver, self.devices = name, capability, driver, devices
        self.memory: dict[int, np.ndarray] = {}  # device address -> bytes
        self.host: dict[int, object] = {}
        self.queues: dict[int, list] = {}
        self.graphs: dict[int, list] = {}
        self.events: dict[int, tuple[int, int] | None] = {}
        self.done: dict[int, int] = {}  # stream -> jobs run so far
        self.capture: list | None = None
        self.calls: list[str] = []
        self.fails: dict[str, Error] = {}  # function -> what it answers
        self.before: dict[str, object] = {}  # function -> called first
        self._handles = iter(range(1, 1 << 30))
        self._next_address = FIRST_ADDRESS

    def __getattribute__(self, name):
        value = super().__getattribute__(name)
        if not name.startswith("cuda") or not callable(value):
            return value

        def call(*arguments):
            self.calls.append(name)
            self.before.get(name, lambda: None)()
            return (self.fails[name], None) if name in self.fails else value(*arguments)

        return call

    def view(self, address: int, size: int) -> np.ndarray:
        """The bytes at an address, of the device or the host."""
        for start, block in self.memory.items():
            if start <= address and address + size <= start + block.nbytes:
                return block[address - start : address - start + size]
        assert address < FIRST_ADDRESS, f"no device memory at {address:#x}"
        return np.frombuffer((ctypes.c_byte * size).from_address(address), dtype=np.uint8)

    def submit(self, stream: int, job) -> None:
        if self.capture is not None:
            self.capture.append(job)
        else:
            self.queues[stream].append(job)

    def drain(self, stream: int, jobs: int | None = None) -> None:
        queue = self.queues[stream]
        while queue and (jobs is None or self.done[stream] < jobs):
            queue.pop(0)()
            self.done[stream] += 1

    # -- the API ------------------------------------------------------------------------------------------------------

    def cudaGetDeviceCount(self):
        return (Error.SUCCESS, self.devices) if self.devices else (Error.NO_DEVICE, None)

    def cudaDriverGetVersion(self):
        return Error.SUCCESS, self.driver

    def cudaGetDeviceProperties(self, device):
        major, minor = self.capability
        return Error.SUCCESS, types.SimpleNamespace(
            name=self.name.encode().ljust(256, b"\0"), major=major, minor=minor, totalGlobalMem=8 << 30
        )

    def cudaGetErrorString(self, error):
        return Error.SUCCESS, f"fake {Error(error).name.lower()}".encode()

    def cudaMemGetInfo(self):
        used = sum(block.nbytes for block in self.memory.values())
        return Error.SUCCESS, (8 << 30) - used, 8 << 30

    def cudaMalloc(self, size):
        if self.capture is not None:
            return Error.CAPTURE_UNSUPPORTED, None
        address = self._next_address
        self._next_address += -(-size // 256) * 256
        self.memory[address] = np.full(size, 0xAB, dtype=np.uint8)  # as good as random
        return Error.SUCCESS, address

    def cudaFree(self, address):
        del self.memory[address]
        return (Error.SUCCESS,)

    def cudaMallocHost(self, size):
        if self.capture is not None:
            return Error.CAPTURE_UNSUPPORTED, None
        block = (ctypes.c_byte * size)()
        self.host[ctypes.addressof(block)] = block
        return Error.SUCCESS, ctypes.addressof(block)

    def cudaFreeHost(self, address):
        del self.host[address]
        return (Error.SUCCESS,)

    def cudaStreamCreateWithFlags(self, flags):
        assert flags == self.cudaStreamNonBlocking
        stream = next(self._handles)
        self.queues[stream], self.done[stream] = [], 0
        return Error.SUCCESS, stream

    def cudaStreamDestroy(self, stream):
        del self.queues[stream]
        return (Error.SUCCESS,)

    def cudaStreamSynchronize(self, stream):
        if self.capture is not None:
            return (Error.CAPTURE_UNSUPPORTED,)
        self.drain(stream)
        return (Error.SUCCESS,)

    def cudaMemcpyAsync(self, target, source, size, kind, stream):
        if kind != "across":  # copies from or to memory that is not page-locked would wait for the CPU
            host = source if kind == "up" else target
            assert any(start <= host < start + ctypes.sizeof(block) for start, block in self.host.items())
        to, by = self.view(target, size), self.view(source, size)
        self.submit(stream, lambda: np.copyto(to, by))
        return (Error.SUCCESS,)

    def cudaEventCreateWithFlags(self, flags):
        event = next(self._handles)
        self.events[event] = None
        return Error.SUCCESS, event

    def cudaEventDestroy(self, event):
        del self.events[event]
        return (Error.SUCCESS,)

    def cudaEventRecord(self, event, stream):
        self.events[event] = (stream, self.done[stream] + len(self.queues[stream]))
        return (Error.SUCCESS,)

    def cudaEventSynchronize(self, event):
        if self.events[event] is not None:
            self.drain(*self.events[event])
        return (Error.SUCCESS,)

    def cudaStreamBeginCapture(self, stream, mode):
        assert self.capture is None
        self.capture = []
        return (Error.SUCCESS,)

    def cudaStreamEndCapture(self, stream):
        graph, jobs = next(self._handles), self.capture
        self.capture = None
        self.graphs[graph] = jobs
        return Error.SUCCESS, graph

    def cudaGraphInstantiate(self, graph, flags):
        executable = next(self._handles)
        self.graphs[executable] = list(self.graphs[graph])
        return Error.SUCCESS, executable

    def cudaGraphDestroy(self, graph):
        del self.graphs[graph]
        return (Error.SUCCESS,)

    def cudaGraphExecDestroy(self, graph):
        del self.graphs[graph]
        return (Error.SUCCESS,)

    def cudaGraphLaunch(self, graph, stream):
        for job in self.graphs[graph]:
            self.submit(stream, job)
        return (Error.SUCCESS,)
