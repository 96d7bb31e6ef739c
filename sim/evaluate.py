"""``wam evaluate``: a policy bundle in closed loop on test seeds, its latency in the loop, references beside it.

Simulated time alone decides an episode, so the same bundle, seeds and latency give the same outcomes on any machine,
busy or idle, with any number of workers. Writes ``results.json``, ``report.html`` and videos.
"""

import logging
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import tyro
from rich.console import Console

from policy.load import load_policy
from policy.runner import Policy
from policy.schedule import ChunkSchedule
from sim.arm_sim import ArmSim
from sim.crew import POLICY, Crew, Job, Setup
from sim.evaluate_config import EvaluateConfig
from sim.filming import episode_progress, film
from sim.latency import latency_seconds, measure_latency
from sim.provenance import provenance
from sim.report import write_report
from sim.results import FORMAT, episode_record, results_table, summarise_rows, write_json
from sim.rollout import MODES, Episode, LoopSettings
from sim.splits import episode_seeds
from sim.statistics import percentiles_ms
from wam.errors import ConfigError
from wam.manifest import read_manifest
from wam.robot import RobotSpec, load_robot
from wam.text import nearest

__all__ = ["EvaluateConfig", "evaluate", "main"]

logger = logging.getLogger(__name__)

# One thread per inference: two workers fill two cores, and sums in one order are the same on every machine.
INFERENCE_THREADS = 1


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the result: a planner in a mode over the first seeds."""

    name: str
    planner: str  # POLICY or a reference
    settings: LoopSettings
    episodes: int


def evaluate(config: EvaluateConfig, *, make_policy: Callable[[], Policy] | None = None) -> dict[str, Any]:
    """Evaluates and writes everything into ``config.folder``.

    Args:
        config: What to evaluate.
        make_policy: Opens the policy in place of ``policy.load.load_policy``; pickled when there are several workers.

    Returns:
        What ``results.json`` holds.

    Raises:
        WamError: The bundle, its robot or a setting cannot be used.
    """
    begun = time.perf_counter()
    config.check_out()
    seeds = episode_seeds(config.split, config.episodes)
    robot = load_robot(config.robot) if config.robot else read_manifest(config.bundle).robot
    make_policy = make_policy or _policy_factory(config, robot)
    make_sim = partial(
        ArmSim,
        config.task,
        robot,
        distractors=config.distractors,
        named=config.named,
        calibrated_cameras=config.calibrated_cameras,
    )
    policy, measured_ms, asked = _probe(make_policy, make_sim, seeds, config)
    loop = LoopSettings(
        mode=config.mode,
        latency_s=latency_seconds(config.latency, measured_ms),
        execution_horizon=config.execution_horizon,
    )
    rows = _rows(config, loop)
    setup = Setup(make_sim=make_sim, make_policy=make_policy, chunk_length=policy.chunk_length)
    with Crew(setup, workers=config.processes) as crew:
        played = _play_rows(crew, rows, seeds)
        videos = film(crew, loop, played[POLICY], config)
    results = _results(config, policy, robot, loop, measured_ms, played, videos)
    results["instructions"] = asked
    results["wall_seconds"] = round(time.perf_counter() - begun, 2)
    write_json(config.folder / "results.json", results)
    write_report(results, config.folder / "report.html")
    return results


def main(argv: list[str] | None = None) -> int:
    """Command line of ``wam evaluate``."""
    config = tyro.cli(EvaluateConfig, args=argv, prog="wam evaluate")
    results = evaluate(config)
    console = Console()
    console.print(results_table(results))
    print(summary(results))
    print(f"wrote {config.folder / 'results.json'}\nwrote {config.folder / 'report.html'}")
    return 0


def summary(results: Mapping[str, Any]) -> str:
    """Returns the lines below the table: what was in the loop and what was measured."""
    loop, latency = results["loop"], results["latency_ms"]
    outcomes = ", ".join(f"{count} {name}" for name, count in results["rows"][0]["outcomes"].items())
    return (
        f"outcomes of the policy: {outcomes}\n"
        f"in the loop: {loop['mode']}, {1e3 * loop['latency_s']:.1f} ms latency, "
        f"{loop['execution_horizon']} actions per chunk\n"
        f"measured per chunk: p50 {latency['p50']:.1f}, p95 {latency['p95']:.1f}, p99 {latency['p99']:.1f}, "
        f"max {latency['max']:.1f} ms over {latency['count']} chunks ({results['device']})"
    ) + "".join(
        f"\nnever trained on: '{asked['instruction']}' ({asked['episodes']} episodes), nearest '{asked['nearest']}'"
        for asked in results.get("instructions", [])
        if asked["known"] is False
    )


def _policy_factory(config: EvaluateConfig, robot: RobotSpec) -> Callable[[], Policy]:
    return partial(
        _open_policy,
        config.bundle,
        robot,
        backend=config.backend,
        n_steps=config.n_steps or None,
        threads=INFERENCE_THREADS,
    )


def _open_policy(*args: Any, **options: Any) -> Policy:
    policy = load_policy(*args, **options)
    policy.instructions.quiet = True  # said for all episodes together, not by every worker
    return policy


def _probe(
    make_policy: Callable[[], Policy], make_sim: Callable[[], ArmSim], seeds: Sequence[int], config: EvaluateConfig
) -> tuple[Policy, dict[str, float], list[dict[str, Any]]]:
    """Opens everything once in this process, so that what cannot work is refused before any episode is played."""
    policy, sim = make_policy(), make_sim()
    try:
        if abs(policy.control_dt - sim.control_dt) > 1e-9:
            raise ConfigError(
                f"the policy acts every {policy.control_dt:g} s but the simulation of robot '{sim.robot.name}' every "
                f"{sim.control_dt:g} s: evaluate it with the robot file it was trained with."
            )
        ChunkSchedule(  # refuses a horizon that the policy's chunks do not have
            MODES[config.mode],
            chunk_length=policy.chunk_length,
            execution_horizon=config.execution_horizon,
            control_dt=policy.control_dt,
        )
        if "hard-prefix" in (config.mode, *config.other_modes) and not policy.max_prefix:
            raise ConfigError(
                "mode hard-prefix needs a policy that was trained to continue a given beginning, but this one was not "
                "(its max_prefix is 0): train with --max-prefix, or use real-time-chunking, which needs no training."
            )
        asked = _asked(policy, [sim.instruction_of(seed) for seed in seeds])
        return policy, measure_latency(policy, sim, seeds[0], mode=MODES[config.mode]), asked
    finally:
        sim.close()


def _asked(policy: Policy, instructions: Sequence[str]) -> list[dict[str, Any]]:
    """What the episodes ask for, and whether the policy was trained on it; what it was not is said here, once.

    Raises:
        ValueContractError: An instruction is longer than the policy reads.
    """
    if not isinstance(policy, Policy):
        return []  # a stand-in, which nobody trained
    told = policy.instructions
    rows = []
    for instruction, episodes in Counter(instructions).items():
        told.check(instruction)
        known = None if told.known is None else not told.warning(instruction)
        near = nearest(instruction, told.known or ()) if known is False else ""
        rows.append({"instruction": instruction, "episodes": episodes, "known": known, "nearest": near})
        if known is False:
            logger.warning("%s (%d of %d episodes).", told.warning(instruction), episodes, len(instructions))
    if told.known is None:
        logger.info("the bundle does not tell which instructions it was trained on.")
    return rows


def _rows(config: EvaluateConfig, loop: LoopSettings) -> list[Row]:
    rows = [Row(name=POLICY, planner=POLICY, settings=loop, episodes=config.episodes)]
    for mode in config.other_modes:
        settings = replace(loop, mode=mode)
        rows.append(Row(name=f"{POLICY}, {mode}", planner=POLICY, settings=settings, episodes=config.episodes))
    count = min(config.reference_episodes or config.episodes, config.episodes)
    rows += [Row(name=name, planner=name, settings=loop, episodes=count) for name in config.reference_names]
    return rows


def _play_rows(crew: Crew, rows: Sequence[Row], seeds: Sequence[int]) -> dict[str, list[Episode]]:
    owners = [row for row in rows for _ in range(row.episodes)]
    jobs = [
        Job(planner=row.planner, settings=row.settings, seed=seed) for row in rows for seed in seeds[: row.episodes]
    ]
    with episode_progress() as bar:
        bars = {row.name: bar.add_task(row.name, total=row.episodes, note="") for row in rows}
        solved = dict.fromkeys(bars, 0)

        def done(index: int, episode: Episode) -> None:
            name = owners[index].name
            solved[name] += episode.success
            bar.update(bars[name], advance=1, note=f"{solved[name]} solved")

        episodes = crew.play(jobs, done)
    played: dict[str, list[Episode]] = {row.name: [] for row in rows}
    for row, episode in zip(owners, episodes, strict=True):
        played[row.name].append(episode)
    return played


def _results(
    config: EvaluateConfig,
    policy: Policy,
    robot: RobotSpec,
    loop: LoopSettings,
    measured_ms: Mapping[str, float],
    played: Mapping[str, Sequence[Episode]],
    videos: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    during = [value for episode in played[POLICY] for value in episode.latency_ms]
    return {
        "format": FORMAT,
        "task": config.task,
        "split": config.split,
        "robot": robot.name,
        "control_dt": robot.control_dt,
        "command": config.command(loop.latency_s),
        "settings": config.to_dict(),
        "loop": asdict(loop),
        "n_steps": policy.n_steps,
        "latency_ms": percentiles_ms(during),
        "latency_alone_ms": dict(measured_ms),
        **provenance(policy.backend_name),
        "rows": summarise_rows(played),
        "videos": list(videos),
        "episodes": [episode_record(name, episode) for name, episodes in played.items() for episode in episodes],
    }


if __name__ == "__main__":
    sys.exit(main())
