"""Reads ``*.launch.xml`` files strictly: the part of ROS's launch XML that this package uses, and nothing else.

``ros2 launch`` ignores or guesses at much of what it does not know. This reader refuses it with the file, the line and
the tag, so that a launch file which passes here means the same to both. What the tags do stands in
``ros_nodes.launch_plan``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from xml.parsers import expat

from ros_nodes.errors import NodeError
from wam.errors import unknown_name

__all__ = ["Element", "LaunchError", "read_launch_file"]


class LaunchError(NodeError):
    """A launch file, or arguments for one, that cannot work."""


@dataclass(frozen=True, kw_only=True)
class Element:
    """One tag of a launch file."""

    tag: str
    attributes: Mapping[str, str]
    line: int  # in its file, from 1
    file: Path
    children: list["Element"] = field(default_factory=list)

    def named(self, tag: str) -> list["Element"]:
        """Returns the children with this tag, in order."""
        return [child for child in self.children if child.tag == tag]

    def error(self, message: str) -> LaunchError:
        """Returns an error that says where it happened."""
        return LaunchError(f"{self.file}:{self.line}: <{self.tag}>: {message}")


@dataclass(frozen=True, kw_only=True)
class _Tag:
    """What a tag may hold."""

    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    children: tuple[str, ...] = ()


CONDITIONS = ("if", "unless")
ACTIONS = ("arg", "let", "set_env", "group", "include", "node")
# What happens to a node's process; on_exit="shutdown" makes it one that nothing can go on without.
PROCESS = ("respawn", "respawn_delay", "respawn_max_retries", "on_exit", "sigterm_timeout", "sigkill_timeout")
GRAMMAR: Mapping[str, _Tag] = {
    "launch": _Tag(children=ACTIONS),
    "arg": _Tag(required=("name",), optional=("default", "description", *CONDITIONS), children=("choice",)),
    "choice": _Tag(required=("value",)),
    "let": _Tag(required=("name", "value"), optional=CONDITIONS),
    "set_env": _Tag(required=("name", "value"), optional=CONDITIONS),
    "group": _Tag(optional=("scoped", *CONDITIONS), children=ACTIONS),
    "include": _Tag(required=("file",), optional=CONDITIONS, children=("arg",)),
    "node": _Tag(
        required=("pkg", "exec"),
        optional=("name", "namespace", "args", "ros_args", "output", *PROCESS, *CONDITIONS),
        children=("param", "remap", "env"),
    ),
    "param": _Tag(optional=("name", "value", "type", "from")),
    "remap": _Tag(required=("from", "to")),
    "env": _Tag(required=("name", "value")),
}
ARGUMENT_OF_INCLUDE = _Tag(required=("name", "value"))


def read_launch_file(path: Path) -> Element:
    """Reads and checks one launch file.

    Args:
        path: A ``*.launch.xml`` file.

    Returns:
        Its ``launch`` element; every tag and attribute in it is one that ``ros_nodes.launch_plan`` knows.

    Raises:
        LaunchError: The file is missing, not XML, or holds something outside the subset.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise LaunchError(f"launch file {path} cannot be read: {error.strerror}.") from error
    root = _parse(path, text)
    if root.tag != "launch":
        raise root.error("a launch file must begin with <launch>.")
    _check(root, GRAMMAR["launch"])
    return root


def _parse(path: Path, text: bytes) -> Element:
    parser = expat.ParserCreate()
    outside = Element(tag="", attributes={}, line=0, file=path)
    open_elements = [outside]

    def start(tag: str, attributes: dict[str, str]) -> None:
        element = Element(tag=tag, attributes=attributes, line=parser.CurrentLineNumber, file=path)
        open_elements[-1].children.append(element)
        open_elements.append(element)

    def end(tag: str) -> None:
        del tag
        open_elements.pop()

    def characters(content: str) -> None:
        if content.strip():
            raise open_elements[-1].error(f"text '{content.strip()}' is not allowed here; values stand in attributes.")

    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = characters
    try:
        parser.Parse(text, True)
    except expat.ExpatError as error:
        raise LaunchError(f"{path}:{error.lineno}: not valid XML: {expat.errors.messages[error.code]}.") from error
    return outside.children[0]


def _check(element: Element, tag: _Tag) -> None:
    known = (*tag.required, *tag.optional)
    for name in element.attributes:
        if name not in known:
            raise element.error(unknown_name("attribute", name, known))
    for name in tag.required:
        if name not in element.attributes:
            raise element.error(f"attribute '{name}' is missing.")
    if element.attributes.keys() >= set(CONDITIONS):
        raise element.error("'if' and 'unless' cannot stand together: write two elements.")
    for child in element.children:
        if child.tag not in tag.children:
            raise child.error(unknown_name(f"tag inside <{element.tag}>", child.tag, tag.children))
        _check(child, ARGUMENT_OF_INCLUDE if element.tag == "include" else GRAMMAR[child.tag])
