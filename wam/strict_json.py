"""Strict reading of JSON into frozen dataclasses: every field present, known and of its type, every number finite.

A reader that skips what it does not know hides typing errors and newer formats; on a robot that is a wrong number. All
refusals are ``BundleError`` and name the field, its value and what would be right.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from wam.errors import BundleError, unknown_name
from wam.plain_data import finite_float, is_finite, unique, whole_number

__all__ = ["checked_fields", "checked_list", "checked_mapping", "checked_scalar", "checked_texts", "parse_json"]


def parse_json(text: str) -> Any:
    """Parses JSON, refusing what Python would accept: NaN, Infinity, 1e999, and keys that stand twice.

    Raises:
        ValueError: The text is not JSON, or nested too deeply.
    """
    try:
        return json.loads(
            text,
            parse_constant=finite_float,
            parse_float=finite_float,
            parse_int=whole_number,
            object_pairs_hook=unique,
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def checked_fields(cls: type, data: Any, where: str) -> dict[str, Any]:
    """Checks an object's keys against a dataclass, and its scalars against the field types.

    Args:
        cls: The dataclass it is to become; defaults do not make a field optional.
        data: Parsed JSON.
        where: Place in the file, for messages.

    Returns:
        The same keys and values; a whole number where the field is a float becomes one.

    Raises:
        BundleError: Not an object, a field is unknown or missing, or a scalar is of the wrong type.
    """
    if not isinstance(data, Mapping):
        raise BundleError(f"{where} is {data!r} but must be an object of fields.")
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for key in data:
        if key not in fields:
            raise BundleError(f"{where}: " + unknown_name("field", key, fields))
    for name, field in fields.items():
        if name not in data:
            raise BundleError(f"{where}: field '{name}' is missing; fields: {', '.join(fields)}.")
        checked_scalar(field.type, data[name], f"{where}: {name}")
    return {name: float(data[name]) if field.type is float else data[name] for name, field in fields.items()}


def checked_scalar(kind: Any, value: Any, where: str) -> None:
    """Checks a non-empty str, a positive int or float, or a tuple of str; other kinds pass.

    Raises:
        BundleError: The value is not of that kind.
    """
    whole = isinstance(value, int) and not isinstance(value, bool)
    if kind is str and not (isinstance(value, str) and value):
        raise BundleError(f"{where} is {value!r} but must be a non-empty string.")
    if kind is int and not (whole and value > 0):
        raise BundleError(f"{where} is {value!r} but must be a positive whole number.")
    if kind is float and not (is_finite(value) and value > 0):
        raise BundleError(f"{where} is {value!r} but must be a positive finite number.")
    if kind == tuple[str, ...] and not (isinstance(value, list | tuple) and all(isinstance(v, str) for v in value)):
        raise BundleError(f"{where} is {value!r} but must be a list of names.")


def checked_mapping(fields: Mapping[str, Any], name: str, where: str) -> dict[str, Any]:
    """Returns a field that must itself be an object.

    Raises:
        BundleError: It is something else.
    """
    if not isinstance(fields[name], Mapping):
        raise BundleError(f"{where}: {name} is {fields[name]!r} but must be an object of fields.")
    return dict(fields[name])


def checked_list(fields: Mapping[str, Any], name: str, where: str) -> list[Any]:
    """Returns a field that must be a list.

    Raises:
        BundleError: It is something else.
    """
    if not isinstance(fields[name], list | tuple):
        raise BundleError(f"{where}: {name} is {fields[name]!r} but must be a list.")
    return list(fields[name])


def checked_texts(data: Mapping[str, Any], where: str) -> dict[str, str]:
    """Returns an object all of whose values must be non-empty strings.

    Raises:
        BundleError: One of them is not.
    """
    for name, value in data.items():
        checked_scalar(str, value, f"{where}.{name}")
    return dict(data)
