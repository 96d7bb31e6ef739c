"""Published Wan and Fast-WAM weights → our model, tensor by tensor.

Files are mapped, not read: beside the model itself, memory holds one tensor at a time. Everything is checked before the
first value is copied, and what does not fit is one error that lists all of it, in groups.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from wam.config import ModelConfig
from wam.errors import CheckpointError
from wam.key_report import describe_misfit
from wam.model import WorldActionModel
from wam.tensor_files import TensorSource, open_weights
from wam.wan_keys import Placement, action_names, canonical_names, detect_layout, placements

__all__ = ["ROBOT_PARTS", "LoadReport", "fill_weights", "initialise_action_expert", "load_weights"]

# What depends on the robot in a Fast-WAM checkpoint: kept at initial values when it is taken up for another one.
ROBOT_PARTS = ("action.action_encoder.", "action.head.", "proprio_encoder.")


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """What a loading did."""

    layout: str  # of the file
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
        CheckpointError: Names every tensor that is missing, unexpected or of the wrong shape.
    """
    shapes = source.shapes()
    layout = detect_layout(shapes)
    names = {canonical: name for name, canonical in canonical_names(shapes, layout).items()}
    given = {canonical: shapes[name] for canonical, name in names.items()}
    wanted = placements(model.config, ("video",) if layout in {"diffusers", "wan"} else ("video", "action"))
    own = dict(model.named_parameters())
    expected = {name: _source_shape(place, own, model.config) for name, place in wanted.items()}
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
            f"weights {origin} (layout {layout}, {len(shapes)} tensors) do not fit a model of preset "
            f"'{model.config.preset}':\n{misfit}\nUse the preset of their geometry; weights of another robot need the "
            "parts that depend on the robot kept at their initial values."
        )
    for name, place in wanted.items():
        if name not in kept:
            _copy(source.read(names[name]), place, own[place.target])
    return LoadReport(layout=layout, loaded=len(wanted) - len(kept), kept=tuple(sorted(kept)))


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
