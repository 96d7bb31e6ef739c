"""What does not fit between the tensors of a file and those of a model, as one readable listing.

Names that differ only in their layer are joined (``blocks.{0-29}.norm3.weight``), and a name that is missing is shown
beside the closest one that nobody expected.
"""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence

__all__ = ["describe_misfit"]

LISTED_GROUPS = 12  # of each kind; the rest is counted
Shape = tuple[int, ...]


def describe_misfit(expected: Mapping[str, Shape], given: Mapping[str, Shape]) -> str:
    """Lists missing, unexpected and mis-shaped tensors.

    Returns:
        One line for each of the three kinds that occurs; empty when everything fits.
    """
    missing = [name for name in expected if name not in given]
    unexpected = [name for name in given if name not in expected]
    misshaped = {
        name: f"is {given[name]}, not {shape}" for name, shape in expected.items() if given.get(name, shape) != shape
    }
    lines = []
    if missing:
        lines.append(f"  missing ({len(missing)}): {_listing(_grouped(dict.fromkeys(missing, '')), unexpected)}")
    if unexpected:
        lines.append(f"  unexpected ({len(unexpected)}): {_listing(_grouped(dict.fromkeys(unexpected, '')), missing)}")
    if misshaped:
        lines.append(f"  mis-shaped ({len(misshaped)}): {_listing(_grouped(misshaped), [])}")
    return "\n".join(lines)


def _grouped(notes: Mapping[str, str]) -> list[tuple[str, str]]:
    layers: dict[tuple[str, str], list[int]] = {}
    for name, note in notes.items():
        found = re.search(r"\bblocks\.(\d+)\.", name)
        pattern = re.sub(r"\bblocks\.\d+\.", "blocks.#.", name)
        layers.setdefault((pattern, note), []).extend([int(found.group(1))] if found else [])
    return [(pattern.replace("#", _spans(found)), note) for (pattern, note), found in layers.items()]


def _spans(numbers: Sequence[int]) -> str:
    """0, 1, 2, 5 -> {0-2,5}."""
    spans: list[list[int]] = []
    for number in sorted(numbers):
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return "{" + ",".join(str(a) if a == b else f"{a}-{b}" for a, b in spans) + "}"


def _listing(groups: Sequence[tuple[str, str]], others: Iterable[str]) -> str:
    candidates = [name for name, _ in _grouped(dict.fromkeys(others, ""))]
    shown = []
    for name, note in groups[:LISTED_GROUPS]:
        close = difflib.get_close_matches(name, candidates, n=1, cutoff=0.8)
        shown.append(f"{name} {note}".rstrip() + (f" (close: {close[0]})" if close else ""))
    rest = len(groups) - LISTED_GROUPS
    return "; ".join(shown) + (f"; and {rest} more groups" if rest > 0 else "")
