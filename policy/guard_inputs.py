"""What reached the guard and how fresh it is: chunks, a person's commands, joint states, e-stop. Reads no clock.

``now`` is a steady clock and ``robot_now`` robot time, both in seconds. Shape legend: A axes.
"""

from collections.abc import Sequence

import numpy as np

from policy.chunk_checks import CheckedChunk, check_chunk, check_command
from policy.guard_types import ChunkMessage, GuardConfig
from policy.watchdogs import Heartbeat, StateWatch, TeleopInput
from wam.errors import ValueContractError
from wam.robot import RobotSpec

__all__ = ["GuardInputs", "far_joint"]


class GuardInputs:
    """The newest of everything; see ``policy.guard.Guard`` for what follows from it."""

    def __init__(self, robot: RobotSpec, config: GuardConfig) -> None:
        self._robot, self._safety, self._config = robot, robot.safety, config
        self.states = StateWatch(robot)
        self.teleop = TeleopInput()
        self.heartbeat = Heartbeat(robot.safety.heartbeat_s)
        self.e_stop_pressed = False
        self.malformed = 0  # chunks in a row
        self.chunk: CheckedChunk | None = None  # newest accepted
        self._chunk_arrival = 0.0
        self._last_accepted = (-1, -1)  # epoch, sequence

    def forget_commands(self) -> None:
        """Drops what policy and person asked for; for a clock jump or a reset."""
        self.chunk = None
        self.teleop.forget()

    def take_chunk(self, message: ChunkMessage, now: float, robot_now: float) -> str:
        """Checks and keeps a chunk; returns why it was refused, or ""."""
        try:
            chunk = check_chunk(message, self._robot)
        except ValueContractError as error:
            self.malformed += 1
            return str(error)
        self.malformed = 0
        refusal = self._chunk_refusal(chunk, now, robot_now)
        if not refusal:
            self.chunk, self._chunk_arrival = chunk, now
            self._last_accepted = (chunk.epoch, chunk.sequence)
        return refusal

    def take_teleop(self, names: Sequence[str], positions: np.ndarray, stamp: float, now: float) -> str:
        """Checks and keeps a command of a person; returns why it was refused, or ""."""
        try:
            command = check_command(names, positions, self._robot)
        except ValueContractError as error:
            return str(error)
        if not np.isfinite(stamp) or not self.teleop.add(command, stamp, now):
            return f"the command's stamp {stamp} is not newer than the last one's"
        return ""

    def stale_states(self, now: float, robot_now: float) -> str:
        """Why joint states cannot be acted on, or ""."""
        age = self.states.age(now, robot_now)
        if age <= self._safety.state_age_s:
            return ""
        return f"joint states are {age:.3f} s old but safety.state_age_s allows {self._safety.state_age_s:g} s"

    def stale_chunk(self, now: float) -> str:
        """Why the policy has nothing to play, or ""."""
        if self.chunk is None:
            return "no chunk from the policy"
        silence = now - self._chunk_arrival
        if silence <= self._safety.chunk_age_s:
            return ""
        return f"no chunk for {silence:.3f} s but safety.chunk_age_s allows {self._safety.chunk_age_s:g} s"

    def person(self, now: float) -> np.ndarray | None:
        """(A,) where a person wants the arm, if one commands now."""
        fresh = self.teleop.position is not None and self.teleop.age(now) <= self._safety.teleop_age_s
        return self.teleop.position if fresh else None

    def _chunk_refusal(self, chunk: CheckedChunk, now: float, robot_now: float) -> str:
        epoch, sequence = self._last_accepted
        if (chunk.epoch, chunk.sequence) <= (epoch, sequence):
            return f"chunk {chunk.epoch}/{chunk.sequence} comes after {epoch}/{sequence}: out of order"
        ahead = chunk.stamp - robot_now
        if ahead > self._config.future_s or -ahead > self._config.stamp_age_s:
            self.chunk = None  # whatever made this one late or early, the one before is not to be trusted longer
            when = f"{ahead:.3f} s in the future" if ahead > 0 else f"{-ahead:.3f} s old"
            return f"chunk {chunk.epoch}/{chunk.sequence} is stamped {when}: holding until a fresh one"
        return self.stale_states(now, robot_now)


def far_joint(robot: RobotSpec, command: np.ndarray, measured: np.ndarray, limit: float | np.ndarray) -> str:
    """Names the joint that is farthest beyond a limit, "" when none is; a gripper may hold an object and is left out.

    Args:
        robot: Names of the joints.
        command: (A,) [rad].
        measured: (A,) [rad].
        limit: Allowed distance, one number or (A,) [rad].
    """
    joints = len(robot.joints)
    distance = np.abs(command - measured)[:joints]
    allowed = np.broadcast_to(limit, (robot.action_dim,))[:joints]
    worst = int((distance - allowed).argmax())
    if distance[worst] <= allowed[worst]:
        return ""
    return f"'{robot.joints[worst].name}' differs by {distance[worst]:.3f}, {allowed[worst]:.3f} is allowed"
