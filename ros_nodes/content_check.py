"""Whether a message that is being recorded can be converted later, told by the code that will convert it. No ROS.

Messages are not decoded for it: of a picture its header is read, of joint states names and positions.
"""

import struct

import numpy as np

from policy.encodings import GREY, check_image, wrong_size
from policy.joint_states import JointStates
from ros_nodes.cdr import header_stamp_ns, image_header, named_positions
from ros_nodes.recorded_topics import camera_role
from wam.errors import ValueContractError
from wam.robot import RobotSpec

__all__ = ["ContentCheck"]


class ContentCheck:
    """Looks at the messages of one robot.

    Args:
        robot: What its cameras and joints should be.
    """

    def __init__(self, robot: RobotSpec) -> None:
        self._sizes = {camera_role(c.name): (c.height_px, c.width_px, 3) for c in robot.cameras}
        self._joints = JointStates(robot.action_names, robot.safety.state_age_s, robot.state_topic)
        self.grey: dict[str, str] = {}  # role -> that the camera is recorded without colours

    def trouble(self, role: str, data: bytes) -> str:
        """Why a message could not be converted, in the words of the conversion; empty when it could."""
        try:
            if role in self._sizes:
                return self._picture(role, data)
            if role == "state":
                self._joints.add(*named_positions(data), header_stamp_ns(data) * 1e-9)
        except ValueContractError as error:
            return str(error)
        except struct.error as error:
            return f"it is no message of its type ({error})"
        return ""

    def _picture(self, role: str, data: bytes) -> str:
        image = image_header(data)
        check_image(image.encoding, image.width, image.height, image.step, image.size)
        if image.encoding in GREY:
            self.grey[role] = f"{role} is {image.encoding}: its pictures have no colours"
        else:
            self.grey.pop(role, None)
        return wrong_size((image.height, image.width, 3), np.dtype(np.uint8), self._sizes[role])
