"""Robot files: what is written comes back, and what is wrong is refused with the field, the value and the choices."""

import copy
import dataclasses
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from wam.errors import RobotSpecError, unknown_name
from wam.robot import COMMAND_INTERFACES, CameraSpec, JointSpec, RobotSpec, SafetySpec, load_robot, robot_names
from wam.robot_identity import behaviour_hash, differences

NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,11}", fullmatch=True).filter(
    lambda name: not any(word in name for word in ("gripper", "finger", "jaw", "claw"))
)
POSITIVE = st.floats(1e-3, 1e3)
ANGLES = st.floats(-10, 10)


@st.composite
def joints(draw: st.DrawFn, name: str, span: tuple[float, float] | None = None) -> JointSpec:
    low, high = span or sorted(draw(st.lists(ANGLES, min_size=2, max_size=2, unique=True)))
    return JointSpec(name=name, position=(low, high), max_velocity=draw(POSITIVE), max_acceleration=draw(POSITIVE))


@st.composite
def safeties(draw: st.DrawFn) -> SafetySpec:
    """Valid beside any robot of ``robots()``: the guard is fast and the margin fits into the smallest range."""
    box = st.tuples(st.floats(-2, -0.1), st.floats(0.1, 2))
    return SafetySpec(
        image_age_s=draw(POSITIVE),
        heartbeat_s=draw(st.just(0.0) | POSITIVE),
        position_margin=0.0,
        guard_rate_hz=1e3,
        workspace=draw(st.none() | st.tuples(box, box, box)),
    )


@st.composite
def robots(draw: st.DrawFn) -> RobotSpec:
    """Valid robots of 1 to 8 joints, with or without gripper, with 1 to 3 cameras."""
    axes = draw(st.lists(NAMES, min_size=2, max_size=9, unique=True))
    views = draw(st.lists(NAMES, min_size=1, max_size=3, unique=True))
    return RobotSpec(
        name=draw(NAMES),
        joints=tuple(draw(joints(name)) for name in axes[1:]),
        gripper=draw(st.none() | joints(axes[0], (0.0, 1.0))),
        cameras=tuple(
            CameraSpec(
                name=name,
                width_px=draw(st.integers(1, 4096)),
                height_px=draw(st.integers(1, 4096)),
                rate_hz=draw(POSITIVE),
                frame_id=f"{name}_optical",
                topic=f"/{name}/image_raw",
            )
            for name in views
        ),
        control_rate_hz=draw(POSITIVE),
        command_interface=draw(st.sampled_from(COMMAND_INTERFACES)),
        safety=draw(safeties()),
    )


@given(robots())
def test_dict_and_yaml_round_trip(robot: RobotSpec) -> None:
    data = robot.to_dict()
    assert RobotSpec.from_dict(data) == robot
    assert RobotSpec.from_dict(yaml.safe_load(yaml.safe_dump(data))) == robot
    assert RobotSpec.from_dict(data).fingerprint() == robot.fingerprint()


@given(robots())
def test_vectors_follow_the_axes(robot: RobotSpec) -> None:
    assert robot.action_dim == len(robot.joints) + (robot.gripper is not None)
    assert robot.action_names[: len(robot.joints)] == tuple(joint.name for joint in robot.joints)
    for vector in (robot.lower, robot.upper):
        assert vector.shape == (robot.action_dim,)
        assert vector.dtype == np.float32
    assert (robot.lower <= robot.upper).all()
    assert robot.control_dt * robot.control_rate_hz == pytest.approx(1.0)


@given(robots(), POSITIVE)
def test_fingerprint_sees_what_changes_the_meaning_of_numbers(robot: RobotSpec, rate_hz: float) -> None:
    faster = dataclasses.replace(robot, control_rate_hz=rate_hz)
    assert (faster.fingerprint() == robot.fingerprint()) == (rate_hz == robot.control_rate_hz)
    swapped = dataclasses.replace(robot, joints=robot.joints[::-1])
    assert (swapped.fingerprint() == robot.fingerprint()) == (len(robot.joints) == 1)
    wider = (dataclasses.replace(robot.cameras[0], width_px=robot.cameras[0].width_px + 1), *robot.cameras[1:])
    hand = dataclasses.replace(robot.joints[-1], name="of another kind", position=(0.0, 1.0))
    others = [
        dataclasses.replace(robot, name=robot.name + "2"),
        dataclasses.replace(robot, cameras=wider),
        dataclasses.replace(robot, gripper=hand),
        dataclasses.replace(robot, joints=(*robot.joints, hand)),
    ]
    prints = {other.fingerprint() for other in (robot, *others)}
    assert len(prints) == 5, "a joint and a gripper of one name are two things"
    assert differences(robot.to_dict(), others[0].to_dict()) == [f"name ({robot.name} and {robot.name}2)"]


@given(robots(), POSITIVE)
def test_fingerprint_leaves_limits_safety_topics_and_frames_free(robot: RobotSpec, factor: float) -> None:
    axes = [
        dataclasses.replace(axis, max_velocity=axis.max_velocity * factor, max_acceleration=1.0)
        for axis in robot.joints
    ]
    span = tuple(0.5 * end for end in axes[0].position)
    changed = dataclasses.replace(
        robot,
        joints=(dataclasses.replace(axes[0], position=span), *axes[1:]),
        safety=dataclasses.replace(robot.safety, tracking_error=robot.safety.tracking_error + 1.0),
        cameras=tuple(dataclasses.replace(c, topic="x", frame_id="y", rate_hz=7.0) for c in robot.cameras),
        state_topic="elsewhere/joint_states",
        command_topic="elsewhere/command",
        command_interface=next(name for name in COMMAND_INTERFACES if name != robot.command_interface),
    )
    assert changed.fingerprint() == robot.fingerprint()
    assert differences(robot.to_dict(), changed.to_dict()) == []
    assert behaviour_hash(changed.to_dict()) != behaviour_hash(robot.to_dict()), "a simulation of it goes otherwise"
    moved = dataclasses.replace(robot, state_topic="elsewhere", command_topic="there")
    assert behaviour_hash(moved.to_dict()) == behaviour_hash(robot.to_dict())


def test_topics_of_the_robot_files_and_by_default_are_relative() -> None:
    """An absolute one is the same in every namespace, so two robots on one graph would hear each other's guards."""
    for name in robot_names():
        robot = load_robot(name)
        topics = [robot.state_topic, robot.command_topic, *(camera.topic for camera in robot.cameras)]
        assert not [topic for topic in topics if topic.startswith(("/", "~"))], name
    bare = load_robot("sim6").to_dict()
    del bare["state_topic"], bare["command_topic"]
    robot = RobotSpec.from_dict(bare)
    assert (robot.state_topic, robot.command_topic) == ("joint_states", "command")


def test_a_robot_file_may_leave_safety_out_or_name_what_differs() -> None:
    data = load_robot("sim6").to_dict()
    del data["safety"]
    assert RobotSpec.from_dict(data).safety == SafetySpec()
    assert RobotSpec.from_dict(data | {"safety": {"image_age_s": 0.3}}).safety == SafetySpec(image_age_s=0.3)


def test_shipped_robots_load_by_name_and_by_path(repository: Path) -> None:
    assert "sim6" in robot_names()
    for name in robot_names():
        by_path = load_robot(repository / f"config/robots/{name}.yaml")
        assert load_robot(name) == by_path
        assert by_path.name == name


def test_sim6_is_the_robot_the_simulation_expects() -> None:
    robot = load_robot("sim6")
    assert robot.action_names == ("yaw", "shoulder", "elbow", "forearm_roll", "wrist_pitch", "wrist_roll", "gripper")
    assert robot.camera_names == ("front", "wrist")
    assert robot.control_dt == pytest.approx(0.1)


def test_own_folder_adds_and_overrides_robots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = dataclasses.replace(load_robot("sim6"), control_rate_hz=20.0)
    for name in ("mine", "sim6"):
        data = mine.to_dict() | {"name": name}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(data))
    monkeypatch.setenv("WAM_ROBOT_DIR", str(tmp_path))
    assert {"mine", "sim6"} <= set(robot_names())
    assert load_robot("mine").control_rate_hz == 20.0
    assert load_robot("sim6") == mine


def broken(change: dict[str, Any]) -> dict[str, Any]:
    """sim6 as plain data with some fields replaced; a dotted key goes down (``joints.0.position``), ... removes."""
    data = copy.deepcopy(load_robot("sim6").to_dict())
    for key, value in change.items():
        *path, last = [int(part) if part.isdigit() else part for part in key.split(".")]
        place = data
        for part in path:
            place = place[part]
        if value is ...:
            del place[last]
        else:
            place[last] = value
    return data


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"speed": 3},
            "robot description: unknown field 'speed'; valid names: calibration, cameras, command_interface,",
        ),
        ({"contrl_rate_hz": 3}, "unknown field 'contrl_rate_hz' (did you mean 'control_rate_hz'?)"),
        ({"joints": ...}, "field 'joints' is missing; fields: name, joints, gripper,"),
        ({"name": ""}, "field 'name' is '' but must be a non-empty string."),
        ({"name": 7}, "field 'name' is 7 but must be a non-empty string."),
        ({"joints": "yaw"}, "field 'joints' is 'yaw' but must be a list."),
        ({"cameras": None}, "field 'cameras' is None but must be a list."),
        ({"joints": []}, "a robot needs at least one joint and one camera."),
        ({"cameras": []}, "a robot needs at least one joint and one camera."),
        ({"joints.0": 5}, "joints[0] must be a mapping of fields, but is 5."),
        ({"joints.1.max_velocty": 1}, "joints[1]: unknown field 'max_velocty' (did you mean 'max_velocity'?)"),
        ({"joints.2.max_velocity": ...}, "joints[2]: field 'max_velocity' is missing"),
        ({"joints.0.max_velocity": 0}, "joints[0]: max_velocity is 0 but must be a positive finite number."),
        (
            {"joints.0.max_acceleration": "5"},
            "joints[0]: max_acceleration is '5' but must be a positive finite number.",
        ),
        ({"joints.0.max_velocity": True}, "joints[0]: max_velocity is True but must be a positive finite number."),
        ({"joints.0.position": 1.0}, "joints[0]: position is 1.0 but must be [lowest, highest]."),
        ({"joints.0.position": [1, 2, 3]}, "joints[0]: position is [1, 2, 3] but must be [lowest, highest]."),
        ({"joints.0.position": [0, float("nan")]}, "joints[0]: position is nan but must be a finite number."),
        ({"joints.0.position": [2.0, 1.0]}, "position is [2.0, 1.0] but the lowest must be below the highest."),
        ({"joints.0.name": "elbow"}, "joint or gripper names must be unique, but elbow occurs twice."),
        ({"gripper.name": "yaw"}, "joint or gripper names must be unique, but yaw occurs twice."),
        ({"gripper.position": [0.0, 0.04]}, "gripper position is [0.0, 0.04] but the gripper is an opening in [0, 1]"),
        ({"cameras.1.name": "front"}, "camera names must be unique, but front occurs twice."),
        ({"cameras.0.width_px": 0}, "cameras[0]: width_px is 0 but must be a positive whole number of pixels, at most"),
        (
            {"cameras.0.height_px": 96.0},
            "cameras[0]: height_px is 96.0 but must be a positive whole number of",
        ),
        ({"cameras.1.rate_hz": -30}, "cameras[1]: rate_hz is -30 but must be a positive finite number."),
        ({"cameras.1.topic": ""}, "cameras[1]: field 'topic' is '' but must be a non-empty string."),
        ({"control_rate_hz": 0}, "control_rate_hz is 0 but must be a positive finite number."),
        ({"control_rate_hz": float("inf")}, "control_rate_hz is inf but must be a positive finite number."),
        ({"safety": 3}, "safety must be a mapping of fields, but is 3."),
        ({"safety.image_age": 1}, "safety: unknown field 'image_age' (did you mean 'image_age_s'?)"),
        ({"safety.state_age_s": 0}, "safety: state_age_s is 0 but must be a positive finite number."),
        ({"safety.heartbeat_s": -1}, "safety: heartbeat_s is -1.0 but must be 0 or more."),
        ({"safety.position_margin": 0.5}, "safety.position_margin is 0.5 at both ends, but 'gripper' only moves in"),
        ({"safety.guard_rate_hz": 5}, "safety.guard_rate_hz is 5 but control_rate_hz is 10: the guard would pass over"),
        ({"safety.state_fault_s": 0.05}, "safety.state_fault_s is 0.05 but state_age_s is 0.1: joint states must be"),
        ({"safety.workspace": [[0, 1], [0, 1]]}, "safety: workspace is [[0, 1], [0, 1]] but must be [[x, x], [y, y]"),
        ({"safety.workspace": [[0, 1], [1, 0], [0, 1]]}, "workspace: y is [1.0, 0.0] but the lowest must be below"),
        ({"safety.workspace": [[0, 1], [0, "a"], [0, 1]]}, "safety: workspace is 'a' but must be a finite number."),
        ({"command_interface": "velocity"}, "unknown command_interface 'velocity'; valid names: forward, trajectory."),
    ],
)
def test_broken_description_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(RobotSpecError) as error:
        RobotSpec.from_dict(broken(change))
    assert message in str(error.value)


def test_error_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "sim6.yaml"
    path.write_text(yaml.safe_dump(broken({"joints.3.max_velocity": -1})))
    with pytest.raises(RobotSpecError) as error:
        load_robot(path)
    assert str(error.value).startswith(f"{path}: joints[3]: max_velocity is -1")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"name: [", "is not valid YAML"),
        (b"\xff\xfe\x00bad", "is not valid YAML"),
        (b"- a\n- b\n", "must be a mapping of fields, but holds list."),
        (b"", "must be a mapping of fields, but holds NoneType."),
    ],
)
def test_file_that_is_no_robot(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "arm.yaml"
    path.write_bytes(content)
    with pytest.raises(RobotSpecError) as error:
        load_robot(path)
    assert f"robot file {path}" in str(error.value)
    assert message in str(error.value)


def test_file_must_be_called_like_its_robot(tmp_path: Path) -> None:
    path = tmp_path / "arm.yaml"
    path.write_text(yaml.safe_dump(load_robot("sim6").to_dict()))
    with pytest.raises(RobotSpecError, match=r"says name 'sim6': the file must be called sim6\.yaml\."):
        load_robot(path)


@pytest.mark.parametrize("name", ["sim7", "nowhere/sim6.yaml"])
def test_unknown_robot_lists_the_known_ones(name: str) -> None:
    with pytest.raises(RobotSpecError) as error:
        load_robot(name)
    message = str(error.value)
    assert message.startswith(f"unknown robot '{name}'")
    assert "valid names: " in message
    assert "sim6" in message
    assert "or set WAM_ROBOT_DIR to a folder of them" in message


def test_unknown_name_wording() -> None:
    assert unknown_name("task", "lfit", ["reach", "lift"]) == (
        "unknown task 'lfit' (did you mean 'lift'?); valid names: lift, reach."
    )
    assert unknown_name("task", "zzz", ["reach"], fix="Or none.") == "unknown task 'zzz'; valid names: reach. Or none."
    assert unknown_name("task", 3, []) == "unknown task '3'; valid names: none."


def test_robot_files_are_found_beside_any_installed_prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    overlay, underlay = tmp_path / "overlay", tmp_path / "underlay"
    folder = underlay / "share/world_action_model/config/robots"
    folder.mkdir(parents=True)
    overlay.mkdir()
    data = {**load_robot("sim6").to_dict(), "name": "elsewhere"}
    (folder / "elsewhere.yaml").write_text(yaml.safe_dump(data))
    monkeypatch.setenv("AMENT_PREFIX_PATH", os.pathsep.join((str(overlay), str(underlay))))
    assert load_robot("elsewhere").name == "elsewhere"
    assert "elsewhere" in robot_names()
    monkeypatch.delenv("AMENT_PREFIX_PATH")
    monkeypatch.setattr(sys, "prefix", str(underlay))  # what `pip install` of the wheel makes
    assert load_robot("elsewhere").name == "elsewhere"


@pytest.mark.parametrize(
    "name",
    [
        "gripper",
        "left_gripper",
        "right_finger_joint1",
        "Jaw",
        "rightClawJoint",
        "r_gripper_joint",
        "panda_finger_joint2",
    ]
    + ["leftgripper", "GRIPPER_2", "jaws", "fingertip-3", "gripper1", "left_inner_finger_roll", "hand.finger"],
)
def test_a_gripper_among_the_joints_is_refused(name: str) -> None:
    data = load_robot("sim6").to_dict()
    data["gripper"] = None
    data["joints"][2]["name"] = name
    with pytest.raises(RobotSpecError) as error:
        RobotSpec.from_dict(data, source="two_hands.yaml")
    assert str(error.value).startswith(
        f"two_hands.yaml: joint {name} has the name of a gripper. As a joint it would fau"
    )
    assert "Describe the one gripper under 'gripper:' as an opening in [0, 1]" in str(error.value)
    assert "leave it out of this file and let its own driver hold it" in str(error.value)


def test_all_grippers_among_the_joints_are_named_at_once() -> None:
    data = load_robot("sim6").to_dict()
    data["joints"][0]["name"], data["joints"][4]["name"] = "left_gripper", "right_gripper"
    with pytest.raises(RobotSpecError, match="joint left_gripper, right_gripper has the name of a gripper"):
        RobotSpec.from_dict(data)


@pytest.mark.parametrize(
    "name",
    [
        "gripper_roll",
        "left_gripper_pitch_joint",
        "GripperYaw",
        "gripper_rotation",
        "wrist_roll_2",
        "jawohl_1",
        "clavicle",
    ]
    + ["shoulder_pan_joint", "panda_joint7", "lbr_iiwa_joint_3", "elbow", "yaw", "tool_pitch", "grip", "linear_axis"],
)
def test_joints_of_arms_load(name: str) -> None:
    data = load_robot("sim6").to_dict()
    data["joints"][2]["name"] = name
    if name == "yaw":
        data["joints"][0]["name"] = "base"
    assert RobotSpec.from_dict(data).joints[2].name == name
    for shipped in ("sim6", "so101"):
        assert load_robot(shipped)
