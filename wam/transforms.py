"""The transforms between a robot's values and the model's values, the same objects in training and on the robot.

Images are brought to the model's size as the robot file says for each camera (``wam.picture_fit``); proprio and actions
are normalised; actions are absolute joint targets or, chunk-relative, differences to the proprio of the observation
that produced the chunk (the *anchor*), with grippers kept absolute. They travel as JSON inside checkpoints and bundles.

Shape legend: K cameras, H chunk, A action width, P proprio width (P = A).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from wam.errors import ConfigError, unknown_name
from wam.normalise import Normaliser
from wam.picture_fit import FITS, fit_picture

__all__ = ["ACTION_SPACES", "Transforms"]

ACTION_SPACES = ("absolute", "relative")


@dataclass(frozen=True, kw_only=True)
class Transforms:
    """Image, proprio and action transforms of one trained model."""

    image_size_px: tuple[int, int]  # (height, width) the model sees, every camera alike
    proprio: Normaliser  # (P,) of measured positions
    action: Normaliser  # (A,) of actions, after the relative transform when there is one
    action_space: str = "absolute"  # "absolute" or "relative"
    gripper: bool = True  # the last dimension is a gripper, never made relative
    image_fit: Mapping[str, str] = field(default_factory=dict)  # camera -> one of FITS; crop where it is not named

    def __post_init__(self) -> None:
        if self.action_space not in ACTION_SPACES:
            raise ConfigError(unknown_name("action space", self.action_space, ACTION_SPACES))
        for fit in self.image_fit.values():
            if fit not in FITS:
                raise ConfigError(unknown_name("fit", fit, FITS))
        if len(self.proprio.offset) != len(self.action.offset):
            raise ConfigError(
                f"proprio has {len(self.proprio.offset)} dimensions and actions {len(self.action.offset)}: both follow "
                "the robot's axes and must agree."
            )

    def images(self, images: Mapping[str, np.ndarray], cameras: Sequence[str]) -> np.ndarray:
        """Stacks one image per camera at the model's size: (K, height, width, 3) uint8."""
        return np.stack([self.image(images[name], name) for name in cameras])

    def image(self, image: np.ndarray, camera: str) -> np.ndarray:
        """Brings one picture of a camera to the model's size: (height, width, 3) uint8."""
        return fit_picture(image, self.image_size_px, self.fit(camera))

    def fit(self, camera: str) -> str:
        """How pictures of a camera become the model's."""
        return self.image_fit.get(camera, "crop")

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
            "image_fit": dict(self.image_fit),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Transforms":
        """Builds transforms from JSON data.

        Raises:
            ConfigError: A field is missing, unknown or impossible.
        """
        names = {"image_size_px", "proprio", "action", "action_space", "gripper"}
        if set(data) - {"image_fit"} != names:  # what was made before there was a choice of fit names none
            raise ConfigError(f"transforms have fields {sorted(data)} but need exactly {', '.join(sorted(names))}.")
        height, width = data["image_size_px"]
        return cls(
            image_size_px=(int(height), int(width)),
            proprio=Normaliser.from_dict(data["proprio"]),
            action=Normaliser.from_dict(data["action"]),
            action_space=data["action_space"],
            gripper=bool(data["gripper"]),
            image_fit=_fits(data.get("image_fit", {})),
        )


def _fits(data: Any) -> dict[str, str]:
    if not isinstance(data, Mapping):
        raise ConfigError(f"transforms: image_fit is {data!r} but must name a fit for each camera.")
    return {str(camera): str(fit) for camera, fit in data.items()}
