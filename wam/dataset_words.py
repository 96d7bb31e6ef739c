"""Instructions of datasets that are to train together, held against what a model reads of them."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from wam.dataset_tables import DatasetTables
from wam.errors import DatasetError
from wam.text import instruction_words, token_ids, too_long

__all__ = ["check_words", "joined_instructions"]

LISTED = 6  # faults of a kind that a message lists; the rest is counted


def joined_instructions(parts: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """Instructions of several datasets as one list, in the order of ``wam.dataset.join_episodes``."""
    return parts[0] if len(parts) == 1 else tuple(dict.fromkeys(task for part in parts for task in part))


def check_words(tables: Sequence[DatasetTables], length: int, *, from_scratch: bool = True) -> None:
    """Refuses instructions that a model would not read to their end, or could not tell apart.

    Args:
        tables: The datasets.
        length: Words that the model reads.
        from_scratch: The model is yet to be made, and could read more.

    Raises:
        DatasetError: Names every such instruction, with its rows.
    """
    faults = [*_too_long(tables, length, from_scratch), *_alike(tables, length)]
    if faults:
        raise DatasetError("\n".join(faults))


def _too_long(tables: Sequence[DatasetTables], length: int, from_scratch: bool) -> list[str]:
    found, longest, place = [], 0, None
    for table in tables:
        for index, task in sorted(table.tasks.items()):
            rows = int(np.count_nonzero(table.task == index))
            problem = too_long(task, length) if rows else ""
            if problem:
                found.append(f"{table.root}, {rows} rows: {problem}")
                longest = max(longest, len(instruction_words(task)))
                place = place or (table.root, task)
    if place is None:
        return []
    way = f"Let it read more: --prompt-length {longest}" if from_scratch else f"Say it shorter: {_edit(*place)}"
    return [f"{_some(found)}. Instructions that differ there alone would be the same to the policy. {way}"]


def _alike(tables: Sequence[DatasetTables], length: int) -> list[str]:
    first: dict[bytes, str] = {}
    found = []
    place = None
    for table in tables:
        for task in table.instructions:
            words = instruction_words(task)
            if len(words) > length:
                continue
            other = first.setdefault(token_ids(task, length).tobytes(), task)
            if instruction_words(other) != words:
                found.append(f"{table.root}: '{task}' and '{other}' become the same word ids")
                place = place or (table.root, task)
    if place is None:
        return []
    return [f"{_some(found)}: a policy could not tell them apart. Say one in other words: {_edit(*place)}"]


def _edit(root: Path, task: str) -> str:
    change = json.dumps({task: "other words"}, ensure_ascii=False).replace("'", "'\\''")
    return (
        f"lerobot-edit-dataset --repo_id local/{root.name} --root {root} --operation.type modify_tasks "
        f"--operation.task_replacements '{change}'"
    )


def _some(found: Sequence[str]) -> str:
    rest = len(found) - LISTED
    return "; ".join(found[:LISTED]) + (f"; and {rest} more" if rest > 0 else "")
