"""What makes a robot the one that data and policies are of, and what of its description may change beside them.

A *fingerprint* covers what the numbers mean: the robot's name, its axes in order, joints and gripper apart, the rate of
actions, the cameras in order, the sizes of their pictures and how these become the model's. Limits, safety, topics,
frames and interfaces say how and where the same numbers are played; a policy stays valid when they change. Data holds
pictures as the camera gave them, so how they are fitted is no part of what data is of.

All functions take a description as ``RobotSpec.to_dict`` gives it or as it was stored.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

__all__ = ["behaviour_hash", "data_differences", "described_hash", "differences", "fingerprint"]

# Of one specimen or one computer: not part of any hash here
_OF_A_SPECIMEN = ("calibration", "kinematics")
_WIRING = ("state_topic", "command_topic", "command_interface")
_CAMERA_WIRING = ("topic", "frame_id")
_FIT = "fit"  # of a camera
_FIRST_FIT = "crop"  # the only one at first: it leaves fingerprints as they were


def fingerprint(description: Mapping[str, Any]) -> str:
    """sha256 of what a checkpoint or bundle was made for."""
    return _sha256(_identity(description))


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """Says in which way two robots with different fingerprints differ: "control_rate_hz (10.0 and 30.0)"."""
    one, other = _identity(ours), _identity(theirs)
    return _phrases(one, other)


def data_differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """As ``differences``, of robots that data was recorded on."""
    return _phrases(_identity(ours, fits=False), _identity(theirs, fits=False))


def described_hash(description: Mapping[str, Any]) -> str:
    """sha256 of everything described but calibration and kinematics: what was called the fingerprint at first.

    Bundles of that time hold it, and are asked for it: only so can one tell that their manifest was not edited.
    """
    return _sha256({name: value for name, value in description.items() if name not in _OF_A_SPECIMEN})


def behaviour_hash(description: Mapping[str, Any], *, with_fit: bool = False) -> str:
    """sha256 of what decides how a simulation of the robot goes: limits and safety besides, topics and frames not.

    Args:
        description: The robot.
        with_fit: A policy is trained for it too, so how pictures become the model's decides as well.
    """
    kept = {name: value for name, value in description.items() if name not in (*_OF_A_SPECIMEN, *_WIRING)}
    cameras = [{name: v for name, v in camera.items() if name not in _CAMERA_WIRING} for camera in kept["cameras"]]
    for camera in cameras:
        if camera.get(_FIT, _FIRST_FIT) == _FIRST_FIT or not with_fit:
            camera.pop(_FIT, None)
    return _sha256({**kept, "cameras": cameras})


def _identity(description: Mapping[str, Any], *, fits: bool = True) -> dict[str, Any]:
    gripper = description.get("gripper")
    identity: dict[str, Any] = {
        "name": description["name"],
        "joints": [joint["name"] for joint in description["joints"]],
        "gripper": gripper["name"] if gripper else None,
        "control_rate_hz": float(description["control_rate_hz"]),
        "cameras": [f"{c['name']} {c['width_px']}x{c['height_px']}" for c in description["cameras"]],
    }
    found = {camera["name"]: camera.get(_FIT, _FIRST_FIT) for camera in description["cameras"]}
    if fits and set(found.values()) != {_FIRST_FIT}:
        identity["fit"] = [f"{name} {fit}" for name, fit in found.items()]
    return identity


def _phrases(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    found = []
    for name in dict.fromkeys((*one, *other)):
        was, now = (identity.get(name, _FIRST_FIT if name == "fit" else None) for identity in (one, other))
        if was != now:
            found.append(f"{name} ({_text(was)} and {_text(now)})")
    return found


def _text(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else str(value)


def _sha256(data: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
