"""Who may see whom: the one place that decides attention between clean frames, future video and actions.

F = clean tokens of the observation, V = future video, A = action chunk. The rule is a table of groups; attention over
whole groups needs no mask at all, so training, cached inference and export all use ``visible`` directly and
``attention_mask`` is its dense form for proofs and for kernels that want one.

F never looks ahead in any question. Hence its keys and values can be computed once per observation and cached, and the
cached result is exactly the uncached one.

An observation may look back: F is then the tokens of several instants, oldest first (``Band``). They see one another,
or, causal, themselves and earlier ones, at most ``window`` of them: then an instant never changes when later ones come,
and a stream of observations is computed instant by instant. V and A see the last ``window`` instants.

Shape legend: N tokens of all groups.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor

from wam.errors import ConfigError, unknown_name

__all__ = ["Band", "Group", "Question", "attention_mask", "visible"]


class Group(StrEnum):
    """Tokens that share their visibility."""

    FRAME = "F"  # clean tokens of the observation
    VIDEO = "V"  # future video
    ACTION = "A"  # action chunk


class Question(StrEnum):
    """What is asked of the weights."""

    POLICY = "policy"  # p(a | o), and isolated training of future video beside it
    JOINT = "joint"  # p(o', a | o)
    INVERSE = "inverse"  # p(a | o, o')
    FORWARD = "forward"  # p(o' | o, a)


class Band(NamedTuple):
    """Instants of the observation."""

    instants: int = 1  # how many there are; their tokens stand one after the other, as many for each
    window: int = 1  # how many the newest one, and what is predicted from it, looks back on, itself included
    causal: bool = False

    def visible(self, instant: int) -> range:
        """Returns the instants that the tokens of one see; 0 is the oldest."""
        return range(max(0, instant + 1 - self.window), instant + 1) if self.causal else range(self.instants)

    @property
    def used(self) -> range:
        """The instants that V and A see."""
        return range(max(0, self.instants - self.window), self.instants)


_RULES: dict[Question, dict[Group, tuple[Group, ...]]] = {
    Question.POLICY: {Group.VIDEO: (Group.FRAME, Group.VIDEO), Group.ACTION: (Group.FRAME, Group.ACTION)},
    Question.JOINT: {Group.VIDEO: tuple(Group), Group.ACTION: tuple(Group)},
    # The given side of a question is clean: it must not look at the side that is being denoised, so it stays cacheable.
    Question.INVERSE: {Group.VIDEO: (Group.FRAME, Group.VIDEO), Group.ACTION: tuple(Group)},
    Question.FORWARD: {Group.VIDEO: tuple(Group), Group.ACTION: (Group.FRAME, Group.ACTION)},
}


def visible(question: Question | str, query: Group) -> tuple[Group, ...]:
    """Returns the groups whose keys the queries of one group may see, in the order F, V, A.

    Raises:
        ConfigError: No such question.
    """
    if question not in _RULES:
        raise ConfigError(unknown_name("question", question, [q.value for q in Question]))
    if query == Group.FRAME:
        return (Group.FRAME,)
    return _RULES[question][query]  # a question is a string; making one would stop torch's compiler


def attention_mask(
    question: Question | str, lengths: Mapping[Group, int], band: Band | None = None
) -> Bool[Tensor, "N N"]:
    """Expands the rule to tokens.

    Args:
        question: What is asked.
        lengths: Tokens per group; groups that are absent may be left out.
        band: Instants of the observation; None is one.

    Returns:
        (N, N) bool, row = query, column = key, True where the query sees the key; groups in the order F, V, A.
    """
    groups = [group for group in Group if lengths.get(group, 0) > 0]
    rows = [
        torch.cat([torch.full((lengths[q], lengths[k]), k in visible(question, q)) for k in groups], dim=1)
        for q in groups
    ]
    mask = torch.cat(rows, dim=0)
    if band is not None and Group.FRAME in groups:
        frames = lengths[Group.FRAME]
        mask[:, :frames] &= _instants_seen(band, frames, len(mask))
    return mask


def _instants_seen(band: Band, frames: int, rows: int) -> Bool[Tensor, "N F"]:
    """Which tokens of F each token may see by its instant; those after F stand for V and A."""
    per_instant = frames // band.instants
    instants = torch.arange(frames) // per_instant  # (F,)
    spans = [band.visible(int(instant)) for instant in instants] + [band.used] * (rows - frames)
    first, end = (torch.tensor(ends)[:, None] for ends in zip(*((s.start, s.stop) for s in spans), strict=True))
    return (instants >= first) & (instants < end)
