"""``wam demo``: from nothing to a judged policy, in one command: collect → train → export → evaluate → report.

Interrupted, the same command goes on where it was. The policy is judged at the latency it was measured to have, because
that is what a robot would feel; the frozen number, which peers report, stands beside it.
"""

import dataclasses
import importlib.util
import json
import logging
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from sim.commands import command_line
from sim.demo_stages import (
    STATE_FILE,
    DemoState,
    InterruptedDemo,
    StageCommand,
    check_folder,
    locked,
    open_state,
    run_stages,
)
from sim.latency import parse_latency
from sim.report import PipelineView, Stage, duration, write_report
from sim.results import percent, write_json
from sim.rollout import MODES
from sim.splits import episode_seeds
from sim.tasks import get_task
from wam.config import preset
from wam.errors import ConfigError, unknown_name
from wam.robot import load_robot
from wam.robot_identity import behaviour_hash

__all__ = ["RECIPES", "DemoConfig", "Recipe", "finish", "main", "stage_commands"]

logger = logging.getLogger(__name__)

FORMAT = "wam-demo/1"
MADE_HERE = ("dataset", "dataset.partial", "train", "bundle", "evaluate", "ros")
MADE_HERE += (STATE_FILE, "results.json", "report.html")
ROS_SEED = episode_seeds("test", 1, first=900_000)[0]  # first scene through ROS: a test scene that no row above uses


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How much of everything a task needs."""

    demonstrations: int  # episodes to record
    train_steps: int  # optimiser steps


RECIPES: Mapping[str, Recipe] = {
    "reach": Recipe(demonstrations=800, train_steps=1600),
    "lift": Recipe(demonstrations=1000, train_steps=2500),
    "push": Recipe(demonstrations=1000, train_steps=3000),
    "place": Recipe(demonstrations=1000, train_steps=3000),
}


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Collect demonstrations, train, export and judge a policy. The same command goes on after an interruption."""

    task: str = "lift"  # task of the suite: reach (the quick one), lift, push or place
    out: Path = Path("runs/demo")  # folder for everything: dataset, checkpoints, bundle, results.json, report.html
    fresh: bool = False  # delete the demo that is in that folder and begin anew
    robot: str = "sim6"  # robot name or file; the simulation needs an MJCF of the same name
    preset: str = "tiny"  # model preset
    episodes: int = 0  # demonstrations to record; 0: what the task needs
    train_steps: int = 0  # optimiser steps; 0: what the task needs
    video_loss: bool = True  # train to imagine the future as well; --no-video-loss for the comparison without
    seed: int = 0  # of training; demonstrations and tests are the same for all seeds
    test_episodes: int = 200  # test episodes to judge with
    reference_episodes: int = 50  # episodes of each reference: expert, hold-still, random
    mode: str = "async"  # while the policy computes: async (old chunk plays on), hold-last, or frozen (physics waits)
    latency_ms: str = "measured-p50"  # delay in the loop [ms]: a number, measured-p50 or measured-p99
    frozen: bool = True  # also judge on the same seeds in mode frozen, as peers do
    ros_episodes: int = 20  # episodes through the real ROS graph, at wall-clock time; 0: none. Skipped without rclpy
    workers: int = 0  # processes of collection and evaluation; 0: one per CPU core. Does not change the result

    def __post_init__(self) -> None:
        get_task(self.task)
        if self.task not in RECIPES and not (self.episodes and self.train_steps):
            raise ConfigError(f"task '{self.task}' has no recipe: give --episodes and --train-steps.")
        if self.mode not in MODES:
            raise ConfigError(unknown_name("mode", self.mode, MODES))
        parse_latency(self.latency_ms)
        for name in ("episodes", "train_steps", "workers", "reference_episodes", "ros_episodes"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)} but must be 0 or more.")
        if self.test_episodes < 1:
            raise ConfigError(f"test_episodes is {self.test_episodes} but must be at least 1.")

    @property
    def recipe(self) -> Recipe:
        """What this demo uses, the task's own numbers where none were given."""
        own = RECIPES.get(self.task, Recipe(demonstrations=self.episodes, train_steps=self.train_steps))
        return Recipe(
            demonstrations=self.episodes or own.demonstrations, train_steps=self.train_steps or own.train_steps
        )

    def settings(self) -> dict[str, Any]:
        """Returns all that decides the result, as JSON data.

        Raises:
            WamError: Unknown robot or preset.
        """
        free = {"out", "fresh", "workers", "episodes", "train_steps"}
        given = {name: value for name, value in vars(self).items() if name not in free}
        robot = load_robot(self.robot)
        preset(self.preset, robot)  # refuses an unknown one before anything is recorded
        return {**given, **vars(self.recipe), "robot_fingerprint": behaviour_hash(robot.to_dict(), with_fit=True)}

    def command(self) -> str:
        """Returns the command that repeats this demo elsewhere."""
        decided = dataclasses.replace(self, episodes=self.recipe.demonstrations, train_steps=self.recipe.train_steps)
        return command_line("demo", decided, always=("task",), never=("out", "fresh", "workers"))


def stage_commands(config: DemoConfig) -> list[StageCommand]:
    """Returns the stages as the commands a person would give; the last one only where ROS is there."""
    out, recipe = config.out, config.recipe
    workers = ["--workers", str(config.workers)]
    stages = [
        _stage(
            "collect",
            out / "dataset",
            ["--task", config.task, "--robot", config.robot, "--episodes", str(recipe.demonstrations), *workers],
        ),
        _stage(
            "train",
            out / "train",
            ["--dataset", str(out / "dataset"), "--robot", config.robot, "--preset", config.preset]
            + ["--steps", str(recipe.train_steps), "--seed", str(config.seed)]
            + ([] if config.video_loss else ["--loss.video-weight", "0"]),
        ),
        _stage("export", out / "bundle", ["--checkpoint", str(out / "train"), "--overwrite"]),
        _stage(
            "evaluate",
            out / "evaluate",
            ["--bundle", str(out / "bundle"), "--robot", config.robot, "--task", config.task, "--overwrite"]
            + ["--episodes", str(config.test_episodes), "--reference-episodes", str(config.reference_episodes)]
            + ["--mode", config.mode, "--latency-ms", config.latency_ms, *workers]
            + (["--also", "frozen"] if config.frozen and config.mode != "frozen" else []),
            made="results.json",
        ),
    ]
    if config.ros_episodes and not ros_is_missing():
        # The simulation may not know ROS: another process does.
        argv = (
            sys.executable,
            "-m",
            "ros_nodes.closed_loop",
            "--bundle",
            str(out / "bundle"),
            "--out",
            str(out / "ros"),
        )
        argv += ("--robot", config.robot, "--task", config.task, "--episodes", str(config.ros_episodes))
        argv += ("--first-seed", str(ROS_SEED))
        stages.append(StageCommand(name="ros", argv=argv, output=out / "ros/results.json"))
    return stages


def ros_is_missing() -> bool:
    """Whether the episodes through ROS cannot be run here."""
    return importlib.util.find_spec("rclpy") is None


def finish(config: DemoConfig, state: DemoState) -> dict[str, Any]:
    """Writes the demo's own ``results.json`` and ``report.html`` from what the stages left.

    Returns:
        What ``results.json`` holds.
    """
    evaluation = json.loads((config.out / "evaluate/results.json").read_text())
    policy = evaluation["rows"][0]
    seconds = {name: round(value, 1) for name, value in state.wall_seconds.items()}
    results = {
        "format": FORMAT,
        "task": config.task,
        "episodes": policy["episodes"],
        "successes": policy["successes"],
        "success_rate": policy["rate"],
        "success_low": policy["low"],
        "success_high": policy["high"],
        "wall_seconds": {**seconds, "total": round(sum(seconds.values()), 1)},
        "chunk_p50_ms": evaluation["latency_ms"]["p50"],
        "chunk_p99_ms": evaluation["latency_ms"]["p99"],
        "device": evaluation["device"],
        "loop": evaluation["loop"],
        "settings": state.settings,
        "evaluation": "evaluate/results.json",
        "rows": evaluation["rows"],
        "ros": _through_ros(config),
    }
    pipeline = PipelineView(
        command=config.command(),
        stages=_stages_view(config, seconds),
        losses=_losses(config.out / "train/metrics.jsonl"),
        ros=results["ros"],
    )
    write_report(evaluation, config.out / "report.html", videos_in="evaluate", pipeline=pipeline)
    write_json(config.out / "results.json", results)
    return results


def summary(results: Mapping[str, Any]) -> str:
    """Returns the line that says how it went."""
    ros = results["ros"]
    loop = (
        f"; through ROS {ros['successes']} of {ros['episodes']}" if not ros["note"] else f"; through ROS {ros['note']}"
    )
    return (
        f"{results['task']}: {results['successes']} of {results['episodes']} test episodes solved "
        f"({percent(results['success_rate'])}, 95 % interval {percent(results['success_low'])} to "
        f"{percent(results['success_high'])}), chunk p50 {results['chunk_p50_ms']:.1f} ms, p99 "
        f"{results['chunk_p99_ms']:.1f} ms, {duration(results['wall_seconds']['total'])} on {results['device']}{loop}"
    )


def main(argv: list[str] | None = None, *, commands: Sequence[StageCommand] | None = None) -> int:
    """Command line of ``wam demo``.

    Args:
        argv: Arguments; those of the process by default.
        commands: Stages to run in place of ``stage_commands``.

    Returns:
        0 when the report is written, 128 + signal number when it was interrupted.
    """
    config = tyro.cli(DemoConfig, args=argv, prog="wam demo")
    settings = config.settings()
    check_folder(config.out)
    with locked(config.out) as lock:
        if config.fresh:
            _delete(config.out)
        state = open_state(config.out, settings)
        try:
            run_stages(state, stage_commands(config) if commands is None else commands, lock)
        except InterruptedDemo as interruption:
            print(interruption, file=sys.stderr)
            return interruption.status
        results = finish(config, state)
    print(f"{summary(results)}\nreport: {config.out / 'report.html'}\nresults: {config.out / 'results.json'}")
    return 0


def _stage(verb: str, out: Path, options: Sequence[str], *, made: str = "") -> StageCommand:
    argv = (sys.executable, "-m", "wam.cli", verb, "--out", str(out), *options)
    return StageCommand(name=verb, argv=argv, output=out / made if made else out)


def _delete(folder: Path) -> None:
    """Deletes what a demo made, and nothing else."""
    for name in MADE_HERE:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _stages_view(config: DemoConfig, seconds: Mapping[str, float]) -> list[Stage]:
    recipe, imagining = config.recipe, "with" if config.video_loss else "without"
    notes = {
        "collect": f"{recipe.demonstrations} demonstrations by the scripted expert",
        "train": f"preset {config.preset}, {recipe.train_steps} steps, {imagining} the video loss",
        "export": "ONNX graphs, compared with the model",
        "evaluate": f"{config.test_episodes} test episodes, references and videos",
        "ros": f"{config.ros_episodes} episodes through arm, guard and policy nodes",
    }
    return [Stage(name=name, seconds=value, note=notes.get(name, "")) for name, value in seconds.items()]


def _through_ros(config: DemoConfig) -> dict[str, Any]:
    """What the episodes through ROS gave, or a note on why there are none."""
    path = config.out / "ros/results.json"
    if config.ros_episodes and path.is_file():
        return {"note": "", **json.loads(path.read_text())}
    if not config.ros_episodes:
        return {"note": "switched off with --ros-episodes 0"}
    return {"note": "not run here: needs rclpy, of the extra 'ros' or of a sourced ROS 2 installation"}


def _losses(path: Path) -> dict[str, tuple[list[float], list[float]]]:
    """Reads the training losses, averaged over stretches so that a plot is readable."""
    if not path.is_file():
        logger.warning("%s is missing: the report goes without training losses.", path)
        return {}
    records = [json.loads(line) for line in path.read_text().splitlines()]
    stretch = max(1, len(records) // 100)
    curves: dict[str, tuple[list[float], list[float]]] = {}
    for name in ("action", "video"):
        points = [(record["step"], record[name]) for record in records if record.get(name, 0) > 0]
        groups = [points[i : i + stretch] for i in range(0, len(points), stretch)]
        if groups:
            means = [(sum(s for s, _ in group) / len(group), sum(v for _, v in group) / len(group)) for group in groups]
            curves[name] = ([step for step, _ in means], [value for _, value in means])
    return curves


if __name__ == "__main__":
    sys.exit(main())
