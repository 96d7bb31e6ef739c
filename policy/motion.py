"""The commanded state of one arm and the few ways in which it may change; every one of them keeps the limits.

Shape legend: A axes.
"""

from collections.abc import Callable

import numpy as np

from policy.chunk_checks import CheckedChunk
from policy.guard_types import GuardConfig
from policy.limiter import AxisLimits, Limiter
from policy.playback import ChunkPlayer
from policy.workspace import Workspace
from wam.errors import ConfigError
from wam.robot import RobotSpec

__all__ = ["ArmMotion"]

LIMITED = 0.01  # distance to what was asked for from which a tick counts as limited [rad, opening]


class ArmMotion:
    """Limiter, chunk player and workspace of one robot.

    Args:
        robot: Axes, limits and ``safety``.
        config: How chunks are played.
        forward_kinematics: (A,) positions -> (3,) tool position [m]; needed for ``safety.workspace``.

    Raises:
        ConfigError: There is a workspace but no forward kinematics.
    """

    def __init__(
        self, robot: RobotSpec, config: GuardConfig, forward_kinematics: Callable[[np.ndarray], np.ndarray] | None
    ) -> None:
        self.limits = AxisLimits.of(robot)
        self.player = ChunkPlayer(
            self.limits,
            reach_s=config.reach_steps * robot.control_dt,
            fade_s=config.fade_steps * robot.control_dt,
        )
        self._limiter = Limiter(self.limits)
        self._workspace = _workspace(robot, forward_kinematics)
        self._has_gripper = robot.gripper is not None
        self._rest: np.ndarray | None = None  # (A,) where ``settle`` holds
        self.known = False  # whether there is a commanded position at all
        self.limited_ticks = 0  # ticks that stayed behind what was asked for
        self.workspace_ticks = 0  # ticks that braked for the workspace
        self.at_workspace = False  # the newest ``follow`` did

    @property
    def position(self) -> np.ndarray:
        """(A,) float64 commanded [rad, opening]."""
        return self._limiter.position

    @property
    def velocity(self) -> np.ndarray:
        """(A,) float64 of the commanded position [rad/s]."""
        return self._limiter.velocity

    @property
    def at_rest(self) -> bool:
        """Nothing moves, or nothing is commanded."""
        return not self.known or self._limiter.at_rest

    def status(self) -> dict[str, str]:
        """Returns which action is in effect and how often a limit changed what was asked for, for diagnostics."""
        epoch, sequence, index = self.player.consumed
        return {
            "epoch": str(epoch),
            "sequence": str(sequence),
            "index": str(index),
            "ticks_limited": str(self.limited_ticks),
            "ticks_at_workspace": str(self.workspace_ticks),
        }

    def rebase(self, measured: np.ndarray) -> None:
        """Commands, at rest, where the arm is."""
        self._limiter.rebase(measured)
        self._rest = None
        self.known = True

    def release(self) -> None:
        """Commands nothing from now on."""
        self.known = False
        self.player.drop()

    def play(self, chunk: CheckedChunk, *, from_rest: bool) -> None:
        """Begins a chunk; see ``ChunkPlayer.start``."""
        self.player.start(chunk, self.position, self.velocity, from_rest=from_rest)

    def advance_chunk(self, dt: float) -> None:
        """Plays on for a tick."""
        self.follow(*self.player.advance(dt), dt)

    def follow(self, target: np.ndarray, velocity: np.ndarray, dt: float) -> None:
        """Moves one tick towards (A,) a target that moves at (A,) a velocity."""
        position, speed = self.position, self.velocity
        self._rest = None
        self._limiter.towards(target, velocity, dt)
        self.at_workspace = self._workspace is not None and not self._workspace.allows(
            self._limiter.braking_end, position
        )
        if self.at_workspace:
            self._limiter.position, self._limiter.velocity = position, speed
            self._limiter.brake(dt)
            self.workspace_ticks += 1
        elif np.abs(target - self.position).max() > LIMITED:
            self.limited_ticks += 1

    def brake(self, dt: float) -> None:
        """Brakes for a tick, and holds once at rest."""
        self._limiter.brake(dt)

    def settle(self, measured: np.ndarray | None, dt: float) -> None:
        """Brakes, then holds where the arm was found when it had braked: a servo that pushes is unloaded.

        The gripper stays at its command, or it would let go of what it holds.

        Args:
            measured: (A,) where the arm is [rad], if that is known.
            dt: Length of the tick [s].
        """
        if self._rest is None and not self.at_rest:
            self._limiter.brake(dt)
            return
        if self._rest is None:
            self._rest = self.position.copy() if measured is None else measured.copy()
            if self._has_gripper:
                self._rest[-1] = self.position[-1]
        self._limiter.towards(self._rest, np.zeros_like(self._rest), dt)

    def unsettle(self) -> None:
        """The next ``settle`` looks again at where the arm is."""
        self._rest = None


def _workspace(robot: RobotSpec, forward_kinematics: Callable[[np.ndarray], np.ndarray] | None) -> Workspace | None:
    box = robot.safety.workspace
    if box is None:
        return None
    if forward_kinematics is None:
        raise ConfigError(
            f"robot '{robot.name}' has a safety.workspace but the guard was given no forward kinematics, so it could "
            "not keep the tool inside: give the arm's kinematics, or take the workspace out of the robot file."
        )
    return Workspace(box, forward_kinematics)
