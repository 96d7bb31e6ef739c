"""Plans to judge a learned simulator by: action chunks of several kinds, executed in MuJoCo from the same starts.

| kind | chunks |
|---|---|
| ``policy`` | the model's own fast question, replanned from the real observation after every chunk |
| ``noisy`` | the same with time-correlated noise on the joint targets |
| ``random`` | random walks from where the arm is |
| ``other`` | what the policy did in another scene |

Shape legend: K cameras, N chunks of a plan, H chunk, A action width, P proprio width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from sim.arm_sim import ArmSim
from sim.experts import NOISE_SECONDS, ScriptedExpert
from sim.references import RandomPlanner
from wam.checkpoint import Checkpoint
from wam.sampling import sample_actions
from wam.spec import Observation
from wam.text import token_ids

__all__ = ["KINDS", "Plan", "make_plans"]

KINDS = ("policy", "noisy", "random", "other")
DENOISING_STEPS = 4  # of the policy's chunks
LATEST_START = 6  # control steps of the expert before a start: not every plan begins from rest

Chunker = Callable[[Observation, int], np.ndarray]  # (observation, number of the chunk) -> (H, A)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Chunks, and what they led to in MuJoCo."""

    seed: int  # of the scene
    kind: str  # one of KINDS
    task: str  # the instruction
    images: np.ndarray  # (K, height, width, 3) uint8, the start at the model's size
    proprio: np.ndarray  # (P,) float32 at the start
    chunks: np.ndarray  # (N, H, A) float32 absolute targets
    happened: np.ndarray  # (N, K, height, width, 3) uint8 at the end of each chunk
    proprio_after: np.ndarray  # (N, P) float32
    progress: np.ndarray  # (N,) of the task, in [0, 1]
    solved: bool  # the task is solved at the end


def make_plans(checkpoint: Checkpoint, sim: ArmSim, seeds: Sequence[int], *, chunks: int, noise: float) -> list[Plan]:
    """Executes one plan of every kind from the start of every seed.

    Args:
        checkpoint: Whose fast question plans.
        sim: Simulation of the task and of the checkpoint's robot.
        seeds: Of the scenes, at least two.
        chunks: N; of every chunk the first ``future_offset`` actions are executed.
        noise: Standard deviation of the noise on joint targets [rad].

    Returns:
        Plans, seed by seed in the order of ``KINDS``.
    """
    maker = _Maker(checkpoint, sim, chunks)
    own = [maker.execute(seed, "policy", maker.policy(seed)) for seed in seeds]
    found = []
    for place, seed in enumerate(seeds):
        other = own[place - 1]
        found += [
            own[place],
            maker.execute(seed, "noisy", maker.noisy(seed, noise)),
            maker.execute(seed, "random", maker.random(seed)),
            maker.execute(seed, "other", lambda _, number, other=other: other.chunks[number]),
        ]
    return found


class _Maker:
    def __init__(self, checkpoint: Checkpoint, sim: ArmSim, chunks: int) -> None:
        self._checkpoint, self._sim, self._n = checkpoint, sim, chunks
        self._steps = checkpoint.config.future_offset

    def execute(self, seed: int, kind: str, chunker: Chunker) -> Plan:
        sim, robot = self._sim, self._checkpoint.robot
        sim.reset(seed)
        expert = ScriptedExpert(sim, np.random.default_rng(seed))
        for _ in range(int(np.random.default_rng(seed).integers(LATEST_START + 1))):
            sim.step(expert.act())
        start = sim.observation()
        seen, chunks, after, progress = [start], [], [], []
        for number in range(self._n):
            chunks.append(np.clip(chunker(seen[-1], number), robot.lower, robot.upper).astype(np.float32))
            for action in chunks[-1][: self._steps]:
                sim.step(action)
            seen.append(sim.observation())
            after.append(sim.proprio())
            progress.append(sim.progress())
        pictures = np.stack([self._pictures(observation) for observation in seen])
        return Plan(
            seed=seed,
            kind=kind,
            task=start.task,
            images=pictures[0],
            proprio=start.proprio,
            chunks=np.stack(chunks),
            happened=pictures[1:],
            proprio_after=np.stack(after),
            progress=np.array(progress),
            solved=sim.success(),
        )

    def policy(self, seed: int) -> Chunker:
        model, transforms = self._checkpoint.model, self._checkpoint.transforms
        config = self._checkpoint.config

        def chunker(seen: Observation, number: int) -> np.ndarray:
            words = torch.from_numpy(token_ids(seen.task, config.prompt_length))[None]
            images = torch.from_numpy(self._pictures(seen))[None]
            proprio = torch.from_numpy(transforms.normalise_proprio(seen.proprio))[None]
            generator = torch.Generator().manual_seed(seed % 2**31 + number)
            noise = torch.randn((1, config.chunk_length, config.action_dim), generator=generator)
            with torch.no_grad():
                context = model.encode_context(images, proprio, model.encode_prompt(words))
                found = sample_actions(model, context, noise, DENOISING_STEPS)
            return transforms.decode_actions(found.numpy(), seen.proprio[None])[0]

        return chunker

    def noisy(self, seed: int, noise: float) -> Chunker:
        plain, rng = self.policy(seed), np.random.default_rng((seed, 1))
        keep = np.exp(-self._sim.control_dt / NOISE_SECONDS)
        offset = rng.normal(0.0, noise, len(self._checkpoint.robot.joints))

        def chunker(seen: Observation, number: int) -> np.ndarray:
            nonlocal offset
            chunk = plain(seen, number).copy()
            for step, action in enumerate(chunk):
                fresh = rng.normal(0.0, noise, offset.shape)
                drifted = keep * offset + np.sqrt(1 - keep**2) * fresh
                action[: len(offset)] += drifted
                if step < self._steps:  # the next chunk goes on from what was executed
                    offset = drifted
            return chunk

        return chunker

    def random(self, seed: int) -> Chunker:
        planner = RandomPlanner(self._checkpoint.robot, self._checkpoint.config.chunk_length)
        planner.start(self._sim, seed)
        return lambda seen, number: planner.plan(seen, seed % 2**31 + number).actions

    def _pictures(self, seen: Observation) -> np.ndarray:
        return self._checkpoint.transforms.images(seen.images, self._checkpoint.robot.camera_names)
