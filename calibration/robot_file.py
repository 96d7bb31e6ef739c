"""Writes a calibration into a robot file without touching anything else in it, and keeps the old file.

Only the top-level section ``calibration`` is replaced or added, as text, so comments and layout of the rest stay as
people wrote them. The new file is read back and compared before it takes the old one's place.
"""

import dataclasses
import datetime
import os
import re
from pathlib import Path
from typing import Any

import yaml

from calibration.errors import CalibrationError
from wam.calibration_spec import RobotCalibration
from wam.errors import RobotSpecError
from wam.robot import ROBOT_DIR_VARIABLE, RobotSpec, load_robot

__all__ = ["calibration_text", "store_calibration", "with_note"]

_HEADER = "# Measured on this specimen by `wam calibrate`; not part of the robot's fingerprint."
_NOTES = 12  # that are kept


def store_calibration(path: Path, calibration: RobotCalibration, *, rehearse: bool = False) -> Path:
    """Puts a calibration into a robot file.

    Args:
        path: The robot file.
        calibration: Takes the place of what the file holds.
        rehearse: Only find out whether that would work.

    Returns:
        The copy of the file as it was.

    Raises:
        CalibrationError: The file cannot be written, or would not read back the same.
    """
    before = load_robot(path)
    old = path.read_text()
    new = _replaced(old, calibration_text(calibration))
    # A section that is written in another way ('"calibration":', '? calibration') would stay as a second one.
    hidden = before.calibration is not None and _begin(old.splitlines()) is None
    draft = path.with_name(f"{path.stem}.tmp{os.getpid()}")
    backup = path.with_name(f"{path.name}.bak")
    try:
        draft.mkdir(exist_ok=True)  # a robot file must be called like its robot, so the draft needs its own folder
        trial = draft / path.name
        trial.write_text(new)
        if hidden or not _reads_back(trial, dataclasses.replace(before, calibration=calibration)):
            raise CalibrationError(
                f"robot file {path} has a layout in which its section 'calibration' cannot be replaced safely: put the "
                f"following into it by hand.\n{calibration_text(calibration)}"
            )
        if not rehearse:
            backup.write_text(old)
            os.replace(trial, path)
    except OSError as error:
        raise CalibrationError(
            f"robot file {path} cannot be written ({error}): copy it into a folder of yours and name that folder in "
            f"{ROBOT_DIR_VARIABLE}, or give the copy's path as --robot."
        ) from error
    finally:
        if draft.is_dir():
            for left in draft.iterdir():
                left.unlink()
            draft.rmdir()
    return backup


def calibration_text(calibration: RobotCalibration) -> str:
    """Returns the section as YAML text."""
    data = {"calibration": _short(dataclasses.asdict(calibration))}
    return _HEADER + "\n" + yaml.safe_dump(data, sort_keys=False, default_flow_style=None, width=116)


def with_note(calibration: RobotCalibration | None, note: str) -> RobotCalibration:
    """A copy with today's date and one more line on where its numbers come from."""
    now = datetime.datetime.now().astimezone().replace(microsecond=0).isoformat()
    base = calibration or RobotCalibration()
    return dataclasses.replace(base, date=now, notes=(*base.notes, f"{now} {note}")[-_NOTES:])


def _reads_back(path: Path, wanted: RobotSpec) -> bool:
    try:
        return load_robot(path) == wanted
    except RobotSpecError:  # two sections of one name, for example
        return False


def _replaced(text: str, section: str) -> str:
    lines = text.splitlines()
    begin = _begin(lines)
    if begin is None:
        return "\n".join(lines).rstrip() + "\n" + section
    end = begin + 1
    while end < len(lines) and not re.match(r"[^\s#-]", lines[end]):
        end += 1
    while end > begin + 1 and (not lines[end - 1].strip() or lines[end - 1].startswith("#")):
        end -= 1  # blank lines and comments before the next section belong to it
    if begin > 0 and lines[begin - 1] == _HEADER:
        begin -= 1
    rest = lines[end:]
    return "\n".join([*lines[:begin], *section.splitlines(), *rest]) + "\n"


def _begin(lines: list[str]) -> int | None:
    """Where the section begins."""
    return next((i for i, line in enumerate(lines) if re.match(r"calibration\s*:", line)), None)


def _short(value: Any) -> Any:
    """Leaves out what is empty or unknown; tuples become lists. An empty body is the base, so it stays."""
    if isinstance(value, dict):
        kept = {key: _short(entry) for key, entry in value.items()}
        return {key: entry for key, entry in kept.items() if entry not in (None, []) and (key, entry) != ("date", "")}
    return [_short(entry) for entry in value] if isinstance(value, list | tuple) else value
