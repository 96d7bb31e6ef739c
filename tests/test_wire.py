"""ROS message fields → numpy without ROS: encodings, padding, joint order by name."""

from array import array
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.wire import command_by_name, positions_by_name, rgb_from_image, stamp_seconds
from wam.errors import ValueContractError

NAMES = ("yaw", "elbow", "gripper")


def image_message(image: np.ndarray, encoding: str, padding: int = 0) -> SimpleNamespace:
    height, width, channels = image.shape
    rows = np.zeros((height, width * channels + padding), dtype=np.uint8)
    rows[:, : width * channels] = image.reshape(height, -1)
    return SimpleNamespace(
        encoding=encoding, height=height, width=width, step=rows.shape[1], data=array("B", rows.tobytes())
    )


@given(height=st.integers(1, 5), width=st.integers(1, 5), padding=st.integers(0, 7), seed=st.integers(0, 9))
def test_every_encoding_gives_the_same_colours(height, width, padding, seed):
    rgb = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    alpha = np.full((height, width, 1), 7, dtype=np.uint8)
    wire = {
        "rgb8": rgb,
        "bgr8": rgb[:, :, ::-1],
        "rgba8": np.concatenate([rgb, alpha], axis=2),
        "bgra8": np.concatenate([rgb[:, :, ::-1], alpha], axis=2),
    }
    for encoding, pixels in wire.items():
        np.testing.assert_array_equal(rgb_from_image(image_message(pixels, encoding, padding)), rgb)
    grey = rgb_from_image(image_message(rgb[:, :, :1], "mono8", padding))
    np.testing.assert_array_equal(grey, np.repeat(rgb[:, :, :1], 3, axis=2))


def test_an_unknown_encoding_is_refused():
    message = image_message(np.zeros((2, 2, 3), np.uint8), "bayer_rggb8")
    with pytest.raises(ValueContractError, match="unknown image encoding 'bayer_rggb8'.*rgb8"):
        rgb_from_image(message)


@pytest.mark.parametrize("change", [{"height": 9}, {"step": 3}, {"data": b""}])
def test_a_short_image_is_refused(change):
    message = image_message(np.zeros((4, 4, 3), np.uint8), "rgb8")
    message.__dict__.update(change)
    with pytest.raises(ValueContractError, match="the driver publishes a wrong size"):
        rgb_from_image(message)


@given(order=st.permutations(["yaw", "elbow", "gripper", "extra"]))
def test_positions_follow_names_never_order(order):
    value = {"yaw": 0.5, "elbow": -0.25, "gripper": 1.0, "extra": np.nan}
    found = positions_by_name(order, [value[name] for name in order], NAMES, "/joint_states")
    assert found.tolist() == [0.5, -0.25, 1.0]
    assert found.dtype == np.float32


@pytest.mark.parametrize(
    ("names", "positions", "message"),
    [
        (["yaw", "elbow"], [0, 0], "/joint_states lacks gripper; it has yaw, elbow"),
        (["yaw", "elbow", "gripper", "yaw"], [0, 0, 0, 0], "names yaw twice"),
        (["yaw", "elbow", "gripper"], [0, 0], "3 names .* for 2 positions"),
        (["yaw", "elbow", "gripper"], [0, float("nan"), 0], "not finite for elbow"),
        ([], [], "it has no names"),
    ],
)
def test_unusable_positions_are_refused(names, positions, message):
    with pytest.raises(ValueContractError, match=message):
        positions_by_name(names, positions, NAMES, "/joint_states")


def test_both_command_interfaces_mean_the_same():
    dimension = SimpleNamespace(label="gripper,yaw,elbow")
    forward = SimpleNamespace(layout=SimpleNamespace(dim=[dimension]), data=array("d", [1.0, 0.5, -0.25]))
    points = [SimpleNamespace(positions=[-0.25, 0.5, 1.0]), SimpleNamespace(positions=[9.0, 9.0, 9.0])]
    trajectory = SimpleNamespace(joint_names=["elbow", "yaw", "gripper"], points=points)
    for message in (forward, trajectory):
        assert command_by_name(message, NAMES).tolist() == [0.5, -0.25, 1.0]


def test_commands_without_names_or_points_are_refused():
    nameless = SimpleNamespace(layout=SimpleNamespace(dim=[]), data=[0.0, 0.0, 0.0])
    with pytest.raises(ValueContractError, match="0 names .* for 3 positions"):
        command_by_name(nameless, NAMES)
    with pytest.raises(ValueContractError, match="a trajectory without points"):
        command_by_name(SimpleNamespace(joint_names=list(NAMES), points=[]), NAMES)


def test_stamps_are_seconds():
    assert stamp_seconds(SimpleNamespace(sec=12, nanosec=250_000_000)) == 12.25
