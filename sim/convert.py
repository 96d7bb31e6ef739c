"""``wam convert``: recorded episodes → LeRobotDataset v3, through the alignment code the policy runs on.

The result trains like a collected one. What was dropped, and why, is printed and kept in ``meta/wam.json``.
"""

import sys
from collections import Counter

import tyro
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from sim.conversion import Converted, convert
from sim.convert_config import ConvertConfig, recording_files
from wam.dataset_meta import meta_path

__all__ = ["ConvertConfig", "main", "summary"]


def summary(result: Converted) -> str:
    """Returns the report for people."""
    rate = result.robot.control_rate_hz
    lines = [
        f"dataset:  {result.out}",
        f"robot:    {result.robot.name}, {rate:g} frames per second",
        f"episodes: {result.episodes}, {result.frames} frames, {result.frames / rate:.1f} s",
    ]
    for file in result.files:
        unfinished = "" if file.finished else ", unfinished"
        lines.append(f"  {file.path.name}{unfinished}: {file.frames} of {file.ticks} ticks, {file.episodes} episodes")
        lines += [f"    dropped {count}: {reason}" for count, reason in file.reasons()]
        lines += [f"    {note}" for note in file.notes]
    total = sum((file.dropped for file in result.files), Counter())
    lines.append(f"details:  {meta_path(result.out)}")
    lines.append(f"dropped:  {total.total()} of {sum(file.ticks for file in result.files)} ticks")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Command line of ``wam convert``."""
    config = tyro.cli(ConvertConfig, args=argv, prog="wam convert")
    files = recording_files(config.recordings)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns) as bar:
        row = bar.add_task("convert", total=len(files))
        result = convert(config, lambda file: bar.advance(row))
    print(summary(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
