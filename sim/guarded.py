"""One closed-loop episode as the robot runs it: inference thread, chunk schedule and guard, in simulated time.

``sim.rollout`` plays a policy's actions one by one; here its chunks go through ``policy.session`` and ``policy.guard``,
which is what the nodes put around them, and the arm gets the guard's limited commands at the guard's rate. Only the
messages between the processes are left out, so what is heard arrives at once.

The session's thread is real, but it may hand over a chunk only when simulated time has come to it, and simulated time
waits for the chunk: an episode is a function of its seed and settings alone, whatever the load of the machine.
"""

import dataclasses
import math
import threading
from dataclasses import dataclass

import numpy as np

from policy.guard import ChunkMessage, Guard, GuardCommand, GuardState
from policy.rtc import Continuation
from policy.runner import Policy
from policy.session import ChunkResult, PolicySession
from sim.arm_sim import ArmSim
from sim.errors import SimError
from sim.rollout import MODES
from wam.errors import ConfigError, unknown_name
from wam.spec import ActionChunk, Observation

__all__ = ["OUTCOMES", "GuardedEpisode", "GuardedSettings", "play_guarded"]

OUTCOMES = ("success", "timeout", "fault", "refused", "physics")
START_S = 100.0  # robot and steady time at reset [s]: a stamp of 0 would look like one that was never set
PATIENCE_S = 600.0  # wall time after which an inference thread is taken for dead [s]


@dataclass(frozen=True, kw_only=True)
class GuardedSettings:
    """How a policy is run."""

    mode: str  # a key of ``sim.rollout.MODES`` but frozen
    latency_s: float  # from an observation to its chunk [s]
    rate_hz: float  # observations per second
    execution_horizon: int | None = None  # see ``PolicySession``; None takes its default
    same_noise: bool | None = None  # see ``PolicySession``; None takes the mode's default

    def __post_init__(self) -> None:
        known = [mode for mode in MODES if mode != "frozen"]  # behind a guard the world does not wait
        if self.mode not in known:
            raise ConfigError(unknown_name("mode", self.mode, known))
        if not (math.isfinite(self.latency_s) and self.latency_s >= 0 and 0 < self.rate_hz < math.inf):
            raise ConfigError(
                f"latency is {self.latency_s} s and rate_hz {self.rate_hz}: finite, and not negative and positive."
            )


@dataclass(frozen=True, kw_only=True)
class GuardedEpisode:
    """What happened."""

    seed: int
    outcome: str  # one of OUTCOMES
    seconds: float  # simulated time at the end [s]
    chunks: int  # that the guard accepted
    ticks: int  # of the guard
    ticks_held: int  # of them after it was engaged, without anything to play
    ticks_limited: int  # of them in which a limit changed the command
    message: str = ""  # why it failed, or why the guard could not be engaged

    @property
    def success(self) -> bool:
        """Whether the task was solved."""
        return self.outcome == "success"


def play_guarded(sim: ArmSim, policy: Policy, settings: GuardedSettings, seed: int) -> GuardedEpisode:
    """Plays one episode from reset to success, time-out or fault.

    Args:
        sim: The simulation, commanded at the guard's rate (``control_rate_hz``); reset here.
        policy: Warmed up; used by one thread at a time.
        settings: Mode, latency and rate.
        seed: Fixes the scene. Noise counts from 0 in every episode, as on the robot.

    Raises:
        ScheduleError: The policy cannot run in this mode.
        SimError: The inference thread has died.
    """
    sim.reset(seed)
    episode = _Episode(sim, policy, settings)
    try:
        outcome = episode.run()
    finally:
        episode.close()
    status = episode.guard.status()
    return GuardedEpisode(
        seed=seed,
        outcome=outcome,
        seconds=round(sim.time, 6),
        chunks=int(status.get("chunks_accepted", 0)),
        ticks=episode.tick,
        ticks_held=episode.held,
        ticks_limited=int(status["ticks_limited"]),
        message=episode.message or ("" if episode.guard.engaged else status["last_refusal"]),
    )


class _Gate:
    """A policy whose chunks leave it only when they are let out."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._out = threading.Semaphore(0)
        self.chunk_length, self.control_dt, self.max_prefix = policy.chunk_length, policy.control_dt, policy.max_prefix

    def let_out(self) -> None:
        """The chunk that is being inferred, or the next one, exists now."""
        self._out.release()

    def reset(self) -> None:
        self._policy.reset()

    def infer(
        self, observation: Observation, *, noise_seed: int | None = None, continuation: Continuation | None = None
    ) -> ActionChunk:
        try:
            return self._policy.infer(observation, noise_seed=noise_seed, continuation=continuation)
        finally:
            self._out.acquire()


class _Episode:
    """Guard ticks of one episode, and what is due at each."""

    def __init__(self, sim: ArmSim, policy: Policy, settings: GuardedSettings) -> None:
        self._sim, self._settings = sim, settings
        self.guard = Guard(sim.robot)
        self.tick, self.held, self.message = 0, 0, ""
        self._dt = 1.0 / sim.robot.safety.guard_rate_hz
        self._now = START_S
        self._observed = 0  # observations that were due so far
        self._due: float | None = None  # when the chunk that is being inferred exists [s]
        self._results: list[ChunkResult] = []
        self._arrived = threading.Semaphore(0)
        self._gate = _Gate(policy)
        self._session = PolicySession(
            self._gate,  # type: ignore[arg-type]  # what a session uses of a policy
            sim.robot,
            MODES[settings.mode],
            execution_horizon=settings.execution_horizon,
            same_noise=settings.same_noise,
            on_result=self._on_result,
            clock=lambda: self._now,
        )

    def close(self) -> None:
        """Ends the thread."""
        self._gate.let_out()
        self._session.close()

    def run(self) -> str:
        """Plays to the end; returns the outcome."""
        limit = self._sim.task.max_seconds
        while not self._sim.finished and self._sim.time < limit - 1e-9:
            self._now = START_S + self.tick * self._dt
            self.guard.on_state(self._now, self._sim.proprio(), self._now)
            self._observe()
            self._take_chunk()
            if self.message:
                return "refused"
            command = self.guard.tick(self._now, self._now)
            self._session.on_consumed(*command.consumed)
            if command.state is GuardState.FAULT:
                self.message = command.reason
                return "fault"
            self._move(command)
            if self._sim.failed:
                return "physics"
        return "success" if self._sim.finished else "timeout"

    def _observe(self) -> None:
        """Hands over an observation when one is due and the thread is free, as the policy node's timer does."""
        if self._now - START_S < self._observed / self._settings.rate_hz - 1e-9:
            return
        self._observed += 1
        if self._due is not None:
            return
        observation = dataclasses.replace(self._sim.observation(), stamp=self._now)
        if self._session.submit(observation):
            self._due = self._now + self._settings.latency_s

    def _take_chunk(self) -> None:
        if self._due is None or self._now < self._due - 1e-9:
            return
        self._due = None
        self._gate.let_out()
        if not self._arrived.acquire(timeout=PATIENCE_S):
            raise SimError(f"the inference thread has given no chunk for {PATIENCE_S:g} s of wall time: it has died.")
        result = self._results.pop()
        if result.chunk is None:
            self.message = result.error
            return
        message = _message(result.chunk, result, self._sim.robot.action_names)
        refusal = self.guard.on_chunk(message, self._now, self._now)
        if not refusal and not self.guard.engaged:
            self.guard.engage(self._now)

    def _move(self, command: GuardCommand) -> None:
        """Commands the arm and lets the time of one tick pass."""
        self.held += int(self.guard.engaged and command.state is GuardState.HOLD)
        if command.positions is not None:
            self._sim.command(command.positions)
        self._sim.advance(self._dt)
        self.tick += 1

    def _on_result(self, result: ChunkResult) -> None:
        """Runs in the inference thread."""
        self._results.append(result)
        self._arrived.release()


def _message(chunk: ActionChunk, result: ChunkResult, names: tuple[str, ...]) -> ChunkMessage:
    return ChunkMessage(
        names=names,
        times_s=np.arange(len(chunk.actions)) * chunk.control_dt,
        positions=chunk.actions,
        stamp=chunk.stamp,
        epoch=result.epoch,
        sequence=result.sequence,
    )
