"""Self-distillation of the action expert: one step goes where many steps went.

The teacher is the checkpoint that the stage starts from. From a noised chunk at any level it follows its own flow to
the end in several Euler steps; the student learns to name that end point at once. Because the end point is the same
wherever on the path one starts, the student serves one step, and any other number as well. What the observation gives
(keys and values of the context) is frozen, so it is computed once per sample and the exported context graph stays the
teacher's, bit for bit.

Source: self-distillation of flow models as in Shortcut Models (arXiv 2410.12557) and SnapFlow. Deviation: no step-size
input, because the student is asked for the end point only, and the teacher is frozen, not a moving average.

Shape legend: B batch, R noise draws, H chunk, A action width.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from wam.batches import Batch
from wam.flow import add_noise
from wam.losses import LossConfig, masked_mean
from wam.model import ContextCache, WorldActionModel
from wam.sigmas import shift_sigma

__all__ = ["distillation_losses", "flow_end_point"]

TEACHER_STEPS = 8  # Euler steps of the teacher from any level down to 0
PURE_NOISE_SHARE = 0.5  # of the draws start at sigma 1, where a one-step sampler evaluates


def distillation_losses(
    model: WorldActionModel,
    teacher: WorldActionModel | None,
    batch: Batch,
    config: LossConfig,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Returns scalar losses "action" and "loss": squared distance of the student's answer from the teacher's end point.

    Raises:
        ValueError: There is no teacher.
    """
    if teacher is None:
        raise ValueError("distillation needs a teacher: the stage must be started from a checkpoint.")
    draws = config.noise_draws
    with torch.no_grad():
        tokens = model.frame_tokens(batch.seen_images)
        clean = batch.actions.repeat(draws, 1, 1)  # (R·B, H, A)
        noise = torch.randn(clean.shape, generator=generator).to(clean)
        sigma = _start_levels(len(clean), config.action_shift, generator).to(clean)
        start = add_noise(clean, noise, sigma)
        theirs = _context(teacher, batch, tokens, draws)
        goal = flow_end_point(teacher, start, sigma, theirs, TEACHER_STEPS)
    mine = _context(model, batch, tokens, draws)
    answer = start - sigma[:, None, None] * model.action_velocity(start, sigma, mine)
    error = (answer - goal).pow(2).mean(-1)  # (R·B, H)
    loss = masked_mean(error, ~batch.action_is_pad.repeat(draws, 1))
    return {"action": loss, "loss": loss}


def flow_end_point(
    model: WorldActionModel,
    actions: Float[Tensor, "B H A"],
    sigma: Float[Tensor, " B"],
    context: ContextCache,
    n_steps: int,
) -> Float[Tensor, "B H A"]:
    """Follows the flow from each sample's own level down to 0 in equal Euler steps.

    Args:
        model: The network.
        actions: Chunks at their levels.
        sigma: Level of each sample, in (0, 1].
        context: Of the observations.
        n_steps: Network evaluations.
    """
    for step in range(n_steps):
        here, there = (sigma * (1 - s / n_steps) for s in (step, step + 1))
        actions = model.denoise_step(actions, here, there, context)
    return actions


def _context(model: WorldActionModel, batch: Batch, tokens: Tensor, draws: int) -> ContextCache:
    cross = model.observation_kv(batch.seen_proprio, model.encode_prompt(batch.token_ids))
    return model.encode_context_tokens(tokens, cross).map(lambda kv: kv.repeat(draws, 1, 1, 1))


def _start_levels(count: int, shift: float, generator: torch.Generator) -> Tensor:
    sigma = shift_sigma(torch.rand(count, generator=generator), shift)
    pure = torch.rand(count, generator=generator) < PURE_NOISE_SHARE
    return torch.where(pure, torch.ones_like(sigma), sigma)
