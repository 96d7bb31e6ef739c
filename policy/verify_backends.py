"""Opens every backend of a bundle on this machine, or says why not; builds engines where a GPU is and none fit."""

import importlib.util
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from policy.backend import Backend
from policy.cuda import Cuda, no_device_reason
from policy.errors import BackendError, PlanError
from policy.load import BACKENDS
from policy.stages import OnnxStages, StageRunner
from policy.tensorrt_api import import_tensorrt
from policy.tensorrt_backend import TensorRtBackend
from policy.tensorrt_builder import BuildOptions, build_engines
from policy.timing import resident_bytes
from policy.verify_checks import FAIL, NOT_RUN, NOTE, PASS, Check
from wam.errors import WamError
from wam.manifest import Manifest

__all__ = ["Candidate", "open_candidate"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A backend that runs here."""

    name: str  # as in BACKENDS
    backend: Backend
    stages: StageRunner | None  # None where it is the reference itself
    loaded_bytes: int  # resident memory that opening it added


def open_candidate(
    name: str, bundle: Path, manifest: Manifest, *, build: bool, threads: int | None
) -> tuple[Candidate | None, list[Check]]:
    """Opens one backend.

    Args:
        name: One of ``BACKENDS``.
        bundle: Folder whose files were checked against the manifest.
        manifest: Its manifest.
        build: Build engines for TensorRT where none fit.
        threads: CPU threads; None lets the backend choose.

    Returns:
        The backend, or None, and what opening it was worth: one or two lines of the report.
    """
    reason = _not_here(name, manifest)
    if reason:
        return None, [Check(backend=name, name="open", status=NOT_RUN, detail=reason)]
    checks: list[Check] = []
    before = resident_bytes()
    try:
        if name == "tensorrt":
            backend, checks = _open_tensorrt(bundle, manifest, build)
        else:
            backend = BACKENDS[name](bundle, manifest, threads=threads)
    except WamError as error:
        return None, [*checks, Check(backend=name, name="open", status=FAIL, detail=str(error))]
    opened = Check(backend=name, name="open", status=PASS, detail=f"{backend.device}, {backend.threads} thread(s)")
    stages = _stages(backend, bundle, manifest)
    added = max(0, resident_bytes() - before)
    return Candidate(name=name, backend=backend, stages=stages, loaded_bytes=added), [*checks, opened]


def _open_tensorrt(bundle: Path, manifest: Manifest, build: bool) -> tuple[Backend, list[Check]]:
    try:
        return TensorRtBackend(bundle, manifest), []
    except PlanError as error:
        if not build:
            raise
        logger.info("%s Building.", error)
    trt = import_tensorrt()
    built = build_engines(trt, bundle, manifest, Cuda().device, BuildOptions(), overwrite=True)
    detail = f"{built.runtime} {built.runtime_version} built {len(built.engines)} engines for {built.device}"
    return TensorRtBackend(bundle, manifest), [Check(backend="tensorrt", name="build", status=NOTE, detail=detail)]


def _stages(backend: Any, bundle: Path, manifest: Manifest) -> StageRunner | None:
    if hasattr(backend, "run_stage"):
        return backend
    if backend.device == "cuda":
        return OnnxStages(bundle, manifest, providers=(("CUDAExecutionProvider", {"use_tf32": "0"}),))
    return None


def _not_here(name: str, manifest: Manifest) -> str:
    """Why a backend cannot run on this machine, or not this kind of bundle; empty when it can."""
    if name.startswith("torch") and not manifest.weights:
        return "the bundle is quantised and holds no weights for torch"
    if name == "onnx" and manifest.dtype == "bfloat16" and no_device_reason():
        return "ONNX Runtime does not compute bfloat16 on a CPU"
    return _REQUIREMENTS.get(name, _needs_torch)()


def _needs_tensorrt() -> str:
    reason = no_device_reason()
    if reason:
        return reason
    try:
        import_tensorrt()
    except BackendError as error:
        return str(error)
    return ""


def _needs_onnxruntime() -> str:
    return "" if importlib.util.find_spec("onnxruntime") else "onnxruntime is not installed"


def _needs_torch() -> str:
    return "" if importlib.util.find_spec("torch") else "torch is not installed"


_REQUIREMENTS: dict[str, Callable[[], str]] = {"tensorrt": _needs_tensorrt, "onnx": _needs_onnxruntime}
