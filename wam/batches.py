"""Which frames a training step sees: a pure function of (seed, step), so a resumed run continues bit for bit.

A sample is an observation frame (and, for a model that looks back, those that ``wam.history`` picks before it), the
action chunk that starts there and the frames that the model imagines, up to
``future_offset`` steps later. Parts that reach past the end of an episode are marked padded. The first steps of an
episode, where a policy commits to a direction, are drawn more often, and the idle tail, where nothing moves any more,
hardly at all.

Shape legend: B batch, I instants of an observation, K cameras, F future frames, L latent frames of the future, H chunk,
A action width, P proprio width, T prompt words, W text width.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wam.config import ModelConfig
from wam.dataset import Episodes
from wam.history import Window, pick
from wam.text import token_ids
from wam.transforms import Transforms

__all__ = ["Batch", "FrameSampler", "instants_of", "make_batch"]

IDLE_ACTION_RANGE = 1e-3  # [rad, gripper opening]: actions that stay within this are a tail where nothing moves


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One training batch."""

    images: Tensor  # (B, K, height, width, 3) uint8
    future_images: Tensor  # (B, F, K, height, width, 3) uint8
    future_is_pad: Tensor  # (B, L) bool: a latent frame counts as padded when any of its frames is
    proprio: Tensor  # (B, P) float32 normalised
    actions: Tensor  # (B, H, A) float32 normalised
    action_is_pad: Tensor  # (B, H) bool
    token_ids: Tensor  # (B, T) int64; with a text encoder its embeddings instead, (B, T, W) float32
    past_images: Tensor | None = None  # (B, I − 1, K, height, width, 3) uint8, oldest first; None: one instant alone
    past_proprio: Tensor | None = None  # (B, I − 1, P) float32 normalised

    @property
    def seen_images(self) -> Tensor:
        """Images of all instants, as a model takes them: (B, I, K, height, width, 3), or ``images`` if I is 1."""
        return _with_past(self.past_images, self.images)

    @property
    def seen_proprio(self) -> Tensor:
        """Proprio of all instants: (B, I, P), or ``proprio`` if I is 1."""
        return _with_past(self.past_proprio, self.proprio)

    def to(self, device: torch.device) -> "Batch":
        """Moves every tensor."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))

    def map(self, function: Callable[[Tensor], Tensor]) -> "Batch":
        """Applies a function to every tensor."""
        return Batch(**{name: None if value is None else function(value) for name, value in vars(self).items()})

    def repeat_actions(self, draws: int) -> "Batch":
        """Repeats the chunks, so that each is seen with several noises; the rest stays as it is."""
        return dataclasses.replace(
            self, actions=self.actions.repeat(draws, 1, 1), action_is_pad=self.action_is_pad.repeat(draws, 1)
        )


class FrameSampler:
    """Draws observation frames for a step."""

    def __init__(
        self,
        episodes: Episodes,
        chosen: np.ndarray,
        *,
        seed: int,
        start_share: float,
        start_steps: int,
        idle_keep: int,
        owner: np.ndarray | None = None,
        shares: Sequence[float] = (),
    ) -> None:
        """Prepares the pools.

        Args:
            episodes: All episodes.
            chosen: (E',) indices of the episodes to draw from.
            seed: Seed of the run.
            start_share: Share of a batch drawn from the first steps of an episode, in [0, 1].
            start_steps: How many steps count as first.
            idle_keep: Idle frames kept at the end of each episode.
            owner: (E,) number of the dataset that each episode is from; only read with ``shares``.
            shares: How often each dataset is drawn, on any scale; empty: every frame alike.
        """
        self._seed = seed
        self._start_share = start_share
        spans = [(int(episodes.start[e]), _useful_length(episodes, int(e), idle_keep)) for e in chosen]
        self._all = np.concatenate([np.arange(first, first + count) for first, count in spans])
        self._starts = np.concatenate([np.arange(first, first + min(count, start_steps)) for first, count in spans])
        self._chances: dict[str, np.ndarray] = {}  # cumulative, of the frames of a pool
        if shares and owner is not None:
            of_frame = owner[episodes.episode_of_frame]
            self._chances = {
                name: _cumulative_chances(of_frame[pool], shares)
                for name, pool in (("all", self._all), ("starts", self._starts))
            }

    def draw(self, step: int, batch_size: int) -> np.ndarray:
        """Returns (B,) frame indices of one step."""
        generator = np.random.default_rng((self._seed, step))
        early = round(batch_size * self._start_share)
        picks = (
            self._choose(generator, "starts", self._starts, early),
            self._choose(generator, "all", self._all, batch_size - early),
        )
        # Mixed, because parts of a batch are treated apart (video loss on a share of it)
        return generator.permutation(np.concatenate(picks))

    def _choose(self, generator: np.random.Generator, name: str, pool: np.ndarray, count: int) -> np.ndarray:
        if name not in self._chances:
            return generator.choice(pool, count)
        places = np.searchsorted(self._chances[name], generator.random(count), side="right")
        return pool[np.minimum(places, len(pool) - 1)]  # rounding may leave the last chance a little under 1

    def spread(self, count: int) -> np.ndarray:
        """Returns up to ``count`` frames spread evenly over all episodes: a fixed validation set."""
        places = np.linspace(0, len(self._all) - 1, min(count, len(self._all)))
        return self._all[np.unique(places.round().astype(np.int64))]


def make_batch(
    episodes: Episodes,
    frames: np.ndarray,
    config: ModelConfig,
    transforms: Transforms,
    prompts: np.ndarray | None = None,
) -> Batch:
    """Gathers one batch.

    Args:
        episodes: All episodes.
        frames: (B,) indices of observation frames.
        config: Chunk length, future offset and prompt length.
        transforms: Normalisation.
        prompts: (tasks, T, W) embeddings of ``episodes.tasks``, for a model with a text encoder; else words are hashed.
    """
    ends = episodes.ends(frames)[:, None]  # (B, 1)
    later = frames[:, None] + np.asarray(config.future_offsets)  # (B, F)
    late = (later >= ends).reshape(len(frames), config.future_latents, -1)  # (B, L, F / L)
    future = episodes.frames[np.minimum(later, ends - 1).ravel()]  # (B·F, K, height, width, 3)
    actions, action_is_pad = episodes.chunks(frames, config.chunk_length)
    past = instants_of(episodes, frames, config)[:, :-1]  # (B, I - 1)
    if prompts is None:
        prompts = np.stack([token_ids(task, config.prompt_length) for task in episodes.tasks])  # (tasks, T)
    return Batch(
        images=torch.from_numpy(episodes.frames[frames]),
        future_images=torch.from_numpy(future.reshape(*later.shape, *future.shape[1:])),
        future_is_pad=torch.from_numpy(late.any(axis=2)),
        proprio=torch.from_numpy(transforms.normalise_proprio(episodes.proprio[frames])),
        actions=torch.from_numpy(transforms.encode_actions(actions, episodes.proprio[frames])),
        action_is_pad=torch.from_numpy(action_is_pad),
        token_ids=torch.from_numpy(prompts[episodes.task_index[frames]]),
        past_images=torch.from_numpy(_gathered(episodes.frames, past)) if past.size else None,
        past_proprio=torch.from_numpy(transforms.normalise_proprio(episodes.proprio[past])) if past.size else None,
    )


def instants_of(episodes: Episodes, frames: np.ndarray, config: ModelConfig) -> np.ndarray:
    """Returns (B, I) indices of the frames that an observation at each of (B,) frames is made of, the present last."""
    if config.n_instants == 1:
        return frames[:, None]
    window = Window(n_instants=config.n_instants, spacing=float(config.obs_stride))
    first = episodes.start[np.searchsorted(episodes.start, frames, side="right") - 1]
    places = [
        pick(np.arange(count + 1), window.times(float(count), begin=0.0)).places for count in frames - first
    ]  # frames of a dataset are one control step apart
    return first[:, None] + np.stack(places)


def _gathered(frames: Any, places: np.ndarray) -> np.ndarray:
    found = frames[places.ravel()]
    return found.reshape(*places.shape, *found.shape[1:])


def _with_past(past: Tensor | None, now: Tensor) -> Tensor:
    return now if past is None else torch.cat((past, now[:, None]), dim=1)


def _cumulative_chances(owner: np.ndarray, shares: Sequence[float]) -> np.ndarray:
    """Cumulative chance of each frame of a pool (M',), such that every dataset gets its share."""
    weight = np.asarray(shares, np.float64) / np.maximum(np.bincount(owner, minlength=len(shares)), 1)
    chances = np.cumsum(weight[owner])
    return chances / chances[-1]


def _useful_length(episodes: Episodes, episode: int, idle_keep: int) -> int:
    first, count = int(episodes.start[episode]), int(episodes.length[episode])
    actions = episodes.action[first : first + count]
    moving = np.flatnonzero((np.abs(actions - actions[-1]) > IDLE_ACTION_RANGE).any(axis=1))
    last_moving = int(moving[-1]) + 1 if len(moving) else 0
    return max(1, min(count, last_moving + idle_keep))
