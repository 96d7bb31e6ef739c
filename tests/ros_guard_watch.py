"""What a guard says and commands, as seen from outside: its states, how fast it reacts, whether it keeps the limits.

Times are the guard's own: every state carries the steady time of its tick, on the clock of this machine that tests read
as well. So neither the way of a message to this process nor a pause of this process counts. What the guard itself was
late by, because the machine did not run it, is granted on top of a gate, and nothing else is.
"""

import re
import time

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from std_msgs.msg import Float64MultiArray

from policy.wire import command_by_name
from ros_nodes.bench_measures import silence_s
from ros_nodes.diagnostics import values_of
from tests.ros_fake_policy import ROBOT
from tests.ros_graph import PATIENCE, Graph

PERIOD = 1 / ROBOT.safety.guard_rate_hz
TICK_GATE_S = 0.015  # how late a guard's tick may be on a busy machine, by the run-time contract
LATE_PERIODS = 3.0  # however late a tick is, it moves the arm no further than this many periods would
REST_TICKS = 15  # a command that stays the same for so long rests
# Deep and reliable: a listener that was not run for seconds must still hear every tick
EVERYTHING = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=2000,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.VOLATILE,
)
AGE = re.compile(r"no chunk for ([\d.]+) s|joint states are ([\d.]+) s old")


class GuardWatch:
    """Listens to a guard's states and commands; in a namespace, such as "/left/", when it was started in one."""

    def __init__(self, graph: Graph, namespace: str = "") -> None:
        self.graph, self.namespace = graph, namespace
        self.states = graph.hear(DiagnosticStatus, f"{namespace}guard/state", EVERYTHING)
        self.commands = graph.hear(Float64MultiArray, f"{namespace}{ROBOT.command_topic}", EVERYTHING)
        self._positions: list[np.ndarray] = []  # of the commands that were read so far

    @property
    def values(self) -> dict[str, str]:
        """Of the newest state."""
        return values_of(self.states.last) if self.states.items else {}

    def count(self, name: str) -> int:
        """A counter; the guard names those that are not 0."""
        return int(self.values.get(name, 0))

    def epochs(self, since: float) -> set[int]:
        """Every policy whose chunks were played after a steady time."""
        return {int(values_of(state)["epoch"]) for _, state in self.states.since(since)}

    def until(self, state: str, *, reason: str = "", since: float | None = None) -> None:
        """Waits for a tick of the guard in a state, for a reason that contains some words.

        Args:
            state: Its name.
            reason: Words.
            since: Ticks after this steady time count [s], those that have passed again when this process looks
                included; by default those after the call.
        """
        since = time.monotonic() if since is None else since
        looked = next((place for place, (when, _) in enumerate(self.states.items) if when > since), len(self.states))

        def there() -> bool:
            nonlocal looked
            news, looked = self.states.items[looked:], len(self.states)
            return any(_is(values, state, reason, since) for values in map(_values, news))

        self.graph.until(there, f"the guard is in {state} because '{reason}', not {self.values}")

    def run(self) -> None:
        """Brings the guard into RUN_POLICY, from whatever state; fails when it refuses for too long."""
        end = time.monotonic() + PATIENCE
        answer = ""
        while self.values.get("state") != "RUN_POLICY":
            assert time.monotonic() < end, f"the guard does not engage: {answer}"
            if self.values.get("state") == "FAULT":
                self.graph.call(f"{self.namespace}guard/reset")
            answer = self.graph.call(f"{self.namespace}guard/engage").message
            self.graph.spin(0.1)

    def replace_guard(self, robot: str) -> None:
        """Puts a new guard in the place of the old one, and waits until it holds the arm where that is."""
        self.graph.processes["guard"].leave()
        self.graph.spin(0.1)  # what the old one said last
        self.graph.start("guard", f"robot:={robot}")
        self.until("HOLD", reason="not engaged")

    def reaction(
        self, since: float, state: str, *, reason: str = "", acted: float | None = None
    ) -> tuple[float, float]:
        """Time from the last sign of life to the guard's first tick in a state, and what is granted beyond a gate [s].

        It may be in that state for another reason by then, which makes the time short or negative.

        The last sign of life is when the guard heard the last chunk or joint state, by what it says about that, but
        never before the fault was made: a message on its way may arrive after that.

        Args:
            since: Steady time before which the fault was not there [s].
            state: That was waited for with ``until``.
            reason: As there.
            acted: Steady time at which the fault was there [s]; ``since`` by default.
        """
        ticks = [(float(values["tick_s"]), values) for values in map(_values, self.states.items)]
        first = next(place for place, (_, values) in enumerate(ticks) if _is(values, state, reason, since))
        tick, values = ticks[first]
        begun = first  # of the state: for another reason, where a pause of this process spoilt something else as well
        while begun > 0 and ticks[begun - 1][1]["state"] == state and ticks[begun - 1][0] > since:
            begun -= 1
        age = AGE.search(values["reason"])
        sign = max(since if acted is None else acted, tick - float(age[1] or age[2]) if age else 0.0)
        window = [other for other, _ in ticks[: first + 1] if other > since - 0.2]
        return ticks[begun][0] - sign, TICK_GATE_S + silence_s(window, PERIOD)

    def path(self, since: float) -> np.ndarray:
        """(T, A) commanded positions from a time on.

        Each command is read once: the process that asks again and again is often the robot as well, whose joint states
        must not grow old meanwhile.
        """
        for _, message in self.commands.items[len(self._positions) :]:
            self._positions.append(command_by_name(message, ROBOT.action_names))
        return np.array(self._positions[len(self._positions) - len(self.commands.since(since)) :])

    def commanded(self, since: float = 0.0) -> np.ndarray:
        """(A,) newest commanded position; waits for one after a time. A guard is often heard on one topic first."""
        self.graph.until(lambda: self.commands.since(since), "the guard commands")
        return command_by_name(self.commands.last, ROBOT.action_names)

    def check_limits(self, since: float) -> None:
        """No command is farther from the one before than the fastest joint moves in the longest tick.

        By the guard's own count of its commands, so that one that got lost on the way counts as one. Exact limits are
        tested on the core.
        """
        first = next((place for place, (when, _) in enumerate(self.commands.items) if when > since), 0)
        numbers = np.array([info["publication_sequence_number"] for info in self.commands.infos[first:]], dtype=float)
        sent = np.diff(numbers)  # commands from each to the next; not positive where another guard has begun
        steps = np.abs(np.diff(self.path(since), axis=0))[sent > 0]
        fastest = np.array([axis.max_velocity for axis in ROBOT.axes])
        allowed = LATE_PERIODS * PERIOD * sent[sent > 0, None] * fastest
        assert (steps <= allowed + 1e-4).all(), (steps / allowed).max(axis=0)

    def rest(self) -> np.ndarray:
        """Waits until the arm's command rests; returns it."""
        begun = len(self.commands)

        def rests() -> bool:
            if len(self.commands) < begun + REST_TICKS:
                return False
            return bool((np.ptp(self._newest(), axis=0) <= 1e-4).all())

        self.graph.until(rests, "the command rests")
        return self._newest()[-1]

    def moves(self, speed: float) -> None:
        """Waits until the first axis is commanded to move at least at a speed [rad/s]."""
        begun = len(self.commands)

        def fast() -> bool:
            if len(self.commands) < begun + 4:
                return False
            return bool(np.abs(np.diff(self._newest()[-4:, 0])).min() > speed * PERIOD)

        self.graph.until(fast, f"the arm moves at {speed} rad/s")

    def _newest(self) -> np.ndarray:
        """(T, A) newest commands."""
        newest = self.commands.items[-REST_TICKS:]
        return np.array([command_by_name(message, ROBOT.action_names) for _, message in newest])


def _values(item: tuple[float, DiagnosticStatus]) -> dict[str, str]:
    return values_of(item[1])


def _is(values: dict[str, str], state: str, reason: str, since: float) -> bool:
    return values["state"] == state and reason in values["reason"] and float(values["tick_s"]) > since
