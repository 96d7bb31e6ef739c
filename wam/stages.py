"""Training stages: what is learned, and which weights may change.

``full`` trains everything but the tokenizer, which is frozen. ``tokenizer`` trains a causal autoencoder alone, which
``--tokenizer`` of a later run takes. ``distill`` starts from a checkpoint (``--init``) and changes the action expert
only, so a chunk takes one denoising step. ``inverse`` adds an inverse-dynamics head to a checkpoint and trains it
alone. A stage is one entry in ``STAGES``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from wam.batches import Batch
from wam.distill import distillation_losses
from wam.inverse_dynamics import inverse_losses
from wam.losses import LossConfig, training_losses
from wam.model import WorldActionModel
from wam.stage_names import TOKENIZER_STAGE
from wam.tokenizer_stage import TokenizerModel, reconstruction_losses, reconstruction_measures
from wam.transforms import Transforms
from wam.validation import chunk_measures

__all__ = ["STAGES", "Stage"]

Losses = Callable[
    [WorldActionModel | TokenizerModel, WorldActionModel | None, Batch, LossConfig, torch.Generator],
    Mapping[str, Tensor],
]
Measures = Callable[[WorldActionModel | TokenizerModel, Batch, Transforms], dict[str, float]]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One kind of training."""

    losses: Losses  # (model, frozen starting checkpoint or None, batch, config, generator) -> scalars, with "loss"
    trains: Callable[[str], bool]  # name of a parameter -> whether it may change
    measures: Measures = chunk_measures  # what a validation adds to the losses


def _full(
    model: WorldActionModel,
    teacher: WorldActionModel | None,
    batch: Batch,
    config: LossConfig,
    generator: torch.Generator,
) -> Mapping[str, Tensor]:
    del teacher
    return training_losses(model, batch, config, generator)


def _all_but_tokenizer(name: str) -> bool:
    return not name.startswith("tokenizer.")


def _tokenizer(name: str) -> bool:
    return name.startswith("tokenizer.")


def _inverse_head(name: str) -> bool:
    return name.startswith("inverse.")


def _action_expert(name: str) -> bool:
    return name.startswith("experts.action.") or name == "action_positions"


STAGES: Mapping[str, Stage] = {
    "full": Stage(losses=_full, trains=_all_but_tokenizer),
    TOKENIZER_STAGE: Stage(losses=reconstruction_losses, trains=_tokenizer, measures=reconstruction_measures),
    "inverse": Stage(losses=inverse_losses, trains=_inverse_head),
    "distill": Stage(losses=distillation_losses, trains=_action_expert),
}
