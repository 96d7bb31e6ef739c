"""Seeded damage to the text of a description, and an independent plain reading of it to compare with."""

import dataclasses
import json
import random
from collections.abc import Callable
from typing import Any

import yaml

from wam.errors import WamError

PLAIN_LOADER = getattr(
    yaml, "CBaseLoader", yaml.BaseLoader
)  # another parser than the one under test, where there is one
LONGEST_MESSAGE = 2500
NOTHING = ("null", "Null", "NULL", "~")
STRANGE = (
    *("", "null", "true", "off", ".nan", "-.inf", "NaN", "Infinity", "1e400", "1e-400", "-1e999999999", "9" * 5000),
    *("0x1F", "0o17", "017", "1_000", "1:30", "'1.5'", '"2"', "1.5 rad", "90deg", "1,5", "\uff11\uff12", "\u0663"),
    *("[1, 2]", "{a: 1}", "[[]]", "*x", "&x 1", "!!float 3", "!!python/object:os.system x", "- 1", "<<: *x", "? a"),
    *("\u202e", "\x00", "\ud7ff", "-0", "+1", ".5", "5.", "1e3", "1E+3", "2025-01-01", "|\n  x", "1e-5", "-1", "0"),
    *("[" * 5000, "{a: " * 3000, "[" * 40 + "]" * 40, "x" * 20_000, '"\\ud800"', "'", '"', "\t"),
)
LAUGHS = "a: &a [1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"{name}: &{name} [{', '.join(['*' + before] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


def damaged(text: str, dice: random.Random) -> str:
    """The text with one thing changed."""
    return dice.choice(CHANGES)(text, dice)


def tokens(text: str) -> list[tuple[int, int]]:
    """Begin and end of everything between separators."""
    found, begin = [], None
    for place, sign in enumerate(text + "\n"):
        if sign in " ,:[]{}\n":
            if begin is not None:
                found.append((begin, place))
            begin = None
        elif begin is None:
            begin = place
    return found


def strange_token(text: str, dice: random.Random) -> str:
    begin, end = dice.choice(tokens(text))
    return text[:begin] + dice.choice(STRANGE) + text[end:]


def other_digit(text: str, dice: random.Random) -> str:
    place = dice.choice([place for place, sign in enumerate(text) if sign.isdigit()])
    return text[:place] + dice.choice("0123456789.-e,") + text[place + 1 :]


def other_sign(text: str, dice: random.Random) -> str:
    place = dice.randrange(len(text))
    return (
        text[:place]
        + dice.choice((chr(dice.randrange(1, 0x250)), "", "\n", " ", "  ", ":", "#", "-"))
        + text[place + 1 :]
    )


def changed_lines(text: str, dice: random.Random) -> str:
    lines = text.split("\n")
    at, other = dice.randrange(len(lines)), dice.randrange(len(lines))
    kind = dice.choice(("drop", "repeat", "exchange", "indent", "again"))
    if kind == "drop":
        del lines[at]
    elif kind == "repeat":
        lines.insert(other, lines[at])
    elif kind == "exchange":
        lines[at], lines[other] = lines[other], lines[at]
    elif kind == "indent":
        lines[at] = dice.choice(("  ", " ", "\t", "- ")) + lines[at]
    else:
        return text + "\n" + lines[at]
    return "\n".join(lines)


def renamed(text: str, dice: random.Random) -> str:
    begin, end = dice.choice(tokens(text))
    word = text[begin:end]
    return text[:begin] + dice.choice((word + "_", word.upper(), word[:-1], "x" + word, word * 2)) + text[end:]


def cut(text: str, dice: random.Random) -> str:
    return text[: dice.randrange(len(text))]


def laughing(text: str, dice: random.Random) -> str:
    return dice.choice((LAUGHS + text, text + "\n" + LAUGHS, "a: &a [*a]\n" + text, text + "\nb: &b {c: *b}"))


CHANGES: tuple[Callable[[str, random.Random], str], ...] = (
    *(strange_token,) * 5,
    *(other_digit,) * 3,
    *(other_sign,) * 3,
    *(changed_lines,) * 3,
    *(renamed,) * 2,
    cut,
    laughing,
)


def plain(text: str) -> Any:
    """Reads YAML with every scalar left as its text."""
    text = text.removeprefix("\ufeff")
    try:
        return yaml.load(text, Loader=PLAIN_LOADER)
    except yaml.YAMLError:  # libyaml takes less
        return yaml.load(text, Loader=yaml.BaseLoader)


def plain_json(text: str) -> Any:
    """Reads JSON in the same way."""
    return as_texts(json.loads(text, parse_float=str, parse_int=str, parse_constant=str))


def as_texts(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: as_texts(value) for key, value in data.items()}
    if isinstance(data, list):
        return [as_texts(value) for value in data]
    return data if isinstance(data, str) else {None: "null", True: "true", False: "false"}[data]


def differences(value: Any, said: Any, where: str = "") -> list[str]:
    """Where a loaded value is not what a plain reading of its file says.

    Args:
        value: A dataclass, a tuple of them or of numbers, or a scalar.
        said: Mappings, lists and texts of ``plain``.
        where: Place of both.
    """
    if dataclasses.is_dataclass(value) and isinstance(said, dict):
        fields = {field.name: field for field in dataclasses.fields(value)}
        found = [f"{where}.{key} was passed over" for key in said if key not in fields]
        for name, field in fields.items():
            here = getattr(value, name)
            if name in said:
                found += differences(here, said[name], f"{where}.{name}")
            elif here != (field.default if field.default_factory is dataclasses.MISSING else field.default_factory()):
                found.append(f"{where}.{name} is {here!r}, which stands nowhere")
        return found
    if isinstance(value, tuple) and isinstance(said, list) and len(value) == len(said):
        return [
            text
            for i, (a, b) in enumerate(zip(value, said, strict=True))
            for text in differences(a, b, f"{where}[{i}]")
        ]
    if isinstance(said, str) and same_scalar(value, said):
        return []
    return [f"{where} is {value!r} where the file says {said!r}"]


def same_scalar(value: Any, said: str) -> bool:
    if isinstance(value, bool):
        return False
    if isinstance(value, int | float):
        ascii_number = said.isascii() and not {"_", "n", "x"} & set(said.lower())
        return ascii_number and float(said) == value
    return said in NOTHING if value is None else value == said


class Tally:
    """What became of damaged files."""

    def __init__(self) -> None:
        self.refused, self.loaded, self.wrong = 0, 0, list[str]()

    def take(self, what: str, name: str, load: Callable[[], list[str]]) -> None:
        """Loads one; ``load`` returns where it differs from the plain reading, ``name`` stands in each refusal."""
        try:
            found = load()
        except WamError as error:
            self.refused += 1
            if name not in str(error) or len(str(error)) > LONGEST_MESSAGE:
                self.wrong.append(f"{what}: message of {len(str(error))} characters: {str(error)[:200]}")
        except Exception as error:  # noqa: BLE001 - any other kind is what this looks for
            self.wrong.append(f"{what}: {type(error).__name__}: {str(error)[:300]}")
        else:
            self.loaded += 1
            self.wrong += [f"{what}: {text}" for text in found]

    def check(self) -> None:
        """Nothing was wrong, and both outcomes occurred."""
        assert not self.wrong, "\n".join(self.wrong[:20])
        assert self.refused > 0.3 * (self.refused + self.loaded)
        assert self.loaded > 0.02 * (self.refused + self.loaded)
