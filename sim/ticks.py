"""A recording, tick by tick: what a policy would have seen at each control step, and what was commanded over it.

The observation of tick t is made by the very ``ObservationBuffer.align`` that runs live, from the messages that had
arrived by then. Its action is what the guard commanded for the end of the step, at t + ``reach_steps`` control steps:
with 1, as the simulator and the guard have it, action j of a chunk is *reached* at the end of step j, and playing a
learned chunk repeats the recorded commands at their own times.

Shape legend: A action width.
"""

import dataclasses
import heapq
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from policy.alignment import ObservationBuffer
from policy.encodings import GREY
from policy.wire import command_by_name, rgb_from_image, stamp_seconds
from sim.recorded_time import REORDER_NS, Jump, RecordedTime
from sim.recordings import RecordedMessage, RecordingHeader
from wam.errors import ValueContractError
from wam.spec import Observation

__all__ = ["RUNNING", "Tick", "TickSettings", "ticks"]

NANO = 1_000_000_000
RUNNING = {"teleop": ("RUN_TELEOP",), "policy": ("RUN_POLICY",), "both": ("RUN_TELEOP", "RUN_POLICY")}


@dataclass(frozen=True, kw_only=True)
class TickSettings:
    """What makes a tick usable."""

    states: tuple[str, ...] = RUNNING["both"]  # states of the guard in which somebody moved the arm
    reach_steps: float = 1.0  # control steps after t at which the action of t is reached; the guard's own number
    command_gap_s: float = 0.1  # longest pause between two commands that still counts as commanded [s]
    task: str = ""  # instruction when the recording has none


@dataclass(frozen=True, kw_only=True)
class Tick:
    """One control step; without a reason it has all three of observation, action and task."""

    time_ns: int  # robot time t [ns]
    observation: Observation | None = None
    action: np.ndarray | None = None  # (A,) float32 commanded for the end of the step [rad, opening]
    reason: str = ""  # why the tick is dropped; empty when it is not
    scene: str = ""  # which episode of a simulated arm; ticks of two of them do not belong together
    success: bool | None = None  # whether the simulated task was solved by then; None when nobody says
    stamps: dict[str, float] = field(default_factory=dict)  # stream -> stamp of the message that was used [s]

    @property
    def category(self) -> str:
        """The reason without its numbers, to count by."""
        return re.sub(r"-?\d+(\.\d+)?", "…", self.reason)


def ticks(
    header: RecordingHeader,
    messages: Iterable[RecordedMessage],
    settings: TickSettings,
    *,
    times_ns: Sequence[int] | None = None,
    notes: list[str] | None = None,
) -> Iterator[Tick]:
    """Replays a recording at the control rate of its robot, from its first message to its last.

    Args:
        header: Of the recording.
        messages: Its messages, in the order of the file.
        settings: What makes a tick usable.
        times_ns: Robot times of other ticks, increasing [ns], such as those of a policy that ran meanwhile.
        notes: Gets a sentence, at the end, for whatever in the recording could not be used.
    """
    replay, time = _Replay(header, settings, times_ns), RecordedTime()
    for item in _in_order(time.follow(messages)):
        if isinstance(item, Jump):
            replay.jump()
        else:
            replay.advance(item.log_ns)
            replay.take(item)
        yield from replay.finished()
    replay.end("the recording ended before the step did")
    yield from replay.finished()
    if notes is not None:
        notes += [*time.notes(), *replay.notes()]


class _Replay:
    """The messages so far, and the ticks that wait for the command at the end of their step."""

    def __init__(self, header: RecordingHeader, settings: TickSettings, times_ns: Sequence[int] | None) -> None:
        self._robot, self._settings = header.robot, settings
        self._buffer = ObservationBuffer(header.robot)
        self._task = settings.task or header.task
        self._guard = self._scene = ""
        self._success: bool | None = None
        self._errors: dict[str, str] = {}  # role -> why its last message could not be used
        self._grey: dict[str, str] = {}  # role of a camera -> its encoding without colours
        self._unusable: dict[str, tuple[int, str]] = {}  # role -> how many could not, and why the last one
        self._command: tuple[int, np.ndarray] | None = None  # the newest, with its time [ns]
        self._waiting: deque[Tick] = deque()
        self._finished: list[Tick] = []
        self._times = None if times_ns is None else iter(times_ns)
        self._next_ns: int | None = None  # time of the next tick
        self._period_ns = NANO * header.robot.control_dt
        self._first_ns = self._count = 0
        self._reach_ns = round(settings.reach_steps * header.robot.control_dt * NANO)
        self._gap_ns = round(settings.command_gap_s * NANO)

    def advance(self, now_ns: int) -> None:
        """Makes the ticks before a time; every message that had arrived by then has been taken."""
        if self._count == 0:
            self._first_ns = now_ns
            self._next_ns = self._following_ns()
        while self._next_ns is not None and self._next_ns < now_ns:
            self._waiting.append(self._observe(self._next_ns))
            self._next_ns = self._following_ns()
        while self._waiting and self._waiting[0].time_ns + self._reach_ns + self._gap_ns < now_ns:
            self._drop(f"nothing was commanded for more than {self._settings.command_gap_s:g} s")

    def take(self, recorded: RecordedMessage) -> None:
        """Takes the next message; what one that breaks its contract says is kept as a reason."""
        self._errors.pop(recorded.role, None)
        try:
            self._take(recorded)
        except ValueContractError as error:
            self._errors[recorded.role] = str(error)
            self._unusable[recorded.role] = self._unusable.get(recorded.role, (0, ""))[0] + 1, str(error)

    def finished(self) -> list[Tick]:
        """Takes out the ticks about which nothing can change any more, in order."""
        done, self._finished = self._finished, []
        return done

    def jump(self) -> None:
        """Robot time goes on elsewhere: nothing is known of it yet, and ticks begin anew."""
        self.end("the robot's clock jumped during the step")
        self._buffer.clear()
        self._command = None
        if self._times is None:
            self._count = 0

    def end(self, reason: str) -> None:
        """No message completes the ticks that wait."""
        while self._waiting:
            self._drop(reason)

    def notes(self) -> list[str]:
        """What could not be used, one sentence per stream."""
        unusable = dict(self._unusable)
        for key, counts in self._buffer.counts.items():
            if counts.malformed:
                unusable[key] = counts.malformed, self._buffer.refused[key]
            elif counts.late or counts.out_of_order:
                unusable[key] = counts.late + counts.out_of_order, "they are stamped before ones that came earlier"
        grey = [f"{role} is {encoding}: its pictures have no colours" for role, encoding in self._grey.items()]
        return grey + [f"{count} messages of {key} were not used: {why}" for key, (count, why) in unusable.items()]

    def _take(self, recorded: RecordedMessage) -> None:
        role, message = recorded.role, recorded.message
        kind, _, camera = role.partition("/")
        if kind == "image":
            stamp, received = stamp_seconds(message.header.stamp), recorded.log_ns / NANO
            self._grey |= {role: message.encoding} if message.encoding in GREY else {}
            self._buffer.add_image(camera, stamp, rgb_from_image(message), received=received)
        elif role == "state":
            stamp, received = stamp_seconds(message.header.stamp), recorded.log_ns / NANO
            self._buffer.add_joint_state(message.name, message.position, stamp, received=received)
        elif role == "command":
            command = command_by_name(message, self._robot.action_names, role)
            if self._command is None or recorded.log_ns >= self._command[0]:
                self._complete(recorded.log_ns, command)
                self._command = (recorded.log_ns, command)
        elif role == "guard":
            self._guard = _value(message, "state")
        elif role == "task" and not self._settings.task:
            self._task = message.data
        elif role == "episode":
            self._scene, self._success = _value(message, "episode"), _value(message, "success") == "true"

    def _following_ns(self) -> int | None:
        """Time of the tick after those asked for so far [ns]."""
        count, self._count = self._count, self._count + 1
        if self._times is not None:
            return next(self._times, None)
        return self._first_ns + round(count * self._period_ns)

    def _observe(self, time_ns: int) -> Tick:
        """The tick at a time, as it is until its action is known."""
        tick = Tick(time_ns=time_ns, scene=self._scene, success=self._success)
        if self._guard not in self._settings.states:
            state = f"in {self._guard}" if self._guard else "silent"
            return dataclasses.replace(tick, reason=f"the guard was {state}")
        if not self._task:
            return dataclasses.replace(tick, reason="no instruction had been given")
        aligned = self._buffer.align(time_ns / NANO, self._task)
        reason = "; ".join([aligned.refusal, *self._errors.values()]) if aligned.refusal else ""
        return dataclasses.replace(tick, observation=aligned.observation, reason=reason, stamps=dict(aligned.stamps))

    def _complete(self, now_ns: int, command: np.ndarray) -> None:
        """Gives every tick whose step has ended the command at its end, between the last two."""
        while self._waiting and self._waiting[0].time_ns + self._reach_ns <= now_ns:
            if self._command is None or now_ns - self._command[0] > self._gap_ns:
                self._drop(f"nothing was commanded for more than {self._settings.command_gap_s:g} s")
                continue
            if self._guard not in self._settings.states:
                self._drop(f"the guard went to {self._guard} during the step")
                continue
            before_ns, before = self._command
            due_ns = self._waiting[0].time_ns + self._reach_ns
            share = float(np.clip((due_ns - before_ns) / max(1, now_ns - before_ns), 0.0, 1.0))
            action = (before + share * (command - before)).astype(np.float32)
            tick = self._waiting.popleft()
            self._finished.append(tick if tick.reason else dataclasses.replace(tick, action=action))

    def _drop(self, reason: str) -> None:
        tick = self._waiting.popleft()
        self._finished.append(dataclasses.replace(tick, observation=None, reason=tick.reason or reason))


def _in_order(messages: Iterable[RecordedMessage | Jump]) -> Iterator[RecordedMessage | Jump]:
    """Sorts by time of arrival: a recorder takes messages topic by topic, so neighbours may have changed places."""
    heap: list[tuple[int, int, RecordedMessage]] = []
    for number, message in enumerate(messages):
        if isinstance(message, Jump):
            while heap:
                yield heapq.heappop(heap)[2]
            yield message
            continue
        heapq.heappush(heap, (message.log_ns, number, message))
        while heap[0][0] < message.log_ns - REORDER_NS:
            yield heapq.heappop(heap)[2]
    while heap:
        yield heapq.heappop(heap)[2]


def _value(status: Any, key: str) -> str:
    """One value of a ``DiagnosticStatus``."""
    return next((pair.value for pair in status.values if pair.key == key), "")
