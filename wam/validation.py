"""Held-out measures of a model: the training losses and what else its stage measures, on frames never trained on.

Shape legend: B batch, H chunk, A action width.
"""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from wam.batches import Batch
from wam.losses import LossConfig
from wam.model import WorldActionModel
from wam.sampling import sample_actions
from wam.transforms import Transforms

if TYPE_CHECKING:
    from wam.stages import Stage

__all__ = ["chunk_measures", "validate"]

VALIDATION_STEPS = 4  # denoising steps, the run-time default
VALIDATION_SEED = 7  # of the noise; fixed, so validations of one run can be compared


@torch.no_grad()
def validate(
    model: nn.Module,
    teacher: WorldActionModel | None,
    batch: Batch,
    stage: "Stage",
    loss: LossConfig,
    transforms: Transforms,
) -> dict[str, float]:
    """Measures a model on one fixed batch.

    Args:
        model: The averaged weights.
        teacher: The frozen checkpoint that the run started from, if any.
        batch: Held-out observations and actions.
        stage: What is trained; gives the losses and measures.
        loss: Its weights and noise levels.
        transforms: To turn errors into radians.

    Returns:
        ``val_loss``, ``val_action`` and so on: the stage's losses, then its measures.
    """
    batch = batch.to(next(model.parameters()).device)
    losses = stage.losses(model, teacher, batch, loss, torch.Generator().manual_seed(VALIDATION_SEED))
    values = {name: float(value) for name, value in losses.items()} | stage.measures(model, batch, transforms)
    return {f"val_{name}": value for name, value in values.items()}


def chunk_measures(model: WorldActionModel, batch: Batch, transforms: Transforms) -> dict[str, float]:
    """Error of sampled chunks.

    Returns:
        ``chunk_error``: mean absolute error of a sampled chunk, normalised; ``joint_error_rad``: the same over the
        joints [rad], without the gripper.
    """
    cross = model.observation_kv(
        batch.seen_proprio, model.encode_prompt(batch.token_ids), model.tokenizer.image_tokens(batch.images)
    )
    context = model.encode_context_tokens(model.frame_tokens(batch.seen_images), cross)
    generator = torch.Generator().manual_seed(VALIDATION_SEED)
    noise = torch.randn(batch.actions.shape, generator=generator).to(batch.actions)
    sampled = sample_actions(model, context, noise, VALIDATION_STEPS)
    error = (sampled - batch.actions).abs().cpu().numpy()  # (B, H, A)
    keep = (~batch.action_is_pad).cpu().numpy()
    joints = slice(None, -1) if transforms.gripper else slice(None)
    in_units = error * np.asarray(transforms.action.scale, dtype=np.float32)
    return {
        "chunk_error": float(error[keep].mean()),
        "joint_error_rad": float(in_units[keep][:, joints].mean()),
    }
