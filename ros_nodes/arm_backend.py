"""What an arm is to the node that speaks for it: measured joints out, setpoints in, and what only some arms can do.

``arm_node`` drives one backend from a single thread and owns the topics; a backend knows devices or physics. Each lives
in ``ros_nodes/arm_<name>.py`` with a function ``open_arm(node, robot, parameters) -> ArmBackend``; its parameters are
fields of ``ArmParameters``. A backend never decides what is safe: setpoints come from the guard, which has limited them
already. When the guard falls silent the node stops calling ``command`` and the arm holds its last setpoint.

Shape legend: A action width.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np

from ros_nodes.diagnostics import Health
from wam.calibration_spec import LensSpec

__all__ = ["ArmBackend", "ArmState", "CameraFrame", "EpisodeStatus", "SimulatedArm"]


@dataclass(frozen=True, kw_only=True)
class ArmState:
    """Where the arm is."""

    positions: np.ndarray  # (A,) float32 measured joint positions [rad] and gripper opening [0, 1]
    stamp: float | None = None  # robot time of the measurement [s]; None: the moment ``step`` was called


@dataclass(frozen=True, kw_only=True)
class CameraFrame:
    """One frame of a camera that belongs to the arm's backend, which only a simulated arm has."""

    camera: str  # its name in the robot file
    rgb: np.ndarray  # (height, width, 3) rgb_hwc_u8
    stamp: float  # robot time of what it shows [s]


@dataclass(frozen=True, kw_only=True)
class EpisodeStatus:
    """How an episode of a simulated task stands."""

    episode: int  # counts from 0 at the node's start
    seed: int
    instruction: str
    success: bool  # solved, and held long enough
    progress: float  # [0, 1]
    elapsed_s: float  # simulated time since the episode began [s]
    failed: bool = False  # the physics broke
    more: Mapping[str, str] = field(default_factory=dict)


class ArmBackend(Protocol):
    """One arm; every call comes from the node's executor thread and must return within a few milliseconds."""

    def connect(self) -> None:
        """Opens the device.

        Raises:
            NodeError: It is not there or is not the robot it should be.
        """

    def step(self, now: float) -> ArmState | None:
        """Reads the joints; called at the joint-state rate.

        Args:
            now: Robot time [s].

        Returns:
            The newest measurement, or None when there is no new one (the node then publishes nothing, and the guard
            notices).
        """

    def command(self, positions: np.ndarray, now: float) -> None:
        """Takes a setpoint.

        Args:
            positions: (A,) float32 targets [rad] and gripper opening [0, 1], in the robot file's order, all finite.
            now: Robot time [s].
        """

    def health(self) -> Health:
        """What there is to say on ``/diagnostics``."""

    def close(self) -> None:
        """Lets go of the device; the arm keeps holding where it can. May be called twice."""


@runtime_checkable
class SimulatedArm(Protocol):
    """What a simulated arm can do besides."""

    notify: Callable[[], None]  # set by the node; called from any thread when a frame is ready
    lenses: Mapping[str, LensSpec]  # of every camera of the robot file

    def frames(self) -> list[CameraFrame]:
        """Frames drawn since the last call, oldest first."""

    def next_episode(self) -> EpisodeStatus:
        """Begins a new scene with the next seed; the arm is back at its start at once."""

    def episode(self) -> EpisodeStatus:
        """How the episode stands."""
