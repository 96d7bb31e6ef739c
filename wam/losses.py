"""Training losses of one batch: every sample is asked one of the four questions.

The observation is encoded once and its keys and values serve all that follows. In the fast question several noise draws
per sample share it for the actions, and a share of the samples also predicts the future, isolated from the actions; the
joint question denoises both together, the inverse one the actions beside a clean future, the forward one the future
beside clean actions. The clean frame has no loss of its own.

Shape legend: B batch.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from wam.batches import Batch
from wam.loss_config import LossConfig
from wam.model import WorldActionModel
from wam.noise import ASKED, draw_questions
from wam.question_losses import Asked, Errors, QuestionLosses
from wam.visibility import Question

__all__ = ["LossConfig", "masked_mean", "training_losses"]


def training_losses(
    model: WorldActionModel, batch: Batch, config: LossConfig, generator: torch.Generator
) -> dict[str, Tensor]:
    """Returns scalar losses "action", "video" (0 where nothing asked for it) and their weighted sum "loss"."""
    asked = draw_questions(config.questions, ~batch.future_is_pad.any(1), generator)
    image = model.tokenizer.image_tokens(batch.images)
    cross = model.observation_kv(batch.seen_proprio, model.encode_prompt(batch.token_ids), image)
    whole = Asked(batch, model.encode_context_tokens(model.frame_tokens(batch.seen_images), cross), cross)
    ask = QuestionLosses(model, config, generator)
    actions: list[Errors] = []
    video: list[Errors] = []
    for question in Question:
        chosen = asked == ASKED.index(question)
        if chosen.any():
            part = whole if chosen.all() else whole.select(chosen.nonzero()[:, 0])
            of_actions, of_video = ask.about(question, part)
            actions += [of_actions] if of_actions else []
            video += [of_video] if of_video else []
    losses = {"action": _mean(actions, batch), "video": _mean(video, batch)}
    losses["loss"] = losses["action"] + config.video_weight * losses["video"]
    return losses


def masked_mean(values: Float[Tensor, "*S"], keep: Bool[Tensor, "*S"]) -> Float[Tensor, ""]:
    """Mean over kept entries only; 0 where nothing is kept."""
    return (values * keep).sum() / keep.sum().clamp_min(1)


def _mean(errors: list[Errors], batch: Batch) -> Tensor:
    if not errors:
        return batch.proprio.new_zeros(())
    if len(errors) == 1:
        return masked_mean(*errors[0])
    return masked_mean(*(torch.cat([part.flatten() for part in parts]) for parts in zip(*errors, strict=True)))
