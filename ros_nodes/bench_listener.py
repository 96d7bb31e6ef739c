"""Hears the ticks of guard and policy and the commands between them, and asks services; for measurements."""

import time
from collections.abc import Callable
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from std_msgs.msg import Float64MultiArray
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from policy.wire import command_by_name, stamp_seconds
from ros_nodes.bench_measures import GuardTick
from ros_nodes.diagnostics import values_of
from ros_nodes.errors import GraphError
from ros_nodes.graph import open_node
from wam.robot import RobotSpec

__all__ = ["Listener"]

# Deep and reliable: a late listener must still hear every tick.
EVERYTHING = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=1000,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.VOLATILE,
)
POLL_S = 0.05
ASTRAY_S = 20.0  # a policy that did not move a simulated arm for so long has led it astray
KINDS = {"forward": Float64MultiArray, "trajectory": JointTrajectory}


class Listener:
    """One listening node; a context manager.

    Args:
        robot: Whose commands to hear.
        check: Called while waiting; raises when waiting has become senseless.
        namespace: Of the graph, when it was started in one.
    """

    def __init__(self, robot: RobotSpec, check: Callable[[], None], namespace: str = "") -> None:
        self.robot, self._check, self._namespace = robot, check, namespace
        self.guard: list[GuardTick] = []
        self.chunks: list[float] = []  # their stamps: robot time of the policy's tick each came from [s]
        self.image_age: list[dict[str, float]] = []  # the policy's own percentiles over its last minute [ms], at 1 Hz
        self.commands: list[Any] = []  # (A,) positions, one for every guard tick but those in WAIT
        self.episode: dict[str, str] = {}
        self.unheard = 0  # ticks and commands of the guard that did not arrive here
        self._newest: dict[str, int] = {}  # topic -> number of its newest message, by the publisher's count

    def __enter__(self) -> "Listener":
        self._context = rclpy.Context()
        self._context.init(args=[])
        self.node = open_node("measurement", self._context, self._namespace)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        hear: Any = self.node.create_subscription  # its type knows no callback that takes a message and its info
        hear(DiagnosticStatus, "guard/state", self._on_guard, EVERYTHING)
        hear(JointTrajectory, "policy/chunk", self._on_chunk, EVERYTHING)
        hear(DiagnosticArray, "/diagnostics", self._on_diagnostics, EVERYTHING)
        hear(DiagnosticStatus, "arm/episode", self._on_episode, EVERYTHING)
        hear(KINDS[self.robot.command_interface], self.robot.command_topic, self._on_command, EVERYTHING)
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown()
        self.node.destroy_node()
        self._context.try_shutdown()

    @property
    def state(self) -> str:
        """The guard's newest state; empty before the first."""
        return self.guard[-1].state if self.guard else ""

    def clear(self) -> None:
        """Forgets every tick heard so far but the newest."""
        del self.guard[:-1], self.chunks[:-1], self.commands[:-1]
        self.image_age.clear()
        self.unheard = 0

    def spin(self, seconds: float, each: Callable[[float], None] | None = None) -> None:
        """Listens for a while; ``each`` is told how many seconds are left."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._executor.spin_once(timeout_sec=min(left, POLL_S))
            self._check()
            if each is not None:
                each(left)

    def until(self, done: Callable[[], object], what: str, *, patience_s: float = 60.0) -> None:
        """Listens until something is true.

        Raises:
            GraphError: It did not become true in time.
        """
        end = time.monotonic() + patience_s
        while not done():
            if time.monotonic() > end:
                raise GraphError(f"waited {patience_s:g} s in vain until {what}; the guard is in {self.state or '?'}.")
            self._executor.spin_once(timeout_sec=POLL_S)
            self._check()

    def call(self, service: str) -> tuple[bool, str]:
        """Calls a Trigger service; returns its success and message."""
        client = self.node.create_client(Trigger, service)
        try:
            self.until(client.service_is_ready, f"service {service} is there")
            future = client.call_async(Trigger.Request())
            self.until(future.done, f"service {service} answers")
            answer = future.result()
            assert answer is not None
            return answer.success, answer.message
        finally:
            self.node.destroy_client(client)

    def engage(self) -> None:
        """Engages the guard until the policy moves the arm; puts back one that has latched a fault.

        A policy that was started anew needs a new engage, and the guard may be engaged still when it comes. A policy
        that learned nothing may move the arm to where a camera sees nothing but sky: such a picture is the same
        wherever the arm is, which counts as a frozen camera. So a simulated arm goes back to its start after a while.

        Raises:
            GraphError: It did not.
        """
        refusal = ""
        begun = time.monotonic()

        def engaged() -> bool:
            nonlocal refusal, begun
            if time.monotonic() - begun > ASTRAY_S:
                begun = time.monotonic()
                self.call("arm/next_episode")
                self.call("guard/reset")
            if self.state == "FAULT":
                self.call("guard/reset")
            if self.state != "RUN_POLICY":
                refusal = self.call("guard/engage")[1]
            return self.state == "RUN_POLICY"

        try:
            self.until(engaged, "the policy moves the arm", patience_s=90.0)
        except GraphError as error:
            raise GraphError(f"{error} It says: {refusal}") from error

    def _count(self, topic: str, info: dict[str, int]) -> None:
        number = info["publication_sequence_number"]
        self.unheard += max(0, number - self._newest.get(topic, number) - 1)
        self._newest[topic] = number

    def _on_guard(self, status: DiagnosticStatus, info: dict[str, int]) -> None:
        self._count("guard/state", info)
        values = values_of(status)
        if "tick_s" in values:  # a real guard's, and not that of a source which imitates one
            latency_s = float(values.get("latency_s", "nan"))
            self.guard.append(GuardTick(tick_s=float(values["tick_s"]), state=values["state"], latency_s=latency_s))

    def _on_chunk(self, chunk: JointTrajectory) -> None:
        self.chunks.append(stamp_seconds(chunk.header.stamp))

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            values = values_of(status)
            if status.name == f"{self.node.get_namespace()}/policy".lstrip("/") and "image_age_p95_ms" in values:
                shares = ("p50", "p95", "p99", "max")
                self.image_age.append({share: float(values[f"image_age_{share}_ms"]) for share in shares})

    def _on_episode(self, status: DiagnosticStatus) -> None:
        self.episode = values_of(status)

    def _on_command(self, message: Float64MultiArray | JointTrajectory, info: dict[str, int]) -> None:
        self._count(self.robot.command_topic, info)
        self.commands.append(command_by_name(message, self.robot.action_names))
