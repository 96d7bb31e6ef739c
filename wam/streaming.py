"""A stream of observations with a rolling cache: each new one costs the computation of one instant.

In a causal model (``obs_attention``) an instant never changes when later ones come, so its keys and values are computed
once, at noise level 0, and kept while it is among the last k; then it slides out. Only real observations enter: what a
model imagines is predicted from a cache and never written to one, because a cache is a value that nothing changes.

Keys are kept as if their instant were the present. When they are read they are turned to where they lie before it: a
rotary turn by a difference of times, so positions stay right however long the stream runs, and rounding does not add
up.

Source: the key-value cache of DreamZero (arXiv 2602.15922). Deviations: context slides where its release drops all of
it every four blocks, and one rule (``wam.visibility.Band``) decides who sees whom in training and here.

Shape legend: B batch, I instants, h heads, N tokens of one instant, d head size, Z values of a video token.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from wam import rope
from wam.blocks import KeysValues
from wam.caches import ContextCache, append_layers
from wam.errors import ConfigError
from wam.expert import ExpertModulation, LayersKV
from wam.instants import instant_times
from wam.model import WorldActionModel

__all__ = ["RollingCache", "Seen", "see_instant", "start_stream"]


class RollingCache(NamedTuple):
    """Keys and values of the last instants; never changed, only replaced by a newer one."""

    instants: tuple[LayersKV, ...] = ()  # oldest first, at most k; each as if it were the present


class Seen(NamedTuple):
    """What one more observation gave."""

    cache: RollingCache
    context: ContextCache  # as ``encode_context`` returns it: what actions and imagined video read


def start_stream(model: WorldActionModel) -> RollingCache:
    """Returns the cache of a stream that has seen nothing.

    Raises:
        ConfigError: The model's instants see later ones, so they cannot be kept.
    """
    if model.config.obs_attention != "causal":
        raise ConfigError(
            "only a model with causal observations can stream, because in others an instant changes when later ones "
            "come: train with --n-obs-steps 2 or more and --obs-attention causal."
        )
    return RollingCache()


def see_instant(
    model: WorldActionModel,
    cache: RollingCache,
    tokens: Float[Tensor, "B N Z"],
    cross: Mapping[str, LayersKV],
    modulation: ExpertModulation | None = None,
) -> Seen:
    """Computes one real observation on top of a cache.

    Args:
        model: A causal model.
        cache: Of the observations before.
        tokens: Clean video tokens of this one.
        cross: What ``cross_kv`` returned for it.
        modulation: What ``clean_modulation`` returned; None computes it.
    """
    window = model.config.n_obs_steps
    before = cache.instants[max(0, len(cache.instants) + 1 - window) :]
    past = _turned_back(model, before)
    own = model.frame_kv(tokens, cross, modulation, past, instants=1)
    frame = append_layers(past, own) if past else own
    image = cross.get("image", ()) if model.config.action_register else ()
    return Seen(RollingCache((*before, own)), ContextCache(frame, cross["action"], image))


def _turned_back(model: WorldActionModel, instants: tuple[LayersKV, ...]) -> LayersKV:
    """Keys and values of past instants, one after the other, at their places before the present."""
    if not instants:
        return ()
    config = model.config
    like = instants[0][0].keys
    times = instant_times(config, len(instants) + 1)[:-1]
    turns = rope.video_tables(times, 1, 1, config.head_dim)  # of (I,) tokens at row and column 0: by time alone
    cos, sin, turn = (part.to(like.device) for part in turns)
    layers = []
    for layer in range(config.num_layers):
        keys = [
            rope.apply_rope(kept[layer].keys, rope.Rope(cos[i : i + 1], sin[i : i + 1], turn)).to(like.dtype)
            for i, kept in enumerate(instants)
        ]
        layers.append(KeysValues(torch.cat(keys, dim=-2), torch.cat([kept[layer].values for kept in instants], dim=-2)))
    return tuple(layers)
