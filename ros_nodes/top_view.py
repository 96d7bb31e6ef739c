"""What ``wam top`` shows, as one rich renderable; no ROS, no clock.

Times are monotonic seconds and are passed in. A frame is a snapshot: it can be printed once or redrawn for ever.
"""

import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

__all__ = ["GuardView", "NodeView", "StreamView", "TopState", "frame"]

RATE_WINDOW_S = 2.0  # over which rates are counted [s]
SILENT_S = 2.5  # a node reports every second: after this it is silent [s]
LEVELS = ("ok", "warn", "error", "stale")
COLOURS = {"ok": "green", "warn": "yellow", "error": "red", "stale": "red"}
STATE_COLOURS = {"RUN_POLICY": "green", "RUN_TELEOP": "green", "HOLD": "yellow", "WAIT": "yellow", "FAULT": "bold red"}
SHOWN = ("latency", "age", "jitter", "refused", "overflowed", "dropped", "recording", "episode", "seconds", "megabytes")
PERCENTILE = re.compile(r"(\w+)_(p\d+|max)_ms")
RECORDED = ("image/", "state", "command", "guard")  # streams whose counts the recorder's line shows


@dataclass
class StreamView:
    """One topic as it arrives here."""

    topic: str
    expected_hz: float = 0.0  # 0: no fixed rate
    latency_s: float | None = None  # reception - stamp of the newest message [s]
    _times: deque[float] = field(default_factory=deque)

    def saw(self, now: float, latency_s: float | None) -> None:
        """Notes one message."""
        self._times.append(now)
        self.latency_s = latency_s
        while self._times and self._times[0] < now - RATE_WINDOW_S:
            self._times.popleft()

    def rate_hz(self, now: float) -> float:
        """Messages per second of the last moments."""
        recent = [time for time in self._times if time > now - RATE_WINDOW_S]
        return (len(recent) - 1) / (recent[-1] - recent[0]) if len(recent) > 1 and recent[-1] > recent[0] else 0.0

    def age_s(self, now: float) -> float | None:
        """Time since the newest message [s]; None before the first."""
        return now - self._times[-1] if self._times else None


@dataclass(frozen=True, kw_only=True)
class NodeView:
    """What a node last said about itself."""

    level: str  # one of LEVELS
    message: str
    values: Mapping[str, str]
    when: float  # monotonic time of arrival [s]


@dataclass(frozen=True, kw_only=True)
class GuardView:
    """What the guard last said."""

    message: str
    values: Mapping[str, str]
    when: float  # monotonic time of arrival [s]


@dataclass
class TopState:
    """Everything that was heard."""

    robot: str = ""
    streams: dict[str, StreamView] = field(default_factory=dict)  # role -> stream
    nodes: dict[str, NodeView] = field(default_factory=dict)  # name -> node
    guard: GuardView | None = None


def frame(state: TopState, now: float, *, clock: str = "") -> RenderableType:
    """Draws the state at a monotonic time [s]; ``clock`` is the time of day to show."""
    title = Text(f"robot {state.robot or 'unknown'}   {clock}", style="bold")
    return Group(title, _guard(state.guard, now), _streams(state, now), _nodes(state, now))


def _guard(guard: GuardView | None, now: float) -> RenderableType:
    if guard is None:
        return Panel(Text("no guard is heard: nothing stands between a policy and the arm", style="red"), title="guard")
    values = guard.values
    state = values.get("state", "?")
    line = Text()
    line.append(state, style=STATE_COLOURS.get(state, "red"))
    line.append(f"  {guard.message}")
    age = now - guard.when
    if age > SILENT_S:
        line.append(f"  silent for {age:.1f} s", style="bold red")
    details = Table.grid(padding=(0, 2))
    details.add_row("engaged", values.get("engaged", "?"), "plays", _place(values))
    details.add_row("tracking error", values.get("tracking_error", "?"), "late ticks", values.get("late_ticks", "?"))
    if "latency_s" in values:
        latency = f"{1e3 * float(values['latency_s']):.0f} ms" if _is_number(values["latency_s"]) else "?"
        details.add_row("observation to command", latency, "limited ticks", values.get("ticks_limited", "?"))
    refusal = values.get("last_refusal") or "none"
    return Panel(Group(line, details, Text(f"last refusal: {refusal}", style="dim")), title="guard")


def _place(values: Mapping[str, str]) -> str:
    epoch, sequence, index = (values.get(name, "-1") for name in ("epoch", "sequence", "index"))
    return "nothing" if sequence == "-1" else f"chunk {sequence} of epoch {epoch}, action {index}"


def _streams(state: TopState, now: float) -> RenderableType:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), expand=True)
    for name, justify in (
        ("stream", "left"),
        ("topic", "left"),
        ("Hz", "right"),
        ("last", "right"),
        ("latency", "right"),
    ):
        table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for role, stream in state.streams.items():
        rate, age = stream.rate_hz(now), stream.age_s(now)
        slow = bool(stream.expected_hz) and rate < 0.9 * stream.expected_hz
        expected = f" of {stream.expected_hz:g}" if stream.expected_hz else ""
        style = "dim" if age is None else "red" if slow else ""
        latency = "" if stream.latency_s is None else f"{1e3 * stream.latency_s:.1f} ms"
        silent = "never heard" if age is None else f"{age:.2f} s ago"
        table.add_row(
            role, stream.topic, f"{rate:.1f}{expected}" if rate or expected else "", silent, latency, style=style
        )
    return table


def _nodes(state: TopState, now: float) -> RenderableType:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), expand=True)
    for name in ("node", "state", "says"):
        table.add_column(name, overflow="fold")
    if not state.nodes:
        table.add_row("none", "", "no node has reported on /diagnostics yet")
    for name, node in sorted(state.nodes.items()):
        age = now - node.when
        level = "stale" if age > SILENT_S else node.level
        silence = f"silent for {age:.1f} s; last: " if age > SILENT_S else ""
        shown = _condensed({key: value for key, value in node.values.items() if value and _is_shown(name, key)})
        text = Text(f"{silence}{node.message}")
        if shown:
            text.append("\n" + "  ".join(shown), style="dim")
        table.add_row(name, Text(level, style=COLOURS[level]), text)
    return table


def _condensed(values: Mapping[str, str]) -> list[str]:
    """Percentiles of one quantity become one entry: "latency p50/p95/p99/max 21.0/33.0/40.1/80.2 ms"."""
    entries: dict[str, dict[str, str]] = {}  # name -> share of a percentile, or "", -> value
    for key, value in values.items():
        found = PERCENTILE.fullmatch(key)
        name, share = (found[1], found[2]) if found else (key, "")
        entries.setdefault(name, {})[share] = value
    return [
        f"{name} {shares['']}" if "" in shares else f"{name} {'/'.join(shares)} {'/'.join(shares.values())} ms"
        for name, shares in entries.items()
    ]


def _is_shown(node: str, key: str) -> bool:
    if node.split("/")[-1] == "recorder" and key.startswith(RECORDED):
        return True
    return any(word in key for word in SHOWN)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
