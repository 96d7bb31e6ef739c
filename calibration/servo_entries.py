"""Entries of a servo calibration, checked for what the servos can hold before anything is switched off or written.

LeRobot's file maps motor names to five whole numbers. It is read here for all commands and nodes, so that they refuse
the same, everything that is wrong in one message. Limits are those of an STS3215: its offset register holds a sign and
eleven bits (``lerobot.motors.feetech.tables``), its encoder counts 4096 ticks a turn, and its bus has 253 numbers.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from calibration.errors import CalibrationError
from wam.calibration_spec import ServoCalibration
from wam.errors import unknown_name
from wam.plain_data import shown
from wam.strict_json import parse_json

__all__ = ["LEROBOT_FIELDS", "MAX_OFFSET", "MAX_TICK", "check_servos", "read_servo_file"]

MAX_TICK = 4095  # twelve-bit encoder
MAX_OFFSET = 2047  # sign and eleven bits in the servo
MAX_ID = 252  # 253 and up mean something else on the bus, 254 all servos
LIMITS: Mapping[str, tuple[int, int]] = {
    "id": (0, MAX_ID),
    "drive_mode": (0, 1),
    "homing_offset": (-MAX_OFFSET, MAX_OFFSET),
    "range_min": (0, MAX_TICK),
    "range_max": (0, MAX_TICK),
}
LEROBOT_FIELDS = tuple(LIMITS)


def check_servos(
    entries: Mapping[str, Any], source: str, motors: Sequence[str] | None = None
) -> dict[str, ServoCalibration]:
    """Turns entries into servos, or says everything that is wrong with them.

    Args:
        entries: Motor name -> LeRobot's fields.
        source: The file they come from, for the message.
        motors: Names that have to be there, and no others; None: whatever there is.

    Raises:
        CalibrationError: A motor or field is missing, unknown, no whole number or beyond what a servo holds; a range is
            empty; two motors have one number.
    """
    problems = [] if motors is None else _names(entries, motors)
    known = [name for name in entries if motors is None or name in motors]
    for name in known:
        problems += [f"motor '{name}': {text}" for text in _entry(entries[name])]
    problems += _same_ids({name: entries[name] for name in known})
    if problems:
        raise CalibrationError(
            f"{source} does not suit the servos: {'; '.join(problems)}. Nothing of it was written to them. Calibrate "
            "the arm again, with lerobot-calibrate or with wam calibrate joints --port."
        )
    return {name: ServoCalibration(**entries[name]) for name in known}


def read_servo_file(path: Path, motors: Sequence[str] | None = None) -> dict[str, ServoCalibration]:
    """Reads a LeRobot calibration file: JSON of motor name -> id, drive_mode, homing_offset, range_min, range_max.

    Raises:
        CalibrationError: Missing, not such a file, or as for ``check_servos``.
    """
    try:
        data = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CalibrationError(
            f"LeRobot calibration {path} cannot be read ({error}). LeRobot keeps it in its cache folder under "
            "calibration/robots/<type>/<id>.json."
        ) from error
    if not isinstance(data, dict) or not data:
        raise CalibrationError(
            f"{path} is no LeRobot calibration: it must map motor names to their fields. lerobot-calibrate makes one, "
            "and so does wam calibrate joints."
        )
    return check_servos(data, str(path), motors)


def _names(entries: Mapping[str, Any], motors: Sequence[str]) -> list[str]:
    missing = [name for name in motors if name not in entries]
    problems = [f"there is no motor {', '.join(missing)}"] if missing else []
    return problems + [unknown_name("motor", name, motors).rstrip(".") for name in entries if name not in motors]


def _same_ids(entries: Mapping[str, Any]) -> list[str]:
    by_id: dict[int, list[str]] = {}
    for name, entry in entries.items():
        number = entry.get("id") if isinstance(entry, Mapping) else None
        if isinstance(number, int):
            by_id.setdefault(number, []).append(f"'{name}'")
    return [
        f"motors {' and '.join(names)} have one id, {number} (lerobot-setup-motors gives each its own)"
        for number, names in by_id.items()
        if len(names) > 1
    ]


def _entry(entry: Any) -> list[str]:
    """What is wrong with one motor's fields."""
    if not isinstance(entry, Mapping):
        return [f"it is {shown(entry)} but must have the fields {', '.join(LEROBOT_FIELDS)}"]
    missing = [field for field in LEROBOT_FIELDS if field not in entry]
    problems = [f"{', '.join(missing)} is missing"] if missing else []
    for field, value in entry.items():
        if field not in LIMITS:
            problems.append(unknown_name("field", field, LEROBOT_FIELDS).rstrip("."))
            continue
        low, high = LIMITS[field]
        if not isinstance(value, int) or isinstance(value, bool):
            problems.append(f"{field} is {shown(value)} but must be a whole number")
        elif not low <= value <= high:
            problems.append(f"{field} is {value}, and a servo holds {low} to {high}")
    if not problems and entry["range_min"] >= entry["range_max"]:
        problems.append(
            f"its range is {entry['range_min']} to {entry['range_max']}: the lowest must be below the highest (was the "
            "joint moved while its range was recorded?)"
        )
    return problems
