"""Keys and values that cross package borders: observation, action, action chunk.

Dataset and observation keys use LeRobot's words and are spelled only here. Images are ``rgb_hwc_u8``; proprio and
actions are float32 vectors in the order of ``RobotSpec.action_names``: joint positions [rad] and, last, the gripper
opening in [0, 1] where the robot has one. ``stamp`` is robot time in seconds.

Shape legend: H chunk length, A action width, P proprio width (equal to A here).
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from wam.errors import ValueContractError
from wam.robot import RobotSpec

__all__ = ["ACTION", "OBS_IMAGES", "OBS_STATE", "STAMP", "TASK", "ActionChunk", "Observation", "image_key"]

OBS_STATE = "observation.state"
OBS_IMAGES = "observation.images"
ACTION = "action"
TASK = "task"
STAMP = "stamp"  # robot time of a frame [s]; without the prefix "observation.", so that no policy reads it as state


def image_key(camera: str) -> str:
    """Returns the dataset key of one camera's frames, LeRobot's ``observation.images.<camera>``."""
    return f"{OBS_IMAGES}.{camera}"


@dataclass(frozen=True, kw_only=True)
class Observation:
    """All inputs of the policy at one instant."""

    images: Mapping[str, np.ndarray]  # camera name -> (height, width, 3) rgb_hwc_u8
    proprio: np.ndarray  # (P,) float32, joint positions [rad], then gripper opening [0, 1]
    task: str  # the instruction in words
    stamp: float  # robot time of the observation [s]
    history: "tuple[Observation, ...]" = ()  # what was seen before, oldest first, for a policy that looks back

    def validate(self, robot: RobotSpec) -> "Observation":
        """Checks names, shapes, types and finiteness against a robot, and returns itself.

        Raises:
            ValueContractError: A camera is missing or unknown, an array has another shape or type, or a number is not
                finite.
        """
        expected = {camera.name: camera for camera in robot.cameras}
        if set(self.images) != set(expected):
            raise ValueContractError(
                f"observation has cameras {sorted(self.images)} but robot '{robot.name}' has {sorted(expected)}: "
                "give exactly one image per camera of the robot file."
            )
        for name, image in self.images.items():
            shape = (expected[name].height_px, expected[name].width_px, 3)
            if image.shape != shape or image.dtype != np.uint8:
                raise ValueContractError(
                    f"image of camera '{name}' is {image.shape} {image.dtype} but robot '{robot.name}' promises "
                    f"{shape} uint8 (height, width, RGB): resize or convert it at the camera, or mend the robot file."
                )
        _check_vector("proprio", self.proprio, robot)
        if not np.isfinite(self.stamp):
            raise ValueContractError(f"observation stamp is {self.stamp}: it must be a finite robot time in seconds.")
        for earlier, later in itertools.pairwise((*self.history, self)):
            if earlier.stamp > later.stamp:
                raise ValueContractError(
                    f"the history of an observation holds stamp {earlier.stamp} before {later.stamp}: it must go from "
                    "the oldest to the newest."
                )
        for earlier in self.history:
            earlier.validate(robot)
        return self


@dataclass(frozen=True, kw_only=True)
class ActionChunk:
    """H consecutive absolute commands; ``actions[j]`` is meant for robot time ``stamp + j * control_dt``."""

    actions: np.ndarray  # (H, A) float32, joint targets [rad], then gripper opening [0, 1]
    stamp: float  # robot time of the observation that produced the chunk [s]
    control_dt: float  # time between two actions [s]
    anchor: np.ndarray  # (P,) float32, proprio of that observation: relative actions are decoded against it

    def validate(self, robot: RobotSpec) -> "ActionChunk":
        """Checks shape, type, finiteness and times against a robot, and returns itself.

        Raises:
            ValueContractError: Wrong width, wrong type, a number that is not finite or a control step that is not
                positive. Limits are not checked here: clamping is the safety core's work.
        """
        actions = self.actions
        if actions.ndim != 2 or actions.shape[0] < 1 or actions.dtype != np.float32:
            raise ValueContractError(
                f"action chunk is {actions.shape} {actions.dtype} but must be (H >= 1, {robot.action_dim}) float32."
            )
        if actions.shape[1] != robot.action_dim:
            raise ValueContractError(
                f"action chunk has width {actions.shape[1]} but robot '{robot.name}' expects {robot.action_dim} "
                f"({', '.join(robot.action_names)}): train with that robot file, or choose the robot it was made for."
            )
        if not np.isfinite(actions).all():
            step, column = np.argwhere(~np.isfinite(actions))[0]
            raise ValueContractError(
                f"action chunk holds {actions[step, column]} at step {step}, '{robot.action_names[column]}': it must "
                "never reach a robot; the whole chunk is refused."
            )
        _check_vector("anchor", self.anchor, robot)
        if not (np.isfinite(self.stamp) and np.isfinite(self.control_dt) and self.control_dt > 0):
            raise ValueContractError(
                f"action chunk has stamp {self.stamp} s and control_dt {self.control_dt} s: both must be finite and "
                "control_dt positive."
            )
        return self


def _check_vector(name: str, vector: np.ndarray, robot: RobotSpec) -> None:
    if vector.shape != (robot.action_dim,) or vector.dtype != np.float32:
        raise ValueContractError(
            f"{name} is {vector.shape} {vector.dtype} but robot '{robot.name}' expects ({robot.action_dim},) float32: "
            f"{', '.join(robot.action_names)}, in this order."
        )
    if not np.isfinite(vector).all():
        broken = [robot.action_names[i] for i in np.flatnonzero(~np.isfinite(vector))]
        raise ValueContractError(f"{name} is not finite for {', '.join(broken)}: check that joint's sensor.")
