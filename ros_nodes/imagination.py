"""The imagined future as a picture: what the cameras show, and below it what the policy expects to see."""

import time
from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from sensor_msgs.msg import CompressedImage

from policy.runner import Policy
from ros_nodes.errors import NodeError
from ros_nodes.messages import to_time
from wam.robot import RobotSpec
from wam.spec import Observation

__all__ = ["Imagination", "picture"]

JPEG_QUALITY = 90


class Imagination:
    """Draws imagined futures at a low rate, in the thread that owns the policy.

    Args:
        policy: Of the session; called only between two of its chunks.
        rate_hz: Pictures per second at the most.
        longest_s: A picture that takes longer would starve the guard of chunks [s]; then this one was the last.

    Raises:
        NodeError: The first picture takes too long.
        WamError: This bundle or this machine cannot imagine.
    """

    def __init__(self, policy: Policy, robot: RobotSpec, *, rate_hz: float, longest_s: float) -> None:
        self._policy, self._period, self._longest_s = policy, 1.0 / rate_hz, longest_s
        self._next = 0.0
        self.problem = ""  # why there will be no more pictures
        black = {c.name: np.zeros((c.height_px, c.width_px, 3), dtype=np.uint8) for c in robot.cameras}
        middle = ((robot.lower + robot.upper) / 2).astype(np.float32)
        first = Observation(images=black, proprio=middle, task="", stamp=0.0)
        policy.imagine(first)  # loads what it needs
        begun = time.monotonic()
        policy.imagine(first)
        seconds = time.monotonic() - begun
        if seconds > longest_s:
            raise NodeError(
                f"one imagined picture takes {seconds:.2f} s, but the guard holds the arm after {longest_s:.2f} s "
                "without a chunk: start the policy without publish_imagined, or on a faster machine."
            )

    def draw(self, observation: Observation) -> CompressedImage | None:
        """Returns the picture of an observation when one is due; the session's thread waits for it."""
        now = time.monotonic()
        if self.problem or now < self._next:
            return None
        self._next = now + self._period
        imagined = self._policy.imagine(observation)
        seconds = time.monotonic() - now
        if seconds > self._longest_s:
            self.problem = (
                f"imagining took {seconds:.2f} s and was switched off: the guard waits {self._longest_s:.2f} s"
            )
        message = CompressedImage(format="jpeg")
        message.header.stamp = to_time(observation.stamp)
        cameras = self._policy.manifest.cameras
        fitted = self._policy.manifest.transforms.images(observation.images, cameras)
        message.data = picture(dict(zip(cameras, fitted, strict=True)), imagined, cameras)
        return message


def picture(seen: Mapping[str, np.ndarray], imagined: Mapping[str, np.ndarray], cameras: Sequence[str]) -> bytes:
    """Draws cameras side by side, seen above imagined, at the size of the imagined ones.

    Args:
        seen: Camera → (height, width, 3) rgb_hwc_u8, as the policy sees it.
        imagined: The same for the future; sizes may differ.
        cameras: Their order.

    Returns:
        A JPEG file.
    """
    sizes = [imagined[name].shape[1::-1] for name in cameras]  # (width, height)
    above = [
        cv2.resize(seen[name], size, interpolation=cv2.INTER_AREA) for name, size in zip(cameras, sizes, strict=True)
    ]
    rgb = np.vstack([np.hstack(above), np.hstack([imagined[name] for name in cameras])])
    done, data = cv2.imencode(".jpg", rgb[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not done:
        raise NodeError(f"OpenCV cannot encode a {rgb.shape} image as JPEG: its build lacks the codec.")
    return data.tobytes()
