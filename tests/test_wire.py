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
    message = image_message(np.zeros((2, 2, 3), np.uint8), "bayer_rggb9")
    with pytest.raises(ValueContractError, match="unknown image encoding 'bayer_rggb9'.*rgb8"):
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


def yuv_bytes(rgb: tuple[int, int, int]) -> tuple[int, int, int]:
    """Y, U, V of a colour: ITU-R BT.601, limited range."""
    red, green, blue = (value / 255 for value in rgb)
    y = 16 + 65.481 * red + 128.553 * green + 24.966 * blue
    u = 128 - 37.797 * red - 74.203 * green + 112.0 * blue
    v = 128 + 112.0 * red - 93.786 * green - 18.214 * blue
    return round(y), round(u), round(v)


@pytest.mark.parametrize("rgb", [(220, 40, 30), (20, 200, 60), (30, 60, 210), (128, 128, 128)])
def test_what_stock_drivers_publish_has_the_right_colours(rgb):
    y, u, v = yuv_bytes(rgb)
    height, width = 6, 8
    packed = {"yuyv": [y, u, y, v], "yuv422_yuy2": [y, u, y, v], "uyvy": [u, y, v, y], "yuv422": [u, y, v, y]}
    for encoding, four in packed.items():
        rows = np.tile(np.array(four, np.uint8), (height, width // 2)).reshape(height, width, 2)
        found = rgb_from_image(image_message(rows, encoding, padding=6)).astype(int)
        assert np.abs(found - rgb).max() <= 3, encoding
    for encoding, pair in {"nv12": [u, v], "nv21": [v, u]}.items():
        rows = np.concatenate([np.full((height, width), y), np.tile(pair, (height // 2, width // 2))]).astype(np.uint8)
        message = image_message(rows[:, :, None], encoding)
        message.height = height
        assert np.abs(rgb_from_image(message).astype(int) - rgb).max() <= 3, encoding
    colour = dict(zip("rgb", rgb, strict=True))
    for pattern in ("rggb", "bggr", "gbrg", "grbg"):
        cell = np.array([colour[letter] for letter in pattern], np.uint8).reshape(2, 2)
        found = rgb_from_image(image_message(np.tile(cell, (height // 2, width // 2))[:, :, None], f"bayer_{pattern}8"))
        np.testing.assert_array_equal(found, np.broadcast_to(np.array(rgb, np.uint8), found.shape), pattern)


@pytest.mark.parametrize("encoding", ["mono16", "16UC1", "8UC3", "rgb16"])
def test_what_is_no_colour_picture_is_refused_with_the_drivers_parameter(encoding):
    message = image_message(np.zeros((2, 2, 6), np.uint8), encoding)
    with pytest.raises(ValueContractError, match=f"'{encoding}' cannot be used: it .*output_encoding:=rgb8"):
        rgb_from_image(message)


@pytest.mark.parametrize("change", [{"height": 9}, {"step": 3}, {"data": b""}])
def test_a_short_packed_image_is_refused(change):
    message = image_message(np.zeros((4, 4, 2), np.uint8), "yuyv")
    message.__dict__.update(change)
    with pytest.raises(ValueContractError, match="the driver publishes a wrong size"):
        rgb_from_image(message)
