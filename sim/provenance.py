"""Where a result came from: package versions, commit, machine and renderer, so that a number can be checked later."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import wam
from sim.gl import GL_BACKEND

__all__ = ["cpu_name", "device_name", "git_commit", "provenance"]

_PACKAGES = ("mujoco", "numpy", "onnxruntime", "torch", "lerobot", "scipy", "av")
_ROOT = Path(__file__).resolve().parent.parent


def provenance(backend: str) -> dict[str, object]:
    """Returns versions, git commit, GL backend and device of this run.

    Args:
        backend: Name of the policy's inference backend.
    """
    return {
        "versions": {"world_action_model": wam.__version__, "python": platform.python_version()}
        | {name: _version(name) for name in _PACKAGES},
        "git_commit": git_commit(),
        "gl_backend": GL_BACKEND,
        "backend": backend,
        "device": device_name(),
        "platform": platform.platform(),
    }


def git_commit() -> str:
    """Returns the commit this code was checked out at, with ``-dirty`` when files differ; "unknown" outside git."""
    commit = _git("rev-parse", "HEAD")
    if not commit or Path(_git("rev-parse", "--show-toplevel")) != _ROOT:  # installed inside somebody else's repository
        return "unknown"
    return commit + ("-dirty" if _git("status", "--porcelain", "--untracked-files=no") else "")


def device_name() -> str:
    """Returns what evaluation computes on: the CPU and how many of its cores this process may use."""
    return f"{cpu_name()}, {len(os.sched_getaffinity(0))} cores"


def cpu_name() -> str:
    """Returns the CPU's own name, or its architecture where it has none."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(errors="replace").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(_ROOT), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
