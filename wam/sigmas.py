"""Noise levels of the samplers; torch-free, because the robot steps through them without torch.

Convention as in ``wam.flow``: sigma 1 is noise, 0 is data. Source of the shift: Esser et al. (arXiv 2403.03206),
equation 23.
"""

__all__ = ["shift_sigma", "sigma_schedule"]


def shift_sigma[T](u: T, shift: float) -> T:
    """Maps uniform u in [0, 1] to sigma = S·u / (1 + (S − 1)·u); S > 1 spends more time near noise.

    Args:
        u: A number, or an array or tensor of any shape.
        shift: S, positive.
    """
    return shift * u / (1.0 + (shift - 1.0) * u)  # type: ignore[operator,return-value]


def sigma_schedule(n_steps: int, shift: float) -> list[float]:
    """Returns n_steps + 1 sigmas from 1 down to 0, shifted.

    Raises:
        ValueError: n_steps is below 1 or shift is not positive.
    """
    if n_steps < 1 or shift <= 0:
        raise ValueError(f"sigma schedule needs n_steps >= 1 and shift > 0, but got {n_steps} and {shift}.")
    return [shift_sigma(1.0 - i / n_steps, shift) for i in range(n_steps + 1)]
