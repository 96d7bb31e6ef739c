"""The table and the page of ``wam calibrate effect``: success rates, and what the policy saw in each row."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich.table import Table as RichTable

from calibration.report import Section, Table, write_page
from sim.arm_sim import ArmSim
from sim.results import percent
from wam.robot import load_robot

__all__ = ["effect_table", "write_effect_report"]

_SEED = 1_000_000  # the first test scene
_ZOOM = 3
_HEAD = ("camera", "off by", "solved", "rate", "95 % interval", "p, first row", "p, knocked")


def effect_table(results: Mapping[str, Any]) -> RichTable:
    """Returns the table for the terminal."""
    settings = results["settings"]
    title = f"{settings['task']}: camera '{settings['camera']}' knocked by {settings['move_mm']:g} mm and "
    table = RichTable(*_HEAD, title=f"{title}{settings['turn_deg']:g}°, {settings['episodes']} test seeds")
    for cells in _cells(results["rows"]):
        table.add_row(*cells)
    return table


def write_effect_report(results: Mapping[str, Any], robots: Sequence[Path]) -> None:
    """Writes ``report.html`` beside ``results.json``.

    Args:
        results: What ``results.json`` holds.
        robots: Robot file of each row, whose calibration says where the camera stood.
    """
    settings, rows = results["settings"], results["rows"]
    error = results["hand_eye_error"]
    pictures = _pictures(settings["task"], settings["camera"], robots)
    said = [[text, row["name"], str(step + 1)] for row in rows for step, text in enumerate(row["check"])]
    source = [[name, str(results[name])] for name in ("git_commit", "backend", "device")]
    sections = [
        Section(
            title="Success of the policy",
            text=[
                f"Task {settings['task']}, {settings['episodes']} test seeds, the same in every row; "
                f"{results['latency_ms']:.1f} ms latency in the loop. The camera was knocked by "
                f"{settings['move_mm']:g} mm and {settings['turn_deg']:g} degrees in random directions, and put back "
                f"as the daily check said, by a hand that is exact to {settings['hand_mm']:g} mm and "
                f"{settings['hand_deg']:g} degrees per axis.",
                f"Hand-eye calibration before the knock: {error['mm']:.2f} mm and {error['deg']:.3f} degrees from the "
                "truth, with the commands of wam calibrate, from rendered pictures of a board.",
                "Off by: distance from where the policy was trained, true. p: McNemar's exact test on paired seeds.",
            ],
            tables=[Table(head=_HEAD, rows=_cells(rows))],
            code=results["command"],
        ),
        Section(
            title="What the policy saw",
            text=["The first test scene; below each picture its difference from the first one, three times as strong."],
            pictures=[(picture, row["name"]) for picture, row in zip(pictures, rows, strict=True)],
        ),
        Section(title="What the check said", tables=[Table(head=["", "camera", "round"], rows=said)]),
        Section(title="Made by", tables=[Table(head=["", ""], rows=source)]),
    ]
    path = Path(settings["out"]) / "report.html"
    write_page(path, "What a knocked camera costs, and what the check wins back", sections)


def _cells(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    return [
        [
            row["name"],
            f"{row['off_mm']:.1f} mm, {row['off_deg']:.2f}°",
            f"{row['successes']}/{row['episodes']}",
            percent(row["rate"]),
            f"{100 * row['low']:.1f} – {percent(row['high'])}",
            _p(row.get("against_first")),
            _p(row.get("against_knocked")),
        ]
        for row in rows
    ]


def _p(test: Mapping[str, Any] | None) -> str:
    return "" if test is None else f"{test['p_value']:.2g} ({test['only_first']}:{test['only_second']})"


def _pictures(task: str, camera: str, robots: Sequence[Path]) -> list[np.ndarray]:
    """Enlarged pictures, each above its difference from the first."""
    drawn = []
    for path in robots:
        sim = ArmSim(task, load_robot(path), calibrated_cameras=True)
        sim.reset(_SEED)
        drawn.append(sim.render(camera).astype(int))
        sim.close()
    stacked = [np.concatenate([one, np.clip(128 + 3 * (one - drawn[0]), 0, 255)]).astype(np.uint8) for one in drawn]
    return [cv2.resize(one, None, fx=_ZOOM, fy=_ZOOM, interpolation=cv2.INTER_NEAREST) for one in stacked]
