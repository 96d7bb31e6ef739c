"""Instructions: as word ids without a vocabulary file, and beside those that a policy was trained on; no torch.

Small presets learn one embedding row per word; a word's row is the CRC-32 of its lower-case letters. The hash is stable
across machines and Python versions, unlike ``hash``. Real language encoders (UMT5) belong to the Wan presets.
Instructions are compared as a model reads them: "Lift the cube." is "lift the cube".

Shape legend: T prompt length in words.
"""

import difflib
import re
import zlib
from collections.abc import Iterable, Sequence

import numpy as np

from wam.errors import ValueContractError

__all__ = [
    "PAD_ID",
    "VOCABULARY_SIZE",
    "instruction_words",
    "is_known",
    "joined",
    "listed",
    "nearest",
    "token_ids",
    "too_long",
    "untold",
]

PAD_ID = 0
VOCABULARY_SIZE = 4096  # rows of the embedding: 50 words collide with a chance of 26 %, one given pair with 1 in 4095
LISTED = 8  # instructions that a list shows; the rest is counted


def instruction_words(task: str) -> tuple[str, ...]:
    """What is read of an instruction: its words, in lower case and without punctuation."""
    return tuple(re.findall(r"\w+", task.lower()))


def too_long(task: str, length: int) -> str:
    """Says what a model would not read of an instruction; "" where it reads all of it.

    Args:
        task: The instruction in words.
        length: Words that the model reads.
    """
    words = instruction_words(task)
    if len(words) <= length:
        return ""
    return (
        f"the instruction '{task}' has {len(words)} words but the model reads {length}: what stands from "
        f"'{words[length]}' on would not count"
    )


def token_ids(task: str, length: int) -> np.ndarray:
    """Hashes an instruction word by word.

    Args:
        task: The instruction in words; case and punctuation do not matter.
        length: Prompt length T; shorter instructions are padded with ``PAD_ID``.

    Returns:
        (T,) int64 ids in [0, VOCABULARY_SIZE).

    Raises:
        ValueContractError: The instruction has more words.
    """
    problem = too_long(task, length)
    if problem:
        raise ValueContractError(
            f"{problem}. Say it in {length} words, or train a model that reads more: wam train --prompt-length "
            f"{len(instruction_words(task))}"
        )
    words = instruction_words(task)
    ids = np.full(length, PAD_ID, dtype=np.int64)
    ids[: len(words)] = [1 + zlib.crc32(word.encode()) % (VOCABULARY_SIZE - 1) for word in words]
    return ids


def is_known(task: str, known: Iterable[str]) -> bool:
    """Whether an instruction is one of those, case and punctuation aside."""
    return instruction_words(task) in {instruction_words(other) for other in known}


def nearest(task: str, known: Iterable[str]) -> str:
    """The known instruction with the most words in common, and of several the one with the most letters; "" of none."""
    words = instruction_words(task)

    def likeness(other: str) -> tuple[float, float]:
        others = instruction_words(other)
        return _ratio(words, others), _ratio(" ".join(words), " ".join(others))

    return max(known, key=likeness, default="")


def untold(task: str, known: Sequence[str] | None) -> str:
    """Says that a policy never saw an instruction, and which is nearest.

    Args:
        task: What it is told now.
        known: What it was trained on; None where nobody knows.

    Returns:
        A sentence without its full stop; "" if the policy knows the instruction, or nobody knows what it knows.
    """
    if known is None or is_known(task, known):
        return ""
    told = f"the instruction '{task}'" if instruction_words(task) else "an instruction without words"
    if not known:
        return f"{told} is none that the policy was trained on: it was trained on none"
    return f"{told} is none of the {len(known)} that the policy was trained on; the nearest is '{nearest(task, known)}'"


def joined(known: Iterable[str], more: Iterable[str]) -> tuple[str, ...]:
    """Both lists as one; of instructions that differ in case or punctuation the first stays."""
    found: dict[tuple[str, ...], str] = {}
    for task in (*known, *more):
        found.setdefault(instruction_words(task), task)
    return tuple(found.values())


def listed(known: Sequence[str] | None, *, most: int = LISTED) -> str:
    """A list for people: its length and its first entries."""
    if known is None:
        return "instructions that nobody wrote down: an older bundle, or one that was never trained"
    shown = ", ".join(f"'{task}'" for task in known[:most])
    rest = len(known) - most
    return f"{len(known)} instruction(s): {shown or 'none'}" + (f" and {rest} more" if rest > 0 else "")


def _ratio(one: Sequence[str], other: Sequence[str]) -> float:
    return difflib.SequenceMatcher(None, one, other, autojunk=False).ratio()
