"""The attention rule: the table, its dense form, and what no token may ever see."""

import pytest

from wam.errors import ConfigError
from wam.visibility import Group, Question, attention_mask, visible

LENGTHS = {Group.FRAME: 3, Group.VIDEO: 2, Group.ACTION: 4}


@pytest.mark.parametrize("question", list(Question))
def test_frames_see_only_frames(question: Question):
    mask = attention_mask(question, LENGTHS)
    assert mask[:3, :3].all()
    assert not mask[:3, 3:].any()


@pytest.mark.parametrize("question", list(Question))
def test_mask_is_the_expanded_table(question: Question):
    mask = attention_mask(question, LENGTHS)
    starts = {Group.FRAME: 0, Group.VIDEO: 3, Group.ACTION: 5}
    for query in Group:
        for key in Group:
            rows = slice(starts[query], starts[query] + LENGTHS[query])
            columns = slice(starts[key], starts[key] + LENGTHS[key])
            assert mask[rows, columns].unique().tolist() == [key in visible(question, query)]


@pytest.mark.parametrize(
    ("question", "video_sees_action", "action_sees_video"),
    [("policy", False, False), ("joint", True, True), ("inverse", False, True), ("forward", True, False)],
)
def test_questions_ask_what_their_names_say(question: str, video_sees_action: bool, action_sees_video: bool):
    assert (Group.ACTION in visible(question, Group.VIDEO)) is video_sees_action
    assert (Group.VIDEO in visible(question, Group.ACTION)) is action_sees_video


def test_absent_groups_take_no_room():
    assert attention_mask("policy", {Group.FRAME: 3, Group.ACTION: 4}).shape == (7, 7)


def test_unknown_question_lists_the_four():
    with pytest.raises(ConfigError, match=r"unknown question 'polcy' \(did you mean 'policy'\?\); valid"):
        visible("polcy", Group.ACTION)
