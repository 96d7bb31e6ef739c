"""Opens a policy bundle for a robot: manifest, robot and every file are checked before any runtime sees them."""

import importlib
import logging
from collections.abc import Mapping
from pathlib import Path

from policy.backend import Backend
from policy.errors import BackendError
from policy.onnx_backend import OnnxBackend
from policy.runner import Policy
from policy.torch_backend import TorchBackend
from wam.errors import unknown_name
from wam.manifest import Manifest, read_manifest
from wam.robot import RobotSpec

__all__ = ["AUTO", "BACKENDS", "load_policy"]

logger = logging.getLogger(__name__)

AUTO = "auto"
BACKENDS: Mapping[str, type[OnnxBackend] | type[TorchBackend]] = {"onnx": OnnxBackend, "torch": TorchBackend}
_RUNTIMES = {"onnx": "onnxruntime", "torch": "torch"}  # what each backend imports, in order of preference


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
        backend: "onnx", "torch", or "auto": the first of them whose runtime is installed.
        n_steps: Denoising steps per chunk; None takes the bundle's default.
        threads: CPU threads; None lets the backend choose.
        device: "cpu", "cuda", or "auto": CUDA where the runtime has it.

    Returns:
        The policy, warmed up.

    Raises:
        BundleError: The bundle is missing, damaged, of a newer format or of another robot.
        BackendError: The backend is unknown or its runtime is not installed.
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
    name = _first_installed() if backend == AUTO else backend
    runs: Backend = BACKENDS[name](folder, manifest, threads=threads, device=device)
    policy = Policy(manifest, runs, n_steps=n_steps, imaginer=lambda: _imaginer(runs, folder, manifest))
    policy.warm_up()
    logger.info(
        "bundle %s for robot '%s': backend %s on %s, %d steps, chunk of %d at %g Hz, checkpoint %s",
        folder,
        robot.name,
        name,
        policy.device,
        policy.n_steps,
        policy.chunk_length,
        robot.control_rate_hz,
        str(manifest.checkpoint.get("sha256", "unknown"))[:12],
    )
    return policy


def _first_installed() -> str:
    for name, module in _RUNTIMES.items():
        try:
            importlib.import_module(module)
        except ImportError:
            continue
        return name
    raise BackendError(
        f"no inference runtime is installed ({', '.join(_RUNTIMES.values())}): install onnxruntime to run bundles."
    )


def _imaginer(backend: Backend, folder: Path, manifest: Manifest) -> TorchBackend:
    return backend if isinstance(backend, TorchBackend) else TorchBackend(folder, manifest)
