"""Fixtures: things made of boxes that are fixed to a body of the scene; they are seen, weigh nothing, touch nothing.

A calibration board in a simulated scene is one: ``sim.board_scene`` makes it.
"""

from dataclasses import dataclass

import numpy as np

from sim.errors import SimError
from sim.gl import mujoco
from wam.errors import unknown_name

__all__ = ["Box", "Fixture", "add_fixture"]


@dataclass(frozen=True, kw_only=True)
class Box:
    """One box, its edges along the fixture's axes."""

    center: tuple[float, float, float]  # in the fixture's frame [m]
    half: tuple[float, float, float]  # half of its sides [m]
    rgba: tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class Fixture:
    """Boxes in a frame of their own."""

    name: str  # of the body that is added
    body: str  # that carries it; "" is the world
    pose: np.ndarray  # (4, 4) T_body_fixture
    boxes: tuple[Box, ...]


def add_fixture(spec: mujoco.MjSpec, fixture: Fixture) -> None:
    """Adds a fixture to a model that is not compiled yet.

    Raises:
        SimError: The model has no such body.
    """
    carrier = spec.body(fixture.body) if fixture.body else spec.worldbody
    if carrier is None:
        raise SimError(unknown_name("body of the simulated robot", fixture.body, [body.name for body in spec.bodies]))
    quat_wxyz = np.zeros(4)
    mujoco.mju_mat2Quat(quat_wxyz, np.ascontiguousarray(fixture.pose[:3, :3]).ravel())
    body = carrier.add_body(name=fixture.name, pos=fixture.pose[:3, 3], quat=quat_wxyz)
    for box in fixture.boxes:
        body.add_geom(
            type=mujoco.mjtGeom.mjGEOM_BOX,
            pos=box.center,
            size=box.half,
            rgba=box.rgba,
            mass=0,
            contype=0,
            conaffinity=0,
        )
