"""Flow matching, one convention everywhere.

``sigma`` lies in [0, 1]: 1 is noise, 0 is data. ``x_sigma = (1 − sigma)·x + sigma·noise``; ``velocity = noise − x``;
sampling steps sigma from 1 down to 0 with Euler, ``x ← x + velocity·(sigma_next − sigma)``; the network's timestep is
1000·sigma. Wan, Fast-WAM, DreamZero and diffusers agree on all of it. ``t`` is robot time and never flow time.

Source: Lipman et al., Flow Matching (arXiv 2210.02747), with the rectified-flow path; shift: Esser et al. (arXiv
2403.03206), equation 23; loss weight: Fast-WAM (arXiv 2603.16666).

Shape legend: B batch, S noise levels of a sample (absent: one; else the tensor's second axis or 1), ... any trailing
shape.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = [
    "TIMESTEP_SCALE",
    "add_noise",
    "bell_weight",
    "euler_step",
    "step_gain",
    "velocity_from_x",
    "velocity_target",
]

TIMESTEP_SCALE = 1000.0
SMALLEST_SIGMA = 1e-4  # x-prediction divides by sigma; schedules never evaluate the network below this


def add_noise(
    x: Float[Tensor, "B ..."], noise: Float[Tensor, "B ..."], sigma: Float[Tensor, "B ..."]
) -> Float[Tensor, "B ..."]:
    """Returns x_sigma = (1 − sigma)·x + sigma·noise, sigma per sample or per token."""
    level = _expand(sigma, x)
    return (1.0 - level) * x + level * noise


def velocity_target(x: Float[Tensor, "B ..."], noise: Float[Tensor, "B ..."]) -> Float[Tensor, "B ..."]:
    """Returns velocity = noise − x, the derivative of x_sigma with respect to sigma."""
    return noise - x


def velocity_from_x(
    x_sigma: Float[Tensor, "B ..."], x_clean: Float[Tensor, "B ..."], sigma: Float[Tensor, "B ..."]
) -> Float[Tensor, "B ..."]:
    """Velocity implied by a prediction of the clean x: from x_sigma = x + sigma·velocity."""
    return (x_sigma - x_clean) / _expand(sigma, x_sigma).clamp_min(SMALLEST_SIGMA)


def euler_step(
    x_sigma: Float[Tensor, "B ..."],
    velocity: Float[Tensor, "B ..."],
    sigma: Float[Tensor, "B ..."],
    sigma_next: Float[Tensor, "B ..."],
) -> Float[Tensor, "B ..."]:
    """Returns x at sigma_next: exact for a constant velocity field."""
    return x_sigma + velocity * _expand(sigma_next - sigma, x_sigma)


def step_gain(
    sigma: Float[Tensor, "B ..."], sigma_next: Float[Tensor, "B ..."], prediction: str
) -> Float[Tensor, "B ..."]:
    """Returns g such that an Euler step is x + g·(x − x_clean) ("x") or x + g·velocity ("velocity").

    ``euler_step`` after ``velocity_from_x`` with all that depends on noise levels alone in one number. Where both
    levels are equal it is 0 and the token stays as it is; a last step to 0 has g = −1 and returns x_clean.
    """
    return (sigma_next - sigma) / (sigma.clamp_min(SMALLEST_SIGMA) if prediction == "x" else 1.0)


def bell_weight(sigma: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """Loss weight ∝ exp(−2((T − 500)/1000)²) minus its minimum, mean 1 over a uniform schedule; T = 1000·sigma.

    It vanishes at sigma 0 and 1. A one-step sampler evaluates at sigma 1, so few-step training needs another weight.
    """
    # Mean of exp(−2(s − 1/2)²) over [0, 1] is sqrt(pi/2)·erf(1/sqrt(2)); its minimum, at both ends, is exp(−1/2).
    lowest = math.exp(-0.5)
    mean = math.sqrt(math.pi / 2.0) * math.erf(1.0 / math.sqrt(2.0))
    return (torch.exp(-2.0 * (sigma - 0.5) ** 2) - lowest) / (mean - lowest)


def _expand(sigma: Tensor, like: Tensor) -> Tensor:
    return sigma.reshape(*sigma.shape, *([1] * (like.ndim - sigma.ndim)))  # (B, 1, ..., 1) or (B, S, 1, ..., 1)
