"""The command line that stands for a configuration, so that a result can say how to get it again."""

import dataclasses
import shlex
from collections.abc import Collection
from typing import Any

__all__ = ["command_line"]


def command_line(verb: str, config: Any, *, always: Collection[str] = (), never: Collection[str] = ()) -> str:
    """Writes a configuration as the options that tyro reads it from.

    Args:
        verb: Of ``wam``.
        config: A flat dataclass.
        always: Fields to spell out even at their defaults, which another version may have changed.
        never: Fields that do not change the result.

    Returns:
        One line for a shell.
    """
    words = ["wam", *verb.split()]
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name in never or (field.name not in always and value == field.default):
            continue
        flag = field.name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        elif isinstance(value, tuple):
            words += [f"--{flag}", *map(str, value)]
        else:
            words += [f"--{flag}", str(value)]
    return shlex.join(words)
