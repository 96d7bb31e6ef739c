"""Fills a capture folder from a stream of pictures and a stream of joint states; the capture node is its ROS side.

In *poses* a sample is stored only while the arm stands still, with the mean of the joint states of that while. In
*pictures* joints do not matter. In *motion* everything is stored for some seconds after ``capture``. A folder that
holds samples of the same kind, robot and camera is continued, so a node that was started again loses nothing.
"""

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np

from calibration.capture import FILE, KINDS, Capture, Sample, read_capture, write_capture
from calibration.errors import CalibrationError
from wam.errors import unknown_name
from wam.robot import RobotSpec

__all__ = ["CaptureLimits", "CaptureSession"]

_PNG = [cv2.IMWRITE_PNG_COMPRESSION, 1]  # lossless, and quick enough for 30 pictures a second
_FEWEST_STATES = 3


@dataclass(frozen=True, kw_only=True)
class CaptureLimits:
    """When a sample is good enough to be stored."""

    max_age_s: float = 0.5  # of the newest picture [s]
    still_s: float = 0.5  # how long the arm must have stood still before the picture [s]
    still_rad: float = 0.004  # how far a joint may move in that time [rad]
    motion_s: float = 10.0  # length of a capture of motion [s]


@dataclass
class _Motion:
    """A capture of motion that is being recorded."""

    end: float  # robot time [s]
    samples: list[Sample] = field(default_factory=list)
    stamps: list[float] = field(default_factory=list)
    positions: list[tuple[float, ...]] = field(default_factory=list)


class CaptureSession:
    """One folder that is being filled; times are robot time [s]."""

    def __init__(
        self, robot: RobotSpec, camera: str, folder: Path, kind: str, limits: CaptureLimits | None = None
    ) -> None:
        """Opens a folder, new or of an earlier session.

        Args:
            robot: The robot.
            camera: One of its cameras.
            folder: Where pictures and ``capture.json`` go.
            kind: One of ``KINDS``.
            limits: When a sample is good enough.

        Raises:
            CalibrationError: Unknown camera or kind, or a folder that holds something else.
        """
        if camera not in robot.camera_names:
            raise CalibrationError(unknown_name(f"camera of robot '{robot.name}'", camera, robot.camera_names))
        if kind not in KINDS:
            raise CalibrationError(unknown_name("kind of capture", kind, KINDS))
        self._names = tuple(joint.name for joint in robot.joints)
        spec = next(entry for entry in robot.cameras if entry.name == camera)
        self._size_px = (spec.width_px, spec.height_px)
        self._limits = limits or CaptureLimits()
        self._capture = Capture(folder=folder, robot=robot.name, camera=camera, kind=kind, samples=())
        if (folder / FILE).is_file():
            held = read_capture(folder, kind=kind, robot=robot.name, camera=camera)
            if kind == "motion" or held.kind != kind:
                raise CalibrationError(f"{folder} holds a capture of '{held.kind}' already: give another folder.")
            self._capture = held
        self._image: tuple[float, np.ndarray] | None = None
        self._states: deque[tuple[float, tuple[float, ...]]] = deque()
        self._motion: _Motion | None = None

    @property
    def count(self) -> int:
        """Samples stored so far."""
        return len(self._motion.samples) if self._motion is not None else len(self._capture.samples)

    @property
    def recording(self) -> bool:
        """A motion is being recorded."""
        return self._motion is not None

    def add_image(self, stamp: float, rgb_hwc_u8: np.ndarray) -> str:
        """Takes in a picture; returns what was finished with it, or ""."""
        self._image = (stamp, rgb_hwc_u8)
        motion = self._motion
        if motion is None or (motion.samples and stamp <= motion.samples[-1].stamp):
            return ""
        if stamp > motion.end:
            return self._finish(motion)
        motion.samples.append(Sample(image=self._save(len(motion.samples), rgb_hwc_u8), stamp=stamp))
        return ""

    def add_state(self, stamp: float, positions: Mapping[str, float]) -> None:
        """Takes in a joint state by name [rad]; one that lacks a joint, or is older than the last, is left out."""
        if not all(math.isfinite(positions.get(name, math.nan)) for name in self._names):
            return
        if self._states and stamp <= self._states[-1][0]:
            return
        row = tuple(float(positions[name]) for name in self._names)
        self._states.append((stamp, row))
        while self._states[0][0] < stamp - 2 * self._limits.still_s - self._limits.max_age_s:
            self._states.popleft()
        if self._motion is not None:
            self._motion.stamps.append(stamp)
            self._motion.positions.append(row)

    def capture(self, now: float) -> str:
        """Stores the newest picture with the joints, or begins to record a motion.

        Returns:
            What was done, for people.

        Raises:
            CalibrationError: No fresh picture or joint states, the arm moves, or a recording is running.
        """
        if self._motion is not None:
            raise CalibrationError("a motion is being recorded: wait until it is finished.")
        stamp, image = self._fresh(now)
        kind = self._capture.kind
        if kind == "motion":
            if self._capture.samples:
                raise CalibrationError(f"{self._capture.folder} holds a motion already: start with another folder.")
            self._still(now, moving=True)
            self._motion = _Motion(end=now + self._limits.motion_s)
            return f"recording for {self._limits.motion_s:g} s: move the arm irregularly, the board in view"
        if self._capture.samples and stamp <= self._capture.samples[-1].stamp:
            raise CalibrationError("the camera has given no new picture since the last capture: check its node.")
        joints = {} if kind == "pictures" else self._still(stamp)
        sample = Sample(image=self._save(self.count, image), stamp=stamp, joints=joints)
        self._capture = replace(self._capture, samples=(*self._capture.samples, sample))
        write_capture(self._capture)
        return f"stored {sample.image} in {self._capture.folder}: {self.count} samples"

    def _fresh(self, now: float) -> tuple[float, np.ndarray]:
        camera = self._capture.camera
        if self._image is None:
            raise CalibrationError(f"camera '{camera}' has given no picture yet: start its node, and check its topic.")
        age = now - self._image[0]
        if abs(age) > self._limits.max_age_s:
            raise CalibrationError(
                f"the newest picture of camera '{camera}' is {age:.1f} s old, at most {self._limits.max_age_s:g} s are "
                "accepted: check its node, and that all machines have the same time."
            )
        height, width = self._image[1].shape[:2]
        if (width, height) != self._size_px:
            raise CalibrationError(
                f"camera '{camera}' gives {width} x {height} px but the robot file promises {self._size_px[0]} x "
                f"{self._size_px[1]}: set one to the other; a calibration holds for one size."
            )
        return self._image

    def _still(self, stamp: float, *, moving: bool = False) -> dict[str, float]:
        """Mean joint angles of the time before a picture [rad]; the arm may move only where that is wanted."""
        begin = stamp - self._limits.still_s
        rows = np.array([row for when, row in self._states if begin <= when <= stamp + self._limits.still_s])
        if len(rows) < _FEWEST_STATES:
            raise CalibrationError(
                f"{len(rows)} joint states came in {self._limits.still_s:g} s but {_FEWEST_STATES} are needed: "
                f"start the arm's node, and check that it reports {', '.join(self._names)}."
            )
        travel = rows.max(axis=0) - rows.min(axis=0)
        if not moving and travel.max() > self._limits.still_rad:
            raise CalibrationError(
                f"joint '{self._names[int(travel.argmax())]}' moved {np.degrees(travel.max()):.2f} degrees in the last "
                f"{self._limits.still_s:g} s: let the arm stand still and capture again."
            )
        return dict(zip(self._names, rows.mean(axis=0).tolist(), strict=True))

    def _save(self, index: int, rgb_hwc_u8: np.ndarray) -> str:
        folder = self._capture.folder
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{index:04d}.png"
        if not cv2.imwrite(str(folder / name), cv2.cvtColor(rgb_hwc_u8, cv2.COLOR_RGB2BGR), _PNG):
            raise CalibrationError(f"{folder / name} cannot be written: check the folder and the free space.")
        return name

    def _finish(self, motion: _Motion) -> str:
        self._motion = None
        self._capture = replace(
            self._capture,
            samples=tuple(motion.samples),
            joint_names=self._names,
            joint_stamps=tuple(motion.stamps),
            joint_positions=tuple(motion.positions),
        )
        write_capture(self._capture)
        return f"stored {len(motion.samples)} pictures and {len(motion.stamps)} joint states in {self._capture.folder}"
