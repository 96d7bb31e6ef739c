"""Training losses of one batch: every sample is asked one of the four questions.

The observation is encoded once and its keys and values serve all that follows. In the fast question several noise draws
per sample share it for the actions, and a share of the samples also predicts the future, isolated from the actions; the
joint question denoises both together, the inverse one the actions beside a clean future, the forward one the future
beside clean actions. The clean frame has no loss of its own.

Shape legend: B batch.
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from wam.batches import Batch
from wam.errors import ConfigError, unknown_name
from wam.model import WorldActionModel
from wam.noise import ASKED, NOISE_MODES, WEIGHTINGS, QuestionMix, draw_questions
from wam.question_losses import Asked, Errors, QuestionLosses
from wam.visibility import Question

__all__ = ["LossConfig", "masked_mean", "training_losses"]


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """What is asked, how noisy it is, and the weights of the training loss."""

    questions: QuestionMix = field(default_factory=QuestionMix)  # share of the samples that each question gets
    video_weight: float = 0.5  # weight of the future-frame loss; 0 trains the policy alone and skips that pass
    video_share: float = 0.5  # share of a batch that predicts the future frame; half costs half and learned as much
    noise_draws: int = 2  # action noise draws per encoded observation; the context is the dear part
    noise: str = "independent"  # levels of video and actions: independent, coupled or flash (noisy video)
    action_shift: float = 3.0  # shift of the action noise level; above 1 leans to noise, where the decision is made
    video_shift: float = 5.0  # shift of the video noise level, as Wan
    action_weighting: str = "flat"  # loss weight by noise level, of actions: flat, or bell (most in the middle)
    video_weighting: str = "bell"  # the same of video
    weight_floor: float = 0.0  # share of a flat weight mixed into the bell, so that sigma 1 counts: few steps need it
    prefix_share: float = 0.5  # share of the samples that see a clean prefix of their chunk, if the model allows one
    colour_weight: float = 4.0  # stage tokenizer: extra weight of a fully saturated pixel; 0 treats all pixels alike
    latent_noise: float = 0.05  # stage tokenizer: noise on the latents, whose spread is about 1

    def __post_init__(self) -> None:
        if self.noise not in NOISE_MODES:
            raise ConfigError(unknown_name("noise mode", self.noise, NOISE_MODES))
        for weighting in (self.action_weighting, self.video_weighting):
            if weighting not in WEIGHTINGS:
                raise ConfigError(unknown_name("loss weighting", weighting, WEIGHTINGS))
        for name in ("video_share", "weight_floor", "prefix_share"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"{name} is {getattr(self, name)} but must lie in [0, 1].")
        for name in ("colour_weight", "latent_noise"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)} but must be at least 0.")
        if self.noise == "flash" and self.video_weighting == "bell" and self.weight_floor == 0:
            raise ConfigError(
                "noise 'flash' keeps the video near sigma 1, where the bell weight is 0, and weight_floor is 0: give "
                "weight_floor a value (0.1 is one) or set video_weighting to flat."
            )
        if self.video_weight == 0 and not self.questions.only_policy:
            raise ConfigError(
                "video_weight is 0 but questions about the future are asked (joint, inverse or forward): give it a "
                "weight, or ask for the policy only."
            )


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
