"""Who may see whom: the one place that decides attention between clean frames, future video and actions.

F = clean tokens of the observation, V = future video, A = action chunk. The rule is a table of groups; attention over
whole groups needs no mask at all, so training, cached inference and export all use ``visible`` directly and
``attention_mask`` is its dense form for proofs and for kernels that want one.

F never looks ahead in any question. Hence its keys and values can be computed once per observation and cached, and the
cached result is exactly the uncached one.

Shape legend: N tokens of all groups.
"""

from collections.abc import Mapping
from enum import StrEnum

import torch
from jaxtyping import Bool
from torch import Tensor

from wam.errors import ConfigError, unknown_name

__all__ = ["Group", "Question", "attention_mask", "visible"]


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


def attention_mask(question: Question | str, lengths: Mapping[Group, int]) -> Bool[Tensor, "N N"]:
    """Expands the rule to tokens.

    Args:
        question: What is asked.
        lengths: Tokens per group; groups that are absent may be left out.

    Returns:
        (N, N) bool, row = query, column = key, True where the query sees the key; groups in the order F, V, A.
    """
    groups = [group for group in Group if lengths.get(group, 0) > 0]
    rows = [
        torch.cat([torch.full((lengths[q], lengths[k]), k in visible(question, q)) for k in groups], dim=1)
        for q in groups
    ]
    return torch.cat(rows, dim=0)
