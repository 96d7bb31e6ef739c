"""Strict reading of YAML into plain lists, mappings, strings, numbers and null: nothing is lost or reinterpreted.

PyYAML's safe loader keeps the last of two equal keys, reads ``1:30`` as 90, ``010`` as 8, ``on`` as true and 1e-05 as
a word, and expands nested aliases until memory is full. Here keys are unique, plain scalars mean what they do in
YAML 1.2 (as ROS's readers have it), and size, depth and expansion are bounded.
"""

import re
from collections.abc import Callable
from typing import Any

import yaml

from wam.plain_data import finite_float, shortened, whole_number

__all__ = ["parse_yaml", "read_yaml_text"]

MAX_CHARACTERS = 100_000  # a robot file with everything measured on it has 10 000
MAX_TEXT = 10_000  # characters of one key or value
MAX_DEPTH = 30
MAX_VALUES = 20_000  # after aliases are expanded
_NULL = ("null", "Null", "NULL", "~")
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_WHOLE = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_MERGE = "<<"


def read_yaml_text(data: bytes) -> str:
    """Decodes a file.

    Raises:
        ValueError: It is no UTF-8, or too large for a description.
    """
    if len(data) > 4 * MAX_CHARACTERS:
        raise ValueError(f"it has {len(data)} bytes; such a file has some thousand")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not valid YAML: {error}; save it as UTF-8 text") from error


def parse_yaml(text: str) -> Any:
    """Reads one document.

    Returns:
        Mappings with text keys, lists, texts, numbers, true, false and None.

    Raises:
        ValueError: It is not YAML, a key stands twice, a value is missing or not finite, or it is too large.
    """
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"it has {len(text)} characters, at most {MAX_CHARACTERS} are read")
    loader = _Loader(text)
    try:
        root = loader.get_single_node()
    except yaml.YAMLError as error:
        raise ValueError(f"it is not valid YAML: {shortened(str(error))}") from error
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    finally:
        loader.dispose()
    return None if root is None else _Reader().value(root, "", 0)


class _Loader(yaml.BaseLoader):
    """Composes nodes whose plain scalars are not resolved; tags, which would say how to build objects, are refused."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if getattr(event, "tag", None) is not None:
            raise yaml.composer.ComposerError(None, None, f"the tag {event.tag} is not allowed here", event.start_mark)
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise yaml.composer.ComposerError(None, None, f"more than {MAX_DEPTH} levels deep", event.start_mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


class _Reader:
    """Turns nodes into values, with the place of each for messages."""

    def __init__(self) -> None:
        self._count = 0

    def value(self, node: yaml.Node, place: str, depth: int) -> Any:
        self._count += 1
        if self._count > MAX_VALUES:
            raise ValueError(f"its aliases expand to more than {MAX_VALUES} values")
        if depth > MAX_DEPTH:
            raise ValueError(f"{_at(node, place)} is more than {MAX_DEPTH} levels deep, or an alias of itself")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, place, depth)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(entry, f"{place}[{index}]", depth + 1) for index, entry in enumerate(node.value)]
        return _scalar(node, place)

    def _mapping(self, node: yaml.MappingNode, place: str, depth: int) -> dict[str, Any]:
        data: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key_node, entry in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise ValueError(f"{_at(key_node, place)} has a key that is no text")
            key = _checked_text(key_node, place)
            inner = f"{place}.{key}" if place else key
            if key == _MERGE and key_node.style is None:
                merged = {**self._merged(entry, inner, depth + 1), **merged}
                continue
            if key in data:
                raise ValueError(f"{_at(key_node, inner)} stands twice, so one of its values would be lost")
            data[key] = self.value(entry, inner, depth + 1)
        return {**merged, **data}

    def _merged(self, node: yaml.Node, place: str, depth: int) -> dict[str, Any]:
        found = self.value(node, place, depth)
        parts = found if isinstance(found, list) else [found]
        if not all(isinstance(part, dict) for part in parts):
            raise ValueError(f"{_at(node, place)} must name a mapping to take fields from")
        return {key: value for part in reversed(parts) for key, value in part.items()}


def _scalar(node: yaml.ScalarNode, place: str) -> Any:
    text = _checked_text(node, place)
    if node.style is not None:  # in quotes or a block: a text
        return text
    if not text:
        raise ValueError(f"{_at(node, place)} has no value; write null where none is meant")
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    if _NOT_FINITE.fullmatch(text):
        raise ValueError(f"{_at(node, place)} is {text} but must be a finite number")
    for pattern, convert in _NUMBERS:
        if pattern.fullmatch(text):
            try:
                return convert(text)
            except ValueError as error:
                raise ValueError(f"{_at(node, place)} cannot be used: {error}") from error
    return text


_NUMBERS: tuple[tuple[re.Pattern[str], Callable[[str], int | float]], ...] = (
    (_WHOLE, whole_number),
    (_FLOAT, finite_float),
)


def _checked_text(node: yaml.ScalarNode, place: str) -> str:
    if len(node.value) > MAX_TEXT:
        raise ValueError(
            f"{_at(node, place)} holds a text of {len(node.value)} characters, at most {MAX_TEXT} are read"
        )
    return node.value


def _at(node: yaml.Node, place: str) -> str:
    return f"'{shortened(place) or 'the whole'}' (line {node.start_mark.line + 1})"
