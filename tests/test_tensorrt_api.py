"""Every name of TensorRT and CUDA that ``policy`` uses exists in every release it is meant for."""

import ast
import re
from pathlib import Path

import pytest

from tests.fake_tensorrt import DUMPS, dump

POLICY = Path(__file__).resolve().parent.parent / "policy"
FILES = sorted(POLICY.glob("tensorrt_*.py"))
# What a variable holds, by the names the modules give to TensorRT's objects.
KINDS = {
    "builder": "Builder",
    "network": "INetworkDefinition",
    "config": "IBuilderConfig",
    "parser": "OnnxParser",
    "error": "ParserError",
    "cache": "ITimingCache",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "self.engine": "ICudaEngine",
    "inspector": "EngineInspector",
    "self._context": "IExecutionContext",
    "severities": "ILogger",
}
OF_EVERY_MODULE = {"__name__", "__version__"}
# Reached only where the library has ComputeCapability, which is TensorRT for RTX.
RTX_ONLY = {("IBuilderConfig", "num_compute_capabilities"), ("IBuilderConfig", "set_compute_capability")}
# Attributes of our own dataclasses in variables of the same names.
OURS = {("engine", name) for name in ("file", "sha256", "onnx_sha256", "counts")}


def used_names() -> set[tuple[str, str]]:
    """(class, member) of TensorRT for every attribute that is read or written; (class, "") for the class itself."""
    found = set()
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Attribute):
                continue
            owner, name = ast.unparse(node.value), node.attr
            trt = re.fullmatch(r"(?:self\._)?trt(?:\.(\w+))?", owner)
            if trt:
                found.add((trt[1], name) if trt[1] else (name, ""))
            elif owner in KINDS and (owner, name) not in OURS:
                found.add((KINDS[owner], name))
    return {(kind, name) for kind, name in found if kind not in OF_EVERY_MODULE} - RTX_ONLY


def test_the_search_finds_what_is_there():
    names = used_names()
    assert ("Builder", "build_serialized_network") in names
    assert ("IExecutionContext", "execute_async_v3") in names
    assert ("BuilderFlag", "TF32") in names
    assert ("ICudaEngine", "deserialize") not in names
    assert len(names) > 40


@pytest.mark.parametrize("version", DUMPS)
def test_names_exist_in_tensorrt(version):
    api = dump(version)
    missing = {f"{kind}.{name}" for kind, name in used_names() if kind not in api or (name and name not in api[kind])}
    assert not missing


def test_names_exist_in_tensorrt_for_rtx():
    trt = pytest.importorskip("tensorrt_rtx")
    names = used_names() | RTX_ONLY
    missing = {f"{kind}.{name}" for kind, name in names if not hasattr(getattr(trt, kind, None), name or "__name__")}
    assert not missing


def test_precision_is_left_to_the_graph():
    forbidden = {"FP16", "BF16", "FP8", "INT8", "EXPLICIT_BATCH", "IErrorRecorder", "error_recorder"}
    assert not forbidden & {part for names in used_names() for part in names}
    assert ("NetworkDefinitionCreationFlag", "EXPLICIT_BATCH") not in used_names()


# -- CUDA -------------------------------------------------------------------------------------------------------------

# Arguments of the types policy.cuda passes: addresses, streams, events and graphs are plain numbers there.
CALLS = {
    "cudaMalloc": lambda r: (8,),
    "cudaFree": lambda r: (0,),
    "cudaMallocHost": lambda r: (8,),
    "cudaFreeHost": lambda r: (0,),
    "cudaStreamCreateWithFlags": lambda r: (r.cudaStreamNonBlocking,),
    "cudaStreamDestroy": lambda r: (0,),
    "cudaStreamSynchronize": lambda r: (0,),
    "cudaMemcpyAsync": lambda r: (0, 0, 0, r.cudaMemcpyKind.cudaMemcpyHostToDevice, 0),
    "cudaEventCreateWithFlags": lambda r: (r.cudaEventDisableTiming,),
    "cudaEventDestroy": lambda r: (0,),
    "cudaEventRecord": lambda r: (0, 0),
    "cudaEventSynchronize": lambda r: (0,),
    "cudaStreamBeginCapture": lambda r: (0, r.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal),
    "cudaStreamEndCapture": lambda r: (0,),
    "cudaGraphInstantiate": lambda r: (0, 0),
    "cudaGraphDestroy": lambda r: (0,),
    "cudaGraphLaunch": lambda r: (0, 0),
    "cudaGraphExecDestroy": lambda r: (0,),
    "cudaMemGetInfo": lambda r: (),
    "cudaGetDeviceCount": lambda r: (),
    "cudaGetDeviceProperties": lambda r: (0,),
    "cudaDriverGetVersion": lambda r: (),
    "cudaGetErrorString": lambda r: (r.cudaError_t(35),),
}


def test_every_cuda_function_in_use_is_tried_here():
    source = (POLICY / "cuda.py").read_text()
    called = set(re.findall(r'_call\("(cuda\w+)"|_runtime\.(cuda[A-Z]\w+)\(', source))
    constants = {"cudaMemcpyAsync"}  # called through a helper
    assert {first or second for first, second in called} | constants == CALLS.keys()


@pytest.mark.parametrize("name", CALLS)
def test_the_real_bindings_take_our_arguments(name):
    runtime = pytest.importorskip("cuda.bindings.runtime")
    no_device, *_ = runtime.cudaGetDeviceCount()
    if int(no_device) == 0:
        pytest.skip("with a device these arguments would do something")
    error, *_ = getattr(runtime, name)(*CALLS[name](runtime))  # a TypeError if they were not taken
    assert int(error) in {0, int(no_device)}


def test_properties_have_the_fields_we_read():
    runtime = pytest.importorskip("cuda.bindings.runtime")
    assert {"name", "major", "minor", "totalGlobalMem"} <= set(dir(runtime.cudaDeviceProp))
