"""``wam engine``: builds TensorRT engines from a policy bundle, on the machine that will run them."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from policy.cuda import Cuda, Device
from policy.tensorrt_api import AUTO, import_tensorrt
from policy.tensorrt_builder import BuildOptions, build_engines
from policy.tensorrt_plan import ENGINE_FOLDER
from wam.manifest import read_manifest

__all__ = ["EngineConfig", "main"]


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """Build TensorRT engines from a policy bundle, on the machine that will run them; `wam verify` checks them."""

    bundle: Annotated[
        Path, tyro.conf.Positional
    ]  # policy bundle of `wam export`; the engines are put beside its graphs
    runtime: str = AUTO  # "tensorrt", "tensorrt_rtx", or "auto": the first that is installed
    overwrite: bool = False  # build engines that are there already again; the timing cache is kept
    workspace_gib: float = 4.0  # scratch memory a kernel may ask for [GiB]
    optimization_level: int = 3  # 0 to 5: more kernels are tried and the build takes longer
    tf32: bool = False  # TensorFloat-32 in float32 graphs: faster, but above the bundle's parity tolerance
    compute_capability: str = ""  # such as 8.9: a trial build without that GPU (TensorRT for RTX); it is not loaded


def main(argv: list[str] | None = None) -> int:
    """Command line of ``wam engine``."""
    config = tyro.cli(EngineConfig, args=argv, prog="wam engine")
    options = BuildOptions(
        workspace_gib=config.workspace_gib,
        optimization_level=config.optimization_level,
        tf32=config.tf32,
        compute_capability=config.compute_capability,
    )
    manifest = read_manifest(config.bundle)
    manifest.check_files(config.bundle)
    trt = import_tensorrt(config.runtime)
    built = build_engines(
        trt, config.bundle, manifest, _device(config.compute_capability), options, overwrite=config.overwrite
    )
    folder = config.bundle / ENGINE_FOLDER
    print(f"engines: {folder} ({built.runtime} {built.runtime_version}, {built.device})")
    for name, engine in built.engines.items():
        size_mb = (folder / engine.file).stat().st_size / 1e6
        counts = ", ".join(f"{count} {what.replace('_', ' ')}" for what, count in engine.counts.items())
        print(f"{name + ':':<9}{size_mb:.1f} MB, {counts}")
    return 0


def _device(compute_capability: str) -> Device:
    """The GPU at hand, or, for a trial build, a name that no GPU has."""
    if compute_capability:
        return Device(name="none", compute_capability=compute_capability, driver="0.0", memory_bytes=0)
    return Cuda().device


if __name__ == "__main__":
    sys.exit(main())
