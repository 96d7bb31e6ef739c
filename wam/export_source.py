"""What is exported: geometry, robot, transforms and weights, read from a checkpoint or drawn at random.

Random weights are as large and as fast as trained ones and are made one tensor at a time, so the latency of a model of
any size can be measured before anybody has trained it.
"""

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wam.checkpoint import CheckpointInfo
from wam.config import ModelConfig, preset
from wam.errors import ConfigError
from wam.manifest import INSTRUCTIONS
from wam.robot import RobotSpec
from wam.skeleton import skeleton
from wam.tensor_files import TensorSource, open_weights
from wam.transforms import Transforms
from wam.untrained import limit_transforms
from wam.vae import VaeTokenizer, random_vae

__all__ = ["ExportSource", "RandomWeights", "checkpoint_source", "some_layers", "untrained_source"]

BLOCKS = ".blocks."  # in the names of weights that belong to a layer
WEIGHT_STD = 0.02  # spread of random matrices: activations neither vanish nor overflow half precision


@dataclass(frozen=True, kw_only=True)
class ExportSource:
    """All that a bundle is made from."""

    config: ModelConfig
    transforms: Transforms
    robot: RobotSpec
    weights: TensorSource
    origin: Mapping[str, Any]  # where it came from, for the manifest
    vae: nn.Module | None = None  # diffusers' autoencoder, frozen, where the model's tokenizer is one


def checkpoint_source(checkpoint: CheckpointInfo, wan_folder: Path | None = None) -> ExportSource:
    """Exports what a training run saved.

    Args:
        checkpoint: The run's checkpoint.
        wan_folder: Folder of Wan weights in diffusers' form, for a model whose images go through Wan's autoencoder.

    Raises:
        ConfigError: The model needs the autoencoder and no folder was given.
    """
    return ExportSource(
        config=checkpoint.config,
        transforms=checkpoint.transforms,
        robot=checkpoint.robot,
        weights=open_weights(checkpoint.weights),
        origin={
            "name": checkpoint.path.name,
            "sha256": checkpoint.sha256(),
            "step": checkpoint.meta.get("step"),
        }
        | ({} if checkpoint.instructions is None else {INSTRUCTIONS: list(checkpoint.instructions)}),
        vae=_load_vae(checkpoint.config, wan_folder),
    )


def untrained_source(preset_name: str, robot: RobotSpec, seed: int = 0) -> ExportSource:
    """Exports random weights of a preset.

    Raises:
        ConfigError: No such preset.
    """
    config = preset(preset_name, robot)
    return ExportSource(
        config=config,
        transforms=limit_transforms(config, robot),
        robot=robot,
        weights=RandomWeights(config, seed),
        origin={"name": f"untrained {preset_name}", "sha256": "none", "step": 0},
        vae=_random_vae(config, seed),
    )


class RandomWeights:
    """Weights drawn when they are read: each depends on its name and the seed alone."""

    def __init__(self, config: ModelConfig, seed: int) -> None:
        self._like = skeleton(config).state_dict()
        self._seed = seed

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shape of every tensor."""
        return {name: tuple(tensor.shape) for name, tensor in self._like.items()}

    def read(self, name: str) -> Tensor:
        """One tensor: buffers as they are, biases zero, scales of norms one, all else normal."""
        like = self._like[name]
        if like.device.type != "meta":
            return like
        if like.ndim == 1:
            return torch.zeros(like.shape) if name.endswith("bias") else torch.ones(like.shape)
        digest = hashlib.sha256(f"{self._seed} {name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
        return torch.randn(like.shape, generator=generator) * WEIGHT_STD


def some_layers(source: ExportSource, layers: tuple[int, ...]) -> ExportSource:
    """Cuts a model down to some of its layers, with their weights: small enough to be compared with a reference."""
    config = dataclasses.replace(source.config, num_layers=len(layers))
    return dataclasses.replace(source, config=config, weights=_Cut(source.weights, layers))


def _load_vae(config: ModelConfig, folder: Path | None) -> nn.Module | None:
    if config.tokenizer != "vae":
        return None
    if folder is None:
        raise ConfigError(
            f"preset '{config.preset}' sees through Wan's autoencoder, which no checkpoint holds: add "
            "--wan-folder, the folder of its Wan weights in diffusers' form."
        )
    return VaeTokenizer(config).load(folder).vae


def _random_vae(config: ModelConfig, seed: int) -> nn.Module | None:
    if config.tokenizer != "vae":
        return None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return random_vae(config).eval().requires_grad_(False)


class _Cut:
    """Weights of some layers under the numbers that these have in the smaller model."""

    def __init__(self, weights: TensorSource, layers: tuple[int, ...]) -> None:
        self._weights = weights
        self._names = {}
        for name in weights.shapes():
            head, mark, tail = name.partition(BLOCKS)
            number, dot, rest = tail.partition(".")
            if not mark:
                self._names[name] = name
            elif int(number) in layers:
                self._names[f"{head}{mark}{layers.index(int(number))}{dot}{rest}"] = name

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        shapes = self._weights.shapes()
        return {name: shapes[original] for name, original in self._names.items()}

    def read(self, name: str) -> Tensor:
        return self._weights.read(self._names[name])
