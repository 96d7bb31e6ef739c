"""Published Wan and Fast-WAM weights → our model, tensor by tensor.

Files are mapped, not read: beside the model itself, memory holds one tensor at a time. Everything is checked before the
first value is copied, and what does not fit is one error that lists all of it, in groups.
"""

import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from wam.config import ModelConfig
from wam.errors import CheckpointError
from wam.key_report import describe_misfit
from wam.model import WorldActionModel
from wam.tensor_files import TensorSource, open_weights, types_of
from wam.torch_archive import type_name
from wam.wan_keys import Layout, Placement, action_names, find_layout, placements, wanted
from wam.weight_kinds import belongs_to_scales, check_types, find_scales, refuse_adapters
from wam.weight_types import PLAIN_TYPES

__all__ = ["ROBOT_PARTS", "LoadReport", "fill_weights", "initialise_action_expert", "load_weights"]

logger = logging.getLogger(__name__)

Shape = tuple[int, ...]
# What depends on the robot in a Fast-WAM checkpoint: kept at initial values when it is taken up for another one.
ROBOT_PARTS = ("action.action_encoder.", "action.head.", "proprio_encoder.")


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """What a loading did."""

    layout: str  # of the file
    stripped: tuple[str, ...] = ()  # what was taken off its names: the prefix, and wrappers inside of names
    aside: tuple[str, ...] = ()  # names in the file of parts that are not wanted here
    scaled: int = 0  # float8 matrices that were multiplied by their scale
    loaded: int  # tensors copied
    kept: tuple[str, ...]  # canonical names that the file lacks or has in another shape; allowed by ``reinitialise``


def load_weights(model: WorldActionModel, path: Path, *, reinitialise: Sequence[str] = ()) -> LoadReport:
    """Fills a model from the file or folder of published weights; see ``fill_weights``."""
    return fill_weights(model, open_weights(path), origin=str(path), reinitialise=reinitialise)


@torch.no_grad()
def fill_weights(
    model: WorldActionModel, source: TensorSource, *, origin: str, reinitialise: Sequence[str] = ()
) -> LoadReport:
    """Fills a model from named tensors.

    Weights of Wan fill the video expert; those of Fast-WAM or LeRobot both experts and the proprio encoder.

    Args:
        model: Ours, of the same geometry, already on its device and in its dtype.
        source: The tensors.
        origin: Where they come from, for the error.
        reinitialise: Beginnings of canonical names whose tensors may be missing or of another shape and then keep
            their initial values, for example ``ROBOT_PARTS``.

    Raises:
        CheckpointError: Names every tensor that is missing, unexpected or of the wrong shape; or the file holds
            quantised weights, an adapter or another network.
    """
    shapes, types = source.shapes(), types_of(source)
    network = {name: shape for name, shape in shapes.items() if wanted(name)}
    scales = find_scales(network, types, origin)
    refuse_adapters([*network], origin)
    layout = find_layout({name: shape for name, shape in shapes.items() if not belongs_to_scales(name)}, origin)
    names = layout.names
    check_types([*names.values()], types, scales, origin)
    given = {canonical: shapes[name] for canonical, name in names.items()}
    places = placements(model.config, ("video",) if layout.name in {"diffusers", "wan"} else ("video", "action"))
    own = dict(model.named_parameters())
    expected = {name: _source_shape(place, own, model.config) for name, place in places.items()}
    kept = {
        name
        for name, shape in expected.items()
        if any(name.startswith(part) for part in reinitialise) and given.get(name) != shape
    }
    misfit = describe_misfit(
        {name: shape for name, shape in expected.items() if name not in kept},
        {name: shape for name, shape in given.items() if name not in kept},
    )
    if misfit:
        raise CheckpointError(
            f"weights {origin} (layout {layout.name}{_behind(layout)}, {len(shapes)} tensors) do not fit a model of "
            f"preset '{model.config.preset}':\n{misfit}\n{_cure(given, expected, kept, model.config)}"
        )
    for name, place in places.items():
        if name not in kept:
            _copy(_read(source, names[name], scales, origin), place, own[place.target])
    report = LoadReport(
        layout=layout.name,
        stripped=layout.stripped,
        aside=layout.aside,
        scaled=len(scales),
        loaded=len(places) - len(kept),
        kept=tuple(sorted(kept)),
    )
    _say(report, origin)
    return report


def _read(source: TensorSource, name: str, scales: Mapping[str, str], origin: str) -> Tensor:
    value = source.read(name)
    if name in scales:
        scale = float(source.read(scales[name]))
        if not (math.isfinite(scale) and scale > 0):
            raise CheckpointError(f"weights {origin}: {scales[name]} is {scale}, which is no scale: copy them again.")
        return value.float() * scale
    if type_name(value.dtype) not in PLAIN_TYPES:  # of a source that knows its types only now
        check_types([name], {name: type_name(value.dtype)}, {}, origin)
    return value


def _say(report: LoadReport, origin: str) -> None:
    if report.stripped:
        shown = ", ".join(f"'{prefix}'" for prefix in report.stripped)
        logger.info("weights %s: %s taken off their names; what is left is layout %s.", origin, shown, report.layout)
    if report.aside:
        logger.info("weights %s: %d tensors are not used (%s).", origin, len(report.aside), _parts(report.aside))
    if report.scaled:
        logger.warning(
            "weights %s: %d matrices are float8 with one scale each and were multiplied by it; they have 8 bits of "
            "precision, the unquantised weights have more.",
            origin,
            report.scaled,
        )


def _parts(names: Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(".".join(name.split(".")[:2]) for name in names))


def _behind(layout: Layout) -> str:
    return f" behind {', '.join(repr(prefix) for prefix in layout.stripped)}" if layout.stripped else ""


def _cure(given: Mapping[str, Shape], expected: Mapping[str, Shape], kept: set[str], config: ModelConfig) -> str:
    wrong = [name for name in (*given, *expected) if given.get(name) != expected.get(name) and name not in kept]
    if all(name.startswith(ROBOT_PARTS) for name in wrong):
        return (
            "These parts depend on the robot: the weights are of another one, or came without. wam train starts from "
            "them all the same, with these parts at their initial values."
        )
    layers = {int(found[1]) for name in given if (found := re.match(r"video\.blocks\.(\d+)\.", name))}
    query = given.get("video.blocks.0.self_attn.q.weight", (0,))
    if len(layers) == config.num_layers and query[-1] == config.video_width:
        return "The geometry is that of the preset, so they are of another variant of the network: give those of it."
    return (
        f"They have {len(layers)} layers of width {query[-1]}, preset '{config.preset}' has {config.num_layers} of "
        f"{config.video_width}. Use the preset of their geometry: --preset wan5b for Wan2.2-TI2V-5B and Fast-WAM, "
        "--preset wan14b for Wan2.1-I2V-14B."
    )


@torch.no_grad()
def initialise_action_expert(model: WorldActionModel) -> int:
    """Starts the action expert from the video expert: every tensor of the same kind, interpolated to its size.

    Linear interpolation along each dimension in turn, ends on ends; where the last dimension shrank the values are
    multiplied by sqrt(source/target), which keeps the spread of a product with as many fewer inputs. Embedding and head
    keep their initial values. Source: Fast-WAM (arXiv 2603.16666).

    Returns:
        Number of tensors that were set.
    """
    wanted = placements(model.config)
    own = dict(model.named_parameters())
    names = action_names(model.config)
    for name in names:
        source, target = wanted[f"video.{name}"], wanted[f"action.{name}"]
        value = _interpolate(_view(own[source.target], source), _view(own[target.target], target).shape)
        _view(own[target.target], target).copy_(value)
    return len(names)


def _view(parameter: Tensor, place: Placement) -> Tensor:
    rows = parameter.shape[0] // place.parts
    return parameter[place.part * rows : (place.part + 1) * rows] if place.parts > 1 else parameter


def _source_shape(place: Placement, own: Mapping[str, Tensor], config: ModelConfig) -> tuple[int, ...]:
    shape = tuple(_view(own[place.target], place).shape)
    side = config.token_patch
    return (shape[0], shape[1] // side**2, 1, side, side) if place.patches else shape


def _copy(value: Tensor, place: Placement, parameter: Tensor) -> None:
    if place.patches:
        value = value.permute(0, 2, 3, 4, 1).flatten(1)  # (D, C, 1, p, p) -> (D, p·p·C), the order of a token's values
    _view(parameter, place).copy_(value)


def _interpolate(value: Tensor, shape: Sequence[int]) -> Tensor:
    out = value.float()
    for dim, size in enumerate(shape):
        if out.shape[dim] != size:
            last = out.movedim(dim, -1)  # (..., source)
            flat = last.reshape(-1, 1, last.shape[-1])
            flat = torch.nn.functional.interpolate(flat, size=size, mode="linear", align_corners=True)
            out = flat.reshape(*last.shape[:-1], size).movedim(-1, dim)
    if value.ndim >= 2 and shape[-1] < value.shape[-1]:
        out = out * (value.shape[-1] / shape[-1]) ** 0.5
    return out
