"""``python -m ros_nodes.episodes``: simulated episodes on a graph that runs already, one after the other, in real time.

The conductor is what a person is on a robot: it puts a new scene in front of the arm, lets the policy begin afresh,
engages the guard, and watches until the task is solved or its time is over. It commands nothing itself. Beside success
it writes the timing of everything it heard, as JSON and as a plot.
"""

import json
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tyro

from ros_nodes.bench_listener import Listener
from ros_nodes.bench_measures import judge
from ros_nodes.bench_report import timing_plot
from ros_nodes.bench_timing import timing
from ros_nodes.errors import GraphError
from wam.errors import ConfigError, WamError
from wam.robot import load_robot

__all__ = ["Episode", "EpisodesConfig", "conduct", "main"]

FORMAT = "wam-episodes/1"
STATES_ARRIVE_S = 0.1  # ten joint states: the guard knows where the new scene has put the arm
OUTCOMES = ("success", "timeout", "fault", "physics")


@dataclass(frozen=True, kw_only=True)
class EpisodesConfig:
    """Run simulated episodes on a running graph and write success and timing."""

    out: Path  # JSON file; the plot lies beside it, as .png
    episodes: int = 20  # episodes to run
    robot: str = "sim6"  # robot of the graph
    namespace: str = ""  # of the graph, when it was started in one
    rate_hz: float = 10.0  # observations per second the policy was started with
    timeout_s: float = 0.0  # time per episode, robot time [s]; 0: the task's own
    patience_s: float = 30.0  # longest wait for the graph to begin an episode [s]

    def __post_init__(self) -> None:
        if self.episodes < 1 or self.timeout_s < 0 or self.patience_s <= 0:
            raise ConfigError(
                f"episodes is {self.episodes}, timeout_s {self.timeout_s:g} and patience_s {self.patience_s:g}: "
                "at least 1, not negative, and positive."
            )


@dataclass(frozen=True, kw_only=True)
class Episode:
    """How one episode went."""

    seed: int
    instruction: str
    outcome: str  # one of OUTCOMES
    success: bool
    progress: float  # [0, 1] at the end
    seconds: float  # robot time from engaging to the end [s]
    message: str = ""  # the guard's reason, of a fault


def conduct(config: EpisodesConfig) -> dict[str, Any]:
    """Runs the episodes on the graph of this process's ROS domain and writes JSON and plot.

    Returns:
        What was written.

    Raises:
        GraphError: Arm, guard or policy is not there or does not answer in time.
    """
    robot = load_robot(config.robot)
    with Listener(robot, lambda: None, config.namespace) as listener:
        conductor = _Conductor(listener, config)
        conductor.wait_for_graph()
        listener.clear()
        episodes = []
        for number in range(config.episodes):
            episodes.append(conductor.run())
            print(f"{number + 1}/{config.episodes} {_line(episodes[-1])}", flush=True)
        conductor.stop()
        measured = timing(listener, robot, config.rate_hz)
    results = {
        "format": FORMAT,
        "robot": robot.name,
        "successes": sum(episode.success for episode in episodes),
        "outcomes": dict(Counter(episode.outcome for episode in episodes)),
        "episodes": [asdict(episode) for episode in episodes],
        "rows": judge(measured.numbers),
        **measured.traces,
    }
    config.out.parent.mkdir(parents=True, exist_ok=True)
    config.out.write_text(json.dumps(results, indent=2) + "\n")
    timing_plot(results, config.out.with_suffix(".png"))
    return results


class _Conductor:
    """Talks to arm, guard and policy through their services."""

    def __init__(self, listener: Listener, config: EpisodesConfig) -> None:
        self._listener, self._config = listener, config

    def wait_for_graph(self) -> None:
        """Waits until arm and guard speak and the policy plans."""
        listener, patience = self._listener, self._config.patience_s
        listener.until(lambda: listener.episode, "a simulated arm publishes arm/episode", patience_s=patience)
        listener.until(lambda: listener.state, "the guard publishes guard/state", patience_s=patience)
        self._insist("policy/reset")

    def run(self) -> Episode:
        """One episode."""
        listener = self._listener
        self.stop()
        seed = int(json.loads(self._call("arm/next_episode"))["seed"])
        listener.until(
            lambda: listener.episode.get("seed") == str(seed),
            f"episode {seed} begins",
            patience_s=self._config.patience_s,
        )
        listener.spin(STATES_ARRIVE_S)
        self._insist("guard/reset")  # the arm is elsewhere now: the guard takes hold of it there
        self._insist("policy/reset")
        self._insist("guard/engage")
        engaged = time.monotonic()
        listener.until(lambda: listener.guard[-1].tick_s > engaged, "the guard ticks")
        begun = float(listener.episode["elapsed_s"])
        limit = begun + (self._config.timeout_s or float(listener.episode["max_seconds"]))
        listener.until(lambda: self._outcome(limit), "the episode ends", patience_s=3600.0)
        status = listener.episode
        return Episode(
            seed=seed,
            instruction=status["instruction"],
            outcome=self._outcome(limit),
            success=status["success"] == "true",
            progress=float(status["progress"]),
            seconds=round(float(status["elapsed_s"]) - begun, 3),
            message=listener.call("guard/engage")[1] if listener.state == "FAULT" else "",
        )

    def stop(self) -> None:
        """Disengages the guard, whatever it does."""
        self._insist("guard/reset")

    def _outcome(self, limit: float) -> str:
        """How the episode has ended; "" while it goes on."""
        status = self._listener.episode
        if status["success"] == "true":
            return "success"
        if status["failed"] == "true":
            return "physics"
        if self._listener.state == "FAULT":
            return "fault"
        return "timeout" if float(status["elapsed_s"]) >= limit else ""

    def _call(self, service: str) -> str:
        success, message = self._listener.call(service)
        if not success:
            raise GraphError(f"{service} refuses: {message}")
        return message

    def _insist(self, service: str) -> None:
        """Calls a service until it agrees: an arm still brakes, the first chunk is still being planned."""
        listener, end = self._listener, time.monotonic() + self._config.patience_s
        while True:
            success, message = listener.call(service)
            if success and "braking" not in message:
                return
            if "reset to hold it" in message:  # the guard had not heard yet where the arm is now
                listener.call("guard/reset")
            if time.monotonic() > end:
                raise GraphError(f"{service} still refuses after {self._config.patience_s:g} s: {message}")
            listener.spin(0.05)


def _line(episode: Episode) -> str:
    end = f" ({episode.message})" if episode.message else ""
    return f"seed {episode.seed}: {episode.outcome}{end} after {episode.seconds:.1f} s, '{episode.instruction}'"


def _summary(results: Mapping[str, Any], out: Path) -> str:
    latency = results["percentiles"]["observation_to_command_ms"]
    return (
        f"{results['successes']} of {len(results['episodes'])} episodes solved; observation to command p50 "
        f"{latency.get('p50', float('nan')):.0f} ms, p99 {latency.get('p99', float('nan')):.0f} ms\n"
        f"results: {out}\nplot:    {out.with_suffix('.png')}"
    )


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    config = tyro.cli(EpisodesConfig, args=argv, prog="python -m ros_nodes.episodes")
    try:
        print(_summary(conduct(config), config.out))
    except WamError as error:
        print(f"episodes: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
