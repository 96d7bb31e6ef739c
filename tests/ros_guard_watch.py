"""What a guard says and commands, as seen from outside: its states, how fast it reacts, whether it keeps the limits."""

import time

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from std_msgs.msg import Float64MultiArray

from policy.wire import command_by_name
from ros_nodes import qos
from ros_nodes.diagnostics import values_of
from tests.ros_fake_policy import ROBOT
from tests.ros_graph import PATIENCE, Graph

PERIOD = 1 / ROBOT.safety.guard_rate_hz
# Time-outs are measured here, by when messages arrive in this process. Beyond the gate that a robot must keep, a busy
# machine gets this much, and the longest silence of the guard's own 50 Hz states, which shows how busy it was.
ALLOWANCE_S = 0.05


class GuardWatch:
    """Listens to a guard's states and commands."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.states = graph.hear(DiagnosticStatus, "guard/state", qos.STATE)
        self.commands = graph.hear(Float64MultiArray, ROBOT.command_topic, qos.COMMAND)

    @property
    def values(self) -> dict[str, str]:
        """Of the newest state."""
        return values_of(self.states.last) if self.states.items else {}

    def count(self, name: str) -> int:
        """A counter; the guard names those that are not 0."""
        return int(self.values.get(name, 0))

    def until(self, state: str, *, reason: str = "") -> float:
        """Waits for a state, and for a reason that contains some words; returns when it arrived."""
        begun = len(self.states)

        def there() -> bool:
            values = self.values if len(self.states) > begun else {}
            return values.get("state") == state and reason in values["reason"]

        self.graph.until(there, f"the guard is in {state} because '{reason}', not {self.values}")
        return self.states.items[-1][0]

    def run(self) -> None:
        """Brings the guard into RUN_POLICY, from whatever state; fails when it refuses for too long."""
        end = time.monotonic() + PATIENCE
        answer = ""
        while self.values.get("state") != "RUN_POLICY":
            assert time.monotonic() < end, f"the guard does not engage: {answer}"
            if self.values.get("state") == "FAULT":
                self.graph.call("guard/reset")
            answer = self.graph.call("guard/engage").message
            self.graph.spin(0.1)

    def reaction(self, since: float, state: str) -> tuple[float, float]:
        """Time from ``since`` to the first message with a state, and what is allowed beyond a gate [s]."""
        arrivals = [when for when, _ in self.states.items if when > since - 0.1]
        first = next(
            when for when, message in self.states.items if when > since and values_of(message)["state"] == state
        )
        seen = [when for when in arrivals if when <= first]
        return first - since, ALLOWANCE_S + float(np.max(np.diff(seen), initial=0.0))

    def path(self, since: float) -> np.ndarray:
        """(T, A) commanded positions from a time on."""
        return np.array([command_by_name(message, ROBOT.action_names) for _, message in self.commands.since(since)])

    def check_limits(self, since: float) -> None:
        """No two commands in a row are farther apart than the fastest joint moves in the time between them.

        A busy machine delivers late, and the publisher keeps only its newest command, so a command may be as old as the
        longest silence on the topic. Exact limits are tested on the core; a jump would be farther than this.
        """
        arrivals = np.array([when for when, _ in self.commands.since(since)])
        gaps = np.diff(arrivals)
        steps = np.abs(np.diff(self.path(since), axis=0))
        fastest = np.array([axis.max_velocity for axis in ROBOT.axes])
        allowed = (gaps + np.max(gaps, initial=PERIOD) + 3 * PERIOD)[:, None] * fastest
        assert (steps <= allowed + 1e-4).all(), (steps / allowed).max(axis=0)

    def check_at_rest(self, *, seconds: float = 0.3) -> np.ndarray:
        """Watches for a while that the command does not move; returns it."""
        begun = self.states.items[-1][0]
        self.graph.spin(seconds)
        path = self.path(begun)
        assert len(path) > 3
        np.testing.assert_allclose(path[-1], path[0], atol=1e-4)
        return path[-1]
