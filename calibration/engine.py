"""Imports MuJoCo when it is needed, with an off-screen renderer chosen first.

MuJoCo reads ``MUJOCO_GL`` once, while it is imported. A value set by the user wins; otherwise EGL, then OSMesa, as the
simulator (``sim.gl``) chooses, so that both can live in one process.
"""

import ctypes
import os
import sys
from typing import Any

__all__ = ["import_mujoco"]

_LIBRARIES = {"egl": ("libEGL.so.1", "libGL.so.1"), "osmesa": ("libOSMesa.so.8",)}


def import_mujoco() -> Any:
    """Returns the module ``mujoco``.

    Raises:
        ModuleNotFoundError: It is not installed; the command line names the extra that brings it.
    """
    if "mujoco" not in sys.modules and sys.platform.startswith("linux") and not os.environ.get("MUJOCO_GL", "").strip():
        chosen = next((name for name, files in _LIBRARIES.items() if all(map(_loads, files))), "disable")
        os.environ["MUJOCO_GL"] = chosen
        if chosen == "egl":
            os.environ.setdefault("PYOPENGL_PLATFORM", "egl")
    import mujoco  # here and nowhere else in this package

    return mujoco


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True
