"""Chooses MuJoCo's off-screen renderer, then imports MuJoCo: ``from sim.gl import mujoco``.

MuJoCo reads ``MUJOCO_GL`` once, while it is imported, so this module is the only one that imports it. A value set by
the user wins; otherwise EGL is taken (with or without a GPU), then OSMesa. Both draw the same pixels. Without either
library physics still works and only opening a renderer fails.
"""

import atexit
import ctypes
import functools
import logging
import os
import sys
import weakref

from sim.errors import SimError

__all__ = ["GL_BACKEND", "mujoco", "open_renderer"]

_logger = logging.getLogger(__name__)

GL_VARIABLE = "MUJOCO_GL"
GL_FIX = "install the libraries with: apt-get install -y libegl1 libgl1 libgl1-mesa-dri (or libosmesa6)."
_LIBRARIES = {"egl": ("libEGL.so.1", "libGL.so.1"), "osmesa": ("libOSMesa.so.8",)}


def choose_backend() -> str:
    """Returns the value for ``MUJOCO_GL``: the user's, or the first backend whose libraries load, or ``disable``."""
    chosen = os.environ.get(GL_VARIABLE, "").strip()
    if chosen:
        return chosen
    if not sys.platform.startswith("linux"):
        return "glfw"
    return next((name for name, libraries in _LIBRARIES.items() if all(map(_loads, libraries))), "disable")


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


GL_BACKEND = choose_backend()
os.environ[GL_VARIABLE] = GL_BACKEND
if GL_BACKEND == "egl":
    # PyOpenGL, which MuJoCo uses for EGL, has its own variable and must agree.
    os.environ.setdefault("PYOPENGL_PLATFORM", "egl")

try:
    import mujoco
except (ImportError, RuntimeError, AttributeError) as error:
    raise SimError(f"MuJoCo cannot start with {GL_VARIABLE}={GL_BACKEND}: {error}; {GL_FIX}") from error


# Left alone, MuJoCo appends to MUJOCO_LOG.TXT in the working folder. ArmSim turns fatal warnings into ``failed``.
mujoco.set_mju_user_warning(lambda message: _logger.warning("MuJoCo: %s", message.strip()))

_open: weakref.WeakSet[mujoco.Renderer] = weakref.WeakSet()


def open_renderer(model: mujoco.MjModel, height_px: int, width_px: int) -> mujoco.Renderer:
    """Opens an off-screen renderer; the caller closes it.

    Raises:
        SimError: This machine has no working off-screen OpenGL.
    """
    if GL_BACKEND in {"disable", "disabled", "off", "false", "0"}:
        raise SimError(f"no off-screen OpenGL here ({GL_VARIABLE}={GL_BACKEND}), so cameras cannot be drawn; {GL_FIX}")
    try:
        renderer = mujoco.Renderer(model, height=height_px, width=width_px)
    except Exception as error:  # each GL backend raises its own classes, some of them plain Exception
        raise SimError(f"off-screen renderer '{GL_BACKEND}' does not start: {error}; {GL_FIX}") from error
    _register_exit_hook()
    _open.add(renderer)
    return renderer


@functools.cache
def _register_exit_hook() -> None:
    # On the first renderer, so after MuJoCo's own exit hook and hence run before it: closing later fails noisily.
    atexit.register(_close_forgotten)


def _close_forgotten() -> None:
    for renderer in list(_open):
        renderer.close()
