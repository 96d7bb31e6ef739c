"""Random damage to robot files and calibration files: one message, or exactly the numbers that stand in the file."""

import json
import random
from pathlib import Path

import pytest

from calibration.capture import read_capture
from calibration.servo_entries import read_servo_file
from tests.text_damage import Tally, damaged, differences, plain, plain_json
from wam.robot import load_robot

MUTATIONS = 500
OF_A_SECTION = 200  # of each kind of calibration that stands in a robot file
ROBOT = """\
name: arm
joints:
  - {name: pan, position: [-1.5, 1.25], max_velocity: 2.0, max_acceleration: 8.0}
  - {name: lift, position: [-0.75, 1.0e+0], max_velocity: 1.5, max_acceleration: 4}
gripper: {name: gripper, position: [0.0, 1.0], max_velocity: 2.0, max_acceleration: 20.0}
cameras:
  - {name: front, width_px: 640, height_px: 480, rate_hz: 30.0, frame_id: front_optical, topic: front/image_raw}
control_rate_hz: 30.0
"""
REST = """\
state_topic: joint_states
command_topic: command
command_interface: forward
safety:
  image_age_s: 0.15
  position_margin: 0.01
  heartbeat_s: 0
  workspace: [[-0.5, 0.5], [-0.25, 0.5], [0.0, 0.75]]
kinematics: {file: arm.urdf, base: "", tool: hand}
"""
SMALL = """\
name: arm
joints: [{name: pan, position: [-1, 1], max_velocity: 2, max_acceleration: 8}]
cameras: [{name: front, width_px: 640, height_px: 480, rate_hz: 30, frame_id: front, topic: front}]
control_rate_hz: 30
"""
LENS = """\
calibration:
  date: '2025-11-30T10:00:00+00:00'
  cameras:
  - name: front
    lens:
      model: plumb_bob
      width_px: 640
      height_px: 480
      focal_px: [601.25, 602.5]
      center_px: [318.5, 241.75]
      distortion: [0.1, -0.2, 0.001, -0.002, 1.0e-05]
      rms_px: 0.25
    latency_s: 0.035
"""
HAND_EYE = """\
calibration:
  cameras:
  - name: front
    body: hand
    pose:
      position_m: [0.05, -0.0125, 0.1]
      quat_wxyz: [0.6, 0.0, 0.8, 0.0]
    board:
      board: charuco-9x6-28mm-21mm-4X4_50
      body: ''
      pose: {position_m: [0.3, 0.0, 0.0], quat_wxyz: [1.0, 0.0, 0.0, 0.0]}
  notes: [2025-11-30 hand-eye]
"""
JOINTS = """\
calibration:
  joints:
  - name: pan
    offset_rad: -0.0175
    servo: {id: 1, drive_mode: 0, homing_offset: -1578, range_min: 731, range_max: 3470}
"""


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize(
    ("before", "target"),
    [("", ROBOT + REST), (SMALL, LENS), (SMALL, HAND_EYE), (SMALL, JOINTS)],
    ids=["robot", "lens", "hand_eye", "joints"],
)
def test_a_damaged_robot_file(tmp_path: Path, before: str, target: str) -> None:
    path, tally = tmp_path / "arm.yaml", Tally()

    def load() -> list[str]:
        return differences(load_robot(path), plain(path.read_text(encoding="utf-8")))

    path.write_text(before + target)
    assert load() == []
    for seed in range(OF_A_SECTION if before else MUTATIONS):
        path.write_bytes((before + damaged(target, random.Random(seed))).encode("utf-8", "surrogatepass"))
        tally.take(f"seed {seed}", str(path), load)
    tally.check()


# ------------------------------------------------------------------------------------------------ JSON

SERVOS = {
    "pan": {"id": 1, "drive_mode": 0, "homing_offset": -1578, "range_min": 731, "range_max": 3470},
    "lift": {"id": 2, "drive_mode": 0, "homing_offset": -1467, "range_min": 862, "range_max": 3219},
    "gripper": {"id": 6, "drive_mode": 1, "homing_offset": 1788, "range_min": 1715, "range_max": 3264},
}
CAPTURE = {
    "format": 1,
    "robot": "arm",
    "camera": "front",
    "kind": "motion",
    "samples": [
        {"image": "0000.png", "stamp": 1.25, "joints": {"pan": 0.5, "lift": -0.25}},
        {"image": "0001.png", "stamp": 1.5, "joints": {}, "tool_pose": [[1.0, 0.0, 0.0, 0.1], *[[0.0] * 4] * 3]},
    ],
    "joint_names": ["pan", "lift"],
    "joint_stamps": [1.0, 1.5],
    "joint_positions": [[0.1, 0.2], [0.3, 0.4]],
}


def servo_differences(path: Path) -> list[str]:
    found, said = read_servo_file(path), plain_json(path.read_text(encoding="utf-8"))
    if found.keys() != said.keys():
        return [f"motors {list(found)} where the file says {list(said)}"]
    return [text for name, servo in found.items() for text in differences(servo, said[name], name)]


def capture_differences(path: Path) -> list[str]:
    found, said = read_capture(path.parent, kind="motion"), plain_json(path.read_text(encoding="utf-8"))
    assert said.pop("format") == "1"
    wrong = []
    for sample, text in zip(found.samples, said.pop("samples"), strict=True):
        pose = text.pop("tool_pose", "null")
        if pose != "null":
            wrong += differences(tuple(map(tuple, sample.tool_pose.tolist())), pose, "tool_pose")
        joints = text.pop("joints")
        wrong += differences(tuple(sample.joints.values()), list(joints.values()), "joints")
        wrong += [] if list(sample.joints) == list(joints) else [f"joints {list(sample.joints)}"]
        wrong += differences(sample.image, text["image"], "image") + differences(sample.stamp, text["stamp"], "stamp")
    return wrong + [text for name in said for text in differences(getattr(found, name), said[name], name)]


@pytest.mark.parametrize(
    ("data", "name", "load"),
    [(SERVOS, "arm.json", servo_differences), (CAPTURE, "capture.json", capture_differences)],
    ids=["servos", "capture"],
)
def test_a_damaged_calibration_file_in_json(tmp_path: Path, data, name, load) -> None:
    path, tally, text = tmp_path / name, Tally(), json.dumps(data, indent=1)
    path.write_text(text)
    assert load(path) == []
    for seed in range(MUTATIONS):
        path.write_bytes(damaged(text, random.Random(seed)).encode("utf-8", "surrogatepass"))
        tally.take(f"seed {seed}", str(path), lambda: load(path))
    tally.check()
