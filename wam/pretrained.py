"""Models that start from published weights: built without a second copy in memory, and wired into training.

A model of any size is first built without values; its parameters are then made once, in the type and on the device they
stay in, and filled tensor by tensor from files that are mapped, not read. What the files do not have (the action expert
of a Wan folder, the parts that belong to another robot) is initialised.
"""

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from wam.blocks import Block, Head, RMSNorm
from wam.checkpoint import FROZEN_FOLDER
from wam.config import ModelConfig
from wam.errors import ConfigError
from wam.model import POSITION_STD, WorldActionModel
from wam.precision import lower_matmuls
from wam.skeleton import skeleton
from wam.umt5 import TextEncoder
from wam.wan_weights import ROBOT_PARTS, LoadReport, initialise_action_expert, load_weights

__all__ = ["embed_tasks", "load_pretrained", "materialise", "start_from_wan"]

logger = logging.getLogger(__name__)

WAN_ONLY = ("diffusers", "wan")  # layouts without an action expert


def load_pretrained(
    config: ModelConfig,
    path: Path,
    *,
    dtype: str = "float32",
    device: torch.device | str = "cpu",
    reinitialise: Sequence[str] = (),
) -> tuple[WorldActionModel, LoadReport]:
    """Builds a model of any size from published weights, with one copy of them in memory.

    Args:
        config: Geometry; that of the weights.
        path: Folder or file of a layout that ``wam.wan_weights`` knows.
        dtype: Of the matrix products in the blocks: float32, float16 or bfloat16.
        device: Where the parameters are made.
        reinitialise: As ``fill_weights``.

    Raises:
        CheckpointError: The weights are missing, damaged or of another geometry.
    """
    model = materialise(lower_matmuls(skeleton(config), dtype), device)
    report = load_weights(model, path, reinitialise=reinitialise)
    if report.layout in WAN_ONLY and not config.action_register:
        initialise_action_expert(model)
    return model, report


@torch.no_grad()
def materialise(model: WorldActionModel, device: torch.device | str = "cpu") -> WorldActionModel:
    """Gives a model that was built without values its parameters, freshly initialised; buffers stay as they are."""
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            empty = nn.Parameter(torch.empty_like(parameter, device=device), requires_grad=parameter.requires_grad)
            setattr(module, name, empty)
        if isinstance(module, nn.Linear | nn.Embedding | nn.LayerNorm):
            module.reset_parameters()
        elif isinstance(module, RMSNorm):
            module.weight.fill_(1.0)
        elif isinstance(module, Block | Head):
            module.modulation.normal_(std=module.modulation.shape[-1] ** -0.5)
    for name in ("word_positions", "video_positions", "action_positions"):
        if hasattr(model, name):
            getattr(model, name).normal_(std=POSITION_STD)
    for name, buffer in model.named_buffers():
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, buffer.to(device))
    return model


def embed_tasks(config: ModelConfig, folder: Path | None, cache: Path, tasks: Sequence[str]) -> np.ndarray | None:
    """Embeds a dataset's instructions, where the model has a text encoder; each is computed once and kept in ``cache``.

    Raises:
        ConfigError: The model needs a Wan folder and none was named.
    """
    if config.tokenizer != "vae" and config.text != "umt5":
        return None
    if folder is None:
        raise ConfigError(
            f"preset '{config.preset}' sees through Wan's autoencoder and reads through UMT5: name the folder of its "
            "Wan weights, in diffusers' form, with --wan."
        )
    return TextEncoder(folder, cache, length=config.prompt_length).encode(tasks) if config.text == "umt5" else None


def start_from_wan(
    model: WorldActionModel, run: Path, wan: Path | None, weights: Path | None, *, begins: bool, fresh: bool
) -> None:
    """Gives a training run its frozen networks and, when it begins, its published weights.

    Args:
        model: Just built.
        run: Run folder; the frozen networks are kept there for evaluation and export.
        wan: Folder of Wan weights in diffusers' form.
        weights: Fast-WAM or LeRobot checkpoint to use in place of the folder's transformer.
        begins: The run has no checkpoint yet, so what an earlier attempt left of frozen networks is replaced; of
            several processes the first does so.
        fresh: The weights are these; else a checkpoint gives them.
    """
    if model.config.tokenizer == "vae" and wan is not None:
        model.tokenizer.load(wan)
        if begins or not (run / FROZEN_FOLDER).is_dir():
            partial = run / f"{FROZEN_FOLDER}.partial"
            for leftover in (partial, run / FROZEN_FOLDER):
                shutil.rmtree(leftover, ignore_errors=True)
            model.tokenizer.save(partial)
            partial.rename(run / FROZEN_FOLDER)
    source = weights or wan
    if not fresh or source is None:
        return
    report = load_weights(model, source, reinitialise=ROBOT_PARTS)
    if report.layout in WAN_ONLY and not model.config.action_register:
        initialise_action_expert(model)
    logger.info("%d tensors from %s (layout %s); initialised: %s", report.loaded, source, report.layout, report.kept)
