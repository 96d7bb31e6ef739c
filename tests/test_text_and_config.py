"""Word ids and model configuration."""

import dataclasses

import numpy as np
import pytest

from wam.config import ModelConfig, preset, preset_names
from wam.errors import ConfigError, ValueContractError
from wam.robot import load_robot
from wam.text import PAD_ID, VOCABULARY_SIZE, joined, listed, nearest, token_ids, untold


def test_word_ids_are_stable_and_ignore_case_and_punctuation():
    golden = [1618, 634, 1696, 469]  # crc32 of lift, the, red, cube, modulo 4095, plus 1
    ids = token_ids("Lift the RED cube!", 6)
    assert ids[4:].tolist() == [PAD_ID, PAD_ID]
    assert ids[:4].tolist() == golden
    assert np.array_equal(ids, token_ids("lift the red cube", 6))


def test_the_words_of_the_suite_do_not_collide():
    words = "reach lift push place the red green blue yellow purple orange cube to target in bin put".split()
    ids = token_ids(" ".join(words), len(words))
    assert len(set(ids.tolist())) == len(words)
    assert ids.min() > 0
    assert ids.max() < VOCABULARY_SIZE


def test_a_long_instruction_is_refused_and_never_cut():
    assert token_ids("a, b", 2).shape == (2,)
    with pytest.raises(ValueContractError, match=r"'a b c d' has 4 words but .* reads 2.*from 'c' on.*length 4$"):
        token_ids("a b c d", 2)


@pytest.mark.parametrize("told", ["Lift the cube.", "lift the cube", "  LIFT, the: cube!! "])
def test_a_known_instruction_is_known_in_any_spelling(told: str):
    known = ("push the cube", "lift the cube")
    assert untold(told, known) == ""
    assert untold("anything", None) == ""  # nobody knows what it knows


def test_an_unknown_instruction_names_the_nearest_known_one():
    known = ("reach the red cube", "lift the blue cube", "lift the red cube", "put the red cube into the green bin")
    assert "is none of the 4 that the policy was trained on; the nearest is 'lift the red cube'" in untold(
        "lift the scarlet red cube", known
    )
    assert nearest("pick up the blue cube", known) == "lift the blue cube"
    assert nearest("lif the red cube", known) == "lift the red cube"
    assert untold("?!", known).startswith("an instruction without words is none")
    assert "trained on none" in untold("lift", ())


def test_lists_of_instructions():
    assert joined(("lift the cube",), ("Lift the cube!", "push it")) == ("lift the cube", "push it")
    assert listed(None).startswith("instructions that nobody wrote down")
    assert listed(()) == "0 instruction(s): none"
    assert listed([f"task {i}" for i in range(10)]).endswith("'task 7' and 2 more")


@pytest.mark.parametrize("name", preset_names())
def test_presets_take_their_widths_from_the_robot_and_survive_json(name: str):
    robot = load_robot("sim6")
    config = preset(name, robot)
    assert (config.action_dim, config.n_cameras) == (robot.action_dim, len(robot.cameras))
    assert ModelConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_layers": 0}, "num_layers is 0"),
        ({"image_size_px": (60, 64)}, "multiple of patch_px x token_patch = 16"),
        ({"head_dim": 7}, "head_dim is 7"),
        ({"future_offset": 99}, "future_offset 99 lies beyond chunk_length 16"),
        ({"action_shift": 0.0}, r"action_shift is 0\.0 but a flow shift must be positive"),
        ({"action_prediction": "noise"}, r"unknown action prediction 'noise'.*velocity, x"),
    ],
)
def test_impossible_configurations_name_both_values(changes: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(preset("tiny", load_robot("sim6")), **changes)


def test_unknown_names_suggest_the_closest():
    with pytest.raises(ConfigError, match=r"unknown preset 'tinny' \(did you mean 'tiny'\?\)"):
        preset("tinny", load_robot("sim6"))
    good = preset("tiny", load_robot("sim6")).to_dict()
    with pytest.raises(ConfigError, match=r"unknown model option 'num_layer' \(did you mean 'num_layers'\?\)"):
        ModelConfig.from_dict({**good, "num_layer": 3})
    with pytest.raises(ConfigError, match="incomplete"):
        ModelConfig.from_dict({"preset": "tiny"})
