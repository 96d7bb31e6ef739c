"""Drawing a simulation from another thread: a snapshot of where things are, and a renderer with its own copy of them.

Drawing takes milliseconds and physics must not wait for it, and an OpenGL context belongs to the thread that opened
it. So physics takes a ``Snapshot`` (microseconds) and ``SnapshotRenderer`` draws it elsewhere, pixel for pixel as
``ArmSim.render`` would have. Poses are copied rather than computed again from joint positions: after a physics step
MuJoCo's poses are those of the step's beginning, and the pictures that policies train on show exactly them.
"""

import contextlib
import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from sim.arm_sim import ArmSim
from sim.gl import mujoco, open_renderer
from wam.lens import PinholeView
from wam.robot import CameraSpec

__all__ = ["Snapshot", "SnapshotRenderer", "showing", "take_snapshot"]

# Everything of MjData that a scene of bodies, cameras and lights is drawn from.
_POSES = ("geom_xpos", "geom_xmat", "site_xpos", "site_xmat", "cam_xpos", "cam_xmat", "light_xpos", "light_xdir")


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Where everything that can be seen is, and its colours."""

    poses: tuple[np.ndarray, ...]  # in the order of _POSES
    geom_rgba: np.ndarray  # (ngeom, 4) float32; a new episode recolours things


def take_snapshot(sim: ArmSim) -> Snapshot:
    """Copies what drawing needs."""
    poses = tuple(getattr(sim.data, name).copy() for name in _POSES)
    return Snapshot(poses=poses, geom_rgba=sim.model.geom_rgba.copy())


@contextlib.contextmanager
def showing(sim: ArmSim, snapshot: Snapshot) -> Iterator[None]:
    """Lets ``ArmSim.render`` draw what a snapshot of this episode holds; physics goes on from where it is."""
    now = take_snapshot(sim)
    try:
        _put(sim.data, snapshot)
        yield
    finally:
        _put(sim.data, now)


class SnapshotRenderer:
    """Draws snapshots of one simulation; make it, use it and close it in the same thread.

    Args:
        model: The simulation's model; copied, so that a new episode does not recolour what is being drawn.
        bent: Of cameras with distortion, the larger picture that is drawn and then bent (``ArmSim.bent``).
    """

    def __init__(self, model: mujoco.MjModel, bent: Mapping[str, PinholeView] | None = None) -> None:
        self._model, self._bent = copy.deepcopy(model), dict(bent or {})
        self._data = mujoco.MjData(self._model)
        self._renderers: dict[tuple[int, int], mujoco.Renderer] = {}

    def draw(self, snapshot: Snapshot, camera: CameraSpec) -> np.ndarray:
        """Draws one camera.

        Returns:
            (height, width, 3) rgb_hwc_u8.

        Raises:
            SimError: This machine cannot render.
        """
        _put(self._data, snapshot)
        self._model.geom_rgba[:] = snapshot.geom_rgba
        view = self._bent.get(camera.name)
        size = (camera.height_px, camera.width_px) if view is None else (view.lens.height_px, view.lens.width_px)
        if size not in self._renderers:
            self._renderers[size] = open_renderer(self._model, *size)
        renderer = self._renderers[size]
        renderer.update_scene(self._data, camera=camera.name)
        return renderer.render() if view is None else view.distort(renderer.render())

    def close(self) -> None:
        """Frees the renderers."""
        while self._renderers:
            self._renderers.popitem()[1].close()


def _put(data: mujoco.MjData, snapshot: Snapshot) -> None:
    for name, value in zip(_POSES, snapshot.poses, strict=True):
        getattr(data, name)[:] = value
