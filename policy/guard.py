"""The guard between a policy, a person and the motors: WAIT -> HOLD -> RUN_POLICY | RUN_TELEOP -> FAULT (latched).

Whatever goes wrong upstream, a tick returns a command that keeps position, velocity and acceleration limits. What is
not understood is not played; what stops coming is braked and held; what must not happen twice latches. The arm moves
only after ``engage``, and a person outranks the policy. Nothing here reads a clock.

Shape legend: A axes.
"""

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from policy.chunk_checks import CheckedChunk, check_chunk, check_command
from policy.guard_types import NOTHING_CONSUMED, ChunkMessage, GuardCommand, GuardConfig, GuardState
from policy.motion import ArmMotion
from policy.watchdogs import ClockWatch, Heartbeat, StateWatch, TeleopInput, TrackingWatch
from wam.errors import ValueContractError
from wam.robot import RobotSpec

__all__ = ["NOTHING_CONSUMED", "ChunkMessage", "Guard", "GuardCommand", "GuardConfig", "GuardState"]

RUNNING = (GuardState.RUN_POLICY, GuardState.RUN_TELEOP)


class Guard:
    """Turns chunks and teleoperation into commands that keep every limit, and holds when in doubt.

    Call ``tick`` at ``robot.safety.guard_rate_hz`` whatever happens, and send what it returns. Single-threaded.

    Args:
        robot: Axes, limits and ``safety``.
        config: How chunks are played; None takes the defaults.
        forward_kinematics: (A,) positions -> (3,) tool position in the base frame [m]; needed to check
            ``safety.workspace``.

    Raises:
        ConfigError: ``safety.workspace`` is set but there are no forward kinematics to check it with.
    """

    def __init__(
        self,
        robot: RobotSpec,
        config: GuardConfig | None = None,
        *,
        forward_kinematics: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> None:
        self.robot, self.safety = robot, robot.safety
        self.config = GuardConfig() if config is None else config
        self._motion = ArmMotion(robot, self.config, forward_kinematics)
        self._states = StateWatch(robot)
        self._teleop = TeleopInput()
        self._heartbeat = Heartbeat(self.safety.heartbeat_s)
        self._tracking = TrackingWatch(robot)
        self._clock = ClockWatch(1 / self.safety.guard_rate_hz, self.config.late_periods, self.config.time_scale)
        self._state, self._reason = GuardState.WAIT, "waiting for joint states"
        self._fault = ""  # why it is latched
        self._engaged = self._e_stop_active = self._stopping = False
        self._chunk: CheckedChunk | None = None  # newest accepted
        self._chunk_arrival = 0.0
        self._last_accepted = (-1, -1)  # epoch, sequence
        self._malformed = 0  # in a row
        self._holds = 0  # hold commands since a stop came to rest
        self._last_refusal = ""
        self._robot_now = 0.0
        self._counts: Counter[str] = Counter()

    @property
    def state(self) -> GuardState:
        """Who moves the arm, as of the last tick."""
        return self._state

    @property
    def engaged(self) -> bool:
        """``engage`` succeeded and nothing has latched since."""
        return self._engaged

    @property
    def stopped(self) -> bool:
        """After ``begin_stop``: the arm's command rests and was repeated often enough to end the process."""
        return self._stopping and (not self._motion.known or self._holds >= self.config.stop_holds)

    def on_state(self, stamp: float, proprio: np.ndarray, now: float) -> None:
        """Takes measured joint positions.

        Args:
            stamp: Robot time of the measurement [s]; one that is not newer than the last is counted, not used.
            proprio: (A,) positions in the robot's order; one that is not finite is counted, not used.
            now: Steady time of arrival [s].
        """
        self._states.add(stamp, proprio, now)

    def on_chunk(self, message: ChunkMessage, now: float, robot_now: float) -> str:
        """Takes an action chunk.

        Args:
            message: As it came over the wire.
            now: Steady time [s].
            robot_now: Robot time [s].

        Returns:
            "" when it will be played, else why it was refused. Names in another order are put right; anything else
            that is wrong drops the whole chunk, and the third malformed one in a row latches a fault.
        """
        if self._state is GuardState.FAULT or self._fault:
            return self._refuse("chunks", f"the guard is in FAULT ({self._fault}): reset it first")
        try:
            chunk = check_chunk(message, self.robot)
        except ValueContractError as error:
            self._malformed += 1
            self._counts["chunks_malformed"] += 1
            if self._malformed >= self.config.faults_after:
                self._latch(f"{self._malformed} malformed chunks in a row, the last because {error}")
            return self._refuse("chunks", str(error))
        self._malformed = 0
        refusal = self._chunk_refusal(chunk, now, robot_now)
        if refusal:
            return self._refuse("chunks", refusal)
        self._chunk, self._chunk_arrival = chunk, now
        self._last_accepted = (chunk.epoch, chunk.sequence)
        self._counts["chunks_accepted"] += 1
        if self._state is GuardState.RUN_POLICY:
            self._motion.play(chunk, from_rest=False)
        return ""

    def on_teleop(self, names: Sequence[str], positions: np.ndarray, stamp: float, now: float) -> str:
        """Takes one command of a person who holds the dead-man.

        Args:
            names: Joint names, in the order of the positions.
            positions: (A,) where the arm is to be [rad, gripper opening].
            stamp: Robot time of the command [s].
            now: Steady time [s].

        Returns:
            "" when it is used, else why not.
        """
        try:
            command = check_command(names, positions, self.robot)
        except ValueContractError as error:
            return self._refuse("teleop", str(error))
        if not np.isfinite(stamp) or not self._teleop.add(command, stamp, now):
            return self._refuse("teleop", f"the command's stamp {stamp} is not newer than the last one's")
        return ""

    def on_e_stop(self, active: bool, now: float) -> None:
        """Takes the e-stop topic. True stops and latches; False only lets ``reset`` work again."""
        self._e_stop_active = active
        if active:
            self.e_stop(now)

    def on_heartbeat(self, now: float) -> None:
        """Takes a heartbeat of the e-stop device; from the first one on, its silence latches a fault."""
        self._heartbeat.beat(now)

    def on_clock_jump(self, now: float) -> None:
        """Robot time jumped: what was stamped before it is forgotten and the arm holds until a fresh chunk."""
        self._counts["clock_jumps"] += 1
        self._chunk = None
        self._motion.player.clear()
        self._teleop.forget()
        self._states.forget_stamp()

    def engage(self, now: float) -> tuple[bool, str]:
        """Lets policy or person move the arm; (False, why) when inputs are stale or the first command is far away."""
        if self._engaged:
            return True, "already engaged"
        refusal = self._engage_refusal(now)
        if refusal:
            return False, self._refuse("engage", refusal)
        self._engaged = True
        return True, "engaged"

    def e_stop(self, now: float) -> None:
        """Stops and latches, as the e-stop topic does, but leaves ``reset`` possible."""
        self._latch("e-stop")

    def reset(self, now: float) -> tuple[bool, str]:
        """Leaves FAULT for HOLD at the measured position, disengaged; (False, why) while the cause lasts."""
        refusal = self._reset_refusal(now)
        if refusal:
            return False, self._refuse("reset", refusal)
        self._fault, self._malformed, self._chunk = "", 0, None
        self._motion.player.clear()
        self._teleop.forget()
        self._tracking.forget()
        assert self._states.measured is not None
        self._motion.rebase(self._states.measured)
        self._engaged = False
        self._state, self._reason = GuardState.HOLD, "reset: not engaged"
        return True, "reset: holding where the arm is; engage to go on"

    def begin_stop(self, now: float) -> None:
        """Brakes to a stop for the end of the process; tick on until ``stopped``."""
        self._stopping = True
        self._engaged = False

    def tick(self, now: float, robot_now: float) -> GuardCommand:
        """Advances by one period.

        Args:
            now: Steady time [s].
            robot_now: Robot time [s].

        Returns:
            What to command; limits are kept whatever the time since the last tick was.
        """
        dt, jumped = self._clock.tick(now, robot_now)
        self._robot_now = robot_now
        if jumped:
            self.on_clock_jump(now)
        self._watch(now, robot_now)
        before = self._state
        self._state, self._reason = self._decide(now, robot_now)
        self._counts[f"ticks_{self._state.value.lower()}"] += 1
        self._move(before, dt, now)
        return GuardCommand(
            positions=self._motion.position.copy() if self._motion.known else None,
            velocities=self._motion.velocity.copy() if self._motion.known else np.zeros(self.robot.action_dim),
            state=self._state,
            reason=self._reason,
            consumed=self._motion.player.consumed,
        )

    def status(self) -> dict[str, str]:
        """Returns state, reason, last refusal and counters, for diagnostics."""
        epoch, sequence, index = self._motion.player.consumed
        level = "error" if self._state is GuardState.FAULT or self._clock.late else "ok"
        if level == "ok" and self._engaged and self._state not in RUNNING:
            level = "warn"
        return {
            "state": self._state.value,
            "reason": self._reason,
            "level": level,
            "engaged": str(self._engaged).lower(),
            "epoch": str(epoch),
            "sequence": str(sequence),
            "index": str(index),
            "last_refusal": self._last_refusal,
            "tracking_error": f"{self._tracking.error:.4f}",
            "late_ticks": str(self._clock.late_ticks),
            "longest_period_ms": f"{1e3 * self._clock.worst_s:.1f}",
            "states_dropped": str(self._states.dropped),
            "ticks_limited": str(self._motion.limited_ticks),
            "ticks_at_workspace": str(self._motion.workspace_ticks),
            **{name: str(count) for name, count in sorted(self._counts.items())},
        }

    def _watch(self, now: float, robot_now: float) -> None:
        """Latches what must latch."""
        age = self._states.age(now, robot_now)
        if self._e_stop_active:
            self._latch("e-stop")
        if self._heartbeat.lost(now):
            self._latch(f"no heartbeat of the e-stop for {self.safety.heartbeat_s:g} s")
        if age > self.safety.state_fault_s and self._engaged:
            self._latch(f"no joint states for {self.safety.state_fault_s:g} s")
        if not self._engaged or age > self.safety.state_age_s or self._states.measured is None:
            self._tracking.forget()
            return
        lag = self._tracking.check(self._motion.position, self._states.measured, now)
        if lag:
            self._latch(lag)

    def _decide(self, now: float, robot_now: float) -> tuple[GuardState, str]:
        """Returns the state of this tick and why."""
        if self._fault:
            return GuardState.FAULT, self._fault
        if self._states.measured is None:
            return GuardState.WAIT, "waiting for joint states"
        age = self._states.age(now, robot_now)
        if age > self.safety.state_age_s:
            self._chunk = None
            reason = f"joint states are {age:.3f} s old but safety.state_age_s allows {self.safety.state_age_s:g} s"
            holds = self._engaged or self._stopping or not self._motion.at_rest
            return (GuardState.HOLD if holds else GuardState.WAIT), reason
        if self._stopping:
            return GuardState.HOLD, "stopping"
        if not self._engaged:
            return GuardState.HOLD, "not engaged"
        return self._who_moves(now)

    def _who_moves(self, now: float) -> tuple[GuardState, str]:
        if self._teleop.position is not None and self._teleop.age(now) <= self.safety.teleop_age_s:
            self._chunk = None  # when the person lets go, the policy goes on from an observation made after that
            far = self._far(self._teleop.position, self._motion.position, self.safety.engage_error)
            if self._state is GuardState.RUN_TELEOP or not far:
                return GuardState.RUN_TELEOP, "a person commands"
            return GuardState.HOLD, f"teleoperation is not where the arm is ({far}): bring it there to take over"
        if self._chunk is None:
            return GuardState.HOLD, "no chunk from the policy"
        silence = now - self._chunk_arrival
        if silence > self.safety.chunk_age_s:
            return (
                GuardState.HOLD,
                f"no chunk for {silence:.3f} s but safety.chunk_age_s allows {self.safety.chunk_age_s:g} s",
            )
        return GuardState.RUN_POLICY, "the policy commands"

    def _move(self, before: GuardState, dt: float, now: float) -> None:
        """Moves the commanded position by one tick of the state."""
        motion, measured = self._motion, self._states.measured
        if self._state is GuardState.WAIT:
            motion.release()
            return
        if not motion.known and self._state is GuardState.HOLD and measured is not None:
            motion.rebase(measured)
        if not motion.known:
            return  # a fault before anything was commanded: whatever the arm does, it was not told to by us
        if self._state is not GuardState.RUN_POLICY:
            motion.player.drop()
        if self._state is GuardState.RUN_POLICY:
            if before is not GuardState.RUN_POLICY or not motion.player.playing:
                assert self._chunk is not None
                motion.play(self._chunk, from_rest=True)
            motion.advance_chunk(dt)
        elif self._state is GuardState.RUN_TELEOP:
            motion.follow(*self._teleop.target(now), dt)
        elif self._state is GuardState.FAULT:
            fresh = self._states.age(now, self._robot_now) <= self.safety.state_age_s
            motion.settle(measured if fresh else None, dt)
        else:
            motion.brake(dt)
        if self._state in RUNNING and motion.at_workspace:
            self._reason += ", at the edge of the workspace"
        self._holds = self._holds + 1 if self._stopping and motion.at_rest else 0
        motion.player.note(self._robot_now, motion.position)

    def _chunk_refusal(self, chunk: CheckedChunk, now: float, robot_now: float) -> str:
        epoch, sequence = self._last_accepted
        if (chunk.epoch, chunk.sequence) <= (epoch, sequence):
            return f"chunk {chunk.epoch}/{chunk.sequence} comes after {epoch}/{sequence}: out of order"
        ahead = chunk.stamp - robot_now
        if ahead > self.config.future_s or -ahead > self.config.stamp_age_s:
            self._chunk = None  # whatever made this chunk late or early, the one before is not to be trusted longer
            when = f"{ahead:.3f} s in the future" if ahead > 0 else f"{-ahead:.3f} s old"
            return f"chunk {chunk.epoch}/{chunk.sequence} is stamped {when}: holding until a fresh one"
        if self._states.age(now, robot_now) > self.safety.state_age_s:
            return "joint states are stale"
        return ""

    def _engage_refusal(self, now: float) -> str:
        if self._fault:
            return f"the guard is in FAULT ({self._fault}): reset it first"
        if self._stopping or self._state is GuardState.WAIT or self._states.measured is None:
            return f"the guard is in {self._state.value}: {self._reason}"
        if self._states.age(now, self._robot_now) > self.safety.state_age_s:
            return "joint states are stale"
        if self.config.require_heartbeat and not self._heartbeat.heard:
            return "no heartbeat of the e-stop was heard, and this guard requires one"
        far = self._far(self._motion.position, self._states.measured, self.safety.engage_error)
        if far:
            return f"the arm is not where it is held ({far}): reset to hold it where it is"
        teleop = self._teleop.position if self._teleop.age(now) <= self.safety.teleop_age_s else None
        if teleop is not None:
            far = self._far(teleop, self._states.measured, self.safety.engage_error)
            return f"teleoperation is not where the arm is ({far})" if far else ""
        if self._chunk is None or now - self._chunk_arrival > self.safety.chunk_age_s:
            return "there is no fresh chunk and no fresh teleoperation command"
        one_step = self._motion.limits.velocity * self.robot.control_dt  # a first action may be that far away
        far = self._far(self._chunk.positions[0], self._states.measured, self.safety.engage_error + one_step)
        return f"the policy's first action is not where the arm is ({far})" if far else ""

    def _reset_refusal(self, now: float) -> str:
        if self._e_stop_active:
            return "the e-stop is pressed"
        if self._heartbeat.lost(now):
            return "the e-stop's heartbeat is still missing"
        if self._states.age(now, self._robot_now) > self.safety.state_age_s:
            return "joint states are stale, so where the arm is cannot be held"
        if not self._motion.at_rest:
            return "the arm is still braking"
        if self._engaged and not self._fault:
            return "the guard is engaged and not in FAULT: there is nothing to reset"
        return ""

    def _far(self, command: np.ndarray, measured: np.ndarray, limit: float | np.ndarray) -> str:
        """Names the axis that is farthest beyond a limit; "" when none is."""
        excess = np.abs(command - measured) - limit
        worst = int(excess.argmax())
        if excess[worst] <= 0:
            return ""
        distance = abs(command[worst] - measured[worst])
        return (
            f"'{self.robot.action_names[worst]}' differs by {distance:.3f}, {distance - excess[worst]:.3f} is allowed"
        )

    def _latch(self, fault: str) -> None:
        if not self._fault:
            self._fault = fault
            self._counts["faults"] += 1
            self._motion.unsettle()
        self._engaged = False
        self._chunk = None

    def _refuse(self, what: str, refusal: str) -> str:
        self._counts[f"{what}_refused"] += 1
        self._last_refusal = refusal
        return refusal
