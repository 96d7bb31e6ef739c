"""Checkpoints with random weights: as large and as fast as trained ones, for measuring speed and for tests."""

import dataclasses
from pathlib import Path
from typing import Any

import torch

from wam.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from wam.config import ModelConfig, preset
from wam.model import WorldActionModel
from wam.normalise import Normaliser
from wam.robot import RobotSpec
from wam.transforms import Transforms

__all__ = ["limit_transforms", "save_untrained_checkpoint"]


def save_untrained_checkpoint(
    run: Path, robot: RobotSpec, *, preset_name: str = "tiny", seed: int = 0, **changes: Any
) -> Checkpoint:
    """Writes and loads a checkpoint whose weights were never trained.

    Args:
        run: Run folder to put it in.
        robot: Robot it is for; actions are normalised with its limits, so chunks stay inside them.
        preset_name: Model preset.
        seed: Seed of the weights; torch's own generator is left as it was.
        changes: Options of ``ModelConfig`` that differ from the preset's.

    Returns:
        The checkpoint, as ``load_checkpoint`` gives it.
    """
    config = dataclasses.replace(preset(preset_name, robot), **changes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = WorldActionModel(config)
    save_checkpoint(
        run,
        0,
        averaged=model.state_dict(),
        training={},
        config=config,
        transforms=limit_transforms(config, robot),
        robot=robot,
        meta={"untrained": True},
    )
    return load_checkpoint(run)


def limit_transforms(config: ModelConfig, robot: RobotSpec) -> Transforms:
    """Transforms of a model that has seen no data: a robot's limits become −1 and 1."""
    middle, half = (robot.lower + robot.upper) / 2, (robot.upper - robot.lower) / 2
    limits = Normaliser(offset=tuple(middle.tolist()), scale=tuple(half.tolist()), bound=1.0)
    return Transforms(
        image_size_px=config.image_size_px,
        proprio=limits,
        action=limits,
        gripper=robot.gripper is not None,
        image_fit={camera.name: camera.fit for camera in robot.cameras},
    )
