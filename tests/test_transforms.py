"""Transforms: invertible actions, anchors, images that keep their content."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from wam.errors import ConfigError
from wam.normalise import Normaliser
from wam.picture_fit import fit_picture
from wam.transforms import ACTION_SPACES, Transforms

IDENTITY = Normaliser(offset=(0.0,) * 3, scale=(1.0,) * 3, bound=100.0)


def transforms(space: str = "absolute", *, gripper: bool = True) -> Transforms:
    action = Normaliser(offset=(0.1, -0.2, 0.5), scale=(0.5, 2.0, 0.5), bound=50.0)
    return Transforms(image_size_px=(64, 64), proprio=IDENTITY, action=action, action_space=space, gripper=gripper)


@given(
    actions=arrays(np.float32, (5, 3), elements=st.floats(-3, 3, width=32)),
    anchor=arrays(np.float32, (3,), elements=st.floats(-3, 3, width=32)),
    space=st.sampled_from(ACTION_SPACES),
    gripper=st.booleans(),
)
def test_decode_undoes_encode(actions: np.ndarray, anchor: np.ndarray, space: str, gripper: bool):
    t = transforms(space, gripper=gripper)
    assert np.allclose(t.decode_actions(t.encode_actions(actions, anchor), anchor), actions, atol=1e-4)


def test_relative_actions_move_with_their_anchor_but_the_gripper_does_not():
    t = transforms("relative")
    encoded = t.encode_actions(np.zeros((2, 3), np.float32), np.zeros(3, np.float32))
    moved = t.decode_actions(encoded, np.array([0.3, -0.4, 0.9], np.float32))
    assert np.allclose(moved, [[0.3, -0.4, 0.0]] * 2, atol=1e-6)


def test_batched_anchors_decode_each_chunk_with_its_own():
    t = transforms("relative")
    anchors = np.array([[0.0, 0.0, 0.0], [1.0, 2.0, 0.0]], np.float32)
    decoded = t.decode_actions(np.zeros((2, 4, 3), np.float32), anchors)
    assert np.allclose(decoded[1, :, :2] - decoded[0, :, :2], [1.0, 2.0])


def test_resize_averages_area_and_crops_the_centre():
    image = np.zeros((96, 128, 3), np.uint8)
    image[:, 16:112] = 200  # exactly the centre square
    small = fit_picture(image, (64, 64), "crop")
    assert small.shape == (64, 64, 3)
    assert (small == 200).all()


def test_resize_keeps_colours_in_place():
    image = np.zeros((96, 96, 3), np.uint8)
    image[:48, :, 0] = 255
    small = fit_picture(image, (32, 32), "crop")
    assert small[4, 4].tolist() == [255, 0, 0]
    assert small[28, 4].tolist() == [0, 0, 0]


def test_image_of_the_right_size_is_untouched():
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert np.array_equal(fit_picture(image, (64, 64), "crop"), image)


def test_images_are_stacked_in_camera_order():
    images = {"wrist": np.full((64, 64, 3), 2, np.uint8), "front": np.full((64, 64, 3), 1, np.uint8)}
    assert transforms().images(images, ("front", "wrist"))[:, 0, 0, 0].tolist() == [1, 2]


def test_json_round_trip():
    assert Transforms.from_dict(transforms("relative").to_dict()) == transforms("relative")


def test_refusals_name_the_choices():
    with pytest.raises(ConfigError, match=r"unknown action space 'delta'.*absolute, relative"):
        transforms("delta")
    with pytest.raises(ConfigError, match="3 dimensions and actions 1"):
        Transforms(image_size_px=(8, 8), proprio=IDENTITY, action=Normaliser(offset=(0.0,), scale=(1.0,)))
    with pytest.raises(ConfigError, match="need exactly action, action_space, gripper, image_size_px, proprio"):
        Transforms.from_dict({"proprio": {}})
