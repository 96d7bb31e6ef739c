"""Node parameters as one frozen dataclass: declared, read and checked before anything uses them.

Every field carries ``field(default, metadata=param("what it is", unit="Hz", low=7, high=100))``; a field without a
default is required. Parameters are read-only: a node is restarted with other values, not changed under way.
"""

import dataclasses
import math
import sys
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node

from ros_nodes.errors import ParameterError
from wam.errors import unknown_name

__all__ = ["ParameterInfo", "declare", "described", "param"]

# Declared by rclpy itself, or read by it before us.
_OF_RCLPY = ("use_sim_time", "start_type_description_service")
_QOS_OVERRIDES = "qos_overrides."
_SCALARS = (bool, int, float, str)


@dataclass(frozen=True, kw_only=True)
class ParameterInfo:
    """What is known of one parameter."""

    name: str
    kind: type  # bool, int, float or str; of the elements when ``array``
    array: bool  # a list of them
    default: Any  # dataclasses.MISSING when the parameter is required
    description: str
    unit: str  # "" when it has none
    low: float | None  # lowest allowed value
    high: float | None  # highest allowed value
    choices: tuple[str, ...]  # allowed values of a string; empty when free

    @property
    def required(self) -> bool:
        """Whether it must be given."""
        return self.default is dataclasses.MISSING


def param(
    description: str,
    *,
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
    choices: Sequence[str] = (),
) -> dict[str, Any]:
    """Metadata of a parameter's dataclass field; bounds are inclusive."""
    return {"description": description, "unit": unit, "low": low, "high": high, "choices": tuple(choices)}


def described(parameters: type) -> tuple[ParameterInfo, ...]:
    """What a parameters dataclass declares, in order; for help texts and for checks of YAML files.

    Raises:
        TypeError: A field has a type ROS parameters do not know, or no description.
    """
    hints = typing.get_type_hints(parameters)
    return tuple(_info(field, hints[field.name]) for field in dataclasses.fields(parameters))


def declare[T](node: Node, parameters: type[T]) -> T:
    """Declares the fields of a dataclass as read-only parameters of a node and returns the values it was started with.

    Args:
        node: The node, just made.
        parameters: A frozen dataclass whose fields carry ``param`` metadata.

    Raises:
        ParameterError: A value is unknown, missing, of the wrong type or out of range. The message says which.
    """
    infos = described(parameters)
    # rclpy has no public way to see overrides that were never declared, and would ignore a misspelt one in silence.
    given = {name: override.value for name, override in node._parameter_overrides.items()}
    _refuse_unknown(node, given, [info.name for info in infos])
    values = {info.name: _value(node, info, given) for info in infos}
    for info in infos:
        value = values[info.name]
        node.declare_parameter(
            info.name, list(value) if info.array else value, descriptor=_descriptor(info), ignore_override=True
        )
    return parameters(**values)


def _info(field: "dataclasses.Field[Any]", hint: Any) -> ParameterInfo:
    array = typing.get_origin(hint) is tuple
    kind = typing.get_args(hint)[0] if array else hint
    if kind not in _SCALARS or not field.metadata.get("description"):
        raise TypeError(f"field '{field.name}' needs param(...) metadata and one of the types {_SCALARS} or a tuple.")
    return ParameterInfo(name=field.name, kind=kind, array=array, default=field.default, **field.metadata)


def _refuse_unknown(node: Node, given: Mapping[str, Any], known: Sequence[str]) -> None:
    for name in given:
        if name not in known and name not in _OF_RCLPY and not name.startswith(_QOS_OVERRIDES):
            raise ParameterError(unknown_name(f"parameter of node '{node.get_name()}'", name, known))


def _value(node: Node, info: ParameterInfo, given: Mapping[str, Any]) -> Any:
    where = f"parameter '{info.name}' of node '{node.get_name()}'"
    value = given.get(info.name)
    if value is None:
        if info.required:
            raise ParameterError(f"{where} is missing and has no default: {info.description}.")
        return info.default
    if info.array:
        if isinstance(value, str | bytes) or not isinstance(value, Sequence):
            raise ParameterError(f"{where} is {value!r} but must be a list: {info.description}.")
        return tuple(_checked(item, info, where) for item in value)
    return _checked(value, info, where)


def _checked(value: Any, info: ParameterInfo, where: str) -> Any:
    if info.kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)  # "-p speed:=1" is an integer to ROS, and a speed to everybody else
    if type(value) is not info.kind:
        raise ParameterError(f"{where} is {value!r} but must be of type {info.kind.__name__}: {info.description}.")
    if info.choices and value not in info.choices:
        raise ParameterError(unknown_name(where, value, info.choices, fix=f"It is: {info.description}."))
    low, high = _bounds(info)
    if isinstance(value, int | float) and not low <= value <= high:  # also refuses NaN
        unit = f" {info.unit}" if info.unit else ""
        raise ParameterError(f"{where} is {value}{unit} but must be in [{low:g}, {high:g}]{unit}: {info.description}.")
    return value


def _bounds(info: ParameterInfo) -> tuple[float, float]:
    return (-math.inf if info.low is None else info.low, math.inf if info.high is None else info.high)


def _descriptor(info: ParameterInfo) -> ParameterDescriptor:
    unit = f" [{info.unit}]" if info.unit else ""
    choices = f"one of: {', '.join(info.choices)}" if info.choices else ""
    descriptor = ParameterDescriptor(
        description=f"{info.description}{unit}", read_only=True, additional_constraints=choices
    )
    if info.array or (info.low is None and info.high is None):
        return descriptor  # a message's range must be finite; without bounds it says nothing
    low, high = _bounds(info)
    if info.kind is float:
        most = sys.float_info.max
        span = FloatingPointRange(from_value=float(max(low, -most)), to_value=float(min(high, most)))
        descriptor.floating_point_range = [span]
    elif info.kind is int:
        most = 2**63 - 1
        span = IntegerRange(
            from_value=-most if low == -math.inf else int(low), to_value=most if high == math.inf else int(high)
        )
        descriptor.integer_range = [span]
    return descriptor
