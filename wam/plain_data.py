"""What strict readers of YAML and JSON share: numbers that are taken as they stand in the file, or not at all.

A reader that rounds, wraps or passes over what it does not expect puts a wrong number on a robot, silently.
"""

import math
import reprlib
from typing import Any

__all__ = ["finite_float", "is_finite", "shortened", "shown", "unique", "whole_number"]

_MAX_DIGITS = 30  # of a whole number; the largest there is, a time in nanoseconds, has 20
_SHOWN_LENGTH = 200  # characters of a value that a message quotes


def finite_float(text: str) -> float:
    """Turns the text of a number into a float.

    Raises:
        ValueError: It is not finite, too large for a float, or so small that it would become zero.
    """
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"it holds {shortened(text)}, which is not a finite number")
    if value == 0 and any(digit in text.lower().split("e")[0] for digit in "123456789"):
        raise ValueError(f"it holds {shortened(text)}, which is too small for a number and would become 0")
    return value


def whole_number(text: str) -> int:
    """Turns the text of a whole number into an int.

    Raises:
        ValueError: It has more digits than any number here can need.
    """
    if len(text) > _MAX_DIGITS:
        raise ValueError(f"it holds the number {shortened(text)} of {len(text)} digits")
    return int(text)


def is_finite(value: Any) -> bool:
    """Whether a value is a finite number that a float can hold; a bool is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond 1e308
        return False


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Builds an object from its pairs, none of which may be overwritten by a later one.

    Raises:
        ValueError: A key stands twice.
    """
    data: dict[str, Any] = {}
    for key, value in pairs:
        if key in data:
            raise ValueError(
                f"the key '{shortened(key)}' stands twice in one object, so one of its values would be lost"
            )
        data[key] = value
    return data


def shown(value: Any) -> str:
    """A value as a message quotes it, its repr, in full when it is short."""
    return shortened(_REPR.repr(value))


def shortened(text: str) -> str:
    """A text, cut where it is too long for a message."""
    return text if len(text) <= _SHOWN_LENGTH else f"{text[:_SHOWN_LENGTH]}..."


_REPR = reprlib.Repr(maxlevel=3, maxlist=12, maxdict=12, maxtuple=12, maxstring=_SHOWN_LENGTH, maxlong=_SHOWN_LENGTH)
