"""What an arm node is told to do: the commands of the one guard it follows, by joint name; everything else is refused.

Which guard that is decides ``policy.commanders.GuardBinding``. Who else publishes commands is asked of the graph, since
a message does not name the node it came from.
"""

import time
from collections.abc import Callable

import numpy as np
from rclpy.node import Node
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

from policy.commanders import GuardBinding
from policy.wire import command_by_name, command_source
from ros_nodes import qos
from ros_nodes.diagnostics import ERROR, OK, WARN
from ros_nodes.graph import other_publishers
from wam.errors import ValueContractError
from wam.robot import RobotSpec

__all__ = ["ArmCommands"]

REST_COMMANDS = 8  # as many equal ones are a hold: twice as many as a guard sends before it ends
GONE_S = 0.1  # silence after which nothing is on its way any more, once the last publisher of commands is gone [s]
SILENT_S = 1.0  # silence of a publisher that is still there, as one that hangs or was not run [s]
KINDS = {"forward": Float64MultiArray, "trajectory": JointTrajectory}


class ArmCommands:
    """Listens on the robot's command topic.

    Args:
        node: The arm node.
        robot: Its robot.
        interface: "forward" or "trajectory".
        timeout_s: Silence that is reported, and after which another guard may be followed [s].
        follow: Takes each good command, (A,) [rad, opening].
    """

    def __init__(
        self, node: Node, robot: RobotSpec, interface: str, timeout_s: float, follow: Callable[[np.ndarray], None]
    ) -> None:
        self._node, self._robot, self._timeout_s, self._follow = node, robot, timeout_s, follow
        self._topic = node.resolve_topic_name(robot.command_topic)
        self._binding = GuardBinding(robot, timeout_s)
        self._measured: np.ndarray | None = None
        self._taken, self._unreadable, self._foreign = 0, 0, 0
        self._problem = self._stranger = ""  # of the last that was refused since the last report
        self._newest = float("-inf")  # steady time of the newest good command [s]
        self._setpoint, self._same = np.empty(0), 0  # the newest command, and how many before it were the same
        self._subscription = node.create_subscription(
            KINDS[interface], robot.command_topic, self._on_command, qos.COMMAND
        )

    @property
    def ended(self) -> bool:
        """The commands rest, or none come any more."""
        patience = SILENT_S if self._subscription.get_publisher_count() else GONE_S
        return self._same >= REST_COMMANDS or time.monotonic() - self._newest > patience

    def tick(self, now: float, measured: np.ndarray | None) -> None:
        """Advances to steady time ``now`` [s]; ``measured`` is (A,) [rad, opening] where there is a new one."""
        self._binding.tick(now)
        self._measured = self._measured if measured is None else measured

    def judged(self, level: bytes, message: str) -> tuple[bytes, str]:
        """Level and message of the arm's health, or what is worse about its commands; forgets what it has said."""
        silence = time.monotonic() - self._newest
        if level == OK and self._problem:
            level, message = WARN, self._problem
        if level == OK and silence > self._timeout_s:
            level, message = WARN, "no commands: holding the last setpoint"
        if self._stranger:
            level, message = ERROR, self._complaint()
            self._node.get_logger().error(message, throttle_duration_sec=2.0)
        self._problem = self._stranger = ""
        return level, message

    def values(self) -> dict[str, object]:
        """Counters and the guard that is followed, for diagnostics."""
        return {
            "commands": self._taken,
            "commands_refused": self._unreadable,
            "commands_of_others": self._foreign,
            "guard": self._binding.bound or "none yet",
        }

    def _on_command(self, message: Float64MultiArray | JointTrajectory) -> None:
        positions, problem = None, ""
        try:
            positions = command_by_name(message, self._robot.action_names)
        except ValueContractError as error:
            problem = str(error)
        stranger = self._binding.refusal(command_source(message), positions, self._measured)
        if stranger:
            self._foreign, self._stranger = self._foreign + 1, stranger
        elif positions is None:
            self._unreadable, self._problem = self._unreadable + 1, problem
            self._node.get_logger().error(problem, throttle_duration_sec=1.0)
        else:
            self._taken, self._newest = self._taken + 1, time.monotonic()
            self._same = self._same + 1 if np.array_equal(positions, self._setpoint) else 0
            self._setpoint = positions
            self._follow(positions)

    def _complaint(self) -> str:
        publishers = ", ".join(f"'{name}'" for name in sorted(other_publishers(self._node, self._topic)))
        return (
            f"a command on {self._topic} was refused, because {self._stranger}. Publishers there: "
            f"{publishers or 'none any more'}. Leave the one guard of this arm and stop the others"
        )
