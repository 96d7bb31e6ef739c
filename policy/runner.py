"""Policy: one observation in, one action chunk out, both checked.

observation → validate → transforms → (prompt, once per task) → context → N denoising steps → decode → validate → chunk.
A chunk that is not finite never leaves here: ``infer`` raises instead. With a ``Continuation`` the chunk agrees with
the one that plays meanwhile (``policy.rtc``).

Shape legend: K cameras, H chunk length, A action width, P proprio width, T prompt words.
"""

import logging
from collections.abc import Callable
from typing import Any

import numpy as np

from policy.backend import Backend, Imaginer, Streaming
from policy.errors import PolicyError
from policy.instructions import Instructions
from policy.rtc import Continuation, guided_denoise, prefix_denoise, soft_weights
from wam.history import Window
from wam.limits import check_measured
from wam.manifest import Manifest
from wam.sigmas import sigma_schedule
from wam.spec import ActionChunk, Observation

__all__ = ["Policy"]

logger = logging.getLogger(__name__)

CACHED_PROMPTS = 16  # instructions kept encoded; the oldest is dropped, so free text cannot fill the memory
WARM_UP_CHUNKS = 3  # the first runs allocate and pick kernels; they must not be a robot's first chunk
IMAGINATION_STEPS = 10  # denoising steps of an imagined frame; it is looked at, not waited for


class Policy:
    """A loaded bundle on a backend.

    Args:
        manifest: Of the bundle.
        backend: Runs its model.
        n_steps: Denoising steps per chunk; None takes the manifest's.
        imaginer: Makes what ``imagine`` needs, at its first call.

    Raises:
        PolicyError: n_steps is below 1.
    """

    def __init__(
        self,
        manifest: Manifest,
        backend: Backend,
        *,
        n_steps: int | None = None,
        imaginer: Callable[[], Imaginer] | None = None,
    ) -> None:
        self.manifest = manifest
        self.n_steps = manifest.n_steps if n_steps is None else n_steps
        if self.n_steps < 1:
            raise PolicyError(f"n_steps is {self.n_steps} but a chunk needs at least 1 denoising step.")
        self.instructions = Instructions(manifest)
        self._backend = backend
        self._make_imaginer = imaginer
        self._imaginer: Imaginer | None = None
        self._sigmas = tuple(sigma_schedule(self.n_steps, manifest.model.action_shift))
        self._prompts: dict[str, Any] = {}
        self._chunks = 0

    @property
    def chunk_length(self) -> int:
        """H, actions per chunk."""
        return self.manifest.chunk_length

    @property
    def control_dt(self) -> float:
        """Time between two actions [s]."""
        return self.manifest.control_dt

    @property
    def window(self) -> Window:
        """How far back an observation looks; what makes observations with their past wants to know it."""
        model = self.manifest.model
        return Window(n_instants=model.n_instants, spacing=model.obs_stride * self.control_dt)

    @property
    def backend_name(self) -> str:
        """Name of the inference backend."""
        return self._backend.name

    @property
    def device(self) -> str:
        """Device and CPU threads of the backend, in words."""
        return f"{self._backend.device}, {self._backend.threads} thread(s)"

    def with_steps(self, n_steps: int) -> "Policy":
        """Returns a policy with another number of denoising steps on the same backend; use one of them at a time."""
        policy = Policy(self.manifest, self._backend, n_steps=n_steps, imaginer=self._make_imaginer)
        policy.instructions = self.instructions
        return policy

    def reset(self) -> None:
        """Begins an episode: noise seeds count from 0 again. Encoded prompts stay, they depend on the text alone."""
        self._chunks = 0
        if isinstance(self._backend, Streaming):
            self._backend.forget()

    def warm_up(self) -> None:
        """Runs a few chunks on black images, so that the first real one is as fast as the others."""
        model = self.manifest.model
        instants = (model.n_instants,) if model.n_instants > 1 else ()
        images = np.zeros((*instants, model.n_cameras, *model.image_size_px, 3), dtype=np.uint8)
        proprio = np.zeros((*instants, model.action_dim), dtype=np.float32)
        prompt = self._backend.encode_prompt(self.instructions.ids(""))
        for _ in range(WARM_UP_CHUNKS):
            self._backend.encode_context(images, proprio, prompt)
            self._backend.denoise(np.zeros((self.chunk_length, model.action_dim), dtype=np.float32), self._sigmas)

    @property
    def max_prefix(self) -> int:
        """Longest prefix that the model was trained to continue; 0: none, so ``Continuation.hard`` is refused."""
        return self.manifest.model.max_prefix

    def infer(
        self,
        observation: Observation,
        *,
        noise_seed: int | None = None,
        continuation: Continuation | None = None,
    ) -> ActionChunk:
        """Plans one chunk.

        Args:
            observation: What the robot sees and where it is, with its past (``window``) for a policy that looks back;
                one without is the first of its episode, and stands in for what came before.
            noise_seed: Seed of the chunk's noise; None counts 0, 1, 2, … from construction or ``reset``.
            continuation: What of the playing chunk the new one is to agree with; None plans freely.

        Returns:
            (H, A) absolute targets from ``observation.stamp`` on, anchored at its proprio.

        An instruction that the policy was not trained on is a warning in the log, once.

        Raises:
            ValueContractError: The observation does not fit the robot, its proprio is far outside the robot's ranges
                (``wam.limits``), its instruction is longer than the model reads, or the output is not finite.
            PolicyError: A hard continuation of a model that was not trained for it, or of another width.
        """
        images, proprio = self._encode_seen(observation)
        seed = self._chunks if noise_seed is None else noise_seed
        self._chunks += 1
        shape = (self.chunk_length, self.manifest.model.action_dim)
        noise = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
        self._encode_context(observation, images, proprio)
        anchor = observation.proprio.copy()
        normalised = self._denoise(noise, anchor, continuation)
        chunk = ActionChunk(
            actions=self.manifest.transforms.decode_actions(normalised, anchor),
            stamp=observation.stamp,
            control_dt=self.control_dt,
            anchor=anchor,
        )
        return chunk.validate(self.manifest.robot)

    def _denoise(self, noise: np.ndarray, anchor: np.ndarray, continuation: Continuation | None) -> np.ndarray:
        if continuation is None:
            return self._backend.denoise(noise, self._sigmas)
        actions = continuation.actions[: self.chunk_length]
        if actions.shape[1] != noise.shape[1]:
            raise PolicyError(
                f"continuation has width {actions.shape[1]} but the policy acts on {noise.shape[1]} axes."
            )
        known = self.manifest.transforms.encode_actions(actions, anchor)  # (n, A): the new chunk's anchor decodes it
        if continuation.hard:
            return prefix_denoise(self._backend, noise, self._sigmas, known[: self._prefix_length(continuation)])
        target = np.zeros_like(noise)
        target[: len(known)] = known
        return guided_denoise(self._backend, noise, self._sigmas, target, soft_weights(len(noise), continuation))

    def _prefix_length(self, continuation: Continuation) -> int:
        if not self.max_prefix:
            raise PolicyError(
                "a hard prefix needs a model that was trained with clean prefixes, but this one was not (max_prefix is "
                "0): train with --max-prefix, or use real_time_chunking, which needs no training."
            )
        return min(continuation.delay, self.max_prefix)

    @property
    def can_judge(self) -> bool:
        """Whether the bundle has the inverse-dynamics head that ``consistency`` needs."""
        return self.manifest.has_inverse

    @property
    def judged_steps(self) -> int:
        """O, control steps between the two observations that ``consistency`` compares."""
        return self.manifest.model.future_offset

    def consistency(self, before: Observation, after: Observation, commanded: np.ndarray) -> np.ndarray:
        """Compares what happened between two observations with what was commanded.

        Args:
            before: What was seen when the commands began.
            after: What is seen ``judged_steps`` control steps later.
            commanded: (O, A) absolute targets that were in force between.

        Returns:
            (A,) mean absolute difference of the actions that explain the pictures from the commanded ones, in
            normalised units: 1 is a standard deviation of the training data's actions. Large: the arm did not do as it
            was told, or something else moved the scene.

        Raises:
            PolicyError: The bundle has no inverse-dynamics head, or it is another number of actions.
            ValueContractError: An observation does not fit the robot.
        """
        if not self.can_judge:
            raise PolicyError(
                "this bundle has no inverse-dynamics head, so it cannot tell what was done between two observations: "
                "train one with wam train --stage inverse, and export that run."
            )
        shape = (self.judged_steps, self.manifest.model.action_dim)
        if commanded.shape != shape:
            raise PolicyError(f"commanded actions are {commanded.shape} but the head names {shape}: steps, axes.")
        now, _ = self._encode(before)
        later, _ = self._encode(after)
        found = self._backend.actions_between(now, later)
        told = self.manifest.transforms.encode_actions(commanded, before.proprio)
        return np.abs(found - told).mean(axis=0)

    def imagine(self, observation: Observation, *, noise_seed: int | None = None) -> dict[str, np.ndarray]:
        """Predicts what each camera sees ``manifest.model.future_offset`` control steps after the observation.

        Args:
            observation: As for ``infer``.
            noise_seed: Seed of the frame's noise; None is 0.

        Returns:
            Camera name → (height, width, 3) rgb_hwc_u8 at the model's image size.

        Raises:
            PolicyError: This policy was made without an imaginer, or torch is not installed (``BackendError``).
            ValueContractError: The observation does not fit the robot.
        """
        images, proprio = self._encode_seen(observation)
        if self._imaginer is None:
            if self._make_imaginer is None:
                raise PolicyError("this policy cannot imagine: open the bundle with policy.load.load_policy.")
            self._imaginer = self._make_imaginer()
        ids = self.instructions.ids(observation.task)
        frames = self._imaginer.imagine(images, proprio, ids, n_steps=IMAGINATION_STEPS, seed=noise_seed or 0)
        return dict(zip(self.manifest.cameras, frames, strict=True))

    def _check(self, observation: Observation) -> None:
        robot = self.manifest.robot
        observation.validate(robot)
        for instant in (*observation.history, observation):
            check_measured(instant.proprio, robot)

    def _encode(self, observation: Observation) -> tuple[np.ndarray, np.ndarray]:
        """Returns (K, height, width, 3) uint8 images and (P,) float32 normalised proprio."""
        self._check(observation)
        transforms = self.manifest.transforms
        images = transforms.images(observation.images, self.manifest.cameras)
        return images, transforms.normalise_proprio(observation.proprio)

    def _encode_seen(self, observation: Observation) -> tuple[np.ndarray, np.ndarray]:
        """As ``_encode``, of all instants of the observation; where there are several they get an axis in front."""
        instants = self._instants(observation)
        if len(instants) == 1:
            return self._encode(observation)
        self._check(observation)
        transforms = self.manifest.transforms
        known: dict[int, np.ndarray] = {}  # an instant that stands in for others is resized once
        for instant in instants:
            if id(instant) not in known:
                known[id(instant)] = transforms.images(instant.images, self.manifest.cameras)
        images = np.stack([known[id(instant)] for instant in instants])
        return images, transforms.normalise_proprio(np.stack([instant.proprio for instant in instants]))

    def _instants(self, observation: Observation) -> tuple[Observation, ...]:
        """(I,) what is seen at each instant; one that nothing came before stands in for what would have."""
        wanted, found = self.window.n_instants, (*observation.history, observation)
        if len(found) > wanted:
            raise PolicyError(
                f"the observation has {len(observation.history)} earlier instants but this policy looks back on "
                f"{wanted - 1}: make them with Policy.window."
            )
        return (found[0],) * (wanted - len(found)) + found

    def _encode_context(self, observation: Observation, images: np.ndarray, proprio: np.ndarray) -> None:
        prompt = self._prompt(observation.task)
        if isinstance(self._backend, Streaming):
            stamps = [instant.stamp for instant in self._instants(observation)]
            self._backend.encode_stream(images, proprio, prompt, stamps)
        else:
            self._backend.encode_context(images, proprio, prompt)

    def _prompt(self, task: str) -> Any:
        if task not in self._prompts:
            while len(self._prompts) >= CACHED_PROMPTS:
                self._prompts.pop(next(iter(self._prompts)))
            self._prompts[task] = self._backend.encode_prompt(self.instructions.ids(task))
            news = self.instructions.news(task)
            if news:
                logger.warning("%s.", news)
        return self._prompts[task]
