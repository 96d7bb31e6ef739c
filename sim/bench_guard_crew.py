"""Processes that play the episodes of ``wam bench guard``; each holds one simulation and one policy.

Processes are spawned, never forked: OpenGL contexts and inference runtimes do not survive a fork.
"""

import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from policy.load import load_policy
from policy.session import PolicySession
from sim.arm_sim import ArmSim
from sim.bench_guard_config import ROWS, BenchGuardConfig
from sim.errors import SimError
from sim.guarded import GuardedEpisode, play_guarded
from sim.rollout import MODES
from wam.robot import RobotSpec

__all__ = ["GuardedPlayer", "play_all"]

INFERENCE_THREADS = 1  # two workers fill two cores, and sums in one order are the same on every machine


class GuardedPlayer:
    """One process's simulation and policy.

    Raises:
        WamError: The bundle or its robot cannot be used.
    """

    def __init__(self, config: BenchGuardConfig, robot: RobotSpec) -> None:
        self._config, self._robot = config, robot
        self.policy = load_policy(
            config.bundle,
            robot,
            backend=config.backend,
            n_steps=config.n_steps or None,
            threads=INFERENCE_THREADS,
        )
        self._sim = ArmSim(config.task, robot, control_rate_hz=robot.safety.guard_rate_hz)

    def check(self) -> None:
        """Makes sure that this policy can be run in the mode of every row.

        Raises:
            ScheduleError: It cannot.
        """
        for name in self._config.row_names:
            row = ROWS[name]
            PolicySession(self.policy, self._robot, MODES[row.mode], execution_horizon=row.execution_horizon).close()

    def play(self, name: str, seed: int) -> GuardedEpisode:
        """Plays one scene of a row."""
        return play_guarded(self._sim, self.policy, self._config.settings(name), seed)

    def close(self) -> None:
        """Frees the renderers."""
        self._sim.close()


def play_all(
    player: GuardedPlayer, config: BenchGuardConfig, robot: RobotSpec, jobs: Sequence[tuple[str, int]]
) -> Iterator[GuardedEpisode]:
    """Plays all jobs.

    Args:
        player: Of this process; it plays when one process is enough.
        config: Rows, bundle and number of processes.
        robot: Of the bundle.
        jobs: Row and seed of every episode.

    Yields:
        Their episodes, in the same order.

    Raises:
        SimError: A process died.
    """
    workers = min(config.workers or len(os.sched_getaffinity(0)), len(jobs))
    if workers == 1:
        yield from (player.play(*job) for job in jobs)
        return
    context = multiprocessing.get_context("spawn")  # OpenGL contexts and inference runtimes do not survive a fork
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(config, robot)) as pool:
        try:
            yield from pool.map(_play_here, jobs)
        except BrokenProcessPool as error:
            raise SimError(
                f"one of {workers} processes died: most often the machine ran out of memory; try --workers 1."
            ) from error


_here: GuardedPlayer | None = None  # this worker process's own


def _begin(config: BenchGuardConfig, robot: RobotSpec) -> None:
    global _here
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    _here = GuardedPlayer(config, robot)


def _play_here(job: tuple[str, int]) -> GuardedEpisode:
    assert _here is not None
    return _here.play(*job)
