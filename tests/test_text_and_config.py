"""Word ids and model configuration."""

import dataclasses

import numpy as np
import pytest

from wam.config import ModelConfig, preset, preset_names
from wam.errors import ConfigError
from wam.robot import load_robot
from wam.text import PAD_ID, VOCABULARY_SIZE, token_ids


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


def test_long_instruction_is_cut():
    assert token_ids("a b c d", 2).shape == (2,)


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
