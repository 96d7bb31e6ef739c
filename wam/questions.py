"""Given sides of a question, computed once: a clean future for inverse dynamics, clean actions for forward dynamics.

What is given never looks at what is denoised (``wam.visibility``), so its keys and values are made once and every
denoising step reads them, exactly as with the observation. In the inverse question they simply lengthen the frame's
keys and values: the exported denoising step serves both questions.

Shape legend: B batch, H chunk, A action width, M tokens of the future, Z values of a video token, C condition values.
"""

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor

from wam.caches import ContextCache, append_layers
from wam.expert import LayersKV
from wam.model import WorldActionModel
from wam.visibility import Group, Question

__all__ = ["see_actions", "see_future"]


def see_future(
    model: WorldActionModel,
    context: ContextCache,
    cross: Mapping[str, LayersKV],
    future: Float[Tensor, "B M Z"],
    condition: Float[Tensor, "B M C"] | None = None,
) -> ContextCache:
    """Inverse dynamics: the context with clean future tokens in it, for ``predict_actions`` and ``denoise``."""
    clean = future.new_zeros(len(future))
    cached = model.lend(Question.INVERSE, {Group.FRAME: context.frame}, cross, video=(future, clean, condition))
    return context._replace(frame=append_layers(cached[Group.FRAME], cached[Group.VIDEO]))


def see_actions(
    model: WorldActionModel,
    context: ContextCache,
    cross: Mapping[str, LayersKV],
    actions: Float[Tensor, "B H A"],
) -> dict[Group, LayersKV]:
    """Forward dynamics: keys and values of observation and clean actions, for ``predict``."""
    given = (actions, actions.new_zeros(len(actions)))
    return model.lend(Question.FORWARD, {Group.FRAME: context.frame}, cross, actions=given)
