"""Kinematic models as they are passed on: without meshes, with impossible inertia, in parts; poses stay right."""

from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest

from calibration.errors import CalibrationError
from calibration.kinematics import ForwardKinematics
from calibration.model_files import load_model

URDF = """\
<?xml version="1.0"?>
<!-- made by a tool that writes <robot name="arm"> here -->
<robot name="arm">
  <link name="base"><visual><geometry><mesh filename="package://arm/base.stl"/></geometry></visual></link>
  <link name="foot"/>
  <joint name="mount" type="fixed"><parent link="base"/><child link="foot"/>
    <origin xyz="0.1 0.02 0.3" rpy="0.1 -0.2 1.5"/></joint>
  <link name="upper"><inertial><mass value="1"/>
    <inertia ixx="0.1" iyy="0.1" izz="9" ixy="5" ixz="0" iyz="0"/></inertial></link>
  <joint name="yaw" type="revolute"><parent link="foot"/><child link="upper"/><axis xyz="0 0 1"/>
    <origin xyz="0 0 0.2" rpy="0 0.4 0"/><limit lower="-2" upper="2" effort="1" velocity="1"/></joint>
  <link name="fore"><inertial><mass value="-1"/>
    <inertia ixx="0" iyy="0" izz="0" ixy="0" ixz="0" iyz="0"/></inertial></link>
  <joint name="lift" type="prismatic"><parent link="upper"/><child link="fore"/><axis xyz="0.6 0 0.8"/>
    <origin xyz="0.05 0 0.1" rpy="-0.3 0 0.2"/><limit lower="-1" upper="1" effort="1" velocity="1"/></joint>
  <link name="hand"><collision><geometry><mesh filename="missing.dae"/></geometry></collision></link>
  <joint name="tip" type="fixed"><parent link="fore"/><child link="hand"/>
    <origin xyz="0 0.1 0.02" rpy="0 0 0.7"/></joint>
</robot>
"""
PART = """<mujoco model="part"><compiler meshdir="assets"/>
<asset><mesh name="shell" file="shell.stl"/><material name="grey" rgba="1 1 1 1"/></asset>
<default><default class="seen"><geom type="mesh" material="grey"/></default></default>
<worldbody><body name="arm" pos="0 0 0.2"><geom class="seen" mesh="shell"/>
<joint name="yaw" axis="0 0 1" range="-2 2"/>
<body name="hand" pos="0.3 0 0.1" quat="0.8 0.6 0 0"><inertial pos="0 0 0" mass="1" diaginertia="1 9 1"/>
<joint name="roll" axis="1 0 0" range="-2 2"/><site name="tip" pos="0 0 0.05"/></body></body></worldbody>
<actuator><position joint="yaw"/></actuator><contact><exclude body1="arm" body2="hand"/></contact></mujoco>"""
SCENE = """<mujoco><!-- <robot> --><include file="part.xml"/>
<worldbody><geom type="plane" size="1 1 1"/></worldbody></mujoco>"""
# The same arm without what makes MuJoCo refuse it
BARE = PART.replace('<geom class="seen" mesh="shell"/>', '<geom size="0.1"/>').replace("1 9 1", "1 1 1")
BARE = BARE[: BARE.index("<asset>")] + BARE[BARE.index("<worldbody>") :]


def turned(rpy: list[float]) -> np.ndarray:
    x, y, z = (cv2.Rodrigues(angle * axis)[0] for angle, axis in zip(rpy, np.eye(3), strict=True))
    return z @ y @ x


def read_another_way(urdf: str, link: str, positions: dict[str, float]) -> np.ndarray:
    """(4, 4) pose of a link, from the format's own definition."""
    joints = {joint.find("child").get("link"): joint for joint in ElementTree.fromstring(urdf).findall("joint")}
    total = np.eye(4)
    while link in joints:
        joint, step, move = joints[link], np.eye(4), np.eye(4)
        origin = joint.find("origin")
        step[:3, 3] = [float(x) for x in origin.get("xyz").split()]
        step[:3, :3] = turned([float(x) for x in origin.get("rpy").split()])
        if joint.get("type") != "fixed":
            by = positions[joint.get("name")] * np.array([float(x) for x in joint.find("axis").get("xyz").split()])
            if joint.get("type") == "prismatic":
                move[:3, 3] = by
            else:
                move[:3, :3] = cv2.Rodrigues(by)[0]
        total, link = step @ move @ total, joint.find("parent").get("link")
    return total


def test_a_urdf_without_meshes_and_with_impossible_inertia(tmp_path: Path) -> None:
    path = tmp_path / "arm.urdf"
    path.write_text(URDF)
    kinematics = ForwardKinematics(load_model(path), ["yaw", "lift"], tool="hand")  # a fixed link keeps its name
    for positions in np.random.default_rng(0).uniform(-1, 1, (8, 2)):
        expected = read_another_way(URDF, "hand", dict(zip(["yaw", "lift"], positions, strict=True)))
        np.testing.assert_allclose(kinematics.poses(positions)[0], expected, atol=1e-9)


def test_an_mjcf_in_parts_without_its_meshes(tmp_path: Path) -> None:
    (tmp_path / "part.xml").write_text(PART)
    (tmp_path / "scene.xml").write_text(SCENE)
    (tmp_path / "bare.xml").write_text(BARE)
    positions = np.random.default_rng(1).uniform(-1, 1, (8, 2))
    expected = ForwardKinematics(load_model(tmp_path / "bare.xml"), ["yaw", "roll"], tool="tip").poses(positions)
    for name in ("scene.xml", "part.xml"):
        found = ForwardKinematics(load_model(tmp_path / name), ["yaw", "roll"], tool="tip").poses(positions)
        np.testing.assert_allclose(found, expected, atol=1e-9)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<default><joint/></default>", "begins with <default>: it is no whole model"),
        ("<robot><link", "cannot be read: .*it must be an MJCF or URDF"),
        ("", "cannot be read"),
        (b"\xff\xfe\x00", "cannot be read"),
        ("<robot name='a'><link name='b'/><joint name='j' type='bent'/></robot>", "cannot be read by MuJoCo"),
        ("<mujoco><worldbody><body/><wrong/></worldbody></mujoco>", "cannot be read by MuJoCo"),
        ("<mujoco><include file='gone.xml'/></mujoco>", "cannot be read|which cannot be read"),
        ("<mujoco><include file='arm.xml'/></mujoco>", "or itself|cannot be read by MuJoCo"),
        ("<robot xmlns:xacro='http://ros.org/wiki/xacro'><xacro:arm/></robot>", "type xacro arm.xml > arm.urdf"),
    ],
)
def test_what_is_no_model_is_one_message(tmp_path: Path, text: str | bytes, message: str) -> None:
    path = tmp_path / "arm.xml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(CalibrationError, match=message) as error:
        load_model(path)
    assert str(path) in str(error.value)
