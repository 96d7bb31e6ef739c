"""What a policy node hears: images, joint states and the task, gathered until an observation is asked for."""

from collections import Counter
from typing import Any

from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String

from policy.alignment import Alignment, ObservationBuffer
from policy.encodings import GREY
from policy.wire import rgb_from_image, stamp_seconds
from ros_nodes import qos
from ros_nodes.diagnostics import Window
from ros_nodes.graph import other_types, qos_mismatches
from ros_nodes.timing import reception
from wam import history
from wam.errors import ValueContractError
from wam.robot import CameraSpec, RobotSpec
from wam.spec import image_key

__all__ = ["TASK_TOPIC", "PolicyInputs"]

TASK_TOPIC = "policy/task"
LONGEST_STEP_S = 1.0  # robot time that moves on by more between two ticks, or back, has jumped
# How ``ObservationBuffer`` words a refusal -> what is counted
REFUSAL_KINDS = {
    "has not arrived yet": "missing",
    "has brought nothing": "unusable",
    "ahead of the robot's": "clock",
    "in the future": "future",
    "is frozen": "frozen",
    "old but": "stale",
    "older than": "spread",
}


class PolicyInputs:
    """Subscribes to everything a policy needs of a robot.

    Args:
        node: Where to subscribe.
        robot: Whose topics.
        task: The instruction until one arrives on the task topic; "" waits for it.
        window: How far observations look back; one instant unless the policy wants more.
    """

    def __init__(self, node: Node, robot: RobotSpec, task: str, window: history.Window | None = None) -> None:
        self.task = task
        self.image_age = Window()  # age of the oldest image of every observation
        self.refused: Counter[str] = Counter()  # ticks without an observation, by stream and kind
        self.last_refusal = ""
        self._news = False  # a tick was refused since ``take_refusal``
        self._node, self._robot = node, robot
        self._buffer = ObservationBuffer(robot, window=window)
        self._last_t: float | None = None
        self._asked: dict[str, QoSProfile] = {robot.state_topic: qos.STATE}
        self._bad_message = ""
        self._types = {robot.state_topic: "sensor_msgs/msg/JointState"}
        self._types |= {camera.topic: "sensor_msgs/msg/Image" for camera in robot.cameras}
        self._grey: dict[str, str] = {}  # topic -> that its pictures have no colours
        on_state: Any = self._on_state  # rclpy tells callbacks of two arguments when a message came; its types do not
        self._subscriptions = [
            node.create_subscription(JointState, robot.state_topic, on_state, qos.STATE),
            node.create_subscription(String, TASK_TOPIC, self._on_task, qos.LATCHED),
            node.create_subscription(String, TASK_TOPIC, self._on_task, qos.VOLATILE),
        ]
        for camera in robot.cameras:
            self._asked[camera.topic] = qos.SENSOR
            self._subscriptions.append(
                node.create_subscription(Image, camera.topic, self._image_callback(camera), qos.SENSOR)
            )

    def close(self) -> None:
        """Stops listening."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)

    def forget(self) -> None:
        """Drops everything heard so far but the task."""
        self._buffer.clear()

    def jumped(self, t: float) -> bool:
        """Whether robot time jumped since the last call; what was stamped before is forgotten then."""
        last, self._last_t = self._last_t, t
        if last is None or 0 <= t - last <= LONGEST_STEP_S:
            return False
        self.forget()
        return True

    def align(self, t: float) -> Alignment:
        """Returns the observation of robot time t [s], or why there is none."""
        alignment = self._buffer.align(t, self.task)
        if alignment.observation is not None:
            self.image_age.add(max(alignment.ages_s[image_key(name)] for name in self._robot.camera_names))
        else:
            self.refuse(alignment.refusal, *(_kind(sentence) for sentence in alignment.refusal.split("; ")))
        return alignment

    @property
    def holes(self) -> int:
        """Past instants so far that nothing was known of, so that a later one stood in for them."""
        return self._buffer.holes

    def refuse(self, refusal: str, *kinds: str) -> None:
        """Counts a tick without inference."""
        self.last_refusal, self._news = refusal, True
        self.refused.update(kinds)

    def take_refusal(self) -> bool:
        """Whether a tick was refused since the last call."""
        news, self._news = self._news, False
        return news

    def problems(self) -> list[str]:
        """What is wrong with the messages that arrive, or with publishers whose messages never do."""
        problems = [*other_types(self._node, self._types), *qos_mismatches(self._node, self._asked)]
        if self._bad_message:
            problems.append(self._bad_message)
            self._bad_message = ""
        return [*problems, *self._grey.values()]

    def _image_callback(self, camera: CameraSpec) -> Any:
        def on_image(message: Image, info: Any) -> None:
            stamp, received = stamp_seconds(message.header.stamp), reception(self._node, info).robot_ns * 1e-9
            self._note_grey(camera.topic, message.encoding)
            try:
                self._buffer.add_image(camera.name, stamp, rgb_from_image(message), received=received)
            except ValueContractError as error:
                self._complain(f"{camera.topic}: {error}")

        return on_image

    def _note_grey(self, topic: str, encoding: str) -> None:
        if encoding not in GREY:
            self._grey.pop(topic, None)
        elif topic not in self._grey:
            self._grey[topic] = f"{topic} is {encoding}: its pictures have no colours; was the policy trained on such?"
            self._node.get_logger().warning(self._grey[topic])

    def _on_state(self, message: JointState, info: Any) -> None:
        stamp, received = stamp_seconds(message.header.stamp), reception(self._node, info).robot_ns * 1e-9
        try:
            self._buffer.add_joint_state(message.name, message.position, stamp, received=received)
        except ValueContractError as error:
            self._complain(str(error))

    def _on_task(self, message: String) -> None:
        if message.data != self.task:
            self._node.get_logger().info(f"task: {message.data}")
        self.task = message.data

    def _complain(self, message: str) -> None:
        self._bad_message = message
        self._node.get_logger().error(message, throttle_duration_sec=2.0)


def _kind(sentence: str) -> str:
    """Stream and kind of one sentence of a refusal: "observation.images.front stale"."""
    kind = next((name for words, name in REFUSAL_KINDS.items() if words in sentence), "other")
    return f"{sentence.split(' ')[0]} {kind}"
