"""One demonstration: the scripted expert drives the arm through one episode, a function of the seed alone.

A share of the episodes start from a disturbed state: the expert first runs for a while with its actions perturbed,
unrecorded, and what is recorded is the clean way back and on to success. So the data shows how to recover from a
missed grasp or a wrong approach, yet every recorded action chunk is exactly what was then executed. Perturbing while
recording, as DART does (Laskey et al. 2017), suits single actions; chunks that run into a later perturbation cannot be
predicted from their observation, and training on them was far worse.

Shape legend: T steps, P proprio width, A action width.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sim.arm_sim import ArmSim
from sim.experts import ScriptedExpert
from wam.robot import RobotSpec
from wam.spec import Observation

__all__ = ["DemoSettings", "Demonstration", "record_demonstration"]

NOISE_STREAM = 1  # second word of the perturbation's seed; the scene is drawn from the first word alone
DISTURBED_SECONDS = (0.3, 3.0)  # how long the arm is led astray before the recording starts [s]


@dataclass(frozen=True, kw_only=True)
class DemoSettings:
    """What decides an episode, together with its seed."""

    task: str  # name of the task
    robot: RobotSpec  # the robot
    noise_fraction: float  # share of episodes that start from a disturbed state [0, 1]
    noise: float  # std of the joint targets' perturbation on the way to that state [rad]
    distractors: int  # cubes beside the named one


@dataclass(frozen=True, kw_only=True)
class Demonstration:
    """One recorded episode; row t holds what was seen before step t and what the expert then wanted."""

    seed: int  # of the scene and the perturbation
    instruction: str  # the task in words
    success: bool  # solved, and held
    noise: float  # std of the perturbation before this episode [rad]; 0 where it starts at the arm's start pose
    images: Mapping[str, np.ndarray]  # camera -> (T, height, width, 3) rgb_hwc_u8
    proprio: np.ndarray  # (T, P) float32 measured positions [rad, opening]
    action: np.ndarray  # (T, A) float32 clean expert targets [rad, opening]
    stamp: np.ndarray  # (T,) float64 robot time of the observation [s]


def record_demonstration(sim: ArmSim, settings: DemoSettings, seed: int) -> Demonstration:
    """Runs one episode to success or to the task's time limit.

    Args:
        sim: Simulation of the settings' task and robot; it is reset.
        settings: What to record.
        seed: Seed of the episode.
    """
    rng = np.random.default_rng((seed, NOISE_STREAM))
    noise = settings.noise if rng.random() < settings.noise_fraction else 0.0
    sim.reset(seed)
    if noise > 0:
        _disturb(sim, rng, noise)
    expert = ScriptedExpert(sim, rng)
    observations: list[Observation] = []
    actions: list[np.ndarray] = []
    while not observations or not (sim.finished or sim.failed or len(actions) >= sim.max_steps):
        observations.append(sim.observation())
        actions.append(expert.act())
        sim.step(actions[-1])
    return Demonstration(
        seed=seed,
        instruction=sim.instruction,
        success=sim.finished and not sim.failed,
        noise=noise,
        images={name: np.stack([o.images[name] for o in observations]) for name in sim.robot.camera_names},
        proprio=np.stack([o.proprio for o in observations]),
        action=np.stack(actions),
        stamp=np.array([o.stamp for o in observations], dtype=np.float64),
    )


def _disturb(sim: ArmSim, rng: np.random.Generator, noise: float) -> None:
    """Leads the arm astray for a random while, and stops before the task is solved by accident."""
    expert = ScriptedExpert(sim, rng, noise=noise)
    for _ in range(round(rng.uniform(*DISTURBED_SECONDS) / sim.control_dt)):
        if sim.success() or sim.failed:
            return
        sim.step(expert.perturb(expert.act()))
