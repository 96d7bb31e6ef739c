"""What each of the four questions asks of the network in training, and the squared errors of its answers.

Noise levels come from ``wam.noise``, visibility from ``wam.visibility``, and what is given is seen through
``wam.questions``: the same functions that answer a question at run time. Padded actions and frames do not count, nor do
the actions of a prefix that was shown clean: with ``max_prefix`` d of the model, some samples see up to d first actions
of their chunk at sigma 0, as the runtime will while it computes the next chunk.

Shape legend: B batch, R noise draws, H chunk, A action width, M tokens of the future, L latent frames of the future, Z
values of a video token.
"""

from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from wam.batches import Batch
from wam.caches import ContextCache, map_layers
from wam.expert import LayersKV
from wam.flow import add_noise, velocity_target
from wam.model import WorldActionModel
from wam.noise import action_levels, noise_levels, sigma_weight, video_levels
from wam.questions import see_actions, see_future
from wam.visibility import Group, Question

if TYPE_CHECKING:
    from wam.losses import LossConfig

__all__ = ["Asked", "Errors", "QuestionLosses"]


class Errors(NamedTuple):
    """Squared errors, weighted by noise level, and which of them count."""

    values: Float[Tensor, "B X"]
    keep: Bool[Tensor, "B X"]


class Asked(NamedTuple):
    """Samples that are asked one question, with what was computed of their observation."""

    batch: Batch
    context: ContextCache
    cross: dict[str, LayersKV]

    def select(self, rows: Tensor | slice) -> "Asked":
        """Some of the samples."""

        def pick(tensor: Tensor) -> Tensor:
            return tensor[rows]

        cross = {name: map_layers(pick, layers) for name, layers in self.cross.items()}
        return Asked(self.batch.map(pick), self.context.map(pick), cross)


class _Video(NamedTuple):
    """Future video of a batch at its noise levels."""

    noisy: Tensor  # (B, M, Z)
    sigma: Tensor  # (B,)
    target: Tensor  # (B, M, Z) velocity
    condition: Tensor | None  # (B, M, C)


class QuestionLosses:
    """Asks the questions of one batch."""

    def __init__(self, model: WorldActionModel, config: "LossConfig", generator: torch.Generator) -> None:
        self._model, self._config, self._generator = model, config, generator

    def about(self, question: Question, part: Asked) -> tuple[Errors | None, Errors | None]:
        """Errors of actions and of video; None for what the question does not ask."""
        return {
            Question.POLICY: self._policy,
            Question.JOINT: self._joint,
            Question.INVERSE: self._inverse,
            Question.FORWARD: self._forward,
        }[question](part)

    def _policy(self, part: Asked) -> tuple[Errors, Errors | None]:
        actions = self._of_actions(part.batch, part.context)
        if self._config.video_weight == 0:
            return actions, None
        some = part.select(slice(max(1, round(len(part.batch.proprio) * self._config.video_share))))
        video = self._video(some.batch)
        answer = self._model.video_velocity(video.noisy, video.sigma, some.context, some.cross, video.condition)
        return actions, self._of_video(answer, video, some.batch)

    def _joint(self, part: Asked) -> tuple[Errors, Errors]:
        config, batch = self._config, part.batch
        shifts = {"video_shift": config.video_shift, "action_shift": config.action_shift}
        levels = noise_levels(config.noise, len(batch.proprio), **shifts, generator=self._generator)
        video = self._video(batch, levels.video)
        noise = self._normal(batch.actions)
        level = levels.actions.to(noise)
        sigma, judged = self._with_prefix(level)
        answer = self._model.predict(
            Question.JOINT,
            {Group.FRAME: part.context.frame},
            part.cross,
            video=(video.noisy, video.sigma, video.condition),
            actions=(add_noise(batch.actions, noise, sigma), sigma),
        )
        actions = self._judge(answer.raw_actions, batch, noise, level, judged)
        return actions, self._of_video(answer.video, video, batch)

    def _inverse(self, part: Asked) -> tuple[Errors, None]:
        future, condition = self._future(part.batch), self._condition(part.batch)
        return self._of_actions(part.batch, see_future(self._model, part.context, part.cross, future, condition)), None

    def _forward(self, part: Asked) -> tuple[None, Errors]:
        cached = see_actions(self._model, part.context, part.cross, part.batch.actions)
        video = self._video(part.batch)
        given = (video.noisy, video.sigma, video.condition)
        answer = self._model.predict(Question.FORWARD, cached, part.cross, video=given)
        return None, self._of_video(answer.video, video, part.batch)

    def _of_actions(self, batch: Batch, context: ContextCache) -> Errors:
        draws = self._config.noise_draws
        batch = batch.repeat_actions(draws)  # (R·B, H, A)
        repeated = context.map(lambda kv: kv.repeat(draws, 1, 1, 1))
        noise = self._normal(batch.actions)
        level = action_levels(len(noise), self._config.action_shift, self._generator).to(noise)
        sigma, judged = self._with_prefix(level)
        raw = self._model.predict_actions(add_noise(batch.actions, noise, sigma), sigma, repeated)
        return self._judge(raw, batch, noise, level, judged)

    def _judge(self, raw: Tensor, batch: Batch, noise: Tensor, level: Tensor, judged: Tensor | None) -> Errors:
        clean = batch.actions
        target = clean if self._model.config.action_prediction == "x" else velocity_target(clean, noise)
        error = (raw - target).pow(2).mean(-1)  # (B, H)
        if self._config.action_weighting != "flat":
            error = error * sigma_weight(level, self._config.action_weighting, self._config.weight_floor)[:, None]
        keep = ~batch.action_is_pad
        return Errors(error, keep if judged is None else keep & judged)

    def _of_video(self, answer: Tensor, video: _Video, batch: Batch) -> Errors:
        latents = batch.future_is_pad.shape[1]
        error = (answer - video.target).pow(2).unflatten(1, (latents, -1)).mean((2, 3))  # (B, L)
        weight = sigma_weight(video.sigma, self._config.video_weighting, self._config.weight_floor)
        if self._model.config.video_prediction == "x":
            weight = weight * video.sigma**2  # of clean tokens: x' - x = sigma·(v - v')
        return Errors(error * weight[:, None], ~batch.future_is_pad)

    def _video(self, batch: Batch, levels: Tensor | None = None) -> _Video:
        clean = self._future(batch)
        noise = self._normal(clean)
        if levels is None:
            levels = video_levels(self._config.noise, len(clean), self._config.video_shift, self._generator)
        sigma = levels.to(clean)
        noisy, target = add_noise(clean, noise, sigma), velocity_target(clean, noise)
        return _Video(noisy, sigma, target, self._condition(batch))

    def _with_prefix(self, level: Tensor) -> tuple[Tensor, Tensor | None]:
        """Levels (B,), or (B, H) with some prefixes at 0, and which actions are then still judged."""
        longest, length = self._model.config.max_prefix, self._model.config.chunk_length
        if longest == 0:
            return level, None
        count = len(level)
        delay = torch.randint(0, longest + 1, (count,), generator=self._generator)
        shown = torch.rand(count, generator=self._generator) < self._config.prefix_share
        judged = (torch.arange(length) >= (delay * shown)[:, None]).to(level.device)  # (B, H)
        return level[:, None] * judged, judged

    def _future(self, batch: Batch) -> Tensor:
        return self._model.tokenizer.encode_future(batch.images, batch.future_images)  # (B, M, Z)

    def _condition(self, batch: Batch) -> Tensor | None:
        return self._model.tokenizer.future_condition(batch.images)

    def _normal(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=self._generator).to(like)
