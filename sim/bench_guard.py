"""``wam bench guard``: how often a bundle solves a task through the guard, by how its chunks are joined.

Every row plays the same scenes through the inference thread and the guard, whose limits are in the loop, in simulated
time and with a stated latency, so that the outcome is a function of bundle, seeds and settings. ``wam evaluate`` plays
the policy's own actions instead; what lies between the two is what the run time costs or gives.
"""

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import tyro
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from sim.bench_guard_config import ROWS, BenchGuardConfig
from sim.bench_guard_crew import GuardedPlayer, play_all
from sim.commands import command_line
from sim.errors import SimError
from sim.guarded import GuardedEpisode
from sim.provenance import provenance
from sim.results import percent, write_json
from sim.splits import episode_seeds
from sim.statistics import mcnemar_exact, success_rate
from wam.manifest import read_manifest
from wam.robot import load_robot

__all__ = ["BenchGuardConfig", "main", "run_bench_guard"]

FORMAT = "wam-bench-guard/1"
SPELLED_OUT = ("task", "episodes", "split", "rows", "rate_hz", "latency_ms")
FREE = ("out", "overwrite", "workers")  # do not change the result


def run_bench_guard(config: BenchGuardConfig) -> dict[str, Any]:
    """Plays all rows and writes ``results.json``.

    Returns:
        Its content.

    Raises:
        WamError: Bundle, robot or a setting cannot be used, or there are results already.
    """
    path = config.out / "results.json"
    if path.exists() and not config.overwrite:
        raise SimError(f"{path} exists already: give another --out, or --overwrite to replace these results.")
    seeds = episode_seeds(config.split, config.episodes)
    robot = load_robot(config.robot) if config.robot else read_manifest(config.bundle).robot
    player = GuardedPlayer(config, robot)  # opened here first, so that what cannot work is one error in this process
    try:
        player.check()
        jobs = [(name, seed) for name in config.row_names for seed in seeds]
        episodes = []
        with Progress(console=Console(stderr=True), transient=True) as progress:
            bars = {name: progress.add_task(name, total=config.episodes) for name in config.row_names}
            for (name, _), episode in zip(jobs, play_all(player, config, robot, jobs), strict=True):
                episodes.append(episode)
                progress.advance(bars[name])
    finally:
        player.close()
    played: dict[str, list[GuardedEpisode]] = {name: [] for name in config.row_names}
    for (name, _), episode in zip(jobs, episodes, strict=True):
        played[name].append(episode)
    results = {
        "format": FORMAT,
        "command": _command(config),
        "task": config.task,
        "split": config.split,
        "robot": robot.name,
        "latency_ms": config.latency_ms,
        "rate_hz": config.rate_hz,
        **provenance(player.policy.backend_name),
        "rows": _rows(played),
        "episodes": [{"row": name, **asdict(episode)} for name, row in played.items() for episode in row],
    }
    write_json(path, results)
    return results


def _rows(played: Mapping[str, Sequence[GuardedEpisode]]) -> list[dict[str, Any]]:
    first = next(iter(played.values()))
    return [_row(name, episodes, None if episodes is first else first) for name, episodes in played.items()]


def _row(name: str, episodes: Sequence[GuardedEpisode], first: Sequence[GuardedEpisode] | None) -> dict[str, Any]:
    solved = [episode.success for episode in episodes]
    times = [episode.seconds for episode in episodes if episode.success]
    ticks = sum(episode.ticks for episode in episodes)
    paired = None if first is None else asdict(mcnemar_exact([episode.success for episode in first], solved))
    return {
        "name": name,
        "what": ROWS[name].what,
        **asdict(success_rate(sum(solved), len(solved))),
        "outcomes": dict(Counter(episode.outcome for episode in episodes)),
        "median_success_seconds": float(np.median(times)) if times else None,
        "held_share": sum(episode.ticks_held for episode in episodes) / ticks,
        "limited_share": sum(episode.ticks_limited for episode in episodes) / ticks,
        "mcnemar": paired,
    }


def _command(config: BenchGuardConfig) -> str:
    return command_line("bench", config, always=SPELLED_OUT, never=FREE).replace("wam bench", "wam bench guard", 1)


def _table(results: Mapping[str, Any]) -> Table:
    title = (
        f"{results['task']} through the guard, {results['split']} seeds, {results['latency_ms']:g} ms latency, "
        f"{results['rate_hz']:g} observations per second"
    )
    table = Table(title=title, title_justify="left")
    table.add_column("row", no_wrap=True)
    for column in ("solved", "95 % interval", "p, paired", "time", "held", "limited"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in results["rows"]:
        seconds = row["median_success_seconds"]
        table.add_row(
            row["name"],
            f"{row['successes']}/{row['episodes']}",
            f"{100 * row['low']:.1f} – {percent(row['high'])}",
            "" if row["mcnemar"] is None else f"{row['mcnemar']['p_value']:.2g}",
            "" if seconds is None else f"{seconds:.1f} s",
            percent(row["held_share"]),
            percent(row["limited_share"]),
        )
    return table


def main(argv: list[str] | None = None) -> int:
    """Command line of ``wam bench guard``."""
    config = tyro.cli(BenchGuardConfig, args=argv, prog="wam bench guard")
    results = run_bench_guard(config)
    Console().print(_table(results))
    for row in results["rows"]:
        print(f"{row['name']}: {row['what']}")
    failed = [episode for episode in results["episodes"] if episode["outcome"] in ("fault", "refused", "physics")]
    if failed:
        print(f"{len(failed)} episodes ended early, the first of them: {failed[0]['message']}")
    print(f"results: {config.out / 'results.json'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
