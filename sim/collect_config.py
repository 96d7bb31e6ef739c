"""What ``wam collect`` can be told: one frozen dataclass, which is the command line and is kept with the dataset."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sim.demonstrations import DemoSettings
from sim.encoding import get_codec
from sim.layout import MAX_DISTRACTORS
from sim.splits import SPLITS
from sim.tasks import get_task
from wam.errors import ConfigError
from wam.robot import RobotSpec, load_robot
from wam.robot_identity import behaviour_hash

__all__ = ["CollectConfig", "settings_difference"]


@dataclass(frozen=True, kw_only=True)
class CollectConfig:
    """Record scripted demonstrations as a LeRobot v3 dataset. The same command goes on after an interruption."""

    task: str = "lift"  # task of the suite: reach, lift, push or place
    robot: str = "sim6"  # robot name or file; the simulation needs an MJCF of the same name
    out: Path | None = None  # dataset folder to make; default: datasets/<task>
    episodes: int = 300  # successful episodes to record; failed ones are left out and counted
    seed: int = 0  # first episode seed, in [0, 100000); episodes use seed, seed + 1, ... as far as needed
    noise_fraction: float = 0.5  # share of episodes whose executed actions are perturbed, [0, 1]; labels stay clean
    noise: float = 0.03  # standard deviation of that perturbation of the joint targets [rad]
    executed: bool = False  # record executed actions, not clean labels: to learn dynamics from, with much noise
    distractors: int = 0  # cubes of other colours beside the named one
    calibrated_cameras: bool = False  # draw through lenses and from places that the robot's calibration holds
    video: str = "exact"  # exact: full colour resolution; portable: 4:2:0, which also plays in browsers
    workers: int = 0  # processes; 0: one per CPU core. Does not change the result

    def __post_init__(self) -> None:
        if self.episodes < 1:
            raise ConfigError(f"episodes is {self.episodes} but must be at least 1.")
        if self.workers < 0:
            raise ConfigError(f"workers is {self.workers} but must be 0 (one per CPU core) or more.")
        if not 0.0 <= self.noise_fraction <= 1.0:
            raise ConfigError(f"noise_fraction is {self.noise_fraction} but must lie in [0, 1].")
        if not 0.0 <= self.noise < 1.0:
            raise ConfigError(
                f"noise is {self.noise} rad but must lie in [0, 1): it is the spread of joint targets, 0.03 is much."
            )
        if not 0 <= self.distractors <= MAX_DISTRACTORS:
            raise ConfigError(f"distractors is {self.distractors} but must be 0 to {MAX_DISTRACTORS}.")
        seeds = SPLITS["demos"]
        if self.seed not in seeds or self.seed + self.episodes > seeds.stop:
            raise ConfigError(
                f"seeds {self.seed} to {self.seed + self.episodes - 1} were asked for but demonstrations must stay in "
                f"[{seeds.start}, {seeds.stop}): the others are kept for validation and test."
            )
        get_task(self.task)
        get_codec(self.video)

    @property
    def folder(self) -> Path:
        """The dataset folder."""
        return Path("datasets") / self.task if self.out is None else self.out

    @property
    def partial_folder(self) -> Path:
        """Where everything lies until the dataset is complete."""
        return self.folder.with_name(f"{self.folder.name}.partial")

    @property
    def processes(self) -> int:
        """Number of recording processes."""
        return self.workers or len(os.sched_getaffinity(0))

    def load_robot(self) -> RobotSpec:
        """Reads the robot file.

        Raises:
            RobotSpecError: Unknown robot.
            ConfigError: LeRobot datasets cannot have the robot's control rate.
        """
        robot = load_robot(self.robot)
        if robot.control_rate_hz != round(robot.control_rate_hz):
            raise ConfigError(
                f"robot '{robot.name}' is controlled at {robot.control_rate_hz} Hz but LeRobot datasets need a whole "
                "number of frames per second."
            )
        return robot

    def demo_settings(self, robot: RobotSpec) -> DemoSettings:
        """Returns what decides one episode."""
        return DemoSettings(
            task=self.task,
            robot=robot,
            noise_fraction=self.noise_fraction,
            noise=self.noise,
            distractors=self.distractors,
            calibrated_cameras=self.calibrated_cameras,
            executed=self.executed,
        )

    def settings(self, robot: RobotSpec) -> dict[str, Any]:
        """Returns what decides the dataset's contents, as JSON data: equal settings, equal dataset."""
        # Only where it is asked for, so that recordings begun before can be gone on with
        chosen = {"calibration": robot.calibration_hash()} if self.calibrated_cameras else {}
        chosen |= {"executed": True} if self.executed else {}
        return chosen | {
            "task": self.task,
            "robot": robot.name,
            "robot_fingerprint": behaviour_hash(robot.to_dict()),  # with limits: the expert keeps to them
            "episodes": self.episodes,
            "seed": self.seed,
            "noise_fraction": self.noise_fraction,
            "noise": self.noise,
            "distractors": self.distractors,
            "video": self.video,
        }


def settings_difference(there: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """Says in words which settings differ.

    Args:
        there: Settings found on disk.
        asked: Settings of this command.

    Returns:
        One phrase per difference, such as "episodes is 300 there, 100 asked".
    """
    differences = []
    for name in sorted(set(there) | set(asked)):
        was, now = there.get(name), asked.get(name)
        if was != now:
            changed = name == "robot_fingerprint"
            differences.append("the robot file has changed" if changed else f"{name} is {was} there, {now} asked")
    return differences
