"""One demonstration: the scripted expert drives the arm through one episode, a function of the seed alone.

The recorded action is the expert's clean label. In a share of the episodes the executed action is perturbed, so that
the arm drifts off and the labels show how to come back (DART, Laskey et al. 2017). A model of what actions do needs the
opposite: with ``executed`` what was really commanded is recorded, noise and all.

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


@dataclass(frozen=True, kw_only=True)
class DemoSettings:
    """What decides an episode, together with its seed."""

    task: str  # name of the task
    robot: RobotSpec  # the robot
    noise_fraction: float  # share of episodes with perturbed actions [0, 1]
    noise: float  # std of the perturbation of joint targets [rad]
    distractors: int  # cubes beside the named one
    calibrated_cameras: bool = False  # pictures as through the robot's calibrated cameras
    executed: bool = False  # record the executed actions, not the expert's labels


@dataclass(frozen=True, kw_only=True)
class Demonstration:
    """One recorded episode; row t holds what was seen before step t and what the expert then wanted."""

    seed: int  # of the scene and the perturbation
    instruction: str  # the task in words
    success: bool  # solved, and held
    noise: float  # std of the perturbation of this episode [rad]
    images: Mapping[str, np.ndarray]  # camera -> (T, height, width, 3) rgb_hwc_u8
    proprio: np.ndarray  # (T, P) float32 measured positions [rad, opening]
    action: np.ndarray  # (T, A) float32 clean expert targets, or those executed [rad, opening]
    stamp: np.ndarray  # (T,) float64 robot time of the observation [s]
    progress: np.ndarray  # (T,) of the task, in [0, 1]


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
    expert = ScriptedExpert(sim, rng, noise=noise)
    observations: list[Observation] = []
    actions: list[np.ndarray] = []
    progress: list[float] = []
    while not (sim.finished or sim.failed) and len(actions) < sim.max_steps:
        observations.append(sim.observation())
        progress.append(sim.progress())
        label = expert.act()
        executed = expert.perturb(label)
        actions.append(executed if settings.executed else label)
        sim.step(executed)
    return Demonstration(
        seed=seed,
        instruction=sim.instruction,
        success=sim.finished and not sim.failed,
        noise=noise,
        images={name: np.stack([o.images[name] for o in observations]) for name in sim.robot.camera_names},
        proprio=np.stack([o.proprio for o in observations]),
        action=np.stack(actions),
        stamp=np.array([o.stamp for o in observations], dtype=np.float64),
        progress=np.array(progress),
    )
