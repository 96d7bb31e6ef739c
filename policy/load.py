"""Opens a policy bundle for a robot: manifest, robot and every file are checked before any runtime sees them.

"auto" takes what is fastest here: the TensorRT engines that were built on this machine, if they still fit the bundle,
the GPU and TensorRT; else ONNX Runtime; else torch.
"""

import importlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from policy.backend import Backend
from policy.errors import BackendError
from policy.onnx_backend import OnnxBackend
from policy.runner import Policy
from policy.tensorrt_backend import TensorRtBackend
from policy.tensorrt_plan import has_engines
from policy.torch_backend import TorchBackend
from policy.torch_compiled import CompiledTorchBackend
from policy.torch_questions import InverseTorchBackend, JointTorchBackend
from policy.torch_streaming import StreamingTorchBackend
from wam.errors import unknown_name
from wam.manifest import Manifest, read_manifest
from wam.robot import RobotSpec

__all__ = ["AUTO", "BACKENDS", "load_policy", "open_backend"]

logger = logging.getLogger(__name__)

AUTO = "auto"
BACKENDS: Mapping[str, Callable[..., Backend]] = {
    "tensorrt": TensorRtBackend,
    "onnx": OnnxBackend,
    "torch": TorchBackend,
    "torch_compiled": CompiledTorchBackend,
    "torch_joint": JointTorchBackend,
    "torch_inverse": InverseTorchBackend,
    "torch_streaming": StreamingTorchBackend,
}
_RUNTIMES = {"onnx": "onnxruntime", "torch": "torch"}  # what "auto" falls back on -> its library, best first


def load_policy(
    bundle: Path | str,
    robot: RobotSpec,
    *,
    backend: str = AUTO,
    n_steps: int | None = None,
    threads: int | None = None,
    device: str = AUTO,
) -> Policy:
    """Opens a bundle.

    Args:
        bundle: Folder that ``wam export`` wrote.
        robot: The robot it is to run on; must be the one it was made for.
        backend: One of ``BACKENDS``, or "auto".
        n_steps: Denoising steps per chunk; None takes the bundle's default.
        threads: CPU threads; None lets the backend choose.
        device: "cpu", "cuda", or "auto": CUDA where the runtime has it.

    Returns:
        The policy, warmed up.

    Raises:
        BundleError: The bundle is missing, damaged, of a newer format or of another robot.
        BackendError: The backend is unknown, its runtime is not installed, or the engines that were asked for are
            missing or do not fit (``PlanError``).
        PolicyError: n_steps is below 1.
    """
    folder = Path(bundle)
    if backend != AUTO and backend not in BACKENDS:
        raise BackendError(unknown_name("backend", backend, [AUTO, *BACKENDS]))
    if threads is not None and threads < 1:
        raise BackendError(f"threads is {threads} but must be at least 1, or left out for the backend's own choice.")
    manifest = read_manifest(folder)
    manifest.check_robot(robot)
    manifest.check_files(folder)
    runs = open_backend(folder, manifest, backend, threads=threads, device=device)
    policy = Policy(manifest, runs, n_steps=n_steps, imaginer=lambda: _imaginer(runs, folder, manifest))
    policy.warm_up()
    logger.info(
        "bundle %s for robot '%s': backend %s on %s, %d steps, chunk of %d at %g Hz, checkpoint %s",
        folder,
        robot.name,
        runs.name,
        policy.device,
        policy.n_steps,
        policy.chunk_length,
        robot.control_rate_hz,
        str(manifest.checkpoint.get("sha256", "unknown"))[:12],
    )
    return policy


def open_backend(
    folder: Path, manifest: Manifest, backend: str = AUTO, *, threads: int | None = None, device: str = AUTO
) -> Backend:
    """Opens the inference backend of a bundle whose files were checked; arguments and errors as for ``load_policy``."""
    if backend != AUTO:
        return BACKENDS[backend](folder, manifest, threads=threads, device=device)
    if device != "cpu" and has_engines(folder):
        try:
            return TensorRtBackend(folder, manifest, threads=threads, device=device)
        except BackendError as error:
            logger.warning("the engines of %s are not used: %s", folder, error)
    return _first_that_runs(folder, manifest, threads, device)


def _first_that_runs(folder: Path, manifest: Manifest, threads: int | None, device: str) -> Backend:
    """Opens the first runtime that is installed and runs this kind of bundle: not every one computes every type."""
    refusals = []
    for name, module in _RUNTIMES.items():
        try:
            importlib.import_module(module)
        except ImportError:
            continue
        try:
            return BACKENDS[name](folder, manifest, threads=threads, device=device)
        except BackendError as error:
            refusals.append(str(error))
    if refusals:
        raise BackendError(" ".join(refusals))
    raise BackendError(
        f"no inference runtime is installed ({', '.join(_RUNTIMES.values())}): install onnxruntime to run bundles."
    )


def _imaginer(backend: Backend, folder: Path, manifest: Manifest) -> TorchBackend:
    return backend if isinstance(backend, TorchBackend) else TorchBackend(folder, manifest)
