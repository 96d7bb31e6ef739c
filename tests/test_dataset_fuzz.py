"""Random damage to a dataset: refused by the package's own error, or the same numbers train as before."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.small_datasets import DATA, EPISODES, ROBOT, TASKS, copy_dataset, write_dataset
from wam.dataset_check import DatasetSummary, check_dataset
from wam.dataset_meta import DatasetMeta, EpisodeMeta, write_meta
from wam.errors import WamError
from wam.spec import ACTION, OBS_STATE

MUTATIONS = 500
FLIPPED = "a bit flipped"  # which may be the last of a number, so that nobody can see it
INFO, META = "meta/info.json", "meta/wam.json"
NUMBERS = (-1, 0, 3, 10**30, 0.5, float("nan"), float("inf"))
STRANGE = (None, True, *NUMBERS, "", "x", "{0}", "{chunk_index:099d}", [], {}, [[]])


def sound(root: Path) -> Path:
    write_dataset(root)
    lengths = (30, 25, 25)
    episodes = tuple(EpisodeMeta(seed=i, success=True, steps=n, noise=0.0) for i, n in enumerate(lengths))
    write_meta(root, DatasetMeta(robot=ROBOT, task="lift", episodes=episodes))
    return root


def places(data: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of JSON data."""
    keys = data if isinstance(data, dict) else range(len(data)) if isinstance(data, list) else ()
    return [place for key in keys for place in [(data, key), *places(data[key])]]


def mutate_json(path: Path, dice: random.Random) -> str:
    data = json.loads(path.read_text())
    container, key = dice.choice(places(data))
    kind = dice.choice(("drop", "strange", "rename", "cut"))
    if kind == "drop":
        del container[key]
    elif kind == "strange":
        container[key] = dice.choice(STRANGE)
    elif kind == "rename" and isinstance(container, dict):
        container[f"{key}_"] = container.pop(key)
    text = json.dumps(data)
    path.write_text(text[: dice.randrange(len(text))] if kind == "cut" else text)
    return f"{path.name}: {kind} {key}"


def mutate_cell(rows: list[dict[str, Any]], name: str, dice: random.Random) -> None:
    row = dice.choice(rows)
    row[name] = dice.choice((None, -1, 7, 1e9, 0.25, float("nan"), 2**62))


def mutate_vector(rows: list[dict[str, Any]], name: str, dice: random.Random) -> None:
    row = dice.choice(rows)
    if isinstance(row[name], list) and len(row[name]) == 7:
        row[name][dice.randrange(7)] = dice.choice((None, float("nan"), float("inf"), 1e9, -1e300))
    else:
        row[name] = dice.choice((None, [], [0.0] * 6))


def reorder(rows: list[dict[str, Any]], name: str, dice: random.Random) -> None:
    del name
    first = dice.randrange(len(rows))
    part = rows[first:]
    dice.choice((part.reverse, lambda: dice.shuffle(part)))()
    rows[first:] = part


def scale(rows: list[dict[str, Any]], name: str, dice: random.Random) -> None:
    factor = dice.choice((57.3, 100.0, 0.0, -1e6))
    for row in rows:
        row[name] = [factor * x for x in row[name]] if isinstance(row[name], list) else (row[name] or 0) * factor


def exchange(rows: list[dict[str, Any]], name: str, dice: random.Random) -> None:
    one, other = dice.choice(rows), dice.choice(rows)
    one[name], other[name] = other[name], one[name]


def drop_column(rows: list[dict[str, Any]], name: str, dice: random.Random) -> None:
    del dice
    for row in rows:
        del row[name]


def drop_row(rows: list[dict[str, Any]], name: str, dice: random.Random) -> None:
    del name
    del rows[dice.randrange(len(rows))]


def repeat_row(rows: list[dict[str, Any]], name: str, dice: random.Random) -> None:
    del name
    rows.insert(dice.randrange(len(rows)), dict(dice.choice(rows)))


def text_column(rows: list[dict[str, Any]], name: str, dice: random.Random) -> None:
    del dice
    for row in rows:
        row[name] = str(row[name])


def double_column(rows: list[dict[str, Any]], name: str, dice: random.Random) -> None:
    del dice
    for row in rows:
        row[name] = float(row[name]) if isinstance(row[name], int) else row[name]


Mutation = Callable[[list[dict[str, Any]], str, random.Random], None]
OF_COLUMNS: tuple[Mutation, ...] = (drop_column, text_column, double_column, mutate_cell, scale, exchange)
OF_ROWS: tuple[Mutation, ...] = (drop_row, repeat_row, reorder)


def mutate_table(path: Path, dice: random.Random) -> str:
    rows = pq.read_table(path).to_pylist()
    name = dice.choice(list(rows[0]))
    # Single numbers that another position could have, and other instructions, are no faults that could be seen
    vectors: tuple[Mutation, ...] = (drop_column, text_column, mutate_vector, scale, *OF_ROWS)
    able = vectors if name in (OBS_STATE, ACTION) else (*OF_COLUMNS, *OF_ROWS)
    change = dice.choice(able)
    change(rows, name, dice)
    try:
        pq.write_table(pa.Table.from_pylist(rows), path)
    except (pa.ArrowException, OverflowError):
        return mutate_bytes(path, dice)
    return f"{path}: {change.__name__} {name}"


def mutate_bytes(path: Path, dice: random.Random) -> str:
    data = bytearray(path.read_bytes())
    cut = dice.random() < 0.5
    if cut:
        del data[dice.randrange(len(data)) :]
    else:
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    path.write_bytes(bytes(data))
    return f"{path}: {'cut' if cut else FLIPPED}"


def same(found: DatasetSummary, expected: DatasetSummary) -> bool:
    one, other = found.tables, expected.tables
    numbers = all(
        np.array_equal(getattr(one, name), getattr(other, name)) for name in ("proprio", "action", "length", "task")
    )
    times = np.abs(one.seconds - other.seconds).max() < 1e-3
    films = all(
        (a.path.name, a.path.parent.name, round(a.begin_s, 3)) == (b.path.name, b.path.parent.name, round(b.begin_s, 3))
        for name in ROBOT.camera_names
        for a, b in zip(one.videos[name], other.videos[name], strict=True)
    )
    return numbers and times and films and one.tasks == other.tasks


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_damage_is_refused_or_changes_nothing(tmp_path):
    origin = sound(tmp_path / "sound")
    expected = check_dataset(origin, ROBOT)
    root = copy_dataset(origin, tmp_path / "damaged")
    refused, wrong = 0, []
    for seed in range(MUTATIONS):
        dice = random.Random(seed)
        file = dice.choice((INFO, META, TASKS, EPISODES, DATA, DATA))
        tables = (mutate_table, mutate_table, mutate_table, mutate_bytes)
        change = mutate_json if file.endswith("json") else dice.choice(tables)
        told = change(root / file, dice)
        try:
            found = check_dataset(root, ROBOT)
        except WamError as error:
            refused += bool(str(error).strip())
        except Exception as error:  # noqa: BLE001 - any other kind is what this looks for
            wrong.append(f"seed {seed}, {told}: {type(error).__name__}: {error}")
        else:
            if not (told.endswith(FLIPPED) or same(found, expected)):
                wrong.append(f"seed {seed}, {told}: other numbers than before would train")
        finally:
            (root / file).write_bytes((origin / file).read_bytes())
    assert not wrong, "\n".join(wrong)
    assert refused > MUTATIONS // 3
    assert same(check_dataset(root, ROBOT), expected)
