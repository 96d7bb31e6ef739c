"""Observations and action chunks: valid ones pass unchanged, each broken part is named."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wam.errors import ValueContractError, WamError
from wam.robot import RobotSpec, load_robot
from wam.spec import ACTION, OBS_STATE, TASK, ActionChunk, Observation, image_key

ROBOT = load_robot("sim6")
NOT_FINITE = st.sampled_from([np.nan, np.inf, -np.inf])


def observation(**changes: Any) -> Observation:
    fields = {
        "images": {name: np.zeros((96, 96, 3), np.uint8) for name in ROBOT.camera_names},
        "proprio": np.zeros(7, np.float32),
        "task": "lift the red cube",
        "stamp": 1.5,
    }
    return Observation(**(fields | changes))


def chunk(**changes: Any) -> ActionChunk:
    fields = {
        "actions": np.zeros((16, 7), np.float32),
        "stamp": 1.5,
        "control_dt": 0.1,
        "anchor": np.zeros(7, np.float32),
    }
    return ActionChunk(**(fields | changes))


def refusal(value: Observation | ActionChunk, robot: RobotSpec = ROBOT) -> str:
    with pytest.raises(ValueContractError) as error:
        value.validate(robot)
    return str(error.value)


def test_keys_are_lerobots() -> None:
    constants = pytest.importorskip("lerobot.utils.constants")
    assert (OBS_STATE, ACTION) == (constants.OBS_STATE, constants.ACTION)
    assert image_key("front") == f"{constants.OBS_IMAGES}.front"
    assert TASK == "task"


def test_valid_values_return_themselves() -> None:
    for value in (observation(), chunk()):
        assert value.validate(ROBOT) is value


def test_values_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        observation().stamp = 2.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        chunk().control_dt = 0.2


@pytest.mark.parametrize("names", [["front"], ["front", "wrist", "top"], [], ["front", "Wrist"]])
def test_cameras_must_be_the_robots(names: list[str]) -> None:
    message = refusal(observation(images={name: np.zeros((96, 96, 3), np.uint8) for name in names}))
    assert f"observation has cameras {sorted(names)} but robot 'sim6' has ['front', 'wrist']" in message
    assert "exactly one image per camera" in message


@pytest.mark.parametrize(
    ("image", "found"),
    [
        (np.zeros((96, 96, 3), np.float32), "(96, 96, 3) float32"),
        (np.zeros((3, 96, 96), np.uint8), "(3, 96, 96) uint8"),
        (np.zeros((480, 640, 3), np.uint8), "(480, 640, 3) uint8"),
        (np.zeros((96, 96), np.uint8), "(96, 96) uint8"),
    ],
)
def test_images_must_have_the_promised_shape_and_type(image: np.ndarray, found: str) -> None:
    images = {"front": np.zeros((96, 96, 3), np.uint8), "wrist": image}
    message = refusal(observation(images=images))
    assert f"image of camera 'wrist' is {found} but robot 'sim6' promises (96, 96, 3) uint8" in message
    assert "resize or convert it at the camera" in message


@pytest.mark.parametrize(
    ("vector", "found"),
    [
        (np.zeros(6, np.float32), "(6,) float32"),
        (np.zeros((1, 7), np.float32), "(1, 7) float32"),
        (np.zeros(7), "(7,) float64"),
    ],
)
def test_vectors_must_have_the_robots_width(vector: np.ndarray, found: str) -> None:
    wanted = "robot 'sim6' expects (7,) float32: yaw, shoulder, elbow, forearm_roll, wrist_pitch, wrist_roll, gripper"
    assert f"proprio is {found} but {wanted}" in refusal(observation(proprio=vector))
    assert f"anchor is {found} but {wanted}" in refusal(chunk(anchor=vector))


@given(st.integers(0, 6), NOT_FINITE)
def test_a_proprio_that_is_not_finite_names_the_joint(index: int, value: float) -> None:
    proprio = np.zeros(7, np.float32)
    proprio[index] = value
    message = f"not finite for {ROBOT.action_names[index]}: check that joint's sensor."
    assert f"proprio is {message}" in refusal(observation(proprio=proprio))
    assert f"anchor is {message}" in refusal(chunk(anchor=proprio))


@pytest.mark.parametrize("stamp", [np.nan, np.inf, -np.inf])
def test_stamp_must_be_finite(stamp: float) -> None:
    assert f"observation stamp is {stamp}: it must be a finite robot time" in refusal(observation(stamp=stamp))
    assert f"action chunk has stamp {stamp} s" in refusal(chunk(stamp=stamp))


@pytest.mark.parametrize("control_dt", [0.0, -0.1, np.nan, np.inf])
def test_control_step_must_be_positive(control_dt: float) -> None:
    message = refusal(chunk(control_dt=control_dt))
    assert f"control_dt {control_dt} s: both must be finite and control_dt positive." in message


@pytest.mark.parametrize(
    ("actions", "found"),
    [
        (np.zeros(7, np.float32), "(7,) float32"),
        (np.zeros((0, 7), np.float32), "(0, 7) float32"),
        (np.zeros((2, 16, 7), np.float32), "(2, 16, 7) float32"),
        (np.zeros((16, 7)), "(16, 7) float64"),
    ],
)
def test_chunk_must_be_a_table_of_float32(actions: np.ndarray, found: str) -> None:
    assert f"action chunk is {found} but must be (H >= 1, 7) float32." in refusal(chunk(actions=actions))


def test_chunk_of_another_robot_is_refused() -> None:
    message = refusal(chunk(actions=np.zeros((16, 6), np.float32)))
    assert "action chunk has width 6 but robot 'sim6' expects 7 (yaw, shoulder," in message
    assert "train with that robot file, or choose the robot it was made for" in message


@given(st.integers(0, 15), st.integers(0, 6), NOT_FINITE)
def test_an_action_that_is_not_finite_is_found(step: int, column: int, value: float) -> None:
    actions = np.zeros((16, 7), np.float32)
    actions[step, column] = value
    message = refusal(chunk(actions=actions))
    assert f"holds {np.float32(value)} at step {step}, '{ROBOT.action_names[column]}'" in message
    assert "the whole chunk is refused" in message


def test_every_refusal_can_be_caught_as_one_class() -> None:
    assert issubclass(ValueContractError, WamError)
