"""The HTML report: one page that needs nothing but itself and the videos beside it.

It is a function of what ``results.json`` holds, so an old result can be rendered again. Styles and plots are inline,
videos and pictures relative links: the folder can be copied or served from anywhere.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from sim.plots import latency_histogram, loss_curves, progress_curves, success_bars, timing_panels
from sim.results import percent

__all__ = ["PipelineView", "Stage", "render_report", "write_report"]

TEMPLATE = "report_template.html.j2"
MODES_IN_WORDS = {
    "frozen": "physics waits while the policy computes, which no robot can do",
    "hold-last": "the robot holds its last command while the policy computes",
    "async": "the old chunk plays on while the policy computes the next one",
    "temporal-ensembling": "the mean of all chunks that planned for an instant plays",
    "real-time-chunking": "the old chunk plays on, and the next one is guided towards it",
    "hard-prefix": "the old chunk plays on, and the next one begins with it",
}
OUTCOMES_IN_WORDS = {
    "success": "solved, and held for half a second",
    "timeout": "not solved in time",
    "refused": "the policy gave numbers that are not finite, and they were refused",
    "physics": "the physics became unstable",
}


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of the pipeline behind a result."""

    name: str  # collect, train, export or evaluate
    seconds: float  # wall time, interruptions left out [s]
    note: str = ""  # what it made, in a few words


@dataclass(frozen=True, kw_only=True)
class PipelineView:
    """What a report shows of the stages that led to the result."""

    command: str  # that runs them all
    stages: Sequence[Stage]
    losses: Mapping[str, tuple[Sequence[float], Sequence[float]]]  # name -> (steps, values)
    ros: Mapping[str, Any] = field(default_factory=dict)  # episodes through ROS, with a "note" when there are none

    @property
    def total_seconds(self) -> float:
        """Wall time of all stages [s]."""
        return sum(stage.seconds for stage in self.stages)


def write_report(
    results: Mapping[str, Any], path: Path, *, videos_in: str = "", pipeline: PipelineView | None = None
) -> None:
    """Writes the page, all at once.

    Args:
        results: What ``results.json`` of an evaluation holds.
        path: HTML file to write.
        videos_in: Relative folder, from the page, that the results' file names start from.
        pipeline: Stages to show, when the result is the end of a demo.
    """
    draft = path.with_name(path.name + ".tmp")
    draft.write_text(render_report(results, videos_in=videos_in, pipeline=pipeline))
    os.replace(draft, path)


def render_report(results: Mapping[str, Any], *, videos_in: str = "", pipeline: PipelineView | None = None) -> str:
    """Returns the page as text; arguments as for ``write_report``."""
    policy = results["rows"][0]
    episodes = [episode for episode in results["episodes"] if episode["row"] == policy["name"]]
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).resolve().parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "duration": duration}
    videos = [_linked(video, videos_in) for video in results["videos"]]
    return environment.get_template(TEMPLATE).render(
        results=results,
        policy=policy,
        episodes=episodes,
        video_of={video["seed"]: video["file"] for video in videos},
        shown=[video for video in videos if video["first"]],
        failed=[video for video in videos if not video["first"]],
        strip=next((video for video in videos if video["strip"]), None),
        mode_in_words=MODES_IN_WORDS[results["loop"]["mode"]],
        outcomes=OUTCOMES_IN_WORDS,
        bars=success_bars(results["rows"]),
        histogram=_histogram(results, episodes),
        curves=progress_curves(_curves(results), results["control_dt"]),
        settings={**results["settings"], "n_steps": results["n_steps"]},
        pipeline=pipeline,
        losses=loss_curves(pipeline.losses, unit="training loss") if pipeline and pipeline.losses else "",
        timing=timing_panels(pipeline.ros["samples"]) if pipeline and pipeline.ros.get("samples") else "",
    )


def duration(seconds: float) -> str:
    """Returns a wall time as "45 s" or "7 min 12 s"."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _linked(video: Mapping[str, Any], folder: str) -> dict[str, Any]:
    files = {key: video[key] for key in ("file", "poster", "strip")}
    return {**video, **{key: f"{folder}/{file}" if folder and file else file for key, file in files.items()}}


def _curves(results: Mapping[str, Any]) -> dict[str, list[list[float]]]:
    curves: dict[str, list[list[float]]] = {row["name"]: [] for row in results["rows"]}
    for episode in results["episodes"]:
        if episode["progress_curve"]:
            curves[episode["row"]].append(episode["progress_curve"])
    return {name: row for name, row in curves.items() if row}


def _histogram(results: Mapping[str, Any], episodes: Sequence[Mapping[str, Any]]) -> str:
    values = [value for episode in episodes for value in episode["latency_ms"]]
    return latency_histogram(values, results["latency_ms"]) if values else ""
