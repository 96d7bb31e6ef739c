"""Groups of tokens on their way through the layers of both experts, attending to each other as their question allows.

The network is only ever called on groups (``wam.visibility``): no attention mask exists here, only the choice of whose
keys and values a group is given.

Shape legend: B batch, N tokens, D residual width, h heads, d head size.
"""

from collections.abc import Collection, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from wam import rope
from wam.blocks import KeysValues, attend
from wam.caches import append_layers
from wam.expert import ExpertModulation, LayersKV
from wam.instants import attend_band, observation_band, used_keys
from wam.model_config import ModelConfig
from wam.visibility import Band, Group, Question, visible

__all__ = ["Run", "Stream", "run_layers"]

_EXPERT = {Group.FRAME: "video", Group.VIDEO: "video", Group.ACTION: "action"}


class Stream(NamedTuple):
    """One group before its first layer."""

    x: Tensor  # (B, N, D)
    modulation: ExpertModulation
    rope: rope.Rope
    instants: int = 1  # whose tokens these are: several only in an observation that looks back


class Run(NamedTuple):
    """What came out."""

    out: dict[Group, Tensor]  # predictions of the groups that somebody reads
    kv: dict[Group, LayersKV]  # keys and values of every live group, (B, h, N, d) per layer


def run_layers(
    config: ModelConfig,
    experts: nn.ModuleDict,
    groups: Mapping[Group, Stream],
    cached: Mapping[Group, LayersKV],
    cross: Mapping[str, LayersKV],
    question: Question | str,
    silent: Collection[Group] = (),
    past: LayersKV = (),
) -> Run:
    """Runs live groups through all layers; groups in ``cached`` only lend their keys and values.

    Args:
        config: Geometry.
        experts: "video" and "action".
        groups: What is live.
        cached: Keys and values of groups that ran before.
        cross: What each group cross-attends to (``wam.model.WorldActionModel.observation_kv``).
        question: Who may see whom.
        silent: Groups whose output nobody reads: their last layer only makes keys and values.
        past: Keys and values of instants before the observation, which its tokens see.
    """
    live = groups.get(Group.FRAME)
    band = None if live is None else observation_band(config, live.instants)
    hidden = {group: stream.x for group, stream in groups.items()}
    kept: dict[Group, list[KeysValues]] = {group: [] for group in groups}
    last = config.num_layers - 1
    for layer in range(config.num_layers):
        blocks = {group: experts[_EXPERT[group]].blocks[layer] for group in groups}
        kv = {group: stored[layer] for group, stored in cached.items()}
        queries = {}
        for group, stream in groups.items():
            arguments = hidden[group], stream.modulation.blocks[layer], stream.rope
            if group in silent and layer == last:
                kv[group] = blocks[group].project_kv(*arguments)
            else:
                queries[group], kv[group] = blocks[group].project(*arguments)
            kept[group].append(kv[group])
        if past:
            (kv[Group.FRAME],) = append_layers((past[layer],), (kv[Group.FRAME],))
        for group in queries:
            attended = _attend(question, group, queries[group], kv, band, config.tokens_per_frame)
            text, image = _text(group, cross)[layer], _image(config, group, layer, cross)
            modulation = groups[group].modulation.blocks[layer]
            instants = groups[group].instants
            hidden[group] = blocks[group].merge(hidden[group], attended, modulation, text, image, instants)
    out = {
        group: experts[_EXPERT[group]].head(hidden[group], stream.modulation.head)
        for group, stream in groups.items()
        if group not in silent
    }
    return Run(out, {group: tuple(layers) for group, layers in kept.items()})


def _attend(
    question: Question | str, group: Group, q: Tensor, kv: Mapping[Group, KeysValues], band: Band | None, size: int
) -> Tensor:
    """Self-attention of one group; ``band`` says which instants see which, where a live observation has several."""
    if group is Group.FRAME:
        return attend_band(q, kv[group], band, size)
    if band is not None:
        kv = {**kv, Group.FRAME: used_keys(kv[Group.FRAME], band, size)}
    return attend(q, *_gather(kv, visible(question, group)))


def _gather(kv: Mapping[Group, KeysValues], groups: tuple[Group, ...]) -> KeysValues:
    present = [kv[group] for group in groups if group in kv]
    return (
        present[0]
        if len(present) == 1
        else KeysValues(*(torch.cat(parts, dim=-2) for parts in zip(*present, strict=True)))
    )


def _text(group: Group, cross: Mapping[str, LayersKV]) -> LayersKV:
    """What a group cross-attends to; several instants each have their own (``frame``)."""
    return cross["frame"] if group is Group.FRAME and "frame" in cross else cross[_EXPERT[group]]


def _image(config: ModelConfig, group: Group, layer: int, cross: Mapping[str, LayersKV]) -> KeysValues | None:
    looks = config.image_width > 0 and (group is not Group.ACTION or config.action_register)
    return cross["image"][layer] if looks else None
