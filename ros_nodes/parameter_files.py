"""``python -m ros_nodes.parameter_files``: writes ``config/<node>.yaml`` anew from what the nodes declare.

Each file lists every parameter that a launch file does not give, with its default, unit, range and meaning, so that
whoever sets up a robot copies the folder and edits values. A test keeps the files and the nodes together.
"""

import importlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from ros_nodes.launch_reader import Element, read_launch_file
from ros_nodes.launch_text import ROOT
from ros_nodes.parameters import ParameterInfo, described

__all__ = ["NODES", "file_text", "given_by_launch", "main", "parameters_of"]

NODES = (
    "arm",
    "calibration",
    "camera",
    "guard",
    "policy",
    "recorder",
    "teleop",
)  # the executables that launch files start
LAUNCH_FILES = [ROOT / "launch/bringup.launch.xml", ROOT / "launch/calibration.launch.xml"]  # that start nodes
WIDTH = 118  # of comments


def parameters_of(node: str) -> tuple[ParameterInfo, ...]:
    """Returns what a node declares: ``ros_nodes.<node>_node`` holds a dataclass ``<Node>Parameters``."""
    module = importlib.import_module(f"ros_nodes.{node}_node")
    return described(getattr(module, f"{node.capitalize()}Parameters"))


def given_by_launch(path: Path) -> Mapping[str, set[str]]:
    """Returns the parameters that a launch file gives each executable by name."""
    given: dict[str, set[str]] = {}
    for node in _nodes_in(read_launch_file(path)):
        names = {param.attributes["name"] for param in node.named("param") if "name" in param.attributes}
        given.setdefault(node.attributes["exec"], set()).update(names)
    return given


def file_text(node: str, parameters: Sequence[ParameterInfo], given: set[str]) -> str:
    """Returns the parameter file of a node."""
    elsewhere = sorted(name for name in given if name != "use_sim_time")
    lines = [
        f"# Parameters of the node '{node}' with their defaults. Copy this folder, edit, and give config:=<folder>."
    ]
    lines += _comment(f"The launch file gives: {', '.join(elsewhere)}.", indent="") if elsewhere else []
    lines += ["/**:", "  ros__parameters:"]
    own = [info for info in parameters if info.name not in given]
    for info in own:
        lines += _comment(_meaning(info), indent="    ")
        value = None if info.required else list(info.default) if info.array else info.default
        entry = yaml.safe_dump(value, default_flow_style=True, width=WIDTH).removesuffix("...\n").strip()
        # ROS cannot tell the type of an empty list, so that one stays a comment.
        lines.append(f"    {'# ' if value == [] or info.required else ''}{info.name}: {entry}")
    return "\n".join(lines if own else [*lines[:-1], "  ros__parameters: {}"]) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the files; an argument names another folder than ``config``."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    folder = Path(arguments[0]) if arguments else ROOT / "config"
    given = {name: names for path in LAUNCH_FILES for name, names in given_by_launch(path).items()}
    for node in NODES:
        path = folder / f"{node}.yaml"
        path.write_text(file_text(node, parameters_of(node), given.get(node, set())))
        print(path)
    return 0


def _nodes_in(element: Element) -> list[Element]:
    found = element.named("node")
    for group in element.named("group"):
        found += _nodes_in(group)
    return found


def _meaning(info: ParameterInfo) -> str:
    text = info.description + (f" [{info.unit}]" if info.unit else "")
    bounds = [f"at least {info.low:g}"] if info.low is not None else []
    bounds += [f"at most {info.high:g}"] if info.high is not None else []
    text += f"; {', '.join(bounds)}" if bounds else ""
    choices = [choice or "(empty)" for choice in info.choices]
    return text + (f"; one of: {', '.join(choices)}" if choices else "")


def _comment(text: str, *, indent: str) -> list[str]:
    lines, line = [], f"{indent}#"
    for word in text.split():
        if len(line) + 1 + len(word) > WIDTH:
            lines.append(line)
            line = f"{indent}#"
        line += f" {word}"
    return [*lines, line]


if __name__ == "__main__":
    sys.exit(main())
