"""YAML that is read as it stands, or refused: no value is lost, reinterpreted or expanded without end."""

from pathlib import Path

import pytest

from tests.text_damage import LAUGHS
from wam.errors import RobotSpecError
from wam.robot import load_robot, robot_file
from wam.strict_json import parse_json
from wam.strict_yaml import parse_yaml

TEXTS = ["1.5", "on", "yes", "1:30", "0x1F", "017", "1_000", "2025-01-01"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: [1, -2, +3, 0, .5, 5., 1e3, 1e-05, -1.5E+2]", {"a": [1, -2, 3, 0, 0.5, 5.0, 1000.0, 1e-5, -150.0]}),
        ("a: ['1.5', on, yes, 1:30, 0x1F, 017, 1_000, 2025-01-01]", {"a": TEXTS}),
        ("a: [true, False, null, ~]", {"a": [True, False, None, None]}),
        ("on: 1\n2: b", {"on": 1, "2": "b"}),
        ("b: &b {x: 1, y: 2}\na: {<<: *b, y: 3}", {"b": {"x": 1, "y": 2}, "a": {"x": 1, "y": 3}}),
        ("a: &a [1]\nb: *a", {"a": [1], "b": [1]}),
        ("", None),
    ],
)
def test_values_are_those_that_stand_there(text, value):
    assert parse_yaml(text) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: {c: 1, c: 2}", r"'b.c' \(line 2\) stands twice"),
        ("a:\nb: 1", r"'a' \(line 1\) has no value; write null"),
        ("a: [0, 1e400]", r"'a\[1\]' \(line 1\) cannot be used: it holds 1e400, which is not a finite number"),
        ("a: 1e-400", "too small for a number and would become 0"),
        ("a: .nan", "is .nan but must be a finite number"),
        ("a: -.inf", "is -.inf but must be a finite number"),
        ("a: " + "9" * 5000, "of 5000 digits"),
        ("a: !!float 3", "the tag .* is not allowed here"),
        ("a: !!python/object:os.system x", "the tag .* is not allowed here"),
        ("? [a]\n: 1", "has a key that is no text"),
        ("a: &a [*a]", "holds an alias of itself"),
        ("a: [*b]", "found undefined alias"),
        (LAUGHS, "more than 5000 values"),
        ("a: " + "[" * 99_000, "nested too deeply"),
        ("- " * 40_000, "more than 30 levels deep"),
        ("a: " + "x" * 20_000, "holds a text of 20000 characters"),
        ("#" * 200_000, "200000 characters"),
        ("a: \x00", "not valid YAML"),
        ("a: 1\n---\nb: 2", "expected a single document"),
        ("b: &b [1]\na: {<<: *b}", "must name a mapping"),
    ],
)
def test_what_could_be_misread_is_refused(text, message):
    with pytest.raises(ValueError, match=message) as error:
        parse_yaml(text)
    assert len(str(error.value)) < 600


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1, "a": 2}', "the key 'a' stands twice"),
        ("[" * 100_000, "nested too deeply"),
        ("[" + "9" * 5000 + "]", "of 5000 digits"),
        ("[1e999]", "not a finite number"),
        ("[1e-999]", "would become 0"),
        ("[NaN]", "not a finite number"),
    ],
)
def test_json_is_as_strict(text, message):
    with pytest.raises(ValueError, match=message):
        parse_json(text)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("control_rate_hz: 30.0", "control_rate_hz: 30.0\ncontrol_rate_hz: 5.0", "'control_rate_hz' .* stands twice"),
        ("max_velocity: 2.0", "max_velocity: 2:30", "joints.0.: max_velocity is '2:30' but must be a positive"),
        ("max_velocity: 2.0", "max_velocity: '2.0'", "max_velocity is '2.0' but must be"),
        ("max_velocity: 2.0", "max_velocity: 2.0 rad/s", "max_velocity is '2.0 rad/s' but must be"),
        ("max_velocity: 2.0", "max_velocity: 02", "max_velocity is '02' but must be"),
        ("max_velocity: 2.0", "max_velocity: true", "max_velocity is True but must be"),
        ("width_px: 640", "width_px: 1000000000", "width_px is 1000000000 but must be .* at most 32768"),
        ("gripper: {", "gripper:\nold: {", "'gripper' .* has no value; write null"),
    ],
)
def test_a_robot_file_that_would_be_misread(tmp_path: Path, old: str, new: str, message: str) -> None:
    path, text = tmp_path / "so101.yaml", robot_file("so101").read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(RobotSpecError, match=message) as error:
        load_robot(path)
    assert str(path) in str(error.value)


def test_a_number_beyond_any_float_is_refused_from_python_too() -> None:
    data = load_robot("so101").to_dict()
    data["control_rate_hz"] = 10**400
    with pytest.raises(RobotSpecError, match="control_rate_hz is 1000.* but must be a positive finite number"):
        type(load_robot("so101")).from_dict(data)
