"""What changes while a model trains, and how it goes to disk and comes back unchanged."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from wam.checkpoint import TOKENIZER_STAGE, find_checkpoint, load_training_state, save_checkpoint
from wam.errors import CheckpointError, ConfigError
from wam.manifest import INSTRUCTIONS
from wam.model import WorldActionModel
from wam.pretrained import start_from_wan
from wam.robot_identity import differences
from wam.stages import STAGES
from wam.text import joined
from wam.tokenizer_stage import TokenizerModel, load_tokenizer
from wam.train_config import TrainConfig
from wam.training_data import TrainingData

__all__ = ["RunState", "save_run", "start_run"]

BETAS = (0.9, 0.95)  # of AdamW: the shorter second moment suits runs of a few thousand steps


@dataclass
class RunState:
    """Weights, their moving average, optimiser moments and the number of steps done."""

    model: WorldActionModel | TokenizerModel
    averaged: AveragedModel
    optimizer: torch.optim.Optimizer
    step: int
    teacher: WorldActionModel | None = None  # the frozen checkpoint that the run started from
    instructions: tuple[str, ...] | None = None  # what it was trained on so far, and is now


def start_run(config: TrainConfig, data: TrainingData, device: torch.device) -> RunState:
    """Makes a fresh model, or takes up the newest checkpoint in the run folder.

    Raises:
        ConfigError: The run folder holds a run with other settings.
        CheckpointError: Its checkpoint cannot be read.
    """
    torch.manual_seed(config.seed)
    model = (TokenizerModel if config.stage == TOKENIZER_STAGE else WorldActionModel)(data.model_config)
    try:
        found = find_checkpoint(config.out)
    except CheckpointError:
        found = None
        if data.base is None:
            _fit_tokenizer(model, config, torch.from_numpy(data.tokenizer_images()))
        else:
            _take_up(model, data.base.model)
    if config.stage != TOKENIZER_STAGE:
        start_from_wan(
            model,
            config.out,
            config.wan,
            config.weights,
            begins=found is None and _is_first_process(),
            fresh=found is None and data.base is None,
        )
    model.to(device)
    for name, parameter in model.named_parameters():
        frozen = config.freeze_video and name.startswith("experts.video.")
        parameter.requires_grad_(STAGES[config.stage].trains(name) and not frozen)
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay))
    optimizer = torch.optim.AdamW(
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        lr=config.learning_rate,
        betas=BETAS,
        weight_decay=config.weight_decay,
    )
    teacher = None if data.base is None else data.base.model.to(device)
    run = RunState(model, averaged, optimizer, 0, teacher, data.instructions)
    if found is not None:
        _resume(config, data, run, found)
    return run


def save_run(config: TrainConfig, data: TrainingData, run: RunState) -> Path:
    """Writes a checkpoint from which both inference and training can go on."""
    training = {f"model.{name}": value for name, value in run.model.state_dict().items()}
    for index, state in run.optimizer.state_dict()["state"].items():
        training |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in state.items()}
    return save_checkpoint(
        config.out,
        run.step,
        averaged=run.averaged.module.state_dict(),
        training=training,
        config=data.model_config,
        transforms=data.transforms,
        robot=data.robot,
        meta={"training": config.to_dict(), "datasets": list(data.content)} | _told(run),
    )


def _is_first_process() -> bool:
    return not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0


def _told(run: RunState) -> dict[str, list[str]]:
    policy = isinstance(run.model, WorldActionModel)
    return {INSTRUCTIONS: list(run.instructions)} if policy and run.instructions is not None else {}


def _fit_tokenizer(model: WorldActionModel | TokenizerModel, config: TrainConfig, images: Tensor) -> None:
    if model.config.tokenizer == "autoencoder" and config.stage != TOKENIZER_STAGE:
        load_tokenizer(model.tokenizer, Path(config.tokenizer), images)
    else:
        model.tokenizer.fit(images)


def _take_up(model: WorldActionModel, base: WorldActionModel) -> None:
    """Starts from a checkpoint; only an inverse-dynamics head may be new."""
    found = model.load_state_dict(base.state_dict(), strict=False)
    wrong = [name for name in found.missing_keys if not name.startswith("inverse.")] + found.unexpected_keys
    if wrong:
        raise CheckpointError(f"the checkpoint to start from does not fit the model: {', '.join(wrong)}.")


def _resume(config: TrainConfig, data: TrainingData, run: RunState, found: Path) -> None:
    averaged, training, meta = load_training_state(found)
    config.check_same_run(meta["training"])
    _check_same_data(config, data, meta)
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in training.items():
        if name.startswith("optimizer."):
            _, index, entry = name.split(".", 2)
            moments.setdefault(int(index), {})[entry] = value
    run.model.load_state_dict({n.removeprefix("model."): v for n, v in training.items() if n.startswith("model.")})
    run.averaged.module.load_state_dict(averaged)
    run.averaged.n_averaged.fill_(meta["step"])
    run.optimizer.load_state_dict({"state": moments, "param_groups": run.optimizer.state_dict()["param_groups"]})
    run.step = meta["step"]
    if run.instructions is not None and meta.get(INSTRUCTIONS):  # a dataset that changed since is still in the weights
        run.instructions = joined(meta[INSTRUCTIONS], run.instructions)


def _check_same_data(config: TrainConfig, data: TrainingData, meta: Mapping[str, Any]) -> None:
    """The same names may stand for other contents by now, and half a run on each would be neither."""
    changed = [
        f"dataset {root} holds other data now"
        for root, was, now in zip(config.dataset, meta.get("datasets", data.content), data.content, strict=False)
        if was != now
    ]
    changed += differences(meta["robot"], data.robot.to_dict())
    if changed:
        raise ConfigError(
            f"{config.out} holds a run that was begun otherwise ({'; '.join(changed)}): give it what it was begun "
            "with, or another --out to start anew."
        )
