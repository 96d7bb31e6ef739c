"""Model presets; torch-free, because checkpoints, bundles and the robot all read it.

| preset | is | trained |
|---|---|---|
| ``tiny`` | our own small model | from scratch, on a laptop's CPU, in minutes |
| ``small`` | the same, 40 times larger | from scratch, on one GPU |
| ``wan5b`` | Fast-WAM's geometry on Wan2.2-TI2V-5B | from Wan's or Fast-WAM's weights |
| ``wan14b`` | DreamZero's geometry on Wan2.1-I2V-14B | from Wan's weights |
| ``micro``, ``wan_micro`` | every part of the former and of the latter, as small as it goes | in tests |

What a preset leaves open comes from the robot (action width, cameras), so ``preset("tiny", robot)`` is complete.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from wam.errors import ConfigError, unknown_name
from wam.model_config import ACTION_PREDICTIONS, ModelConfig
from wam.robot import RobotSpec

__all__ = ["ACTION_PREDICTIONS", "ModelConfig", "preset", "preset_names"]


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


def small(robot: RobotSpec) -> ModelConfig:
    """About 70 M parameters: one GPU, from scratch, an hour."""
    return dataclasses.replace(
        tiny(robot),
        preset="small",
        image_size_px=(128, 128),
        latent_channels=32,
        num_layers=12,
        num_heads=8,
        head_dim=64,
        video_width=512,
        action_width=256,
        ffn_ratio=4,
        prompt_length=24,
        text_width=256,
        frequency_dim=256,
    )


def wan5b(robot: RobotSpec) -> ModelConfig:
    """Fast-WAM on Wan2.2-TI2V-5B: 5 B of video expert, 1 B of action expert."""
    return ModelConfig(
        preset="wan5b",
        action_dim=robot.action_dim,
        n_cameras=len(robot.cameras),
        chunk_length=32,
        future_offset=32,
        future_frames=8,  # every fourth frame of a window of 33
        image_size_px=(224, 224),  # two cameras side by side: 98 tokens per latent frame
        tokenizer="vae",
        text="umt5",
        patch_px=16,
        latent_stride=4,
        latent_channels=48,
        num_layers=30,
        num_heads=24,
        head_dim=128,
        video_width=3072,
        video_ffn_width=14336,
        action_width=1024,
        action_ffn_width=4096,
        prompt_length=128,
        action_shift=5.0,  # what the released weights were trained and judged with
        **_wan(),
    )


def wan14b(robot: RobotSpec) -> ModelConfig:
    """DreamZero on Wan2.1-I2V-14B: actions are tokens of the one expert, in its own width."""
    cameras = len(robot.cameras)
    return ModelConfig(
        preset="wan14b",
        action_dim=robot.action_dim,
        n_cameras=cameras,
        chunk_length=24,
        future_offset=24,
        future_frames=8,  # two latent frames, one block
        image_size_px=(352, 640 // cameras // 16 * 16),  # 880 tokens per latent frame with one camera or two
        tokenizer="vae",
        text="umt5",
        patch_px=8,
        latent_stride=4,
        latent_channels=16,
        num_layers=40,
        num_heads=40,
        head_dim=128,
        video_width=5120,
        video_ffn_width=13824,
        action_width=5120,
        action_register=True,
        prompt_length=512,
        image_width=1280,
        image_tokens=257,
        condition_channels=20,  # 4 of mask, 16 of the first frame's latents
        **_wan(),
    )


def wan_micro(robot: RobotSpec) -> ModelConfig:
    """Wan's structure at the size of ``micro``, for tests: autoencoder, UMT5, several latent frames."""
    return dataclasses.replace(
        wan5b(robot),
        preset="wan_micro",
        chunk_length=8,
        future_offset=8,
        image_size_px=(32, 32),
        latent_channels=4,
        num_layers=2,
        num_heads=2,
        head_dim=12,
        video_width=24,
        video_ffn_width=40,
        action_width=16,
        action_ffn_width=24,
        prompt_length=32,  # the template around an instruction takes 16 tokens
        text_width=20,
        frequency_dim=16,
    )


def _wan() -> dict[str, Any]:
    """What both of Wan's geometries share."""
    return {
        "text_width": 4096,
        "text_projection": True,
        "frequency_dim": 256,
        "learned_positions": False,
        "gate_init": 0.0,
        "action_prediction": "velocity",
        "action_head": "linear",
    }


PRESETS: dict[str, Callable[[RobotSpec], ModelConfig]] = {
    "tiny": tiny,
    "small": small,
    "wan5b": wan5b,
    "wan14b": wan14b,
    "micro": micro,
    "wan_micro": wan_micro,
}


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
