"""Episodes in parallel: spawned processes that each hold one simulation and one policy and play jobs as they come.

An episode depends on its job alone, so results do not depend on the number of workers nor on who played what. Processes
are spawned, never forked: OpenGL contexts and inference runtimes do not survive a fork.
"""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

from policy.runner import Policy
from sim.arm_sim import ArmSim
from sim.errors import SimError
from sim.references import PolicyPlanner, make_reference
from sim.rollout import Episode, LoopSettings, Planner, run_episode
from sim.video import EpisodeRecorder
from wam.errors import ConfigError

__all__ = ["POLICY", "Crew", "Job", "Setup"]

POLICY = "policy"  # the planner that is no reference
# One thread per process: several pools on the same cores fight, and sums in another order would change the last bits.
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What every worker builds once. The factories are pickled, so they are module-level functions or partials."""

    make_sim: Callable[[], ArmSim]
    make_policy: Callable[[], Policy] | None  # None where only references play
    chunk_length: int  # H of the policy, for references


@dataclass(frozen=True, kw_only=True)
class Job:
    """One episode to play."""

    planner: str  # POLICY or a reference
    settings: LoopSettings
    seed: int
    video: Path | None = None  # where to write an mp4 (and beside it a strip of imagined frames), if anywhere


class Crew:
    """Worker processes that play jobs; a context manager, because they outlive one call of ``play``."""

    def __init__(self, setup: Setup, *, workers: int) -> None:
        """Starts nothing yet.

        Args:
            setup: How each worker builds its simulation and policy.
            workers: Processes; 1 plays in this one.

        Raises:
            ConfigError: Fewer than one worker.
        """
        if workers < 1:
            raise ConfigError(f"workers is {workers} but must be at least 1.")
        self._setup = setup
        self._workers = workers

    def __enter__(self) -> "Crew":
        self._player = _Player(self._setup) if self._workers == 1 else None
        self._pool = None if self._workers == 1 else _start_pool(self._setup, self._workers)
        return self

    def __exit__(self, *_: object) -> None:
        if self._player is not None:
            self._player.close()
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def play(self, jobs: Sequence[Job], done: Callable[[int, Episode], None] | None = None) -> list[Episode]:
        """Plays all jobs.

        Args:
            jobs: What to play.
            done: Called with the index of a job and its episode, in the order in which they finish.

        Returns:
            Episodes in the order of ``jobs``.

        Raises:
            SimError: A worker process died.
        """
        episodes: dict[int, Episode] = {}
        for index, episode in self._stream(jobs):
            episodes[index] = episode
            if done is not None:
                done(index, episode)
        return [episodes[index] for index in range(len(jobs))]

    def _stream(self, jobs: Sequence[Job]) -> Iterator[tuple[int, Episode]]:
        if self._player is not None:
            yield from ((index, self._player.play(job)) for index, job in enumerate(jobs))
        if self._pool is None:
            return
        try:
            futures = {self._pool.submit(_play, job): index for index, job in enumerate(jobs)}
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool as error:
            raise SimError(
                f"an evaluation process died while {self._workers} of them played: most often the machine ran out of "
                "memory; try again with --workers 1."
            ) from error


class _Player:
    """One process's simulation and planners, built when first needed."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._sim: ArmSim | None = None
        self._policy: Policy | None = None
        self._planners: dict[str, Planner] = {}

    def play(self, job: Job) -> Episode:
        """Plays one job and writes its video, if it asks for one."""
        if self._sim is None:
            self._sim = self._setup.make_sim()
        planner = self._planner(job.planner, self._sim)
        if job.video is None:
            return run_episode(self._sim, planner, job.settings, job.seed)
        recorder = EpisodeRecorder(self._sim, self._policy if job.planner == POLICY else None)
        episode = run_episode(self._sim, planner, job.settings, job.seed, recorder)
        recorder.write(job.video, episode)
        return episode

    def close(self) -> None:
        """Frees the renderers."""
        if self._sim is not None:
            self._sim.close()

    def _planner(self, name: str, sim: ArmSim) -> Planner:
        if name not in self._planners:
            self._planners[name] = self._make_planner(name, sim)
        return self._planners[name]

    def _make_planner(self, name: str, sim: ArmSim) -> Planner:
        if name != POLICY:
            return make_reference(name, sim.robot, self._setup.chunk_length)
        if self._setup.make_policy is None:
            raise ConfigError("an episode of the policy was asked for, but no policy bundle was given.")
        self._policy = self._setup.make_policy()
        return PolicyPlanner(self._policy)


_worker: _Player | None = None  # this worker process's own


def _start_pool(setup: Setup, workers: int) -> ProcessPoolExecutor:
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, "1"))  # read once, when the children load their libraries
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(setup,))


def _begin(setup: Setup) -> None:
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle; it lets the running episode end
    _worker = _Player(setup)


def _play(job: Job) -> Episode:
    assert _worker is not None
    return _worker.play(job)
