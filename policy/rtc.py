"""Real-time chunking: denoising a chunk that agrees with the actions that are executed while it is computed.

Two forms, both in numpy over ``Backend.denoise_step``, so they run on every exported engine:

* guided: v' = v - min((s^2 + (1 - s)^2) / (s (1 - s)), G) * W * (Y - (x - s v)) with noise level s, the playing chunk
  Y, weights W and a limit G. x - s v is the clean chunk that is predicted now, and the term moves it towards Y. Needs
  no training. Source: Black et al., "Real-time execution of action chunking flow policies" (arXiv 2506.07339), with the
  Jacobian of the prediction taken as the identity, so no gradients are needed. Deviation: the factor is at most
  1 / |ds| for a step of length ds, where one step brings the prediction all the way to Y. With the paper's many small
  steps that never matters; with four, G = 10 alone shoots two and a half times past Y and drags the free actions along.
* hard: the first actions of the chunk are those of Y, at noise level 0 from the start. Only for a model that was
  trained with clean prefixes (``ModelConfig.max_prefix``).

Shape legend: H chunk length, A action width, n actions of the playing chunk that lie ahead.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from policy.backend import Backend
from policy.errors import PolicyError

__all__ = ["GUIDANCE_LIMIT", "Continuation", "actions_ahead", "guided_denoise", "prefix_denoise", "soft_weights"]

GUIDANCE_LIMIT = 10.0  # G: near s = 1 and s = 0 the exact factor grows without bound


@dataclass(frozen=True, kw_only=True)
class Continuation:
    """What of the playing chunk the next one is to agree with."""

    actions: np.ndarray  # (n, A) float32 absolute: action j is due when action j of the next chunk is; n >= 1
    delay: int  # how many of them will be executed before the next chunk takes over
    horizon: int  # from this action on the next chunk is free
    hard: bool = False  # copy the first ``delay`` actions instead of guiding towards all

    def __post_init__(self) -> None:
        if self.actions.ndim != 2 or len(self.actions) < 1 or self.delay < 0 or self.horizon < self.delay:
            raise PolicyError(
                f"continuation has actions {self.actions.shape}, delay {self.delay} and horizon {self.horizon}: there "
                "must be actions left, a delay of 0 or more and a horizon that is not before it."
            )


def actions_ahead(actions: np.ndarray, place: float) -> np.ndarray:
    """Returns (n, A) float32 what lies ahead of a place in a chunk, one control step apart; n may be 0.

    Args:
        actions: (H, A) of the playing chunk.
        place: Where it is now, in actions; between two of them they are interpolated. Rounding instead would slow a
            policy down that replans every 1.4 steps, as each new plan would begin with what is over already.
    """
    places = place + np.arange(max(0, int(np.floor(len(actions) - 1 - place + 1e-6)) + 1))
    before = np.clip(np.floor(places + 1e-6).astype(int), 0, len(actions) - 1)
    after, share = np.minimum(before + 1, len(actions) - 1), np.clip(places - before, 0, 1)[:, None]
    return ((1 - share) * actions[before] + share * actions[after]).astype(np.float32)


def soft_weights(chunk_length: int, continuation: Continuation) -> np.ndarray:
    """Returns (H, 1) float32: 1 for what will be executed, falling to 0 at the horizon, 0 where nothing is left."""
    steps = np.arange(chunk_length)
    horizon = min(continuation.horizon, len(continuation.actions))
    ramp = (horizon - steps) / max(1, horizon - continuation.delay + 1)
    weights = np.where(steps < continuation.delay, 1.0, np.clip(ramp, 0.0, 1.0))
    return np.where(steps < len(continuation.actions), weights, 0.0).astype(np.float32)[:, None]


def guided_denoise(
    backend: Backend,
    noise: np.ndarray,
    sigmas: Sequence[float],
    target: np.ndarray,
    weights: np.ndarray,
    *,
    limit: float = GUIDANCE_LIMIT,
) -> np.ndarray:
    """Denoises towards a target where the weights say so.

    Args:
        backend: Holds the encoded observation.
        noise: (H, A) float32, standard normal.
        sigmas: Noise levels from 1 down to 0.
        target: (H, A) float32 normalised actions Y; rows with weight 0 do not matter.
        weights: (H, 1) in [0, 1].
        limit: G.

    Returns:
        (H, A) float32, normalised.
    """
    x = noise
    for sigma, sigma_next in itertools.pairwise(sigmas):
        step = sigma_next - sigma
        levels = (np.full(len(x), level, dtype=np.float32) for level in (sigma, sigma_next))
        velocity = (backend.denoise_step(x, *levels) - x) / step
        factor = _factor(sigma, min(limit, 1 / -step))
        correction = factor * weights * (target - (x - sigma * velocity))
        x = (x + (velocity - correction) * step).astype(np.float32)
    return x


def prefix_denoise(backend: Backend, noise: np.ndarray, sigmas: Sequence[float], prefix: np.ndarray) -> np.ndarray:
    """Denoises a chunk whose first actions are given.

    Args:
        backend: Holds the encoded observation.
        noise: (H, A) float32, standard normal.
        sigmas: Noise levels from 1 down to 0.
        prefix: (d, A) float32 normalised actions, d < H.

    Returns:
        (H, A) float32, normalised; its first d rows are the prefix.
    """
    x = noise.copy()
    x[: len(prefix)] = prefix
    noisy = (np.arange(len(x)) >= len(prefix)).astype(np.float32)
    for sigma, sigma_next in itertools.pairwise(sigmas):
        x = backend.denoise_step(x, (sigma * noisy).astype(np.float32), (sigma_next * noisy).astype(np.float32))
        x[: len(prefix)] = prefix
    return x


def _factor(sigma: float, limit: float) -> float:
    spread = sigma * (1 - sigma)
    return limit if spread == 0 else min((sigma**2 + (1 - sigma) ** 2) / spread, limit)
