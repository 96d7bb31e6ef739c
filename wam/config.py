"""Model configuration and its presets; torch-free, because checkpoints, bundles and the robot all read it.

``tiny`` is trained from scratch on a laptop's CPU in minutes. What a preset leaves open comes from the robot
(action width, cameras), so ``preset("tiny", robot)`` is a complete configuration.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from wam.errors import ConfigError, unknown_name
from wam.robot import RobotSpec

__all__ = ["ACTION_PREDICTIONS", "ModelConfig", "preset", "preset_names"]

ACTION_PREDICTIONS = ("x", "velocity")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Geometry of a world-action model; both experts share layers, heads and head size."""

    preset: str = "tiny"  # the preset it came from, for reports
    action_dim: int  # A, joints + gripper of the robot; proprio has the same width
    n_cameras: int  # K, images per observation
    chunk_length: int = 16  # H, actions per chunk: 1.6 s at 10 Hz, twice the execution horizon
    future_offset: int = 8  # control steps from the observation to the imagined frame: one execution horizon
    image_size_px: tuple[int, int] = (64, 64)  # (height, width) of every camera as the model sees it
    patch_px: int = 8  # side of one latent's image patch [px]; the tokenizer's stride
    latent_channels: int = 24  # principal components kept per patch: 97 % of the variance on our scenes
    token_patch: int = 2  # latents per token side: 2 x 2 latents make one video token
    num_layers: int = 4  # transformer blocks of each expert
    num_heads: int = 4  # attention heads of each expert
    head_dim: int = 32  # width of one head
    video_width: int = 128  # residual width of the video expert
    action_width: int = 64  # residual width of the action expert; the denoising loop runs only this one
    ffn_ratio: int = 2  # hidden width of a feed-forward layer, in multiples of the residual width
    prompt_length: int = 12  # words of the instruction that are read; longer ones are cut
    text_width: int = 64  # width of the text context; proprio is one more token of it
    frequency_dim: int = 64  # sinusoid features of the flow timestep
    qk_norm: bool = True  # RMSNorm of queries and keys over the full attention width, as Wan; steadier at this rate
    learned_positions: bool = True  # one learned embedding per token place: faster from scratch than RoPE alone
    gate_init: float = 0.5  # initial gate of every modulated branch; 0 starts as identity and learns later
    action_prediction: str = "x"  # what the action expert outputs: the clean chunk ("x") or the velocity
    action_shift: float = 1.0  # flow shift S of the action sampler; near 1 suits few steps
    video_shift: float = 5.0  # flow shift S of the video sampler, as Wan

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type is int and (not isinstance(value, int) or value < 1):
                raise ConfigError(f"model option {field.name} is {value!r} but must be a positive whole number.")
        stride = self.patch_px * self.token_patch
        if any(side % stride for side in self.image_size_px):
            raise ConfigError(
                f"image_size_px {tuple(self.image_size_px)} must be a multiple of patch_px x token_patch = {stride}."
            )
        if self.head_dim % 2:
            raise ConfigError(f"head_dim is {self.head_dim} but rotary positions need an even number.")
        if self.future_offset > self.chunk_length:
            raise ConfigError(
                f"future_offset {self.future_offset} lies beyond chunk_length {self.chunk_length}: the imagined frame "
                "must be one the chunk can reach."
            )
        for name in ("action_shift", "video_shift"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"model option {name} is {getattr(self, name)} but a flow shift must be positive.")
        if self.action_prediction not in ACTION_PREDICTIONS:
            raise ConfigError(unknown_name("action prediction", self.action_prediction, ACTION_PREDICTIONS))

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of video tokens of one camera."""
        height, width = self.image_size_px
        stride = self.patch_px * self.token_patch
        return height // stride, width // stride

    @property
    def tokens_per_frame(self) -> int:
        """Video tokens of one instant, all cameras."""
        rows, columns = self.grid
        return rows * columns * self.n_cameras

    @property
    def token_dim(self) -> int:
        """Latent values in one video token."""
        return self.latent_channels * self.token_patch**2

    def to_dict(self) -> dict[str, Any]:
        """Returns JSON data, the inverse of ``from_dict``."""
        return {**dataclasses.asdict(self), "image_size_px": list(self.image_size_px)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "ModelConfig":
        """Builds a configuration from JSON data.

        Raises:
            ConfigError: An option is unknown, missing or impossible.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        for key in data:
            if key not in names:
                raise ConfigError(unknown_name("model option", key, names))
        try:
            return cls(**{**data, "image_size_px": tuple(data.get("image_size_px", (64, 64)))})
        except TypeError as error:
            raise ConfigError(f"model configuration is incomplete: {error}") from error


def tiny(robot: RobotSpec) -> ModelConfig:
    """About 1.5 M parameters: a laptop's CPU, from scratch, in minutes."""
    return ModelConfig(preset="tiny", action_dim=robot.action_dim, n_cameras=len(robot.cameras))


def micro(robot: RobotSpec) -> ModelConfig:
    """The smallest model with every part, for tests: one training step takes milliseconds and it learns little."""
    return dataclasses.replace(
        tiny(robot),
        preset="micro",
        image_size_px=(32, 32),
        latent_channels=8,
        num_layers=2,
        num_heads=2,
        head_dim=12,
        video_width=32,
        action_width=16,
        text_width=16,
        frequency_dim=16,
    )


PRESETS: dict[str, Callable[[RobotSpec], ModelConfig]] = {"tiny": tiny, "micro": micro}


def preset_names() -> tuple[str, ...]:
    """Names that ``preset`` accepts."""
    return tuple(PRESETS)


def preset(name: str, robot: RobotSpec) -> ModelConfig:
    """Returns the named preset for a robot.

    Raises:
        ConfigError: No such preset.
    """
    if name not in PRESETS:
        raise ConfigError(unknown_name("preset", name, PRESETS))
    return PRESETS[name](robot)
