"""One closed-loop episode in simulated time, with the policy's latency modelled inside the loop.

Physics never waits for a policy on a real robot, so it does not wait here: a chunk computed from the observation at t
exists at t + latency, and what the robot does meanwhile is the mode. Time is counted in whole physics steps, so an
episode is a function of its seed and settings alone, whatever the load of the machine; wall-clock latency is measured
beside it and never feeds back.

* ``frozen``: physics waits for the policy. What peers report; no robot can do it.
* ``hold-last``: the robot holds the last command until the chunk is there, then plays it from its first action.
* ``async``: the old chunk plays on and the new one takes over at the action whose time it is.
* ``temporal-ensembling``: as async, and every command is the mean of all chunks that planned for its time.
* ``real-time-chunking``: as async, and the new chunk is guided towards what the old one plays meanwhile.
* ``hard-prefix``: the same for a policy that was trained to continue a given beginning.

Progress, success and video frames are sampled every control_dt from reset on, whenever commands fall.
"""

import math
import time
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from policy.rtc import Continuation
from policy.schedule import ChunkSchedule
from sim.arm_sim import ArmSim
from sim.errors import SimError
from sim.past import PastInstants
from wam.errors import ConfigError, ValueContractError, unknown_name
from wam.history import Window
from wam.spec import ActionChunk, Observation

__all__ = ["MODES", "OUTCOMES", "Episode", "LoopSettings", "Planner", "Watcher", "episode_noise_seed", "run_episode"]

MODES = {  # command line -> ChunkSchedule
    "frozen": "frozen",
    "hold-last": "hold_last",
    "async": "asynchronous",
    "temporal-ensembling": "temporal_ensembling",
    "real-time-chunking": "real_time_chunking",
    "hard-prefix": "hard_prefix",
}
OUTCOMES = ("success", "timeout", "refused", "physics")


@dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """How a planner's chunks reach the robot."""

    mode: str  # a key of MODES
    latency_s: float  # time from observation to chunk [s]; frozen ignores it
    execution_horizon: int  # actions played before the next observation is sent to the planner

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ConfigError(unknown_name("mode", self.mode, MODES))
        if not (math.isfinite(self.latency_s) and self.latency_s >= 0):
            raise ConfigError(f"latency is {self.latency_s} s but must be a finite time, 0 or longer.")


@dataclass(frozen=True, kw_only=True)
class Episode:
    """What happened in one episode."""

    seed: int
    outcome: str  # one of OUTCOMES
    steps: int  # control steps of simulated time that passed
    seconds: float  # simulated time at the end [s]
    progress: tuple[float, ...]  # task progress in [0, 1] at every control step, the start included
    latency_ms: tuple[float, ...]  # measured wall time of each chunk, preprocessing included [ms]
    message: str = ""  # why a chunk or command was refused

    @property
    def success(self) -> bool:
        """Whether the task was solved."""
        return self.outcome == "success"


class Planner(Protocol):
    """Anything that turns an observation into an action chunk: a policy, an expert, a reference."""

    chunk_length: int  # H
    uses_images: bool  # False saves the rendering
    closed_loop: bool  # True: replans every step without latency, which only ground truth can do

    def start(self, sim: ArmSim, seed: int) -> None:
        """Begins an episode on a simulation that was just reset."""

    def plan(self, observation: Observation, noise_seed: int, continuation: Continuation | None = None) -> ActionChunk:
        """Returns the chunk for an observation; all randomness comes from ``noise_seed``.

        ``continuation`` is what the chunk is to agree with, in the modes that continue; others may ignore it.
        """


@runtime_checkable
class LooksBack(Protocol):
    """A planner whose observations hold earlier instants as well."""

    window: Window


class Watcher(Protocol):
    """Looks on without changing anything, to make videos."""

    def sampled(self, sim: ArmSim) -> None:
        """Called at every control step, the start and the end included."""


def episode_noise_seed(seed: int, replan: int) -> int:
    """Returns the noise seed of the ``replan``-th chunk of an episode; independent of workers and of other episodes."""
    return int(np.random.SeedSequence([seed, replan]).generate_state(1)[0])


def run_episode(
    sim: ArmSim, planner: Planner, settings: LoopSettings, seed: int, watcher: Watcher | None = None
) -> Episode:
    """Runs one episode from reset to success, time-out or failure.

    Args:
        sim: The simulation; reset here with ``seed``.
        planner: Who acts.
        settings: Mode, latency and horizon.
        seed: Fixes the scene and, through ``episode_noise_seed``, the planner's noise.
        watcher: Looks on, for videos.

    Returns:
        The episode. A refused (non-finite) chunk or command and failed physics are outcomes, not exceptions.
    """
    sim.reset(seed)
    planner.start(sim, seed)
    loop = _Loop(sim, planner, settings, seed, watcher)
    message = ""
    try:
        outcome = loop.run()
    except (ValueContractError, SimError) as error:
        outcome, message = "physics" if sim.failed else "refused", str(error)
    return Episode(
        seed=seed,
        outcome=outcome,
        steps=loop.tick // loop.ticks_per_step,
        seconds=round(loop.tick * sim.physics_dt, 6),
        progress=tuple(loop.progress),
        latency_ms=tuple(loop.latency_ms),
        message=message,
    )


class _Loop:
    """Events of one episode on a clock of physics steps ("ticks"): chunk arrivals, commands, samples."""

    def __init__(
        self, sim: ArmSim, planner: Planner, settings: LoopSettings, seed: int, watcher: Watcher | None
    ) -> None:
        self._sim, self._planner, self._seed, self._watcher = sim, planner, seed, watcher
        self.ticks_per_step = round(sim.control_dt / sim.physics_dt)
        self._latency_ticks = _latency_ticks(planner, settings, sim.physics_dt)
        self._schedule = ChunkSchedule(
            "frozen" if planner.closed_loop else MODES[settings.mode],
            chunk_length=planner.chunk_length,
            execution_horizon=1 if planner.closed_loop else settings.execution_horizon,
            control_dt=sim.control_dt,
        )
        self._past = PastInstants(sim, planner.window if isinstance(planner, LooksBack) else Window())
        self.tick = 0
        self.progress: list[float] = []
        self.latency_ms: list[float] = []
        self._next_command = 0  # tick
        self._arrival: tuple[int, ActionChunk] | None = None  # tick at which the pending chunk exists

    def run(self) -> str:
        """Plays the episode and returns its outcome."""
        end = self._sim.max_steps * self.ticks_per_step
        while True:
            sampling = self.tick % self.ticks_per_step == 0
            outcome = self._judge(end) if sampling else None
            if sampling:
                self._past.sample()
            if outcome is None:
                self._take_arrival()
                if self.tick == self._next_command:
                    self._command()
            if sampling and self._watcher is not None:
                self._watcher.sampled(self._sim)
            if outcome is not None:
                return outcome
            self._advance_to_next_event()
            if self._sim.failed:
                return "physics"

    def _judge(self, end: int) -> str | None:
        """Notes progress; returns the outcome if the episode is over."""
        self.progress.append(self._sim.progress())
        if self._sim.finished:
            return "success"
        return "timeout" if self.tick >= end else None

    def _take_arrival(self) -> None:
        if self._arrival is not None and self.tick >= self._arrival[0]:
            self._schedule.deliver(self._arrival[1], self._sim.time)
            self._arrival = None

    def _command(self) -> None:
        now = self._sim.time
        self._past.sample()  # commands may fall between control steps, and so do the instants of later observations
        if self._schedule.wants_chunk(now):
            self._schedule.request(now)
            self._arrival = (self.tick + self._latency_ticks, self._plan())
            self._take_arrival()
        scheduled = self._schedule.action(now)
        if scheduled is not None and not scheduled.held:
            self._sim.command(scheduled.action)
        self._next_command = self.tick + self.ticks_per_step
        if self._arrival is not None and (scheduled is None or scheduled.held):
            self._next_command = self._arrival[0]  # nothing left to play: the new chunk starts the moment it exists

    def _plan(self) -> ActionChunk:
        noise_seed = episode_noise_seed(self._seed, len(self.latency_ms))
        observation = self._past.observation() if self._planner.uses_images else _blind_observation(self._sim)
        continuation = self._schedule.continuation(self._sim.time)
        known = {} if continuation is None else {"continuation": continuation}
        begun = time.perf_counter()
        chunk = self._planner.plan(observation, noise_seed, **known)
        self.latency_ms.append(1e3 * (time.perf_counter() - begun))
        return chunk

    def _advance_to_next_event(self) -> None:
        next_sample = (self.tick // self.ticks_per_step + 1) * self.ticks_per_step
        events = [next_sample, self._next_command] + ([self._arrival[0]] if self._arrival else [])
        target = min(event for event in events if event > self.tick)
        self._sim.advance((target - self.tick) * self._sim.physics_dt)
        self.tick = target


def _latency_ticks(planner: Planner, settings: LoopSettings, physics_dt: float) -> int:
    """Latency in physics steps, rounded up: a chunk must not exist earlier than it was measured to."""
    if planner.closed_loop or settings.mode == "frozen":
        return 0
    return math.ceil(settings.latency_s / physics_dt - 1e-6)


def _blind_observation(sim: ArmSim) -> Observation:
    return Observation(images={}, proprio=sim.proprio(), task=sim.instruction, stamp=sim.time)
