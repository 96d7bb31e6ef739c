"""The transforms between a robot's values and the model's values, the same objects in training and on the robot.

Images are centre-cropped to the model's aspect ratio and resized (area averaging); proprio and actions are normalised;
actions are absolute joint targets or, chunk-relative, differences to the proprio of the observation that produced the
chunk (the *anchor*), with grippers kept absolute. They travel as JSON inside checkpoints and
bundles.

Shape legend: K cameras, H chunk, A action width, P proprio width (P = A).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from wam.errors import ConfigError, unknown_name
from wam.normalise import Normaliser

__all__ = ["ACTION_SPACES", "Transforms", "resize_image"]

ACTION_SPACES = ("absolute", "relative")


@dataclass(frozen=True, kw_only=True)
class Transforms:
    """Image, proprio and action transforms of one trained model."""

    image_size_px: tuple[int, int]  # (height, width) the model sees, every camera alike
    proprio: Normaliser  # (P,) of measured positions
    action: Normaliser  # (A,) of actions, after the relative transform when there is one
    action_space: str = "absolute"  # "absolute" or "relative"
    gripper: bool = True  # the last dimension is a gripper, never made relative

    def __post_init__(self) -> None:
        if self.action_space not in ACTION_SPACES:
            raise ConfigError(unknown_name("action space", self.action_space, ACTION_SPACES))
        if len(self.proprio.offset) != len(self.action.offset):
            raise ConfigError(
                f"proprio has {len(self.proprio.offset)} dimensions and actions {len(self.action.offset)}: both follow "
                "the robot's axes and must agree."
            )

    def images(self, images: Mapping[str, np.ndarray], cameras: Sequence[str]) -> np.ndarray:
        """Stacks one image per camera at the model's size: (K, height, width, 3) uint8."""
        return np.stack([resize_image(images[name], self.image_size_px) for name in cameras])

    def normalise_proprio(self, proprio: np.ndarray) -> np.ndarray:
        """Maps (..., P) measured positions to (..., P) float32 normalised."""
        return self.proprio.apply(proprio)

    def encode_actions(self, actions: np.ndarray, anchor: np.ndarray) -> np.ndarray:
        """Maps (..., H, A) absolute targets to (..., H, A) float32 normalised; anchor is (..., P)."""
        return self.action.apply(self.relative_to(actions, anchor))

    def decode_actions(self, encoded: np.ndarray, anchor: np.ndarray) -> np.ndarray:
        """Maps (..., H, A) normalised back to (..., H, A) float32 absolute targets; anchor is (..., P)."""
        return (self.action.invert(encoded) + self._shift(anchor)).astype(np.float32)

    def relative_to(self, actions: np.ndarray, anchor: np.ndarray) -> np.ndarray:
        """Applies only the action space, without normalising: what the action statistics are computed from."""
        return np.asarray(actions) - self._shift(anchor)

    def _shift(self, anchor: np.ndarray) -> np.ndarray:
        if self.action_space == "absolute":
            return np.zeros((), dtype=np.float32)
        shift = np.array(anchor, dtype=np.float32)[..., None, :]  # (..., 1, P)
        if self.gripper:
            shift[..., -1] = 0.0
        return shift

    def to_dict(self) -> dict[str, Any]:
        """Returns JSON data, the inverse of ``from_dict``."""
        return {
            "image_size_px": list(self.image_size_px),
            "proprio": self.proprio.to_dict(),
            "action": self.action.to_dict(),
            "action_space": self.action_space,
            "gripper": self.gripper,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Transforms":
        """Builds transforms from JSON data.

        Raises:
            ConfigError: A field is missing, unknown or impossible.
        """
        names = {"image_size_px", "proprio", "action", "action_space", "gripper"}
        if set(data) != names:
            raise ConfigError(f"transforms have fields {sorted(data)} but need exactly {', '.join(sorted(names))}.")
        height, width = data["image_size_px"]
        return cls(
            image_size_px=(int(height), int(width)),
            proprio=Normaliser.from_dict(data["proprio"]),
            action=Normaliser.from_dict(data["action"]),
            action_space=data["action_space"],
            gripper=bool(data["gripper"]),
        )


def resize_image(image: np.ndarray, size_px: tuple[int, int]) -> np.ndarray:
    """Centre-crops to the aspect ratio of ``size_px`` and resizes.

    Args:
        image: (height, width, 3) rgb_hwc_u8.
        size_px: (height, width) of the result.

    Returns:
        (height, width, 3) uint8.
    """
    height, width = image.shape[:2]
    target_height, target_width = size_px
    crop_width = min(width, round(height * target_width / target_height))
    crop_height = min(height, round(width * target_height / target_width))
    top, left = (height - crop_height) // 2, (width - crop_width) // 2
    cropped = image[top : top + crop_height, left : left + crop_width]
    if cropped.shape[:2] == (target_height, target_width):
        return np.ascontiguousarray(cropped)
    shrinks = crop_height >= target_height
    return cv2.resize(
        cropped, (target_width, target_height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    )
