"""Exceptions of the ``wam`` package and the wording helpers they share.

Every message says what was wrong (with the value), why it matters and how to fix it. Commands catch ``WamError`` at
the top and exit with status 2; anything else is our own bug and keeps its traceback.
"""

import difflib
from collections.abc import Iterable

__all__ = [
    "BundleError",
    "CheckpointError",
    "ConfigError",
    "DatasetError",
    "RobotSpecError",
    "ValueContractError",
    "WamError",
    "unknown_name",
]


class WamError(Exception):
    """Base of every error caused by input, files or configuration."""


class ConfigError(WamError):
    """A configuration value, preset or command-line choice that cannot work."""


class RobotSpecError(WamError):
    """A robot file that is missing, malformed or contradicts itself."""


class ValueContractError(WamError):
    """An observation, action chunk or array that breaks its contract."""


class DatasetError(WamError):
    """A dataset that is missing, truncated, not finite or of another robot."""


class CheckpointError(WamError):
    """A checkpoint that is missing, truncated or of another model or robot."""


class BundleError(WamError):
    """A policy bundle that is missing, tampered with or of another robot."""


def unknown_name(kind: str, value: object, valid: Iterable[str], *, fix: str = "") -> str:
    """Builds the message for a name that is not one of the valid names.

    Args:
        kind: What the name stands for, in words ("task", "robot", "training option").
        value: The name that was given.
        valid: All names that would have been accepted.
        fix: One more sentence on how to go on, if choosing a valid name is not all.

    Returns:
        One sentence with the value, the closest valid name when there is one, and the sorted list of valid names.
    """
    names = sorted(valid)
    close = difflib.get_close_matches(str(value), names, n=1)
    hint = f" (did you mean '{close[0]}'?)" if close else ""
    listing = ", ".join(names) if names else "none"
    return f"unknown {kind} '{value}'{hint}; valid names: {listing}." + (f" {fix}" if fix else "")
