"""Substitutions in launch files: ``$(var x)``, ``$(env X default)``, ``$(find-pkg-share package)``, ``$(dirname)``.

They may nest, as in ``$(env X $(var y))``. Backslashes and quotes mean something to ``ros2 launch`` that is easily got
wrong, so values must do without them.
"""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ros_nodes.launch_reader import LaunchError
from wam.errors import unknown_name

__all__ = ["Scope", "expand", "expand_arguments", "find_share", "is_true", "prefixes"]

PACKAGE = "world_action_model"
ROOT = Path(__file__).resolve().parent.parent
SUBSTITUTIONS = ("var", "env", "find-pkg-share", "dirname")


@dataclass(frozen=True, kw_only=True)
class Scope:
    """What substitutions can see."""

    variables: Mapping[str, str]  # arguments and lets
    environment: Mapping[str, str]
    folder: Path  # of the launch file

    def value(self, name: str, arguments: list[str]) -> str:
        """Returns what ``$(name arguments...)`` stands for."""
        if name == "var" and 1 <= len(arguments) <= 2:
            if arguments[0] not in self.variables and len(arguments) == 1:
                raise LaunchError(unknown_name("argument or let", arguments[0], self.variables))
            return self.variables.get(arguments[0], arguments[-1])
        if name == "env" and 1 <= len(arguments) <= 2:
            if arguments[0] not in self.environment and len(arguments) == 1:
                raise LaunchError(f"environment variable '{arguments[0]}' is not set; give it a default.")
            return self.environment.get(arguments[0], arguments[-1])
        if name == "find-pkg-share" and len(arguments) == 1:
            return str(find_share(arguments[0], self.environment))
        if name == "dirname" and not arguments:
            return str(self.folder)
        if name in SUBSTITUTIONS:
            raise LaunchError(f"$({' '.join([name, *arguments])}) has the wrong number of arguments.")
        raise LaunchError(unknown_name("substitution", f"$({name})", SUBSTITUTIONS))


def expand(text: str, scope: Scope) -> str:
    """Returns a value with its substitutions done.

    Raises:
        LaunchError: The value is malformed, or something it names does not exist.
    """
    return "".join(value for value, _ in _fragments(text, scope))


def expand_arguments(text: str, scope: Scope) -> list[str]:
    """Splits a value at its spaces into command-line arguments; what a substitution brings is never split.

    Raises:
        LaunchError: As for ``expand``; or the value begins or ends with a space, which would be an empty argument.
    """
    if text != text.strip():
        raise LaunchError(f"'{text}' begins or ends with a space.")
    arguments: list[str] = []
    between = True  # whether the next character begins a new argument
    for value, is_literal in _fragments(text, scope):
        for piece in value if is_literal else [value]:
            if is_literal and piece.isspace():
                between = True
                continue
            if between:
                arguments.append("")
            arguments[-1] += piece
            between = False
    return arguments


def is_true(text: str, scope: Scope) -> bool:
    """Returns the truth of a condition: true or 1, false or 0, in any case.

    Raises:
        LaunchError: It is something else.
    """
    value = expand(text, scope).strip().lower()
    if value not in {"true", "1", "false", "0"}:
        raise LaunchError(f"'{text}' is '{value}', but a condition must be true or false.")
    return value in {"true", "1"}


def prefixes(environment: Mapping[str, str]) -> list[Path]:
    """Returns the folders ROS packages are installed in: overlays first, and last this Python's own prefix."""
    named = environment.get("AMENT_PREFIX_PATH", "").split(os.pathsep)
    return [*(Path(prefix) for prefix in named if prefix), Path(sys.prefix)]


def find_share(package: str, environment: Mapping[str, str]) -> Path:
    """Returns a package's share folder; for this package in a checkout, the checkout itself, which looks the same.

    Raises:
        LaunchError: No such package.
    """
    if package == PACKAGE and (ROOT / "package.xml").is_file():
        return ROOT
    for prefix in prefixes(environment):
        if (prefix / "share/ament_index/resource_index/packages" / package).is_file():
            return prefix / "share" / package
    where = ", ".join(str(prefix) for prefix in prefixes(environment))
    raise LaunchError(f"package '{package}' is not installed in {where}: source its workspace's setup script.")


def _fragments(text: str, scope: Scope) -> list[tuple[str, bool]]:
    """Splits a value into (value, whether it stood there literally)."""
    for sign in "\\'\"":
        if sign in text:
            raise LaunchError(f"{text!r} holds {sign!r}, which launch files here must do without.")
    fragments, place = [], 0
    while place < len(text):
        if text.startswith("$(", place):
            value, place = _substitution(text, place, scope)
            fragments.append((value, False))
        else:
            end = text.find("$(", place)
            end = len(text) if end < 0 else end
            fragments.append((text[place:end], True))
            place = end
    return fragments


def _substitution(text: str, start: int, scope: Scope) -> tuple[str, int]:
    """Evaluates the substitution at ``start``; returns its value and the place behind it."""
    words: list[str | None] = [None]  # None: nothing there yet; an empty value of an inner substitution is something
    place = start + 2
    while place < len(text):
        if text[place] == ")":
            complete = [word for word in words if word is not None]
            if len(complete) < len(words):
                raise LaunchError(f"'{text}': words inside $(...) are separated by one space.")
            return scope.value(complete[0], complete[1:]), place + 1
        if text[place] == " ":
            words.append(None)
            place += 1
            continue
        value, place = _substitution(text, place, scope) if text.startswith("$(", place) else (text[place], place + 1)
        words[-1] = (words[-1] or "") + value
    raise LaunchError(f"'{text}': $( is never closed.")
