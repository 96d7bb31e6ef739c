"""The guard between a policy, a person and the motors: WAIT -> HOLD -> RUN_POLICY | RUN_TELEOP -> FAULT (latched).

Whatever goes wrong upstream, a tick returns a command that keeps position, velocity and acceleration limits. What is
not understood is not played; what stops coming is braked and held; what must not happen twice latches. The arm moves
only after ``engage``, for the policy that planned then, and a person outranks it. Every way into RUN_POLICY and every
chunk on the way passes the same check: it must follow from where the arm is. Nothing here reads a clock.

Shape legend: A axes.
"""

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from policy.engagement import Engagement
from policy.entry import NOTHING_FRESH, Entry
from policy.guard_inputs import GuardInputs
from policy.guard_types import NOTHING_CONSUMED, ChunkMessage, GuardCommand, GuardConfig, GuardState
from policy.motion import ArmMotion
from policy.watchdogs import ClockWatch, TrackingWatch
from wam.errors import ValueContractError
from wam.robot import RobotSpec

__all__ = ["NOTHING_CONSUMED", "NOTHING_FRESH", "ChunkMessage", "Guard", "GuardCommand", "GuardConfig", "GuardState"]

RUNNING = (GuardState.RUN_POLICY, GuardState.RUN_TELEOP)


class Guard:
    """Turns chunks and teleoperation into commands that keep every limit, and holds when in doubt.

    Call ``tick`` at ``robot.safety.guard_rate_hz`` of the steady clock whatever happens, and send what it returns. With
    ``config.time_scale`` s one tick moves the arm by s periods of robot time; time-outs stay in steady seconds.
    Single-threaded.

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
        self._inputs = GuardInputs(robot, self.config)
        self._tracking = TrackingWatch(robot)
        self._clock = ClockWatch(1 / self.safety.guard_rate_hz, self.config.late_periods, self.config.time_scale)
        self._state, self._reason = GuardState.WAIT, "waiting for joint states"
        self._fault = ""  # why it is latched
        self._engagement = Engagement(robot)
        self._entry = Entry(robot, self._inputs, self._motion)
        self._stopping = False
        self._rebases = False  # a reset waits for the arm to rest
        self._holds = 0  # hold commands since a stop came to rest
        self._last_refusal = ""
        self._now = self._robot_now = 0.0  # of the newest tick
        self._counts: Counter[str] = Counter()

    @property
    def state(self) -> GuardState:
        """Who moves the arm, as of the last tick."""
        return self._state

    @property
    def engaged(self) -> bool:
        """``engage`` succeeded, and nothing has ended that since."""
        return self._engagement.active

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
        self._inputs.states.add(stamp, proprio, now)

    def on_bad_state(self, reason: str) -> None:
        """Counts a joint state that cannot even be read as numbers; the reason is said wherever one is missed."""
        self._inputs.states.refuse(reason)

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
        if self._fault:
            return self._refuse("chunks", f"the guard is in FAULT ({self._fault}): reset it first")
        try:
            chunk = self._inputs.read_chunk(message, now)
        except ValueContractError as error:
            return self._refuse_malformed(str(error))
        refusal = self._engagement.rival(chunk.session, self._inputs.order.planning(now))
        refusal = refusal or self._inputs.chunk_refusal(chunk, now, robot_now)
        goes_on = self._state is GuardState.RUN_POLICY and self._motion.player.playing
        if goes_on and not refusal:
            refusal = self._entry.go_on(chunk)
        if refusal:
            return self._refuse("chunks", refusal)
        self._inputs.accept_chunk(chunk, now)
        self._counts["chunks_accepted"] += 1
        if goes_on:
            self._motion.play(chunk, from_rest=False)
        return ""

    def on_malformed(self, reason: str, now: float) -> str:
        """Counts a chunk message that cannot even be read as numbers; returns the refusal."""
        if self._fault:
            return self._refuse("chunks", reason)
        self._inputs.malformed += 1
        return self._refuse_malformed(reason)

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
        refusal = self._inputs.take_teleop(names, positions, stamp, now)
        return self._refuse("teleop", refusal) if refusal else ""

    def on_e_stop(self, active: bool, now: float) -> None:
        """Takes the e-stop topic. True stops and latches; False only lets ``reset`` work again."""
        self._inputs.e_stop_pressed = active
        if active:
            self.e_stop(now)

    def on_heartbeat(self, now: float) -> None:
        """Takes a heartbeat of the e-stop device; from the first one on, its silence latches a fault."""
        self._inputs.heartbeat.beat(now)

    def on_rival(self, name: str, now: float) -> None:
        """Another node was heard commanding the arm: nobody engages while it does, and an engaged guard latches."""
        known, fault = self._inputs.rival.heard(name, now)
        self._fault = fault if self._fault and self._fault == known else self._fault
        if self.engaged:
            self._latch(fault)

    def on_clock_jump(self, now: float) -> None:
        """Robot time jumped: what was stamped before it is forgotten and the arm holds until a fresh chunk."""
        self._counts["clock_jumps"] += 1
        self._inputs.forget_commands()
        self._inputs.states.forget_stamp()
        self._motion.player.clear()

    def engage(self, now: float) -> tuple[bool, str]:
        """Lets policy or person move the arm; (False, why) when inputs are stale or the first command is far away.

        It is meant for the policy that plans now: after another start of it somebody has to engage again.
        """
        chunk = None if self._inputs.stale_chunk(now) else self._inputs.chunk
        engagement = self._engagement
        if engagement.active and not engagement.lapsed and (chunk is None or chunk.session == engagement.session):
            return True, "already engaged"
        refusal = self._engage_refusal(now) or self._entry.engage(now, chunk)
        if refusal:
            return False, self._refuse("engage", refusal)
        self._engagement.begin(None if chunk is None else chunk.session, now)
        return True, "engaged"

    def e_stop(self, now: float) -> None:
        """Stops and latches, as the e-stop topic does, but leaves ``reset`` possible."""
        self._latch("e-stop")

    def reset(self, now: float) -> tuple[bool, str]:
        """Ends a fault or a run: HOLD where the arm is measured, disengaged. (False, why) while a fault's cause lasts.

        A running arm brakes first and is placed at its measured position when it rests.
        """
        refusal = self._reset_refusal(now)
        if refusal:
            return False, self._refuse("reset", refusal)
        self._inputs.forget_commands()
        self._inputs.malformed = 0
        self._fault, self._rebases = "", True
        self._engagement.end()
        self._tracking.forget()
        self._state, self._reason = GuardState.HOLD, "reset: not engaged"
        if not self._motion.at_rest:
            return True, "reset: braking, then holding where the arm is"
        self._rebase()
        return True, "reset: holding where the arm is; engage to go on"

    def begin_stop(self, now: float) -> None:
        """Brakes to a stop for the end of the process; tick on until ``stopped``."""
        self._stopping = True
        self._engagement.end()

    def tick(self, now: float, robot_now: float) -> GuardCommand:
        """Advances by one period.

        Args:
            now: Steady time [s].
            robot_now: Robot time [s].

        Returns:
            What to command; limits are kept whatever the time since the last tick was.
        """
        dt, jumped = self._clock.tick(now, robot_now)
        self._now, self._robot_now = now, robot_now
        self._inputs.states.excuse(self._clock.paused_s)
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
        level = "error" if self._state is GuardState.FAULT or self._clock.late else "ok"
        if level == "ok" and (self._state is GuardState.WAIT or (self.engaged and self._state not in RUNNING)):
            level = "warn"
        return {
            "state": self._state.value,
            "reason": self._reason,
            "level": level,
            "engaged": str(self.engaged).lower(),
            "e_stop": str(self._inputs.e_stop_pressed).lower(),
            "heartbeat": "heard" if self._inputs.heartbeat.heard else "never heard",
            "last_refusal": self._last_refusal,
            "tick_s": f"{self._now:.6f}",
            "tracking_error": f"{self._tracking.error:.4f}",
            "late_ticks": str(self._clock.late_ticks),
            "longest_period_ms": f"{1e3 * self._clock.worst_s:.1f}",
            "states_dropped": str(self._inputs.states.dropped),
            **self._motion.status(),
            **{name: str(count) for name, count in sorted(self._counts.items())},
        }

    def _watch(self, now: float, robot_now: float) -> None:
        """Latches what must latch."""
        states = self._inputs.states
        if self._inputs.e_stop_pressed:
            self._latch("e-stop")
        if self._inputs.heartbeat.lost(now):
            self._latch(f"no heartbeat of the e-stop for {self.safety.heartbeat_s:g} s")
        if self.engaged and states.silence(now, robot_now) > self.safety.state_fault_s:
            why = f": {states.problem}" if states.problem else ""
            self._latch(f"no joint states for {self.safety.state_fault_s:g} s{why}")
        if not self.engaged or self._inputs.stale_states(now, robot_now) or states.measured is None:
            self._tracking.forget()
            return
        lag = self._tracking.check(self._motion.position, states.measured, now)
        if lag:
            self._latch(lag)

    def _decide(self, now: float, robot_now: float) -> tuple[GuardState, str]:
        """Returns the state of this tick and why."""
        if self._fault:
            return GuardState.FAULT, self._fault
        if self._inputs.states.measured is None:
            problem = self._inputs.states.problem
            return GuardState.WAIT, "waiting for joint states" + (f": {problem}" if problem else "")
        stale = self._inputs.stale_states(now, robot_now)
        if stale:
            self._inputs.chunk = None
            holds = self.engaged or self._stopping or not self._motion.at_rest
            return (GuardState.HOLD if holds else GuardState.WAIT), stale
        if self._stopping:
            return GuardState.HOLD, "stopping"
        if not self.engaged:
            return GuardState.HOLD, "not engaged"
        state, reason = self._who_moves(now)
        if state in RUNNING:
            self._engagement.moved(now)
        else:
            self._engagement.watch(now)
        return state, reason

    def _who_moves(self, now: float) -> tuple[GuardState, str]:
        person = self._inputs.person(now)
        if person is not None:
            self._inputs.chunk = None  # after the person the policy goes on from an observation made after that
            far = "" if self._state is GuardState.RUN_TELEOP else self._entry.take_over(person)
            return (GuardState.HOLD, far) if far else (GuardState.RUN_TELEOP, "a person commands")
        silent, chunk = self._inputs.stale_chunk(now), self._inputs.chunk
        if silent or chunk is None:
            return GuardState.HOLD, "; ".join(filter(None, (silent, self._engagement.lapsed)))
        refusal = self._engagement.refusal(chunk.session)
        if not refusal and (self._state is not GuardState.RUN_POLICY or not self._motion.player.playing):
            refusal = self._entry.begin(chunk)
        return (GuardState.HOLD, refusal) if refusal else (GuardState.RUN_POLICY, "the policy commands")

    def _move(self, before: GuardState, dt: float, now: float) -> None:
        """Moves the commanded position by one tick of the state."""
        motion, measured = self._motion, self._inputs.states.measured
        if self._state is GuardState.WAIT:
            motion.release()
            return
        if self._state is GuardState.HOLD and measured is not None and (not motion.known or self._must_rebase()):
            self._rebase()
        if not motion.known:
            return  # a fault before anything was commanded: whatever the arm does, it was not told to by us
        if self._state is not GuardState.RUN_POLICY:
            motion.player.drop()
        if self._state is GuardState.RUN_POLICY:
            if before is not GuardState.RUN_POLICY or not motion.player.playing:
                assert self._inputs.chunk is not None
                motion.play(self._inputs.chunk, from_rest=True)
            motion.advance_chunk(dt)
        elif self._state is GuardState.RUN_TELEOP:
            motion.follow(*self._inputs.teleop.target(now), dt)
        elif self._state is GuardState.FAULT:
            motion.settle(None if self._inputs.stale_states(now, self._robot_now) else measured, dt)
        else:
            motion.brake(dt)
        if self._state in RUNNING and motion.at_workspace:
            self._reason += ", at the edge of the workspace"
        self._holds = self._holds + 1 if self._stopping and motion.at_rest else 0
        motion.player.note(self._robot_now)

    def _must_rebase(self) -> bool:
        return self._rebases and self._motion.at_rest and not self._stopping

    def _rebase(self) -> None:
        """Commands the measured position from now on."""
        assert self._inputs.states.measured is not None
        self._motion.player.clear()
        self._motion.rebase(self._inputs.states.measured)
        self._rebases = False

    def _engage_refusal(self, now: float) -> str:
        if self._fault:
            return f"the guard is in FAULT ({self._fault}): reset it first"
        if self._stopping or self._state is GuardState.WAIT or self._inputs.states.measured is None:
            return f"the guard is in {self._state.value}: {self._reason}"
        if self._rebases:
            return "the arm is still braking"
        if self.config.require_heartbeat and not self._inputs.heartbeat.heard:
            return "no heartbeat of the e-stop was heard, and this guard requires one"
        return self._inputs.stale_states(now, self._robot_now)

    def _reset_refusal(self, now: float) -> str:
        if self._inputs.e_stop_pressed:
            return "the e-stop is pressed"
        if self._inputs.heartbeat.lost(now):
            return "the e-stop's heartbeat is still missing"
        stale = self._inputs.stale_states(now, self._robot_now)
        if stale:
            return f"{stale}, so where the arm is cannot be held"
        return "the arm is still braking" if self._fault and not self._motion.at_rest else ""

    def _latch(self, fault: str) -> None:
        if not self._fault:
            self._fault = fault
            self._counts["faults"] += 1
            self._motion.unsettle()
        self._engagement.end()
        self._inputs.chunk = None

    def _refuse_malformed(self, refusal: str) -> str:
        self._counts["chunks_malformed"] += 1
        if self._inputs.malformed >= self.config.faults_after:
            self._latch(f"{self._inputs.malformed} malformed chunks in a row, the last because {refusal}")
        return self._refuse("chunks", refusal)

    def _refuse(self, what: str, refusal: str) -> str:
        self._counts[f"{what}_refused"] += 1
        self._last_refusal = refusal
        return refusal
