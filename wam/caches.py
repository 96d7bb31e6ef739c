"""What the network's stages hand to each other: keys and values of an instruction and of an observation, step tables.

Shape legend: B batch (absent in exported graphs), H chunk, A action width, L layers, h heads, d head size, N tokens,
T prompt words, I image tokens, Z values of a video token, S noise levels of a sample.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from wam.blocks import HeadModulation, KeysValues, Modulation
from wam.expert import ExpertModulation, LayersKV

__all__ = [
    "ContextCache",
    "NoisyVideo",
    "Predictions",
    "PromptCache",
    "StepTables",
    "append_layers",
    "map_layers",
    "split_steps",
]


# Future video tokens at their noise level (B, M, Z), sigma (B,) or (B, S), and condition values (B, M, C) where the
# model has condition channels.
NoisyVideo = tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor | None]


def map_layers(function: Callable[[Tensor], Tensor], layers: LayersKV) -> LayersKV:
    """Applies a function to every tensor of keys and values."""
    return tuple(KeysValues(*map(function, kv)) for kv in layers)


def append_layers(layers: LayersKV, more: LayersKV) -> LayersKV:
    """Puts more tokens behind those of every layer."""
    return tuple(
        KeysValues(*(torch.cat(parts, dim=-2) for parts in zip(first, second, strict=True)))
        for first, second in zip(layers, more, strict=True)
    )


class PromptCache(NamedTuple):
    """Keys and values of the instruction; computed once per task."""

    video: LayersKV
    action: LayersKV


class ContextCache(NamedTuple):
    """All that denoising reads of one observation; computed once per observation."""

    frame: LayersKV  # clean video tokens, for self-attention: the observation, and in the inverse question the future
    cross: LayersKV  # instruction and proprio, for the action expert's cross-attention
    image: LayersKV = ()  # an image encoder's tokens, where actions run through the video expert's blocks

    def map(self, function: Callable[[Tensor], Tensor]) -> "ContextCache":
        """Applies a function to every tensor."""
        return ContextCache(*(map_layers(function, layers) for layers in self))


class StepTables(NamedTuple):
    """All that one Euler step of the action chunk takes from its noise levels."""

    modulation: ExpertModulation
    gain: Float[Tensor, "*B S 1"]  # factor of the network's output, see ``wam.flow.step_gain``


def split_steps(tables: StepTables) -> list[StepTables]:
    """Tables of a whole schedule, its steps standing where tokens would, → one per step.

    What noise levels do is the same for all samples of a batch, so a schedule costs one small product instead of one
    per step and sample.
    """
    steps = tables.gain.shape[-2]
    blocks = [[part.unbind(-2) for part in block] for block in tables.modulation.blocks]
    head = None if tables.modulation.head is None else [part.unbind(-2) for part in tables.modulation.head]
    gain = tables.gain.unbind(-2)
    return [
        StepTables(
            ExpertModulation(
                tuple(Modulation(*(part[i].unsqueeze(-2) for part in block)) for block in blocks),
                None if head is None else HeadModulation(*(part[i].unsqueeze(-2) for part in head)),
            ),
            gain[i].unsqueeze(-2),
        )
        for i in range(steps)
    ]


class Predictions(NamedTuple):
    """What was predicted of the groups that were given."""

    video: Float[Tensor, "B N Z"] | None  # velocity
    actions: Float[Tensor, "B H A"] | None  # velocity
    raw_actions: Float[Tensor, "B H A"] | None  # output of the action expert: clean chunk or velocity, as configured
