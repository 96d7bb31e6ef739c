"""A TensorRT whose engines hold their ONNX graph and run it with ONNX Runtime, on the fake CUDA's memory and streams.

Its objects have the names that the dumps of TensorRT's API in ``tests/data`` have in common, and no others.
"""

import enum
import functools
import json
import shutil
import sys
import types
from pathlib import Path

import numpy as np
import onnxruntime

from policy.cuda import Device
from policy.tensorrt_builder import BuildOptions, build_engines
from tests.fake_cuda import FakeCuda
from wam.manifest import read_manifest

DUMPS = ("10.3", "10.16", "11.4")
DTYPES = {"tensor(float)": "FLOAT", "tensor(uint8)": "UINT8", "tensor(int64)": "INT64", "tensor(float16)": "HALF"}
NUMPY = {"FLOAT": np.float32, "UINT8": np.uint8, "INT64": np.int64, "HALF": np.float16}
PLAN = b"a fake plan:"
ENUMS = (
    "BuilderFlag",
    "DataType",
    "LayerInformationFormat",
    "MemoryPoolType",
    "NetworkDefinitionCreationFlag",
    "ProfilingVerbosity",
    "TensorIOMode",
)


@functools.cache
def dump(version: str) -> dict[str, list[str]]:
    """Class -> members, of one release."""
    path = Path(__file__).parent / "data" / f"tensorrt_api_{version}.json"
    return json.loads(path.read_text())["api"]


@functools.cache
def common_names(name: str) -> frozenset[str]:
    """Members that a class of TensorRT has in every dump."""
    return frozenset.intersection(*(frozenset(dump(version).get(name, ())) for version in DUMPS))


def make_tensorrt(cuda: FakeCuda, *, name="tensorrt", version="10.16.0") -> types.ModuleType:
    """A module with TensorRT's names; ``fails`` names calls that answer False or None, ``runs`` what was queued."""
    trt = types.ModuleType(name)
    trt.__version__ = version
    trt.cuda, trt.fails, trt.runs, trt.opened, trt.config = cuda, set(), [], 0, None
    for kind in ENUMS:
        members = {member: number for number, member in enumerate(sorted(common_names(kind)))}
        setattr(trt, kind, enum.IntEnum(kind, members))
    trt.ILogger = ILogger
    for kind in (Runtime, OnnxParser, Builder):
        setattr(trt, kind.__name__, functools.partial(kind, trt))
    return trt


def install(monkeypatch, *, cuda: FakeCuda | None = None, trt: types.ModuleType | None = None):
    """Puts a fake CUDA and a fake TensorRT where the backend imports them from."""
    cuda = cuda or FakeCuda()
    trt = trt or make_tensorrt(cuda)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", cuda)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    monkeypatch.setitem(sys.modules, trt.__name__, trt)
    return cuda, trt


def with_engines(bundle: Path, folder: Path) -> Path:
    """Copies a bundle and builds engines for the fake GPU in it."""
    shutil.copytree(bundle, folder)
    device = Device(name="Fake GPU", compute_capability="12.0", driver="13.2", memory_bytes=1)
    build_engines(make_tensorrt(FakeCuda()), folder, read_manifest(folder), device, BuildOptions())
    return folder


class ILogger:
    """Base of the backend's logger."""

    ERROR, INTERNAL_ERROR, WARNING, INFO, VERBOSE = range(5)


class Restricted:
    """An object of TensorRT: only names that every dump of its class has."""

    def __init__(self, trt, log=None):
        self._trt, self._log = trt, log

    def __getattribute__(self, name):
        if not name.startswith("_") and name not in common_names(type(self).__name__):
            raise AttributeError(f"{type(self).__name__}.{name} is not in every TensorRT")
        return object.__getattribute__(self, name)

    def __setattr__(self, name, value):
        if not name.startswith("_") and name not in common_names(type(self).__name__):
            raise AttributeError(f"{type(self).__name__}.{name} is not in every TensorRT")
        object.__setattr__(self, name, value)

    def _fails(self, call, text):
        if call in self._trt.fails:
            self._log.log(ILogger.ERROR, text)
        return call in self._trt.fails


# -- running ----------------------------------------------------------------------------------------------------------


class Runtime(Restricted):
    """Opens plans."""

    def deserialize_cuda_engine(self, plan):
        self._trt.opened += 1
        if self._fails("deserialize_cuda_engine", "magic tag does not match"):
            return None
        return ICudaEngine(self._trt, self._log, bytes(plan)[len(PLAN) :].decode())


class ICudaEngine(Restricted):
    """An ONNX graph; its weights may lie in other files beside it, so the plan holds its path."""

    def __init__(self, trt, log, path):
        super().__init__(trt, log)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        sides = {"INPUT": self._session.get_inputs(), "OUTPUT": self._session.get_outputs()}
        self._tensors = {t.name: (side, tuple(t.shape), DTYPES[t.type]) for side, ts in sides.items() for t in ts}
        self._name = self._session.get_outputs()[0].name

    @property
    def num_io_tensors(self):
        return len(self._tensors)

    def get_tensor_name(self, number):
        return list(self._tensors)[number]

    def get_tensor_mode(self, tensor):
        return self._trt.TensorIOMode[self._tensors[tensor][0]]

    def get_tensor_shape(self, tensor):
        return self._tensors[tensor][1]

    def get_tensor_dtype(self, tensor):
        return self._trt.DataType[self._tensors[tensor][2]]

    def create_execution_context(self):
        failed = self._fails("create_execution_context", "out of memory")
        return None if failed else IExecutionContext(self._trt, self._log, self)

    def create_engine_inspector(self):
        return EngineInspector(self._trt, self._log)

    def _run(self, addresses):
        names = {side: [t for t, (s, *_) in self._tensors.items() if s == side] for side in ("INPUT", "OUTPUT")}
        feeds = {tensor: self._array(tensor, addresses[tensor]) for tensor in names["INPUT"]}
        for tensor, value in zip(names["OUTPUT"], self._session.run(names["OUTPUT"], feeds), strict=True):
            self._array(tensor, addresses[tensor])[...] = value

    def _array(self, tensor, address):
        _, shape, dtype = self._tensors[tensor]
        size = int(np.prod(shape)) * np.dtype(NUMPY[dtype]).itemsize
        return self._trt.cuda.view(address, size).view(NUMPY[dtype]).reshape(shape)


class IExecutionContext(Restricted):
    """Queues runs of an engine."""

    def __init__(self, trt, log, engine):
        super().__init__(trt, log)
        self._engine, self._addresses = engine, {}

    def set_tensor_address(self, tensor, address):
        if self._fails("set_tensor_address", "address is not aligned"):
            return False
        assert tensor in self._engine._tensors
        self._addresses[tensor] = address
        return True

    def execute_async_v3(self, stream):
        if self._fails("execute_async_v3", "a kernel could not be launched"):
            return False
        if self._trt.cuda.capture is not None and self._fails("capture", "not permitted while a stream is captured"):
            return False
        assert set(self._addresses) == set(self._engine._tensors)
        addresses = dict(self._addresses)
        self._trt.runs.append((self._engine._name, addresses))
        self._trt.cuda.submit(stream, lambda: self._engine._run(addresses))
        return True


class EngineInspector(Restricted):
    """Lists layers."""

    def get_engine_information(self, form):
        assert form == self._trt.LayerInformationFormat.JSON
        return json.dumps({"Layers": [{"Name": "_gemm_mha_v2_1", "LayerType": "kgen"}, "a bare name"]})


# -- building ---------------------------------------------------------------------------------------------------------


class Builder(Restricted):
    """Makes plans."""

    def create_network(self, flags):
        assert flags == 1 << int(self._trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        return INetworkDefinition(self._trt)

    def create_builder_config(self):
        self._trt.config = IBuilderConfig(self._trt)
        return self._trt.config

    def build_serialized_network(self, network, config):
        if self._fails("build_serialized_network", "could not find any implementation for node /blocks.0/MatMul"):
            return None
        self._log.log(ILogger.VERBOSE, "Layers:\nName: _gemm_mha_v2_myl0_1, LayerType: kgen, Inputs: []\n")
        return PLAN + network._onnx.encode()


class INetworkDefinition(Restricted):
    """Knows the graph's file."""

    _onnx = ""


class OnnxParser(Restricted):
    """Reads a file into a network."""

    def __init__(self, trt, network, log):
        super().__init__(trt, log)
        self._network = network

    def parse_from_file(self, path):
        self._network._onnx = path
        return "parse_from_file" not in self._trt.fails

    @property
    def num_errors(self):
        return 1

    def get_error(self, number):
        return ParserError(self._trt)


class ParserError(Restricted):
    """One refusal."""

    def desc(self):
        return "no such operator"

    def node(self):
        return 7

    def node_name(self):
        return "/blocks.0/Einsum"

    def node_operator(self):
        return "Einsum"


class IBuilderConfig(Restricted):
    """Options; the only one that is on unless it is cleared is TensorFloat-32."""

    def __init__(self, trt):
        super().__init__(trt)
        self._flags = {trt.BuilderFlag.TF32}

    def set_memory_pool_limit(self, pool, size):
        assert pool == self._trt.MemoryPoolType.WORKSPACE
        assert size > 0

    def set_flag(self, flag):
        self._flags.add(flag)

    def clear_flag(self, flag):
        self._flags.discard(flag)

    def create_timing_cache(self, data):
        return ITimingCache(self._trt, data)

    def set_timing_cache(self, cache, ignore_mismatch):
        return not cache._log or "set_timing_cache" not in self._trt.fails


class ITimingCache(Restricted):
    """Grows by one sign per build; what it was made from is kept where others have their logger."""

    def serialize(self):
        return self._log + b"+"
