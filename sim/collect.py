"""``wam collect``: scripted demonstrations → LeRobotDataset v3.

Both cameras become video, the instruction the task string, and every frame carries its robot time. Ctrl-C or SIGTERM
keeps every finished episode and leaves with status 130 or 143; the same command goes on, and gives the same dataset as
one that was not interrupted, with any number of workers.
"""

import logging
import sys

import tyro
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from sim.collect_config import CollectConfig
from sim.collection import Collected, collect, software_versions
from sim.stopping import InterruptedCollection

__all__ = ["CollectConfig", "main"]

logger = logging.getLogger(__name__)


class CollectBar:
    """Two progress bars: what was simulated, and what is in the dataset."""

    def __init__(self, bar: Progress, episodes: int) -> None:
        self._bar = bar
        self._recorded = bar.add_task("record", total=episodes, visible=False)
        self._written = bar.add_task("write ", total=episodes, visible=False)
        self._failed = 0

    def recorded(self, success: bool) -> None:
        """Moves the first bar; a failed episode will be replaced, so it does not count. Shows both, if hidden yet."""
        for task in (self._recorded, self._written):
            self._bar.update(task, visible=True)
        if success:
            self._bar.advance(self._recorded)
        else:
            self._failed += 1
            self._bar.update(self._recorded, description=f"record ({self._failed} failed, left out)")

    def written(self) -> None:
        """Moves the second bar."""
        self._bar.advance(self._written)


def summary(result: Collected) -> str:
    """Returns the report for people."""
    minutes = (result.simulation_cpu_s + result.encoding_cpu_s) / 60
    lines = {
        "dataset": f"{result.out}" + (" (was complete already, with these settings)" if result.already_there else ""),
        "episodes": f"{result.episodes}, {result.frames} frames",
        "expert": f"solved {result.episodes} of {result.attempted} ({result.success_rate:.1%}); failures are left out",
        "CPU time": f"simulation {result.simulation_cpu_s:.1f} s, video encoding {result.encoding_cpu_s:.1f} s, "
        f"writing the dataset {result.writing_cpu_s:.1f} s",
        "per core": f"{result.attempted / max(result.simulation_cpu_s, 1e-9) * 60:.0f} episodes per minute simulated, "
        f"{result.attempted / max(minutes, 1e-9):.0f} with video encoding",
        "wall time": f"{result.wall_s:.1f} s",
    }
    return "\n".join(f"{name + ':':<10} {text}" for name, text in lines.items())


def main(argv: list[str] | None = None) -> int:
    """Command line of ``wam collect``.

    Returns:
        0 when the dataset is complete, 128 + signal number when it was interrupted.
    """
    config = tyro.cli(CollectConfig, args=argv, prog="wam collect")
    versions = ", ".join(f"{name} {number}" for name, number in software_versions().items())
    logger.info("%s; task %s, robot %s, %d processes", versions, config.task, config.robot, config.processes)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    try:
        with Progress(*columns, TimeRemainingColumn()) as bar:
            result = collect(config, CollectBar(bar, config.episodes))
    except InterruptedCollection as interruption:
        print(interruption)
        return interruption.status
    print(summary(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
