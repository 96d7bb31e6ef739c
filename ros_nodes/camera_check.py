"""Have the cameras moved since they were calibrated? The policy node asks before it is activated.

``calibration.check_robot`` compares the newest picture of every camera of which the robot file stores something to
compare with; the arm should stand still, for a camera or a board on it. Messages are kept as they came and decoded when
somebody asks, so that waiting costs next to nothing.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rclpy.node import Node
from sensor_msgs.msg import Image, JointState

from calibration.check_robot import check_camera, checkable_cameras
from policy.joint_states import JointStates
from policy.wire import rgb_from_image, stamp_seconds
from ros_nodes import qos
from ros_nodes.errors import GraphError
from wam.errors import WamError
from wam.robot import RobotSpec

__all__ = ["MODES", "CameraCheck", "Verdict"]

MODES = ("off", "warn", "refuse")  # of the policy node's parameter
READY_S = 2.0  # cameras and arm are running when they were heard this recently [s]
FRESH_S = 10.0  # an older picture or joint state says nothing about now [s]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the check said of one camera."""

    camera: str
    ok: bool
    text: str  # for people; how to put it right, where it is not


class CameraCheck:
    """Listens to the cameras until it is closed.

    Args:
        node: Where to subscribe.
        robot: Its calibration says what the pictures are compared with.
        robot_path: The robot file; reference pictures lie beside it.
        clock: Steady time [s].

    Raises:
        GraphError: Nothing is stored of any camera.
    """

    def __init__(
        self, node: Node, robot: RobotSpec, robot_path: Path, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._node, self._robot, self._path, self._clock = node, robot, robot_path, clock
        self.cameras = checkable_cameras(robot)
        if not self.cameras:
            raise GraphError(
                f"the cameras of robot '{robot.name}' cannot be checked: {robot_path} stores nothing to compare with. "
                "Store it on a day when everything is right (wam calibrate check --set-reference), or set "
                "check_cameras to off"
            )
        self._images: dict[str, tuple[float, Image]] = {}
        self._state: tuple[float, np.ndarray | None] | None = None  # when one came, the last whole one: (A,) positions
        self._joint_states = JointStates(robot.action_names, robot.safety.state_age_s, robot.state_topic)
        self._subscriptions = [
            node.create_subscription(Image, camera.topic, self._image_callback(camera.name), qos.SENSOR)
            for camera in robot.cameras
            if camera.name in self.cameras
        ]
        self._subscriptions.append(
            node.create_subscription(JointState, robot.state_topic, self._on_state, qos.STATE),
        )

    @property
    def ready(self) -> bool:
        """The arm and every camera that is checked are running."""
        heard = [self._images.get(name) for name in self.cameras]
        return all(entry is not None and self._clock() - entry[0] < READY_S for entry in [self._state, *heard])

    def judge(self) -> list[Verdict]:
        """Checks every camera; takes some tenths of a second for each."""
        return [self._verdict(name) for name in self.cameras]

    def close(self) -> None:
        """Stops listening."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions = []

    def _verdict(self, name: str) -> Verdict:
        message = self._image(name)
        if message is None:
            text = f"camera '{name}' has given no picture in the last {FRESH_S:g} s, so it cannot be checked"
            return Verdict(camera=name, ok=False, text=f"{text}: start its node")
        try:
            image = np.ascontiguousarray(rgb_from_image(message))
            result = check_camera(self._robot, self._path, name, image, self._joints())
        except WamError as error:
            return Verdict(camera=name, ok=False, text=str(error))
        return Verdict(camera=name, ok=result.ok, text=result.text())

    def _image(self, name: str) -> Image | None:
        heard = self._images.get(name)
        return None if heard is None or self._clock() - heard[0] > FRESH_S else heard[1]

    def _joints(self) -> dict[str, float] | None:
        """Reported joint angles by name [rad]; None without fresh ones, or where they are not this robot's."""
        if self._state is None or self._state[1] is None or self._clock() - self._state[0] > FRESH_S:
            return None
        return dict(zip(self._robot.action_names, map(float, self._state[1]), strict=True))

    def _image_callback(self, name: str) -> Callable[[Image], None]:
        def on_image(message: Image) -> None:
            self._images[name] = (self._clock(), message)

        return on_image

    def _on_state(self, message: JointState) -> None:
        held = None if self._state is None else self._state[1]
        try:
            whole = self._joint_states.add(message.name, message.position, stamp_seconds(message.header.stamp))
            held = held if whole is None else whole[1]
        except WamError:  # the check then says which joints it misses, where it needs any
            held = None
        self._state = (self._clock(), held)
