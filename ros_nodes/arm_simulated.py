"""What a simulated arm says besides its joint states: camera images, how its episode stands, what the task is."""

import dataclasses
import json

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import String
from std_srvs.srv import Trigger

from ros_nodes import messages, qos
from ros_nodes.arm_backend import EpisodeStatus, SimulatedArm
from ros_nodes.camera_info import camera_info, info_topic
from ros_nodes.diagnostics import ERROR, OK, Health, status_message
from wam.robot import RobotSpec

__all__ = ["EPISODE_TOPIC", "NEXT_EPISODE_SERVICE", "TASK_TOPIC", "SimulatedTopics", "episode_message"]

EPISODE_TOPIC = "arm/episode"
NEXT_EPISODE_SERVICE = "arm/next_episode"
TASK_TOPIC = "policy/task"
EPISODE_RATE_HZ = 10.0


class SimulatedTopics:
    """Publishes frames the moment they are drawn, and the episode at ``EPISODE_RATE_HZ``.

    Args:
        node: The arm node.
        arm: Its backend.
        robot: Cameras and their topics.
        announce_task: Whether each scene's instruction becomes the policy's task.
    """

    def __init__(self, node: Node, arm: SimulatedArm, robot: RobotSpec, *, announce_task: bool) -> None:
        self._arm = arm
        self._cameras = {camera.name: camera for camera in robot.cameras}
        self._images = {c.name: node.create_publisher(Image, c.topic, qos.SENSOR) for c in robot.cameras}
        self._infos = {
            c.name: node.create_publisher(CameraInfo, info_topic(c.topic), qos.SENSOR) for c in robot.cameras
        }
        self._episodes = node.create_publisher(DiagnosticStatus, EPISODE_TOPIC, qos.LATCHED)
        self._tasks = node.create_publisher(String, TASK_TOPIC, qos.LATCHED) if announce_task else None
        self._services = [node.create_service(Trigger, NEXT_EPISODE_SERVICE, self._next_episode)]
        self._timer = node.create_timer(1 / EPISODE_RATE_HZ, self._publish_episode, clock=_steady())
        self._on_frame = node.create_guard_condition(self._publish_frames)
        arm.notify = self._on_frame.trigger  # called from the thread that draws
        self._announce(arm.episode())

    def _publish_frames(self) -> None:
        for frame in self._arm.frames():
            camera, stamp = self._cameras[frame.camera], messages.to_time(frame.stamp)
            self._images[frame.camera].publish(messages.rgb_image(frame.rgb, stamp, camera.frame_id))
            self._infos[frame.camera].publish(camera_info(self._arm.lenses[frame.camera], stamp, camera.frame_id))

    def _publish_episode(self) -> None:
        self._episodes.publish(episode_message(self._arm.episode()))

    def _next_episode(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        status = self._arm.next_episode()
        self._announce(status)
        response.success, response.message = True, json.dumps(dataclasses.asdict(status))
        return response

    def _announce(self, status: EpisodeStatus) -> None:
        self._episodes.publish(episode_message(status))
        if self._tasks is not None:
            self._tasks.publish(String(data=status.instruction))


def episode_message(status: EpisodeStatus) -> DiagnosticStatus:
    """Builds the message of an episode's status; booleans are ``true`` and ``false``."""
    values = {name: _text(value) for name, value in dataclasses.asdict(status).items() if name != "more"}
    message = "solved" if status.success else "failed" if status.failed else "under way"
    health = Health(level=ERROR if status.failed else OK, message=message, values={**values, **status.more})
    return status_message("arm/episode", health)


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:.3f}" if isinstance(value, float) else str(value)


def _steady() -> Clock:
    return Clock(clock_type=ClockType.STEADY_TIME)
