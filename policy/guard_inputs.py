"""What reached the guard and how fresh it is: chunks, a person's commands, joint states, e-stop. Reads no clock.

``now`` is a steady clock and ``robot_now`` robot time, both in seconds. Shape legend: A axes.
"""

from collections.abc import Sequence

import numpy as np

from policy.chunk_checks import CheckedChunk, check_chunk, check_command
from policy.chunk_order import ChunkOrder
from policy.commanders import CommandRival
from policy.guard_types import ChunkMessage, GuardConfig
from policy.intent import HAND_SPEED, far_joint, far_step
from policy.watchdogs import Heartbeat, StateWatch, TeleopInput
from wam.errors import ValueContractError
from wam.robot import RobotSpec

__all__ = ["GuardInputs"]


class GuardInputs:
    """The newest of everything; see ``policy.guard.Guard`` for what follows from it."""

    def __init__(self, robot: RobotSpec, config: GuardConfig) -> None:
        self._robot, self._safety, self._config = robot, robot.safety, config
        self.states = StateWatch(robot)
        self.teleop = TeleopInput()
        self.heartbeat = Heartbeat(robot.safety.heartbeat_s)
        self.rival = CommandRival()
        self.e_stop_pressed = False
        self.malformed = 0  # chunks in a row
        self.chunk: CheckedChunk | None = None  # newest accepted
        self.order = ChunkOrder(robot.safety.chunk_age_s)
        self._chunk_arrival = 0.0

    def forget_commands(self) -> None:
        """Drops what policy and person asked for; for a clock jump or a reset."""
        self.chunk = None
        self.order.forget_stamps()
        self.teleop.forget()

    def read_chunk(self, message: ChunkMessage, now: float) -> CheckedChunk:
        """Checks a chunk by itself.

        Raises:
            ValueContractError: It is malformed; counted.
        """
        try:
            chunk = check_chunk(message, self._robot)
        except ValueContractError:
            self.malformed += 1
            raise
        self.malformed = 0
        self.order.hear(chunk, now)
        return chunk

    def chunk_refusal(self, chunk: CheckedChunk, now: float, robot_now: float) -> str:
        """Why a well-formed chunk is not played, or ""."""
        late = self.order.refusal(chunk, now)
        if late:
            return late
        ahead = chunk.stamp - robot_now
        if ahead > self._config.future_s or -ahead > self._config.stamp_age_s:
            self.chunk = None  # whatever made this one late or early, the one before is not to be trusted longer
            when = f"{ahead:.3f} s in the future" if ahead > 0 else f"{-ahead:.3f} s old"
            return f"chunk {chunk.epoch}/{chunk.sequence} is stamped {when}: holding until a fresh one"
        jump = far_step(self._robot, chunk)
        if jump:
            return f"chunk {chunk.epoch}/{chunk.sequence} is no plan that an arm can follow: {jump}"
        return self.stale_states(now, robot_now)

    def accept_chunk(self, chunk: CheckedChunk, now: float) -> None:
        """Keeps a chunk as the newest."""
        self.chunk, self._chunk_arrival = chunk, now
        self.order.accept(chunk, now)

    def take_teleop(self, names: Sequence[str], positions: np.ndarray, stamp: float, now: float) -> str:
        """Checks and keeps a command of a person; returns why it was refused, or ""."""
        try:
            command = check_command(names, positions, self._robot)
        except ValueContractError as error:
            return str(error)
        if stamp == 0:
            return "the command is not stamped (header.stamp is 0): whoever sends it must stamp it"
        jump = self._jump(command, now)
        if jump:
            return f"the command jumps ({jump} since the last one): a leader's reading is wrong, or its unit"
        if not np.isfinite(stamp) or not self.teleop.add(command, stamp, now):
            return f"the command's stamp {stamp} is not newer than the last one's"
        return ""

    def _jump(self, command: np.ndarray, now: float) -> str:
        """How a person's command leaves the one before, while that still counts, or ""."""
        before = self.person(now)
        if before is None:
            return ""
        allowed = self._safety.engage_error + HAND_SPEED * self.teleop.age(now)
        return far_joint(self._robot, command, before, allowed)

    def stale_states(self, now: float, robot_now: float) -> str:
        """Why joint states cannot be acted on, or ""."""
        states = self.states
        age = states.age(now, robot_now)
        if age <= self._safety.state_age_s:
            return ""
        if states.silence(now, robot_now) <= self._safety.state_age_s:
            return f"the guard itself was not run for {states.excused_s:.2f} s: waiting for a fresh joint state"
        why = f" ({states.problem})" if states.problem else ""
        return f"joint states are {age:.3f} s old but safety.state_age_s allows {self._safety.state_age_s:g} s{why}"

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
