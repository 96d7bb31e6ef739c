"""What ``wam evaluate`` can be told: one frozen dataclass, which is the command line and is kept with the results."""

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sim.commands import command_line
from sim.errors import SimError
from sim.latency import parse_latency
from sim.references import REFERENCES
from sim.rollout import MODES
from sim.tasks import get_task
from wam.errors import ConfigError, unknown_name

__all__ = ["EvaluateConfig"]

NONE = "none"  # written where a list of names is to be empty
# Written into the repeating command even at their defaults, which another version may have changed.
SPELLED_OUT = ("task", "episodes", "split", "mode", "latency_ms", "execution_horizon")
FREE = ("out", "overwrite", "workers")  # do not change the result


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Judge a policy bundle in closed loop on a simulated task."""

    bundle: Path  # policy bundle folder (`wam export` makes one)
    task: str = "lift"  # task of the suite: reach, lift, push or place
    out: Path | None = None  # folder for results.json, report.html and videos/; default: runs/eval/<task>
    overwrite: bool = False  # replace results that are in that folder already
    episodes: int = 200  # test episodes, one seed each; 5 for a smoke test, 50 while developing, 200 to report
    split: str = "test"  # where seeds come from: test [1e6, 2e6), validation [1e5, 2e5) or demos [0, 1e5)
    # while the policy computes: async (old chunk plays on), hold-last, frozen (physics waits), temporal-ensembling,
    # real-time-chunking, or hard-prefix (for a policy trained with --max-prefix)
    mode: str = "async"
    latency_ms: str = "measured-p50"  # delay in the loop [ms]: a number, measured-p50 or measured-p99
    also: str = NONE  # more modes to play the same seeds in, comma-separated, or none
    references: str = ",".join(REFERENCES)  # who else plays, comma-separated: expert, hold-still, random; or none
    reference_episodes: int = 0  # episodes of each reference; 0: as many as the policy's
    execution_horizon: int = 4  # actions played before the next observation is sent to the policy; 8 is less exact
    n_steps: int = 0  # denoising steps per chunk; 0: what the bundle says
    backend: str = "auto"  # onnx, torch, torch_joint, torch_streaming, ..., or auto: the first that is installed
    robot: str = ""  # robot name or file; default: the one the bundle was made for
    distractors: int = 0  # cubes of other colours beside the named one
    calibrated_cameras: bool = False  # draw through lenses and from places that the robot's calibration holds
    named: int = 0  # which cube of each scene is named; 1 with a distractor: same scenes, counterfactual instruction
    videos: int = 3  # first episodes to film
    failure_videos: int = 20  # failures to film besides, at most
    workers: int = 0  # processes; 0: one per CPU core. Does not change the result

    def __post_init__(self) -> None:
        get_task(self.task)
        for mode in (self.mode, *self.other_modes):
            if mode not in MODES:
                raise ConfigError(unknown_name("mode", mode, MODES))
        for name in self.reference_names:
            if name not in REFERENCES:
                raise ConfigError(unknown_name("reference", name, REFERENCES, fix=f"Or '{NONE}'."))
        if self.mode in self.other_modes:
            raise ConfigError(f"also holds '{self.mode}', which is the mode already: it would be played twice.")
        parse_latency(self.latency_ms)
        for name in ("episodes", "execution_horizon"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)} but must be at least 1.")
        for name in ("reference_episodes", "n_steps", "videos", "failure_videos", "workers"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)} but must be 0 or more.")

    @property
    def folder(self) -> Path:
        """Where results go."""
        return Path("runs/eval") / self.task if self.out is None else self.out

    @property
    def latency(self) -> float | str:
        """Milliseconds, or which measured percentile."""
        return parse_latency(self.latency_ms)

    @property
    def other_modes(self) -> tuple[str, ...]:
        """Modes beside the main one."""
        return _names(self.also)

    @property
    def reference_names(self) -> tuple[str, ...]:
        """References that play."""
        return _names(self.references)

    @property
    def processes(self) -> int:
        """Number of worker processes; never more than there are episodes."""
        return min(self.workers or len(os.sched_getaffinity(0)), self.episodes)

    def check_out(self) -> None:
        """Refuses to overwrite results unasked.

        Raises:
            SimError: The folder holds results already.
        """
        found = self.folder / "results.json"
        if found.exists() and not self.overwrite:
            raise SimError(f"{found} exists already: give another --out, or --overwrite to replace these results.")

    def to_dict(self) -> dict[str, Any]:
        """Returns JSON data."""
        return json.loads(json.dumps(dataclasses.asdict(self), default=str))

    def command(self, latency_s: float) -> str:
        """Returns the command that repeats these results elsewhere, a measured latency written as the number it was.

        Args:
            latency_s: The latency that was in the loop [s].
        """
        fixed = dataclasses.replace(self, latency_ms=f"{1e3 * latency_s:.3f}".rstrip("0").rstrip("."))
        return command_line("evaluate", fixed, always=SPELLED_OUT, never=FREE)


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    return () if names == (NONE,) else names
