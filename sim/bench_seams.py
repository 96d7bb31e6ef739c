"""``wam bench seams``: what reaches the motors where chunks disagree, beside LeRobot's ActionQueue on the same chunks.

A policy that cannot make up its mind plans, every few steps, the same slow motion a little to the left or to the right.
The chunks are a function of time alone, so every contender plays the very same ones with the very same delay, in
simulated time: the numbers do not depend on the machine. Compared are the commands at the guard's rate: velocity
changes at seams, broken limits, jerk, and how far the command is from the motion both halves of the plans agree about.

Shape legend: T guard ticks, H chunk length, A axes.
"""

import importlib.util
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from policy.ensemble import Ensemble
from policy.guard import ChunkMessage, Guard
from sim.provenance import provenance
from wam.errors import ConfigError
from wam.robot import RobotSpec, load_robot
from wam.spec import ActionChunk

__all__ = ["SeamsConfig", "main", "run_seams", "seam_figures"]

START_S = 1.0  # robot time at the begin [s]: a stamp of 0 is one that was never set

SETTLED_S = 1.0  # the start is not judged: every scheme begins in its own way
PLAYERS = {  # name -> what it is
    "lerobot_queue": "LeRobot ActionQueue, one command per control step",
    "lerobot_interpolated": "LeRobot ActionQueue with ActionInterpolator at the guard's rate",
    "guard": "our guard: cross-fade from the commanded state, limits",
    "guard_ensembled": "our guard on temporally ensembled chunks",
}


@dataclass(frozen=True, kw_only=True)
class SeamsConfig:
    """Compare the commands at chunk seams with LeRobot's ActionQueue, on chunks that disagree."""

    robot: str = "sim6"  # robot name or file
    seconds: float = 20.0  # of simulated time
    disagreement: float = 0.1  # distance between what odd and even chunks plan [rad, opening]
    replan_steps: int = 2  # control steps between two chunks
    delay_steps: int = 1  # control steps between an observation and its chunk
    chunk_length: int = 16  # actions per chunk
    out: Path = Path("runs/bench_seams")  # folder for results.json and seams.png

    def __post_init__(self) -> None:
        if self.seconds < 2 or self.replan_steps < 1 or self.delay_steps < 0:
            raise ConfigError(
                f"seconds {self.seconds}, replan_steps {self.replan_steps} and delay_steps {self.delay_steps} must be "
                "at least 2, 1 and 0."
            )
        if self.replan_steps + self.delay_steps >= self.chunk_length:
            raise ConfigError(
                f"chunks of {self.chunk_length} actions end before the next one arrives, {self.replan_steps} + "
                f"{self.delay_steps} steps later: lengthen them."
            )


class WaveringPolicy:
    """Plans a slow motion about the middle of every axis, alternately to either side of it."""

    def __init__(self, robot: RobotSpec, config: SeamsConfig) -> None:
        span = np.array([axis.position for axis in robot.axes], dtype=np.float64)  # (A, 2)
        self._middle, self._reach = span.mean(axis=1), 0.3 * np.diff(span, axis=1)[:, 0]
        fastest = np.array([axis.max_velocity for axis in robot.axes])
        self._rate = np.minimum(2.0, 0.4 * fastest / self._reach)  # [rad/s] of the wave: 40 % of the speed limit
        self._robot, self._config = robot, config

    def agreed(self, t: float | np.ndarray) -> np.ndarray:
        """(..., A) the motion without the wavering."""
        return self._middle + self._reach * np.sin(self._rate * np.asarray(t, dtype=np.float64)[..., None])

    def chunk(self, number: int, stamp: float) -> ActionChunk:
        """The chunk of an observation."""
        times = stamp + np.arange(self._config.chunk_length) * self._robot.control_dt
        side = (-1) ** number * self._config.disagreement / 2
        actions = np.clip(self.agreed(times) + side, self._robot.lower, self._robot.upper).astype(np.float32)
        return ActionChunk(actions=actions, stamp=stamp, control_dt=self._robot.control_dt, anchor=actions[0])


def run_seams(config: SeamsConfig) -> dict[str, Any]:
    """Plays all contenders and writes ``results.json`` and ``seams.png``.

    Returns:
        The content of ``results.json``.

    Raises:
        WamError: The robot cannot be used.
    """
    robot = load_robot(config.robot)
    policy = WaveringPolicy(robot, config)
    tracks: dict[str, np.ndarray] = {}
    for name, play in _players().items():
        tracks[name] = play(robot, policy, config)
    results = {
        **provenance("none"),
        "robot": robot.name,
        "command_rate_hz": robot.safety.guard_rate_hz,
        "settings": {key: str(value) for key, value in vars(config).items()},
        "rows": {
            name: {"what": PLAYERS[name], **seam_figures(track, robot, policy, config)}
            for name, track in tracks.items()
        },
    }
    config.out.mkdir(parents=True, exist_ok=True)
    (config.out / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    _plot(tracks, robot, policy, config, config.out / "seams.png")
    return results


def seam_figures(
    track: np.ndarray, robot: RobotSpec, policy: WaveringPolicy, config: SeamsConfig
) -> dict[str, float | int]:
    """Measures (T, A) commanded positions at the guard's rate.

    Returns:
        Velocity change of one tick at seams as a share of the allowed one (largest), ticks over the acceleration and
        velocity limits, jerk (root mean square and largest, over all axes) and the distance from the agreed motion,
        all after the first second.
    """
    dt = 1 / robot.safety.guard_rate_hz
    begin, per_step = round(SETTLED_S / dt), round(robot.control_dt / dt)
    fastest = np.array([axis.max_velocity for axis in robot.axes])
    hardest = np.array([axis.max_acceleration for axis in robot.axes])
    velocity = np.diff(track, axis=0) / dt  # (T - 1, A)
    change = np.abs(np.diff(velocity, axis=0))[begin:]  # (T - 2, A); row i happens at tick begin + i + 1
    jerk = np.diff(track, n=3, axis=0)[begin:] / dt**3
    arrivals = np.arange(config.delay_steps, round(config.seconds * robot.control_rate_hz), config.replan_steps)
    near = (arrivals[:, None] * per_step + np.arange(-1, per_step)).ravel() - begin  # the control step of an arrival
    seams = change[np.unique(near[(near >= 0) & (near < len(change))])]
    times = np.arange(len(track)) * dt
    errors = [  # a command follows its plan by up to a control step; each scheme is judged at its own lag
        np.sqrt(((track - policy.agreed(times - lag))[begin:] ** 2).mean())
        for lag in np.linspace(-robot.control_dt, 2 * robot.control_dt, 31)
    ]
    return {
        "seams": int((arrivals * robot.control_dt >= SETTLED_S).sum()),
        "seam_velocity_change_share": float((seams / (hardest * dt)).max()),
        "acceleration_limit_ticks": int((change > hardest * dt * (1 + 1e-9)).any(axis=1).sum()),
        "velocity_limit_ticks": int((np.abs(velocity[begin:]) > fastest * (1 + 1e-9)).any(axis=1).sum()),
        "jerk_rms": float(np.sqrt((jerk**2).mean())),
        "jerk_max": float(np.abs(jerk).max()),
        "distance_rms": float(min(errors)),
    }


def main(argv: list[str] | None = None) -> int:
    """Command line of ``wam bench seams``."""
    config = tyro.cli(SeamsConfig, args=argv, prog="wam bench seams")
    results = run_seams(config)
    table = Table(title=f"{results['robot']}: {results['rows']['guard']['seams']} seams")
    columns = {
        "dv at seams / allowed": "seam_velocity_change_share",
        "ticks over a limit": "acceleration_limit_ticks",
        "jerk rms": "jerk_rms",
        "jerk max": "jerk_max",
        "off the agreed motion": "distance_rms",
    }
    table.add_column("", no_wrap=True)
    for title in columns:
        table.add_column(title, justify="right")
    for name, row in results["rows"].items():
        table.add_row(name, *(f"{row[key]:.4g}" for key in columns.values()))
    Console().print(table)
    for name, row in results["rows"].items():
        print(f"{name}: {row['what']}")
    if "lerobot_queue" not in results["rows"]:
        print("lerobot is not installed here, so its ActionQueue is not in the table: install the extra 'train'")
    print(f"results: {config.out / 'results.json'}\nplot:    {config.out / 'seams.png'}")
    return 0


def _players() -> Mapping[str, Callable[[RobotSpec, WaveringPolicy, SeamsConfig], np.ndarray]]:
    players: dict[str, Callable[[RobotSpec, WaveringPolicy, SeamsConfig], np.ndarray]] = {}
    if importlib.util.find_spec("lerobot") is not None:  # a robot has none
        players["lerobot_queue"] = lambda *args: _play_lerobot(*args, interpolated=False)
        players["lerobot_interpolated"] = lambda *args: _play_lerobot(*args, interpolated=True)
    players["guard"] = lambda *args: _play_guard(*args, ensembled=False)
    players["guard_ensembled"] = lambda *args: _play_guard(*args, ensembled=True)
    return players


def _play_guard(robot: RobotSpec, policy: WaveringPolicy, config: SeamsConfig, *, ensembled: bool) -> np.ndarray:
    """(T, A) commands of the guard; the arm follows them one tick late."""
    guard, ensemble = Guard(robot), Ensemble()
    dt = 1 / robot.safety.guard_rate_hz
    per_step = round(robot.control_dt / dt)
    arm = policy.agreed(0.0)
    track: list[np.ndarray] = []
    for tick in range(round(config.seconds / dt)):
        now = START_S + tick * dt
        guard.on_state(now, arm, now)
        step, within = divmod(tick, per_step)
        number, rest = divmod(step - config.delay_steps, config.replan_steps)
        if within == 0 and rest == 0 and number >= 0:
            chunk = policy.chunk(number, number * config.replan_steps * robot.control_dt)
            message = _message(ensemble.add(chunk) if ensembled else chunk, number, robot)
            refusal = guard.on_chunk(message, now, now)
            assert not refusal, refusal
            guard.engage(now)
        command = guard.tick(now, now)
        arm = command.positions if command.positions is not None else arm
        track.append(arm.copy())
    return np.array(track)


def _message(chunk: ActionChunk, number: int, robot: RobotSpec) -> ChunkMessage:
    return ChunkMessage(
        names=robot.action_names,
        times_s=np.arange(len(chunk.actions)) * chunk.control_dt,
        positions=chunk.actions,
        stamp=START_S + chunk.stamp,
        epoch=0,
        sequence=number,
    )


def _play_lerobot(robot: RobotSpec, policy: WaveringPolicy, config: SeamsConfig, *, interpolated: bool) -> np.ndarray:
    """(T, A) commands of LeRobot's queue, which replaces the chunk and skips what its delay has made late."""
    import torch
    from lerobot.policies.rtc.action_queue import ActionQueue
    from lerobot.policies.rtc.configuration_rtc import RTCConfig
    from lerobot.utils.action_interpolator import ActionInterpolator

    per_step = round(robot.control_dt * robot.safety.guard_rate_hz)
    queue = ActionQueue(RTCConfig(enabled=True))
    interpolator = ActionInterpolator(multiplier=per_step if interpolated else 1)
    last = policy.agreed(0.0)
    track: list[np.ndarray] = []
    for step in range(round(config.seconds * robot.control_rate_hz)):
        number, rest = divmod(step - config.delay_steps, config.replan_steps)
        if rest == 0 and number >= 0:
            chunk = policy.chunk(number, number * config.replan_steps * robot.control_dt)
            actions = torch.from_numpy(chunk.actions)
            queue.merge(actions, actions, real_delay=config.delay_steps)
        action = queue.get()
        if action is not None:
            interpolator.add(action)
        for _ in range(per_step):
            command = interpolator.get()
            last = last if command is None else command.numpy().astype(np.float64)
            track.append(last.copy())
    return np.array(track)


def _plot(
    tracks: Mapping[str, np.ndarray], robot: RobotSpec, policy: WaveringPolicy, config: SeamsConfig, path: Path
) -> None:
    """Draws two seconds of the first axis: position above, velocity below."""
    dt = 1 / robot.safety.guard_rate_hz
    window = slice(round(0.4 * config.seconds / dt), round((0.4 * config.seconds + 2.0) / dt))
    figure = Figure(figsize=(9.0, 6.0), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    times = np.arange(len(next(iter(tracks.values())))) * dt
    for name, track in tracks.items():
        style = "steps-post" if name == "lerobot_queue" else "default"
        upper.plot(times[window], track[window, 0], label=PLAYERS[name], linewidth=1.4, drawstyle=style)
        lower.plot(times[1:][window], np.diff(track[:, 0])[window] / dt, linewidth=1.2)
    upper.plot(times[window], policy.agreed(times)[window, 0], color="#94a3b8", linestyle=":", label="agreed motion")
    limit = robot.axes[0].max_velocity
    lower.set_ylim(-2 * limit, 2 * limit)
    for sign in (-1, 1):
        lower.axhline(sign * limit, color="#b91c1c", linewidth=0.8, linestyle="--")
    upper.set_ylabel(f"{robot.axes[0].name}, commanded [rad]")
    lower.set_ylabel("velocity [rad/s]; dashed: limit")
    lower.set_xlabel("simulated time [s]")
    upper.legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    sys.exit(main())
