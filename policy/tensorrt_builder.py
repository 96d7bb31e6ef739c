"""Builds engines from a bundle's graphs, on the machine that will run them.

Strongly typed networks: the precision of every tensor stands in the graph, so there are no precision flags, no
calibrators and nothing for the builder to lower on its own; TensorFloat-32, which keeps ten bits of mantissa, is off.
The engines are built beside their final place and renamed into it, so that an interrupted build leaves none or the old
ones.
"""

import logging
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from policy.cuda import Device
from policy.errors import BackendError
from policy.tensorrt_api import log_of
from policy.tensorrt_layers import count_layers, logged_layers
from policy.tensorrt_plan import ENGINE_FOLDER, Engine, EngineManifest, bundle_sha256
from wam.manifest import Manifest, file_sha256

__all__ = ["BuildOptions", "BuiltPlan", "build_engines", "build_plan"]

logger = logging.getLogger(__name__)

TIMING_CACHE = "timing.cache"  # beside the engines; a second build reuses its measurements
GIB = 1 << 30


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """What the builder may do."""

    workspace_gib: float = 4.0  # scratch memory a kernel may ask for; the models here need well under one
    optimization_level: int = 3  # 0 to 5, TensorRT's default; higher tries more kernels and takes longer to build
    tf32: bool = False  # TensorFloat-32 in float32 graphs: faster, and above the bundle's parity tolerance
    compute_capability: str = ""  # "8.9": build for that GPU without having one; TensorRT for RTX only

    def __post_init__(self) -> None:
        if not 0 <= self.optimization_level <= 5:
            raise BackendError(f"optimization_level is {self.optimization_level} but must be a number from 0 to 5.")
        if not self.workspace_gib > 0:
            raise BackendError(f"workspace_gib is {self.workspace_gib} but a builder needs some scratch memory.")


@dataclass(frozen=True, kw_only=True)
class BuiltPlan:
    """One built engine, still in memory."""

    data: Any  # the serialised plan; a buffer
    counts: Mapping[str, int]  # ``count_layers`` of it
    timing_cache: bytes  # for the next build; empty where the library keeps none
    seconds: float  # the build took


def build_engines(
    trt: Any, bundle: Path, manifest: Manifest, device: Device, options: BuildOptions, *, overwrite: bool = False
) -> EngineManifest:
    """Builds an engine from every graph of a bundle and puts them into its engine folder.

    Args:
        trt: TensorRT, as ``import_tensorrt`` gives it.
        bundle: Folder whose files were checked against the manifest.
        manifest: Its manifest.
        device: The GPU they are for.
        options: Of the builder.
        overwrite: Replace engines that are there.

    Raises:
        BackendError: There are engines already, the disk is full, or TensorRT refused a graph.
    """
    out = bundle / ENGINE_FOLDER
    if out.exists() and not overwrite:
        raise BackendError(f"{out} exists: add --overwrite to build the engines again.")
    try:
        partial = Path(tempfile.mkdtemp(prefix=f".{ENGINE_FOLDER}.partial_", dir=bundle))
    except OSError as error:
        raise BackendError(f"engines cannot be written into {bundle}: {error}.") from error
    try:
        engines = _build_all(trt, bundle, manifest, options, partial)
        built = EngineManifest(
            bundle_sha256=bundle_sha256(manifest),
            runtime=trt.__name__,
            runtime_version=trt.__version__,
            device=device.name,
            compute_capability=device.compute_capability,
            driver=device.driver,
            flags={"strongly_typed": True, **asdict(options)},
            engines=engines,
        )
        built.write(partial)
        partial.chmod(0o755)  # mkdtemp makes it private; a bundle is read by the robot's user
        shutil.rmtree(out, ignore_errors=True)
        os.replace(partial, out)
    except OSError as error:
        raise BackendError(f"engines cannot be written into {out} ({error}): free some disk space.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return built


def build_plan(trt: Any, onnx: Path, options: BuildOptions, *, timing_cache: bytes = b"") -> BuiltPlan:
    """Builds one engine.

    Args:
        trt: TensorRT.
        onnx: The graph; its external data is looked for beside it.
        options: Of the builder.
        timing_cache: What an earlier build on this machine returned.

    Raises:
        BackendError: The graph cannot be read or no engine can be made of it; with TensorRT's own words.
    """
    begun = time.perf_counter()
    log = log_of(trt)
    log.start()
    try:
        builder = trt.Builder(log.handle)
        network = builder.create_network(_network_flags(trt))
        parser = trt.OnnxParser(network, log.handle)
        if not parser.parse_from_file(str(onnx)):
            reasons = "; ".join(_describe(parser.get_error(number)) for number in range(parser.num_errors))
            raise BackendError(f"TensorRT {trt.__version__} cannot read {onnx}: {reasons or log.errors()}")
        config = builder.create_builder_config()
        cache = _configure(trt, config, options, timing_cache)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise BackendError(f"TensorRT {trt.__version__} cannot build an engine from {onnx}: {log.errors()}.")
    finally:
        lines = log.stop()
    return BuiltPlan(
        data=plan,
        counts=count_layers(logged_layers(lines)),
        timing_cache=b"" if cache is None else bytes(cache.serialize()),
        seconds=time.perf_counter() - begun,
    )


def _build_all(trt: Any, bundle: Path, manifest: Manifest, options: BuildOptions, folder: Path) -> dict[str, Engine]:
    known = bundle / ENGINE_FOLDER / TIMING_CACHE
    timing_cache = known.read_bytes() if known.is_file() else b""
    engines = {}
    for name, graph in manifest.graphs.items():
        logger.info("building %s", name)
        built = build_plan(trt, bundle / graph.file, options, timing_cache=timing_cache)
        timing_cache = built.timing_cache
        path = folder / f"{name}.plan"
        with path.open("wb") as stream:
            stream.write(built.data)
        logger.info("%s: %.0f MB, %.0f s, %s", name, path.stat().st_size / 1e6, built.seconds, dict(built.counts))
        engines[name] = Engine(
            file=path.name,
            sha256=file_sha256(path),
            onnx_sha256=manifest.files[graph.file],
            counts=built.counts,
        )
    if timing_cache:
        (folder / TIMING_CACHE).write_bytes(timing_cache)
    return engines


def _network_flags(trt: Any) -> int:
    # Later releases know no other networks, and may drop the flag as they dropped EXPLICIT_BATCH.
    strongly_typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if strongly_typed is None else 1 << int(strongly_typed)


def _configure(trt: Any, config: Any, options: BuildOptions, timing_cache: bytes) -> Any:
    """Sets the builder's options and returns its timing cache; None where the library keeps none."""
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, int(options.workspace_gib * GIB))
    config.builder_optimization_level = options.optimization_level
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if options.tf32:
        config.set_flag(trt.BuilderFlag.TF32)
    else:
        config.clear_flag(trt.BuilderFlag.TF32)
    if options.compute_capability:
        _target(trt, config, options.compute_capability)
    if trt.__name__ == "tensorrt_rtx":
        return None  # it compiles for the device when it loads, and measures nothing while it builds
    cache = config.create_timing_cache(timing_cache)
    if not config.set_timing_cache(cache, ignore_mismatch=False):
        logger.warning("the timing cache is of another GPU or TensorRT: kernels are measured again")
        cache = config.create_timing_cache(b"")
        if not config.set_timing_cache(cache, ignore_mismatch=False):
            raise BackendError(f"TensorRT {trt.__version__} refuses an empty timing cache: {log_of(trt).errors()}.")
    return cache


def _target(trt: Any, config: Any, compute_capability: str) -> None:
    known = getattr(trt, "ComputeCapability", None)
    target = getattr(known, f"SM{compute_capability.replace('.', '')}", None)
    if target is None:
        raise BackendError(
            f"{trt.__name__} {trt.__version__} cannot build for compute capability {compute_capability} without that "
            "GPU: leave the option out on the machine that has it."
        )
    config.num_compute_capabilities = 1
    if not config.set_compute_capability(target, 0):
        raise BackendError(f"TensorRT refuses compute capability {compute_capability}: {log_of(trt).errors()}.")


def _describe(error: Any) -> str:
    node = f" (node {error.node_name() or error.node()}, operator {error.node_operator()})" if error.node() >= 0 else ""
    return f"{error.desc()}{node}"
