"""Which column of a feature is which axis: every form of ``names`` that LeRobot and its users write.

A flat list, a list in a mapping (``{"motors": [...]}``, ``{"axes": [...]}``), several of them, a mapping of names to
places (``{"delta_x": 0}``), nested lists, or a string; absent and null are no names.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["NO_NAMES", "ReadAs", "axis_order", "column_names"]

POSITION = ".pos"  # LeRobot's robots call the position of a motor <motor>.pos
NO_NAMES = "--axes-in-robot-order"


@dataclass(frozen=True, kw_only=True)
class ReadAs:
    """What a person says about a dataset that it does not say itself."""

    robot_order: bool = False  # columns without names of the robot's are its axes, in its order
    absolute_actions: bool = False  # actions are targets, however much they look like changes of the state
    any_aspect: bool = False  # pictures of another aspect than their camera's are meant so
    keys: Mapping[str, str] = field(default_factory=dict)  # our key -> what the dataset calls it

    def key(self, ours: str) -> str:
        """What the dataset calls one of our keys."""
        return self.keys.get(ours, ours)


def column_names(names: Any, width: int) -> tuple[str, ...]:
    """Names of a feature's columns in their order; empty when it does not say them.

    Args:
        names: ``names`` of the feature in ``info.json``.
        width: Its number of columns; another number of names is no name per column.
    """
    found = _flat(names)
    if len(found) == 1 and width > 1:
        found = [word for word in found[0].replace(",", " ").split() if word]
    return tuple(found) if len(found) == width or isinstance(names, list | dict) else ()


def axis_order(names: Sequence[str], wanted: Sequence[str], *, robot_order: bool) -> tuple[list[int], str]:
    """Finds the column of each axis.

    Args:
        names: Of the columns; empty when the dataset does not say them.
        wanted: The robot's axes.
        robot_order: A person says that the columns are the robot's axes in its order.

    Returns:
        (column of each axis, what is wrong): one of them is empty.
    """
    plain = [name if name in wanted else name.removesuffix(POSITION) for name in names]
    if sorted(plain) == sorted(wanted):
        return [plain.index(name) for name in wanted], ""
    in_place = all(name not in wanted or wanted.index(name) == place for place, name in enumerate(plain))
    if robot_order and in_place and len(names) in (0, len(wanted)):
        return list(range(len(wanted))), ""
    if not names:
        return [], "has no names for its columns"
    missing = [name for name in wanted if name not in plain]
    extra = [name for name, short in zip(names, plain, strict=True) if short not in wanted]
    twice = sorted({name for name in plain if plain.count(name) > 1})
    said = [f"lacks {', '.join(missing)}"] * bool(missing) + [f"has unknown {', '.join(extra)}"] * bool(extra)
    said += [f"has {', '.join(twice)} more than once"] * bool(twice)
    return [], "; ".join(said)


def _flat(names: Any) -> list[str]:
    if isinstance(names, str):
        return [names] if names.strip() else []
    if isinstance(names, Mapping):
        places = list(names.values())
        if places and all(isinstance(place, int) and not isinstance(place, bool) for place in places):
            return [str(name) for name in sorted(names, key=lambda name: names[name])]
        return [name for part in places for name in _flat(part)]
    if isinstance(names, Sequence):
        return [name for part in names for name in (_flat(part) if not isinstance(part, int | float) else [str(part)])]
    return []
