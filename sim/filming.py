"""Which episodes of an evaluation are filmed, and the filming: the chosen ones are simply played once more.

Episodes repeat exactly, so nothing has to be rendered, imagined or encoded for the many that nobody will look at.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from sim.crew import POLICY, Crew, Job
from sim.evaluate_config import EvaluateConfig
from sim.rollout import Episode, LoopSettings
from sim.video import poster_path, strip_path

__all__ = ["choose_episodes", "episode_progress", "film"]

logger = logging.getLogger(__name__)


def episode_progress() -> Progress:
    """Returns the progress display of episodes; its tasks carry a field ``note``."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, TextColumn("{task.fields[note]}"))


def choose_episodes(episodes: Sequence[Episode], *, first: int, failures: int) -> list[Episode]:
    """Returns the first episodes and, besides, the first failures among the others."""
    others = [episode for episode in episodes[first:] if not episode.success]
    return [*episodes[:first], *others[:failures]]


def film(
    crew: Crew, settings: LoopSettings, episodes: Sequence[Episode], config: EvaluateConfig
) -> list[dict[str, Any]]:
    """Plays some of the policy's episodes again, filmed.

    Args:
        crew: Who plays.
        settings: The loop they were played in.
        episodes: All of the policy's episodes.
        config: How many to film, and where to.

    Returns:
        Seed, outcome and files, relative to ``config.folder``, of each video; the first ones are marked.
    """
    chosen = choose_episodes(episodes, first=config.videos, failures=config.failure_videos)
    folder = config.folder / "videos"
    _remove_old(folder)
    files = [folder / f"seed-{episode.seed}-{episode.outcome}.mp4" for episode in chosen]
    jobs = [
        Job(planner=POLICY, settings=settings, seed=episode.seed, video=file)
        for episode, file in zip(chosen, files, strict=True)
    ]
    with episode_progress() as bar:
        task = bar.add_task("videos", total=len(jobs), note="")
        again = crew.play(jobs, lambda index, episode: bar.advance(task))
    for before, after in zip(chosen, again, strict=True):
        if (before.outcome, before.progress) != (after.outcome, after.progress):
            logger.warning("seed %d did not repeat itself for its video: some randomness has no seed", after.seed)
    facts = [{"seed": episode.seed, "outcome": episode.outcome} for episode in chosen]
    marks = [{"first": place < config.videos} for place in range(len(chosen))]
    return [
        {**fact, **mark, **_files(file, config.folder)} for fact, mark, file in zip(facts, marks, files, strict=True)
    ]


def _files(video: Path, root: Path) -> dict[str, str | None]:
    found = {"file": video, "poster": poster_path(video), "strip": strip_path(video)}
    return {name: path.relative_to(root).as_posix() if path.is_file() else None for name, path in found.items()}


def _remove_old(folder: Path) -> None:
    for pattern in ("seed-*.mp4", "seed-*.png", "seed-*.jpg"):
        for file in folder.glob(pattern):
            file.unlink()
