"""Has a camera moved since it was calibrated, and by how much? From one fresh picture, in seconds.

With a board whose place is stored, the camera's pose is measured anew and compared. Without one, the picture is
registered to a reference picture: features on the table, whose plane is known from the stored camera pose, give the
full pose; without a stored pose only the turn and the shift in the picture are known.
"""

from dataclasses import dataclass

import numpy as np

from calibration.board_views import check_lens_size, measure_boards
from calibration.boards import parse_board
from calibration.detection import Detection, detect, gray
from calibration.errors import CalibrationError
from calibration.registration import register, table_pose
from calibration.rigid import apply, inverse, rotation_vector
from wam.calibration_spec import BoardPlacement, CameraCalibration, LensSpec
from wam.lens import project

__all__ = ["CheckResult", "Tolerance", "check_board", "check_reference"]

_BAD_FIT = 3.0  # reprojection error over that of the calibration, above which the lens is not what it was
_BAD_FIT_PX = 0.6
_DIM, _BRIGHT = 15.0, 240.0  # mean grey levels between which a picture shows something


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """How much a camera may have moved before a policy should not trust it."""

    position_mm: float = 5.0
    angle_deg: float = 0.5
    shift_px: float = 2.0  # where only the shift in the picture is known, per 640 px of width


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """What one check found."""

    camera: str
    ok: bool
    method: str  # "board", "table" or "picture"
    moved_mm: tuple[float, float, float] | None  # to the camera's right, down and forward; None: cannot be told
    turned_deg: tuple[float, float, float]  # tilt up (about x), pan to the right (about y), roll clockwise (about z)
    shift_px: float  # typical shift in the picture
    remarks: tuple[str, ...] = ()
    pose: np.ndarray | None = None  # (4, 4) T_body_camera as measured now

    def text(self) -> str:
        """One paragraph for people."""
        if self.ok:
            head = f"camera '{self.camera}' is where it was calibrated"
        else:
            head = f"camera '{self.camera}' HAS MOVED since it was calibrated"
        parts = [f"{head} ({self._amount()}; checked with the {self.method})."]
        if not self.ok:
            parts.append(f"To put it back: {self._way_back()}. Or calibrate hand-eye again.")
        return " ".join([*parts, *self.remarks])

    def _amount(self) -> str:
        turned = f"turned {np.linalg.norm(self.turned_deg):.2f} degrees"
        if self.moved_mm is None:
            return f"{turned}, picture shifted {self.shift_px:.1f} px"
        return f"moved {np.linalg.norm(self.moved_mm):.1f} mm, {turned}, picture shifted {self.shift_px:.1f} px"

    def _way_back(self) -> str:
        """The largest parts of the motion, undone."""
        tilt, pan, roll = self.turned_deg
        steps = [
            (abs(tilt), f"tilt it {abs(tilt):.1f} degrees {'down' if tilt > 0 else 'up'}"),
            (abs(pan), f"pan it {abs(pan):.1f} degrees to the {'left' if pan > 0 else 'right'}"),
            (abs(roll), f"roll it {abs(roll):.1f} degrees {'anti' if roll > 0 else ''}clockwise as it looks"),
        ]
        words = [word for size, word in steps if size >= 0.15]
        if self.moved_mm is not None:
            right, down, forward = self.moved_mm
            ways = ((right, "left", "right"), (down, "up", "down"), (forward, "backward", "forward"))
            words += [
                f"move it {abs(value):.0f} mm {back if value > 0 else ahead}"
                for value, back, ahead in ways
                if abs(value) >= 1
            ]
        return ", ".join(words) or "it is within measuring accuracy"


def check_board(
    image: np.ndarray,
    camera: CameraCalibration,
    placement: BoardPlacement,
    *,
    tool: np.ndarray | None = None,
    tolerance: Tolerance | None = None,
) -> CheckResult:
    """Compares a fresh picture of a board whose place is stored.

    Args:
        image: (height, width[, 3]) uint8.
        camera: What is stored of the camera; it needs lens and pose.
        placement: What is stored of the board.
        tool: (4, 4) ``T_base_tool`` now; needed when exactly one of camera and board moves with the arm.
        tolerance: What counts as unmoved.

    Raises:
        CalibrationError: Nothing is stored to compare with, or the board is not to be seen.
    """
    tolerance = tolerance or Tolerance()
    if camera.lens is None or camera.pose is None or camera.body is None:
        raise CalibrationError(
            f"nothing is stored of camera '{camera.name}' to compare with: run `wam calibrate intrinsics` and "
            "`wam calibrate hand-eye` first."
        )
    board = parse_board(placement.board)
    view = detect(board, image)
    if view.problem:
        raise CalibrationError(f"camera '{camera.name}' does not see the board {placement.board}: {view.problem}.")
    check_lens_size(camera.lens, [view], f"camera '{camera.name}'")
    seen = measure_boards(board, [view], camera.lens)
    expected = camera.pose.matrix  # T_body_camera
    body_board = _in_body(placement, camera, tool)
    measured = body_board @ inverse(seen.poses[0])
    other = body_board @ inverse(seen.others[0])
    if seen.ratios[0] < 1.5 and _far(expected, other) < _far(expected, measured):
        measured = other
    moved = inverse(expected) @ measured
    millimetres, degrees = 1e3 * moved[:3, 3], np.degrees(rotation_vector(moved[:3, :3]))
    remarks = []
    normal = max(_BAD_FIT * (camera.lens.rms_px or 0.0), _BAD_FIT_PX)
    if seen.rms_px[0] > normal:
        remarks.append(
            f"The board fits the stored lens badly ({seen.rms_px[0]:.2f} px, usual {normal / _BAD_FIT:.2f}): "
            "focus, zoom or resolution may have changed; run `wam calibrate intrinsics` again."
        )
    ok = (
        bool(np.linalg.norm(millimetres) <= tolerance.position_mm and np.linalg.norm(degrees) <= tolerance.angle_deg)
        and not remarks
    )
    stored = _pixels(board.points, camera, inverse(expected) @ body_board)[view.ids]
    return CheckResult(
        camera=camera.name,
        ok=ok,
        method="board",
        moved_mm=_triple(millimetres),
        turned_deg=_triple(degrees),
        shift_px=float(np.median(np.linalg.norm(stored - view.pixels, axis=1))),
        remarks=tuple(remarks),
        pose=measured,
    )


def check_reference(
    image: np.ndarray,
    reference: np.ndarray,
    camera: CameraCalibration,
    *,
    tool: np.ndarray | None = None,
    table_z_m: float = 0.0,
    tolerance: Tolerance | None = None,
) -> CheckResult:
    """Compares a fresh picture with the reference picture; the arm should be where it was then.

    Args:
        image: (height, width[, 3]) uint8.
        reference: The picture that was stored, of the same size.
        camera: What is stored of the camera; lens and pose make the answer metric.
        tool: (4, 4) ``T_base_tool`` of both pictures, for a camera on the arm.
        table_z_m: Height of the plane that most of the picture shows, in the base frame [m].
        tolerance: What counts as unmoved.

    Raises:
        CalibrationError: The pictures differ in size, show nothing, or cannot be registered.
    """
    tolerance = tolerance or Tolerance()
    _check_pictures(image, reference, camera.name)
    width, height = image.shape[1], image.shape[0]
    lens = camera.lens or _usual_lens(width, height)
    check_lens_size(lens, [_size_only(width, height)], f"camera '{camera.name}'")
    found = register(gray(reference), gray(image), lens)
    base = None
    if camera.pose is not None and (not camera.eye_in_hand or tool is not None):
        base = camera.pose.matrix if tool is None or not camera.eye_in_hand else tool @ camera.pose.matrix
    posed = None if camera.lens is None or base is None else table_pose(found, lens, base, table_z_m)
    if posed is not None and base is not None and camera.pose is not None:
        moved = inverse(base) @ posed
        millimetres, degrees = 1e3 * moved[:3, 3], np.degrees(rotation_vector(moved[:3, :3]))
        ok = np.linalg.norm(millimetres) <= tolerance.position_mm and np.linalg.norm(degrees) <= tolerance.angle_deg
        return CheckResult(
            camera=camera.name,
            ok=bool(ok),
            method="table",
            moved_mm=_triple(millimetres),
            turned_deg=_triple(degrees),
            shift_px=found.shift_px,
            pose=camera.pose.matrix @ moved,
        )
    degrees = np.degrees(found.turned)
    guess = () if camera.lens is not None else ("Degrees assume a usual lens; calibrate intrinsics for exact ones.",)
    return CheckResult(
        camera=camera.name,
        ok=bool(found.shift_px <= tolerance.shift_px * width / 640 and np.linalg.norm(degrees) <= tolerance.angle_deg),
        method="picture",
        moved_mm=None,
        turned_deg=_triple(degrees),
        shift_px=found.shift_px,
        remarks=("Turn and shift together, as if the camera had only turned: a board would tell them apart.", *guess),
    )


def _check_pictures(image: np.ndarray, reference: np.ndarray, name: str) -> None:
    if image.shape[:2] != reference.shape[:2]:
        raise CalibrationError(
            f"the picture is {image.shape[1]} x {image.shape[0]} px but the reference of camera '{name}' is "
            f"{reference.shape[1]} x {reference.shape[0]}: the camera's resolution was changed."
        )
    level = float(gray(image).mean())
    if not _DIM < level < _BRIGHT:
        raise CalibrationError(
            f"camera '{name}' gives a picture of mean brightness {level:.0f} of 255: take off the lens cap, "
            "mend the light or the exposure, and check again."
        )


def _in_body(placement: BoardPlacement, camera: CameraCalibration, tool: np.ndarray | None) -> np.ndarray:
    """``T_body_board`` in the frame that the camera is mounted in."""
    board = placement.pose.matrix
    if bool(placement.body) == camera.eye_in_hand:
        return board
    if tool is None:
        raise CalibrationError(
            f"camera '{camera.name}' or the board moves with the arm, so the check needs the joint positions: give "
            "them with --joints, or run it where the joint states are."
        )
    return inverse(tool) @ board if camera.eye_in_hand else tool @ board


def _far(first: np.ndarray, second: np.ndarray) -> float:
    moved = inverse(first) @ second
    return float(np.linalg.norm(moved[:3, 3]) + np.linalg.norm(rotation_vector(moved[:3, :3])))


def _pixels(points: np.ndarray, camera: CameraCalibration, pose: np.ndarray) -> np.ndarray:
    assert camera.lens is not None
    return project(camera.lens, apply(pose, points))


def _usual_lens(width: int, height: int) -> LensSpec:
    """A guess: 58 degrees across, no distortion."""
    return LensSpec(
        model="plumb_bob",
        width_px=width,
        height_px=height,
        focal_px=(0.9 * width, 0.9 * width),
        center_px=((width - 1) / 2, (height - 1) / 2),
        distortion=(0.0,) * 5,
    )


def _size_only(width: int, height: int) -> Detection:
    return Detection(ids=np.zeros(0, dtype=int), pixels=np.zeros((0, 2)), size_px=(width, height), source="")


def _triple(values: np.ndarray) -> tuple[float, float, float]:
    first, second, third = (float(value) for value in values)
    return first, second, third
