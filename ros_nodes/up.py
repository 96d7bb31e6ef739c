"""``python -m ros_nodes.up FILE name:=value ...``: starts what a launch file says, without ROS's command line tools.

It reads the same ``*.launch.xml`` as ``ros2 launch`` does and starts the same processes with the same arguments, so
that a machine with nothing but Python wheels, and every test, runs the real graph. Unlike ``ros2 launch`` it refuses
unknown arguments and whatever it does not know in a file. Exit status: 0 stopped as asked or all ended well, 1 a node
failed, 2 nothing was started.
"""

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from ros_nodes.distribution import distribution
from ros_nodes.launch_plan import Argument, ParameterFile, ProcessPlan, declared_arguments, plan
from ros_nodes.launch_reader import LaunchError
from ros_nodes.launch_supervisor import Supervisor, console
from ros_nodes.launch_text import PACKAGE, find_share
from wam.errors import WamError, unknown_name

__all__ = ["find_launch_file", "main", "parse_arguments"]

SUFFIX = ".launch.xml"


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of ``python -m ros_nodes.up``."""
    options = _parser().parse_intermixed_args(argv)
    # Wheels do not name the distribution, a sourced installation does.
    environment = {"ROS_DISTRO": distribution(os.environ).name, **os.environ}
    try:
        path = find_launch_file(options.file)
        if options.show_args:
            print(arguments_text(path, declared_arguments(path, environment)))
            return 0
        plans = plan(path, parse_arguments(options.arguments), environment)
    except WamError as error:
        print(f"up: {error}", file=sys.stderr)
        return 2
    if options.print:
        print("\n".join(plan_text(process) for process in plans))
        return 0
    return Supervisor(plans, console).run()


def find_launch_file(name: str) -> Path:
    """Finds a launch file by its path or, for one of this package, by its name with or without its suffix.

    Raises:
        LaunchError: There is none.
    """
    if Path(name).is_file():
        return Path(name)
    folder = find_share(PACKAGE, os.environ) / "launch"
    path = folder / (name if name.endswith(SUFFIX) else name + SUFFIX)
    if not path.is_file():
        known = [file.name.removesuffix(SUFFIX) for file in folder.glob(f"*{SUFFIX}")]
        raise LaunchError(unknown_name("launch file", name, known, fix="Or give the path of one."))
    return path


def parse_arguments(arguments: Sequence[str]) -> dict[str, str]:
    """Reads ``name:=value`` words.

    Raises:
        LaunchError: One of them is not of that form, or a name comes twice.
    """
    given: dict[str, str] = {}
    for argument in arguments:
        name, separator, value = argument.partition(":=")
        if not separator or not name or not value:  # ros2 launch takes no empty value either
            raise LaunchError(f"'{argument}' is not a launch argument: write name:=value, or leave out the default.")
        if name in given:
            raise LaunchError(f"launch argument '{name}' was given twice: '{given[name]}' and '{value}'.")
        given[name] = value
    return given


def arguments_text(path: Path, arguments: Sequence[Argument]) -> str:
    """Returns what ``--show-args`` prints."""
    lines = [f"arguments of {path.name}, as name:=value"]
    for argument in arguments:
        default = "required" if argument.default is None else f"default: {argument.default or 'empty'}"
        choices = f"; one of: {', '.join(argument.choices)}" if argument.choices else ""
        lines += [f"\n  {argument.name}  ({default}{choices})", f"      {argument.description}"]
    return "\n".join(lines)


def plan_text(process: ProcessPlan) -> str:
    """Returns what ``--print`` prints for one process: a comment and a command that a shell can run."""
    notes = []
    if process.respawn:
        notes.append(f"restarted {process.respawn_delay_s:g} s after it ends")
    if process.required:
        notes.append("when it ends, everything ends")
    own = {name: value for name, value in process.environment.items() if os.environ.get(name) != value}
    words = [f"{name}={shlex.quote(value)}" for name, value in own.items()]
    words += [_shell_word(argument) for argument in process.arguments]
    return f"# {process.label}{': ' + '; '.join(notes) if notes else ''}\n{' '.join(words)}"


def _shell_word(argument: str | ParameterFile) -> str:
    if isinstance(argument, ParameterFile):
        return f"<(echo {shlex.quote(_one_line(argument.text))})"
    return shlex.quote(argument)


def _one_line(text: str) -> str:
    """The same YAML in flow style."""
    return yaml.safe_dump(yaml.safe_load(text), default_flow_style=True, width=10_000).strip()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="wam up", description="Start the nodes of a launch file without ROS's command line tools."
    )
    parser.add_argument("file", help="launch file: a path, or the name of one of this package (bringup, sim, ...)")
    parser.add_argument("arguments", nargs="*", metavar="name:=value", help="launch arguments; --show-args lists them")
    parser.add_argument(
        "--show-args", action="store_true", help="list the arguments of the file and start nothing (default: False)"
    )
    parser.add_argument("--print", action="store_true", help="print the commands and start nothing (default: False)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
