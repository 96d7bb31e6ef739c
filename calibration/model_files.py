"""Reads MJCF and URDF files for their kinematics alone: meshes, other geometry and inertia are not needed for poses.

Arms are often passed on without their meshes, whose addresses only ROS resolves, and with inertias that no body can
have; MuJoCo refuses both. What it cannot compile as it is, it gets again with nothing but frames and joints.
"""

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from calibration.engine import import_mujoco
from calibration.errors import CalibrationError

__all__ = ["load_model"]

_MOST_INCLUDES = 50
# MuJoCo refuses moving bodies without mass, which is what is left of them, so it is told to make do.
_COMPILER = {"balanceinertia": "true", "boundmass": "1e-3", "boundinertia": "1e-6"}
_URDF_LEFT_OUT = ("visual", "collision", "inertial")
_MJCF_LEFT_OUT = (
    "geom",
    "inertial",
    "mesh",
    "material",
    "texture",
    "hfield",
    "skin",
    "flexcomp",
    "composite",
    "plugin",
)
_MJCF_SECTIONS = ("asset", "contact", "sensor", "tendon", "equality", "actuator", "keyframe", "deformable", "extension")


def load_model(path: Path) -> Any:
    """Compiles an MJCF or URDF.

    Returns:
        ``mujoco.MjModel``; of a URDF, and of an MJCF whose meshes are missing, without geometry.

    Raises:
        CalibrationError: It is neither, or MuJoCo cannot read it.
    """
    mujoco = import_mujoco()
    root = _parsed(path)
    try:
        if root.tag == "robot":
            return mujoco.MjModel.from_xml_string(_urdf_frames(root, path))
        try:
            return mujoco.MjModel.from_xml_path(str(path))
        except ValueError as error:
            try:
                return mujoco.MjModel.from_xml_string(_mjcf_frames(root, path))
            except ValueError:
                raise error from None  # about the file as it is
    except ValueError as error:
        raise CalibrationError(f"kinematic model {path} cannot be read by MuJoCo: {error}") from error


def _parsed(path: Path) -> ElementTree.Element:
    try:
        root = ElementTree.fromstring(path.read_bytes())
    except (OSError, ElementTree.ParseError, ValueError, LookupError) as error:
        raise CalibrationError(
            f"kinematic model {path} cannot be read: {error}; it must be an MJCF or URDF."
        ) from error
    if root.tag not in ("robot", "mujoco"):
        raise CalibrationError(
            f"kinematic model {path} begins with <{root.tag}>: it is no whole model. An MJCF begins with <mujoco>, a "
            "URDF with <robot>; give that file."
        )
    return root


def _urdf_frames(root: ElementTree.Element, path: Path) -> str:
    if any("xacro" in str(element.tag) for element in root.iter()):
        raise CalibrationError(
            f"kinematic model {path} is a xacro that was not expanded: type xacro {path.name} > "
            f"{path.name.split('.')[0]}.urdf and give that file."
        )
    _without(root, _URDF_LEFT_OUT)
    for settings in root.findall("mujoco"):
        root.remove(settings)
    settings = ElementTree.SubElement(root, "mujoco")
    ElementTree.SubElement(settings, "compiler", {**_COMPILER, "fusestatic": "false"})
    return ElementTree.tostring(root, encoding="unicode")


def _mjcf_frames(root: ElementTree.Element, path: Path) -> str:
    _include(root, path.parent, [0], path)
    _without(root, _MJCF_LEFT_OUT)
    for section in [section for section in root if section.tag in _MJCF_SECTIONS]:
        root.remove(section)
    ElementTree.SubElement(root, "compiler", _COMPILER)  # sections of one name are merged
    return ElementTree.tostring(root, encoding="unicode")


def _include(element: ElementTree.Element, folder: Path, count: list[int], path: Path) -> None:
    """Puts the contents of included files in their places; paths are relative to the main file."""
    for index, child in reversed(list(enumerate(element))):
        if child.tag != "include":
            _include(child, folder, count, path)
            continue
        count[0] += 1
        if count[0] > _MOST_INCLUDES:
            raise CalibrationError(f"kinematic model {path} includes more than {_MOST_INCLUDES} files, or itself.")
        name = folder / child.get("file", "")
        try:
            held = ElementTree.fromstring(name.read_bytes())
        except (OSError, ElementTree.ParseError, ValueError, LookupError) as error:
            raise CalibrationError(f"kinematic model {path} includes {name}, which cannot be read: {error}.") from error
        _include(held, folder, count, path)
        element.remove(child)
        for place, entry in enumerate(held):
            element.insert(index + place, entry)


def _without(element: ElementTree.Element, tags: tuple[str, ...]) -> None:
    for child in list(element):
        if child.tag in tags:
            element.remove(child)
        else:
            _without(child, tags)
