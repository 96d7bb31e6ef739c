"""Observations of several instants: their attention, without a mask, and their places in time.

Keys and values of the instants stand one after the other, oldest first, as many tokens for each. Who sees whom comes
from ``wam.visibility.Band``; a causal observation is one attention call per instant over the keys it may see. Numbers
of instants and tokens are passed in, never read from shapes: those are no numbers while a graph is traced.

Shape legend: B batch (absent in exported graphs), T instants, h heads, N tokens of all instants, d head size.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from wam import rope
from wam.blocks import KeysValues, attend
from wam.model_config import ModelConfig
from wam.visibility import Band

__all__ = ["attend_band", "frame_tables", "instant_times", "observation_band", "present", "used_keys"]


def observation_band(config: ModelConfig, instants: int) -> Band | None:
    """Returns who sees whom in an observation of so many instants; None where it is one."""
    return None if instants == 1 else Band(instants, config.n_obs_steps, config.obs_attention == "causal")


def attend_band(
    q: Float[Tensor, "*B h N d"], kv: KeysValues, band: Band | None, size: int
) -> Float[Tensor, "*B h N d"]:
    """Attention among the instants of an observation, of ``size`` tokens each."""
    if band is None or not band.causal:
        return attend(q, *kv)
    parts = []
    for instant in range(band.instants):
        seen = band.visible(instant)
        keys, values = (part[..., seen.start * size : seen.stop * size, :] for part in kv)
        parts.append(attend(q[..., instant * size : (instant + 1) * size, :], keys, values))
    return torch.cat(parts, dim=-2)


def used_keys(kv: KeysValues, band: Band | None, size: int) -> KeysValues:
    """Leaves out the keys of the instants that nothing is predicted from: those that only lead up to the others."""
    if band is None or len(band.used) == band.instants:
        return kv
    return KeysValues(*(part[..., band.used.start * size :, :] for part in kv))


def instant_times(config: ModelConfig, instants: int) -> Float[Tensor, " T"]:
    """Rotary positions in time of the instants of an observation, the present at 0."""
    return config.instant_spacing * torch.arange(1 - instants, 1).float()


def frame_tables(config: ModelConfig, instants: int) -> rope.Rope:
    """Rotary tables of the tokens of so many instants."""
    rows, columns = config.grid
    return rope.video_tables(instant_times(config, instants), rows, columns * config.n_cameras, config.head_dim)


def present(images: Tensor, config: ModelConfig) -> Tensor:
    """Images (or proprio) of the present: (B, T, ...) → (B, ...); one instant has no axis of its own."""
    return images[:, -1] if config.n_instants > 1 else images
