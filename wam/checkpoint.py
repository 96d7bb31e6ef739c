"""Checkpoints: safetensors for tensors, one JSON for everything else; no pickle.

``<run>/checkpoints/step_00001500/`` holds ``model.safetensors`` (the averaged weights, what is evaluated and exported),
``training.safetensors`` (raw weights and optimiser moments, what a resumed run needs) and ``checkpoint.json`` (model
configuration, transforms, robot, training configuration, step, versions). A checkpoint is written under a temporary
name and renamed, so one that is visible is whole.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from wam.config import ModelConfig
from wam.dataset_names import ReadAs
from wam.errors import CheckpointError, WamError
from wam.manifest import INSTRUCTIONS
from wam.model import WorldActionModel
from wam.robot import RobotSpec
from wam.robot_identity import differences
from wam.skeleton import skeleton
from wam.stage_names import TOKENIZER_STAGE
from wam.transforms import Transforms

__all__ = [
    "FROZEN_FOLDER",
    "TOKENIZER_STAGE",
    "Checkpoint",
    "CheckpointInfo",
    "describe_checkpoint",
    "find_checkpoint",
    "load_checkpoint",
    "load_training_state",
    "save_checkpoint",
]

FORMAT = 1
FROZEN_FOLDER = "frozen"  # of a run: autoencoder and image encoder, which never change and no checkpoint holds
MODEL_FILE, TRAINING_FILE, DESCRIPTION_FILE = "model.safetensors", "training.safetensors", "checkpoint.json"
KEPT_CHECKPOINTS = 2  # the newest and the one before it, in case the newest turns out to be unreadable
VERSIONED = ("torch", "numpy", "lerobot", "mujoco")


@dataclass(frozen=True, kw_only=True)
class CheckpointInfo:
    """A checkpoint without its weights."""

    config: ModelConfig
    transforms: Transforms
    robot: RobotSpec
    meta: dict[str, Any]  # step, training configuration, versions
    path: Path

    @property
    def read_as(self) -> ReadAs:
        """What was said of the datasets it was trained on and holds for others of its robot; their keys do not."""
        told = self.meta.get("training", {})
        return ReadAs(
            robot_order=bool(told.get("axes_in_robot_order", False)),
            absolute_actions=bool(told.get("absolute_actions", False)),
            any_aspect=bool(told.get("any_aspect", False)),
        )

    @property
    def instructions(self) -> tuple[str, ...] | None:
        """What it was trained on; None where nobody wrote it down."""
        known = self.meta.get(INSTRUCTIONS)
        return None if known is None else tuple(str(task) for task in known)

    @property
    def weights(self) -> Path:
        """File of the averaged weights."""
        return self.path / MODEL_FILE

    def sha256(self) -> str:
        """Hash of the weights file, for manifests and reports."""
        with self.weights.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()


@dataclass(frozen=True, kw_only=True)
class Checkpoint(CheckpointInfo):
    """A loaded checkpoint."""

    model: WorldActionModel  # averaged weights, in evaluation mode


def save_checkpoint(
    run: Path,
    step: int,
    *,
    averaged: Mapping[str, Tensor],
    training: Mapping[str, Tensor],
    config: ModelConfig,
    transforms: Transforms,
    robot: RobotSpec,
    meta: Mapping[str, Any],
) -> Path:
    """Writes a checkpoint and removes the oldest ones.

    Returns:
        The folder of the new checkpoint.
    """
    folder = run / "checkpoints"
    final, partial = folder / f"step_{step:08d}", folder / f".partial_{os.getpid()}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        save_file({name: value.contiguous() for name, value in averaged.items()}, partial / MODEL_FILE)
        save_file({name: value.contiguous() for name, value in training.items()}, partial / TRAINING_FILE)
        description = {
            "format": FORMAT,
            "step": step,
            "model": config.to_dict(),
            "transforms": transforms.to_dict(),
            "robot": robot.to_dict(),
            "versions": _versions(),
            **meta,
        }
        (partial / DESCRIPTION_FILE).write_text(json.dumps(description, indent=1, sort_keys=True) + "\n")
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise CheckpointError(
            f"checkpoint {final} could not be written ({error}): free some disk space and start the same command "
            "again; it goes on from the checkpoint before."
        ) from error
    for old in sorted(folder.glob("step_*"))[:-KEPT_CHECKPOINTS]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def find_checkpoint(path: Path) -> Path:
    """Resolves a run folder, its ``checkpoints`` folder, ``checkpoints/last`` or a checkpoint itself to a checkpoint.

    Raises:
        CheckpointError: There is none.
    """
    if (path / DESCRIPTION_FILE).is_file():
        return path
    folder = path.parent if path.name == "last" else path
    found = sorted(folder.glob("step_*")) or sorted((folder / "checkpoints").glob("step_*"))
    if not found:
        raise CheckpointError(
            f"no checkpoint at {path}: give a run folder of `wam train --out`, or a checkpoints/step_* folder in one."
        )
    return found[-1]


def describe_checkpoint(path: Path, *, robot: RobotSpec | None = None, stage: str = "") -> CheckpointInfo:
    """Reads all of a checkpoint but its weights.

    Args:
        path: Anything ``find_checkpoint`` resolves.
        robot: When given, the checkpoint must have been trained for this robot.
        stage: The training stage that must have made it; "" for any that makes a whole model.

    Raises:
        CheckpointError: Missing, of a newer format, of another robot or of another stage.
    """
    folder = find_checkpoint(path)
    meta = _description(folder)
    _check_stage(folder, meta, stage)
    try:
        config = ModelConfig.from_dict(meta["model"])
        transforms = Transforms.from_dict(meta["transforms"])
        trained_for = RobotSpec.from_dict(meta["robot"], source=f"{folder}: robot")
    except (KeyError, WamError) as error:
        raise CheckpointError(f"checkpoint {folder} has a description that cannot be read: {error}") from error
    if robot is not None and robot.fingerprint() != trained_for.fingerprint():
        raise CheckpointError(
            f"checkpoint {folder} was trained for robot '{trained_for.name}' (fingerprint "
            f"{trained_for.fingerprint()[:12]}) but robot '{robot.name}' (fingerprint {robot.fingerprint()[:12]}) was "
            f"asked for; they differ in {', '.join(differences(trained_for.to_dict(), robot.to_dict()))}: choose the "
            "robot file it was trained with, or train for this one."
        )
    return CheckpointInfo(config=config, transforms=transforms, robot=trained_for, meta=meta, path=folder)


def load_checkpoint(path: Path, *, robot: RobotSpec | None = None) -> Checkpoint:
    """Loads the averaged weights of a checkpoint.

    Args:
        path: Anything ``find_checkpoint`` resolves.
        robot: When given, the checkpoint must have been trained for this robot.

    Raises:
        CheckpointError: Missing, truncated, of a newer format, of another model or of another robot.
    """
    info = describe_checkpoint(path, robot=robot)
    model = skeleton(info.config)  # without values, so that the weights lie in memory once
    _load_weights(model, _tensors(info.weights), info.path)
    frozen = info.path.parent.parent / FROZEN_FOLDER
    if info.config.tokenizer == "vae" and frozen.is_dir():
        model.tokenizer.load(frozen)
    return Checkpoint(
        model=model.eval().requires_grad_(False),
        config=info.config,
        transforms=info.transforms,
        robot=info.robot,
        meta=info.meta,
        path=info.path,
    )


def load_training_state(folder: Path) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
    """Reads (averaged weights, training tensors, description) to continue a run."""
    return _tensors(folder / MODEL_FILE), _tensors(folder / TRAINING_FILE), _description(folder)


def _check_stage(folder: Path, meta: Mapping[str, Any], stage: str) -> None:
    made_by = meta.get("training", {}).get("stage", "")
    if stage and made_by != stage:
        raise CheckpointError(
            f"checkpoint {folder} was made by stage '{made_by or 'full'}' but one of stage '{stage}' is needed: "
            f"train it with `wam train --stage {stage}`."
        )
    if made_by == TOKENIZER_STAGE and not stage:
        raise CheckpointError(
            f"checkpoint {folder} holds a tokenizer and no policy: train a model on it with "
            f"`wam train --tokenizer {folder.parent.parent}`."
        )


def _description(folder: Path) -> dict[str, Any]:
    try:
        meta = json.loads((folder / DESCRIPTION_FILE).read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise CheckpointError(f"checkpoint {folder} has no readable {DESCRIPTION_FILE}: {error}") from error
    if meta.get("format") != FORMAT:
        raise CheckpointError(
            f"checkpoint {folder} has format {meta.get('format')} but this version reads {FORMAT}: use the version "
            "that wrote it, or train again."
        )
    return meta


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({error}): the file is missing or cut short. Copy the checkpoint again, or use an "
            "older one."
        ) from error


def _load_weights(model: WorldActionModel, weights: Mapping[str, Tensor], folder: Path) -> None:
    own = model.state_dict()
    problems = [f"missing {name}" for name in own if name not in weights]
    problems += [f"unexpected {name}" for name in weights if name not in own]
    problems += [
        f"{name} is {tuple(weights[name].shape)}, not {tuple(own[name].shape)}"
        for name in own
        if name in weights and weights[name].shape != own[name].shape
    ]
    problems += [
        f"{name} is {weights[name].dtype}, not {own[name].dtype}"
        for name in own
        if name in weights and weights[name].dtype != own[name].dtype
    ]
    if problems:
        raise CheckpointError(f"weights of {folder} do not fit its own configuration: {'; '.join(problems)}.")
    model.load_state_dict(dict(weights), assign=True)


def _versions() -> dict[str, str]:
    found = {}
    for name in VERSIONED:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found
