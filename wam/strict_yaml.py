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
MAX_BRACKETS = 100  # open at once, those in texts included
MAX_VALUES = 5_000  # after aliases are expanded
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
    if _open_brackets(text) > MAX_BRACKETS:  # the scanner looks far ahead for each
        raise ValueError("it is nested too deeply")
    try:
        root = _Loader(text).get_single_node()
    except yaml.YAMLError as error:
        raise ValueError(f"it is not valid YAML: {shortened(str(error))}") from error
    if root is None:
        return None
    if _expanded(root, {}) > MAX_VALUES:
        raise ValueError(f"it holds more than {MAX_VALUES} values, aliases expanded")
    return _value(root, "")


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


def _expanded(node: yaml.Node, counts: dict[int, int]) -> int:
    """How many values a node stands for, without expanding it.

    Raises:
        ValueError: It is an alias of itself.
    """
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in counts:
        counts[id(node)] = -1  # until it is known
        children = [child for entry in node.value for child in (entry if isinstance(entry, tuple) else (entry,))]
        counts[id(node)] = 1 + sum(_expanded(child, counts) for child in children)
    if counts[id(node)] < 0:
        raise ValueError(f"{_at(node, '')} holds an alias of itself")
    return counts[id(node)]


def _value(node: yaml.Node, place: str) -> Any:
    """A node's value; ``place`` is where it stands, for messages."""
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, place)
    if isinstance(node, yaml.SequenceNode):
        return [_value(entry, f"{place}[{index}]") for index, entry in enumerate(node.value)]
    return _scalar(node, place)


def _mapping(node: yaml.MappingNode, place: str) -> dict[str, Any]:
    data: dict[str, Any] = {}
    merged: dict[str, Any] = {}
    for key_node, entry in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            raise ValueError(f"{_at(key_node, place)} has a key that is no text")
        key = _checked_text(key_node, place)
        inner = f"{place}.{key}" if place else key
        if key == _MERGE and key_node.style is None:
            merged = {**_merged(entry, inner), **merged}
            continue
        if key in data:
            raise ValueError(f"{_at(key_node, inner)} stands twice, so one of its values would be lost")
        data[key] = _value(entry, inner)
    return {**merged, **data}


def _merged(node: yaml.Node, place: str) -> dict[str, Any]:
    """What ``<<`` takes from other mappings, of which the first has the last word."""
    found = _value(node, place)
    parts = found if isinstance(found, list) else [found]
    if not all(isinstance(part, dict) for part in parts):
        raise ValueError(f"{_at(node, place)} must name a mapping to take fields from")
    return {key: value for part in reversed(parts) for key, value in part.items()}


def _open_brackets(text: str) -> int:
    """Most brackets that are open at one place."""
    depth = most = 0
    for bracket in re.findall(r"[\[\]{}]", text):
        depth = depth + 1 if bracket in "[{" else max(depth - 1, 0)
        most = max(most, depth)
    return most


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
