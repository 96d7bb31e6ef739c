"""Invertible per-dimension normalisation, fitted once and carried inside checkpoints and bundles.

``z = clip((x − offset) / scale, ±bound)``. Two fits: ``mean_std`` (offset mean, scale standard deviation) and
``quantile`` (the 1st and 99th percentile land on −1 and 1). A dimension without range keeps scale 1, so a joint that
never moved in the demonstrations passes through instead of dividing by zero.

Shape legend: D dimensions.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from wam.errors import ConfigError, unknown_name

__all__ = ["MODES", "Normaliser"]

MODES = ("mean_std", "quantile")
SMALLEST_SCALE = 1e-4  # below this a dimension counts as constant: 0.1 mrad is under any encoder's noise
DEFAULT_BOUND = 5.0  # five standard deviations: keeps a broken sensor from driving the network far out of range


@dataclass(frozen=True, kw_only=True)
class Normaliser:
    """Per-dimension affine map with a bound; ``invert`` undoes ``apply`` inside the bound."""

    offset: tuple[float, ...]  # (D,) in the unit of the data
    scale: tuple[float, ...]  # (D,) in the unit of the data, positive
    bound: float = DEFAULT_BOUND  # normalised values are clipped to ±bound

    def __post_init__(self) -> None:
        if len(self.offset) != len(self.scale) or not self.offset:
            raise ConfigError(f"normaliser has {len(self.offset)} offsets and {len(self.scale)} scales: give one each.")
        if not (np.isfinite(self.offset).all() and np.isfinite(self.scale).all() and min(self.scale) > 0):
            raise ConfigError("normaliser offsets must be finite and scales finite and positive: refit it on the data.")
        if not self.bound > 0:
            raise ConfigError(f"normaliser bound is {self.bound} but must be positive.")

    @classmethod
    def fit(cls, values: np.ndarray, mode: str = "mean_std", *, bound: float = DEFAULT_BOUND) -> "Normaliser":
        """Fits offset and scale.

        Args:
            values: (..., D) finite numbers.
            mode: "mean_std" or "quantile".
            bound: Clip of normalised values.

        Raises:
            ConfigError: Unknown mode, no values, or values that are not finite.
        """
        if mode not in MODES:
            raise ConfigError(unknown_name("normalisation", mode, MODES))
        flat = np.asarray(values, dtype=np.float64).reshape(-1, np.shape(values)[-1])  # (M, D)
        if len(flat) == 0 or not np.isfinite(flat).all():
            raise ConfigError("normaliser needs at least one value and only finite ones: check the dataset.")
        if mode == "mean_std":
            offset, scale = flat.mean(axis=0), flat.std(axis=0)
        else:
            low, high = np.quantile(flat, [0.01, 0.99], axis=0)
            offset, scale = (low + high) / 2, (high - low) / 2
        scale = np.where(scale < SMALLEST_SCALE, 1.0, scale)
        return cls(offset=tuple(offset.tolist()), scale=tuple(scale.tolist()), bound=bound)

    def apply(self, x: np.ndarray) -> np.ndarray:
        """Maps (..., D) data to (..., D) float32 normalised values within ±bound."""
        z = (np.asarray(x, dtype=np.float64) - self.offset) / self.scale
        return np.clip(z, -self.bound, self.bound).astype(np.float32)

    def invert(self, z: np.ndarray) -> np.ndarray:
        """Maps (..., D) normalised values back to (..., D) float32 data, clipping to ±bound first."""
        clipped = np.clip(np.asarray(z, dtype=np.float64), -self.bound, self.bound)
        return (clipped * self.scale + self.offset).astype(np.float32)

    def to_dict(self) -> dict[str, Any]:
        """Returns JSON data, the inverse of ``from_dict``."""
        return {"offset": list(self.offset), "scale": list(self.scale), "bound": self.bound}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Normaliser":
        """Builds a normaliser from JSON data.

        Raises:
            ConfigError: A field is missing, unknown or not a number.
        """
        if set(data) != {"offset", "scale", "bound"}:
            raise ConfigError(f"normaliser has fields {sorted(data)} but needs exactly bound, offset, scale.")
        try:
            offset, scale = (tuple(float(v) for v in data[name]) for name in ("offset", "scale"))
            return cls(offset=offset, scale=scale, bound=float(data["bound"]))
        except (TypeError, ValueError) as error:
            raise ConfigError(f"normaliser holds something that is not a number: {error}") from error
