"""What an active policy node does: a tick takes an observation, the inference thread turns it into a chunk.

Chunks are published from the inference thread the moment they exist; everything else happens in the executor's thread.
"""

import threading
import time
from collections import Counter

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage
from trajectory_msgs.msg import JointTrajectory

from policy.consistency import ConsistencyMonitor
from policy.runner import Policy
from policy.session import ChunkResult, PolicySession
from ros_nodes import messages, qos
from ros_nodes.diagnostics import ERROR, OK, WARN, Health, values_of
from ros_nodes.imagination import Imagination
from ros_nodes.policy_inputs import PolicyInputs
from ros_nodes.policy_parameters import PolicyParameters
from ros_nodes.policy_rivals import CHUNK_TOPIC, SESSION_KEY, Rivals
from ros_nodes.timing import TickTimes
from wam.errors import WamError
from wam.robot import RobotSpec
from wam.spec import Observation
from wam.text import instruction_words

__all__ = ["GUARD_STATE_TOPIC", "IMAGINED_TOPIC", "Planning", "longest_aside_s"]

GUARD_STATE_TOPIC = "guard/state"
IMAGINED_TOPIC = "policy/imagined/compressed"


class Planning:
    """Plans for a robot until it is closed.

    Args:
        node: Where to subscribe and publish.
        policy: A warmed-up policy; belongs to the inference thread from now on.
        robot: Its robot.
        parameters: Of the node.
        rivals: Told which session is ours.
        imagination: Draws what the policy expects to see; None does not.

    Raises:
        PolicyError: The mode is none that this policy can run.
    """

    def __init__(
        self,
        node: Node,
        policy: Policy,
        robot: RobotSpec,
        parameters: PolicyParameters,
        rivals: Rivals,
        imagination: Imagination | None,
    ) -> None:
        self._node, self._robot, self._rivals, self._imagination = node, robot, rivals, imagination
        # Later than that of any policy before, and first of this one's epochs: who engages the guard means this start
        self.session = time.time_ns() // 1_000_000
        rivals.own(self.session)
        self._session = PolicySession(
            policy,
            robot,
            parameters.mode,
            execution_horizon=parameters.execution_horizon or None,
            epoch=self.session,
            on_result=self._on_result,
        )
        self._chunks = node.create_publisher(JointTrajectory, CHUNK_TOPIC, qos.CHUNK)
        self._pictures = node.create_publisher(CompressedImage, IMAGINED_TOPIC, qos.SENSOR)
        self._consumption = node.create_subscription(DiagnosticStatus, GUARD_STATE_TOPIC, self._on_guard, qos.STATE)
        self._inputs = PolicyInputs(node, robot, parameters.task, policy.window)
        self._instructions = policy.instructions
        self._task = self._task_problem = self._task_warning = ""  # of the newest instruction that was looked at
        self._times = TickTimes(1.0 / parameters.rate_hz)
        self._lock = threading.Lock()  # of what both threads write
        self._counts: Counter[str] = Counter()
        self._error = ""  # of the last inference that failed since the last report
        self._submitted: Observation | None = None
        self._consistency_limit = parameters.consistency_limit
        self._consistency = None
        if policy.can_judge and parameters.consistency_rate_hz > 0:
            longest_s = longest_aside_s(robot, parameters.rate_hz)
            self._consistency = ConsistencyMonitor(policy, rate_hz=parameters.consistency_rate_hz, longest_s=longest_s)

    def close(self) -> None:
        """Ends inference, then everything else."""
        self._session.close()
        self._inputs.close()
        self._node.destroy_subscription(self._consumption)
        for publisher in (self._chunks, self._pictures):
            self._node.destroy_publisher(publisher)

    def reset(self) -> None:
        """Begins an episode: earlier chunks and observations are forgotten."""
        self._inputs.forget()
        self._forget_pictures()
        self._session.reset()

    def tick(self, now: float, t: float) -> None:
        """Takes the observation of robot time t [s], at steady time ``now`` [s], and hands it to the thread."""
        self._times.tick(now)
        if self._inputs.jumped(t):
            self._forget_pictures()
            self._session.reset()
        if not self._has_task():
            return
        observation = self._inputs.align(t).observation
        if observation is None:
            return
        if self._consistency is not None:
            self._consistency.on_observation(observation)
        if self._session.submit(observation):
            self._submitted = observation
        else:
            self._count("ticks_busy")

    def _has_task(self) -> bool:
        """Whether there is an instruction that the policy can read; says once what is wrong with a new one."""
        task = self._inputs.task
        if not instruction_words(task):
            self._inputs.refuse("no instruction on policy/task, and no parameter 'task'", "task missing")
            return False
        if task != self._task:
            self._task, self._task_problem = task, self._instructions.problem(task)
            self._task_warning = self._instructions.warning(task)
            news = self._instructions.news(task)
            if self._task_problem:
                self._node.get_logger().error(f"nothing is planned: {self._task_problem}.")
            elif news:
                self._node.get_logger().warning(f"{news}.")
        if self._task_problem:
            self._inputs.refuse(self._task_problem, "task too long")
        return not self._task_problem

    def health(self) -> Health:
        """How it goes; clears what is reported once."""
        inputs = self._inputs
        with self._lock:
            counts, error, self._error = dict(self._counts), self._error, ""
        problems = inputs.problems()
        level, message = (WARN, self._task_warning) if self._task_warning else (OK, "planning")
        if inputs.take_refusal():
            level, message = WARN, f"no observation: {inputs.last_refusal}"
        if problems:
            level, message = WARN, problems[0]
        if error:
            level, message = ERROR, f"inference failed: {error}"
        if self._imagination is not None and self._imagination.problem:
            level, message = max(level, WARN), self._imagination.problem
        seen = {} if self._consistency is None else self._consistency.status()
        if self._consistency is not None and self._consistency.problem:
            level, message = max(level, WARN), self._consistency.problem
        if 0 < self._consistency_limit < float(seen.get("consistency", "0")):
            level = max(level, WARN)
            message = f"what happened is not what was commanded: {seen['consistency']}, {seen['consistency_axis']}"
        values = {
            SESSION_KEY: self._rivals.session_value(self.session),
            "task": inputs.task,
            **self._instructions.status(inputs.task),
            "trained_on": str(self._instructions),
            **counts,
            **self._session.status(),
            **self._times.jitter.summary("tick_jitter"),
            **inputs.image_age.summary("image_age"),
            **seen,
            "last_refusal": inputs.last_refusal,
            **({"holes_in_the_past": inputs.holes} if inputs.holes else {}),
            **{f"refused {kind}": count for kind, count in sorted(inputs.refused.items())},
        }
        return Health(level=level, message=message, values=values)

    def _on_guard(self, status: DiagnosticStatus) -> None:
        values = values_of(status)
        consumed = int(values["epoch"]), int(values["sequence"]), int(values["index"])
        self._session.on_consumed(*consumed)
        if self._consistency is not None:
            self._consistency.on_consumed(*consumed, self._node.get_clock().now().nanoseconds * 1e-9)

    def _on_result(self, result: ChunkResult) -> None:
        """Runs in the inference thread."""
        if result.chunk is None:
            with self._lock:
                self._counts["inferences_failed"] += 1
                self._error = result.error
            self._node.get_logger().error(f"inference failed: {result.error}", throttle_duration_sec=2.0)
            return
        names, session = self._robot.action_names, self.session
        message = messages.chunk_trajectory(result.chunk, names, result.epoch, result.sequence, session=session)
        self._chunks.publish(message)
        self._count("chunks")
        if self._consistency is not None:
            self._consistency.on_chunk(result.epoch, result.sequence, result.chunk)
            self._judge(self._consistency)
        observation = self._submitted
        if self._imagination is not None and observation is not None:
            self._imagine(self._imagination, observation)

    def _judge(self, consistency: ConsistencyMonitor) -> None:
        try:
            consistency.judge()
        except WamError as error:
            consistency.problem = f"pictures are not compared with commands: {error}"

    def _forget_pictures(self) -> None:
        if self._consistency is not None:
            self._consistency.forget()

    def _imagine(self, imagination: Imagination, observation: Observation) -> None:
        if not self._pictures.get_subscription_count():
            return
        try:
            message = imagination.draw(observation)
        except WamError as error:
            imagination.problem = f"no imagined picture: {error}"
            return
        if message is not None:
            self._pictures.publish(message)

    def _count(self, name: str) -> None:
        with self._lock:
            self._counts[name] += 1


def longest_aside_s(robot: RobotSpec, rate_hz: float) -> float:
    """What the guard's patience leaves for anything but chunks, between two of them [s]."""
    return robot.safety.chunk_age_s - 1.5 / rate_hz
