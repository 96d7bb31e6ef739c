"""Random rigs with known truth: lens, arm, camera and board poses, joint zeros; and what they would measure.

Corners are projected, not rendered (``calibration.rendering`` renders), with noise and, where asked, bad detections.
The arms are six hinges with random link lengths in MuJoCo, so forward kinematics is the code that real robots use.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from calibration.boards import DEFAULT_BOARD, Board, parse_board
from calibration.detection import Detection
from calibration.engine import import_mujoco
from calibration.kinematics import ForwardKinematics
from calibration.rigid import apply, exp, inverse, log, pose, rotations
from wam.calibration_spec import LensSpec
from wam.lens import FISHEYE, lens_from_parameters, project

__all__ = [
    "ARM_JOINTS",
    "Rig",
    "board_seen",
    "look_at",
    "random_lens",
    "random_rig",
    "solve_pose",
    "spoiled",
    "views_around",
]

ARM_JOINTS = ("yaw", "shoulder", "elbow", "forearm_roll", "wrist_pitch", "wrist_roll")
_SIZES = ((640, 480), (800, 600), (1280, 720))
_MIN_CORNERS = 16
_BORDER_PX = 4
_ARM = """<mujoco><compiler angle="radian"/><worldbody><body name="turret" pos="0 0 {h0}">
<inertial pos="0 0 0" mass="1" diaginertia="1 1 1"/><joint name="yaw" axis="0 0 1" range="-2.6 2.6"/>
<body name="upper_arm" pos="0 0 {h1}"><inertial pos="0 0 0" mass="1" diaginertia="1 1 1"/>
<joint name="shoulder" axis="0 1 0" range="-1.8 1.8"/><body name="forearm" pos="{e} 0 {l1}">
<inertial pos="0 0 0" mass="1" diaginertia="1 1 1"/><joint name="elbow" axis="0 1 0" range="-0.3 2.8"/>
<body name="tube" pos="0 0 {l2}"><inertial pos="0 0 0" mass="1" diaginertia="1 1 1"/>
<joint name="forearm_roll" axis="0 0 1" range="-2.8 2.8"/><body name="wrist" pos="0 0 {l3}">
<inertial pos="0 0 0" mass="1" diaginertia="1 1 1"/><joint name="wrist_pitch" axis="0 1 0" range="-2.2 2.2"/>
<body name="hand" pos="0 0 {l4}"><inertial pos="0 0 0" mass="1" diaginertia="1 1 1"/>
<joint name="wrist_roll" axis="0 0 1" range="-3 3"/></body></body></body></body></body></body></worldbody></mujoco>"""


@dataclass(frozen=True, kw_only=True)
class Rig:
    """One arm, one camera and one board, with their true geometry."""

    seed: int
    board: Board
    lens: LensSpec
    kinematics: ForwardKinematics
    eye_in_hand: bool
    camera: np.ndarray  # (4, 4) T_tool_camera, or T_base_camera for a camera that stands still
    board_pose: np.ndarray  # (4, 4) T_base_board, or T_tool_board for a camera that stands still
    offsets: np.ndarray  # (6,) true joint angle = reported angle + offset [rad]

    def camera_to_board(self, tool: np.ndarray) -> np.ndarray:
        """(4, 4) ``T_camera_board`` for a true ``T_base_tool``."""
        if self.eye_in_hand:
            return inverse(self.camera) @ inverse(tool) @ self.board_pose
        return inverse(self.camera) @ tool @ self.board_pose

    def poses(
        self, rng: np.random.Generator, count: int, *, position_m: float = 0.0, angle_rad: float = 0.0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Random poses in which the board is seen.

        Args:
            rng: Where randomness comes from.
            count: N, how many.
            position_m: Robot noise, standard deviation per coordinate [m].
            angle_rad: The same for its orientation [rad].

        Returns:
            (N, 6) reported joint angles [rad] and (N, 4, 4) true ``T_base_tool``.
        """
        reported, true = [], []
        for wanted in self._wanted(rng):
            angles = solve_pose(self.kinematics, wanted, rng)
            if angles is None:
                continue
            tool = self.kinematics.poses(angles)[0] @ exp(
                np.concatenate([rng.normal(0, angle_rad, 3), rng.normal(0, position_m, 3)])
            )
            if board_seen(self.board, self.lens, self.camera_to_board(tool)) is not None:
                reported.append(angles - self.offsets)
                true.append(tool)
            if len(true) == count:
                break
        return np.array(reported), np.array(true)

    def view(self, tool: np.ndarray, rng: np.random.Generator, *, noise_px: float, source: str = "") -> Detection:
        """What the camera detects when the tool is truly at ``T_base_tool``."""
        seen = board_seen(self.board, self.lens, self.camera_to_board(tool), at_least=1)
        ids, pixels = (np.zeros(0, dtype=int), np.zeros((0, 2))) if seen is None else seen
        return Detection(
            ids=ids,
            pixels=pixels + rng.normal(0, noise_px, pixels.shape),
            size_px=(self.lens.width_px, self.lens.height_px),
            source=source,
            blur_px=0.5,
            problem="" if len(ids) >= _MIN_CORNERS else "only part of the board is visible",
        )

    def _wanted(self, rng: np.random.Generator) -> Iterator[np.ndarray]:
        """Endless tool poses from which the camera looks at the board, slanted by up to 45 degrees."""
        middle = pose(np.eye(3), np.array([*self.board.size_m, 0.0]) / 2)
        near = 1.25 * max(self.board.size_m) * min(self.lens.focal_px) / self.lens.width_px
        while True:
            slant = rng.uniform(0, np.radians(45)) * _unit(rng, 2, pad=1)
            roll = rotations(np.array([0, 0, rng.uniform(-0.8, 0.8)]))
            away = np.array([*rng.uniform(-0.06, 0.06, 2), near * rng.uniform(1.0, 1.6)])
            if not self.eye_in_hand:  # the arm has to bring the board there
                away = np.array([*rng.uniform(-0.12, 0.12, 2), rng.uniform(0.32, 0.6)])
            seen = pose(rotations(slant) @ roll, away) @ inverse(middle)  # T_camera_board
            if self.eye_in_hand:
                yield self.board_pose @ inverse(seen) @ inverse(self.camera)
            else:
                yield self.camera @ seen @ inverse(self.board_pose)


def random_rig(
    seed: int, *, eye_in_hand: bool, model: str = "plumb_bob", board: Board | None = None, offset_deg: float = 1.5
) -> Rig:
    """Draws a rig.

    Args:
        seed: Fixes everything.
        eye_in_hand: Camera on the tool, or standing beside the arm.
        model: Lens model, ROS's name.
        board: The board; a smaller one than the default when it is on the tool.
        offset_deg: Joint zeros are off by up to this [degree].
    """
    rng = np.random.default_rng([seed, 7])
    board = board or parse_board(DEFAULT_BOARD if eye_in_hand else "charuco-7x5-24mm-18mm-4X4_50")
    lens = random_lens(rng, model)
    kinematics = ForwardKinematics(
        import_mujoco().MjModel.from_xml_string(
            _ARM.format(
                h0=rng.uniform(0.05, 0.12),
                h1=rng.uniform(0.04, 0.1),
                e=rng.uniform(0, 0.04),
                l1=rng.uniform(0.28, 0.36),
                l2=rng.uniform(0.12, 0.18),
                l3=rng.uniform(0.12, 0.18),
                l4=rng.uniform(0.04, 0.08),
            )
        ),
        ARM_JOINTS,
        tool="hand",
    )
    down = pose(np.diag([1.0, -1.0, -1.0]), np.zeros(3))  # the tool points to the table
    middle = pose(np.eye(3), np.array([*board.size_m, 0.0]) / 2)
    if eye_in_hand:
        camera = exp(np.concatenate([rng.normal(0, 0.15, 3), rng.uniform(-0.06, 0.06, 3)]))
        place = exp(np.array([0, 0, rng.uniform(-0.5, 0.5), rng.uniform(0.3, 0.42), rng.uniform(-0.1, 0.1), 0.0]))
        board_pose = place @ down @ exp(np.r_[rng.normal(0, 0.05, 3), 0, 0, 0]) @ inverse(middle)
    else:
        far = rng.uniform(0.45, 0.6)
        place = np.array([rng.uniform(0.35, 0.45), rng.uniform(-0.1, 0.1), rng.uniform(0.2, 0.3)])
        angle = rng.uniform(-0.6, 0.6)
        camera = look_at(place + far * np.array([np.cos(angle), np.sin(angle), rng.uniform(0.2, 0.6)]), place)
        camera = camera @ exp(np.r_[rng.normal(0, 0.03, 3), 0, 0, 0])
        # The board's front, which faces against its z axis, looks out of the hand: away from the arm.
        board_pose = (
            pose(np.diag([1.0, -1.0, -1.0]), np.array([0, 0, rng.uniform(0.03, 0.08)]))
            @ exp(np.concatenate([rng.normal(0, 0.1, 3), rng.uniform(-0.03, 0.03, 3)]))
            @ inverse(middle)
        )
    offsets = np.radians(rng.uniform(-offset_deg, offset_deg, len(ARM_JOINTS)))
    return Rig(
        seed=seed,
        board=board,
        lens=lens,
        kinematics=kinematics,
        eye_in_hand=eye_in_hand,
        camera=camera,
        board_pose=board_pose,
        offsets=offsets,
    )


def random_lens(rng: np.random.Generator, model: str) -> LensSpec:
    """Draws a lens of a kind that robots carry: 58 to 85 degrees across, a fisheye 130 to 180."""
    width, height = _SIZES[rng.integers(len(_SIZES))]
    while True:
        focal = width * rng.uniform(0.55, 0.9)
        tangential = rng.normal(0, 4e-4, 2)
        if model == FISHEYE:
            focal = width / np.radians(rng.uniform(130, 180))
            distortion = rng.normal(0, 1, 4) * [0.03, 0.01, 0.003, 0.001]
        elif model == "plumb_bob":
            distortion = np.array([rng.uniform(-0.3, 0.1), rng.uniform(-0.05, 0.12), *tangential, rng.normal(0, 0.01)])
        else:
            radial = [rng.uniform(-0.1, 0.1), rng.uniform(-0.05, 0.05)]
            distortion = np.array([*radial, *tangential, rng.normal(0, 0.01), *rng.normal(0, 0.03, 3)])
        center = ((width - 1) / 2 + rng.normal(0, 0.01 * width), (height - 1) / 2 + rng.normal(0, 0.01 * width))
        parameters = np.array([focal, focal * rng.uniform(0.997, 1.003), *center, *distortion])
        lens = lens_from_parameters(model, parameters, (width, height))
        if _grows(lens):
            return lens


def board_seen(
    board: Board, lens: LensSpec, pose_in_camera: np.ndarray, *, at_least: int = _MIN_CORNERS
) -> tuple[np.ndarray, np.ndarray] | None:
    """Ids and (N, 2) pixels of the corners inside the picture, or None when they are too few or seen from behind."""
    if pose_in_camera[:3, 2] @ pose_in_camera[:3, 3] <= 0:
        return None
    points = apply(pose_in_camera, board.points)
    pixels = project(lens, points)
    with np.errstate(invalid="ignore"):
        limit = np.array([lens.width_px, lens.height_px]) - 1 - _BORDER_PX
        inside = ((pixels > _BORDER_PX) & (pixels < limit)).all(axis=1) & _within(lens, points)
    ids = np.flatnonzero(inside)
    return (ids, pixels[ids]) if len(ids) >= at_least else None


def views_around(
    rng: np.random.Generator, board: Board, lens: LensSpec, count: int, *, noise_px: float
) -> list[Detection]:
    """Views of a board held before the camera, all over the picture, tilted by up to 50 degrees."""
    views: list[Detection] = []
    near = 0.9 * max(board.size_m) * min(lens.focal_px) / lens.width_px
    middle = np.array([*board.size_m, 0.0]) / 2
    half = np.array([lens.width_px, lens.height_px]) / 2 / lens.focal_px
    while len(views) < count:
        angle = rng.uniform(-0.85, 0.85, 2) * half
        away = near * rng.uniform(1.0, 2.2)
        if lens.model == FISHEYE:
            turn = np.linalg.norm(angle)
            axis = np.array([-angle[1], angle[0], 0.0]) / max(turn, 1e-9)
            place = rotations(axis * turn) @ np.array([0, 0, away])
            facing = rotations(axis * turn)
        else:
            place, facing = away * np.array([*angle, 1.0]), np.eye(3)
        turn_about = rng.uniform(np.radians(5), np.radians(50)) * _unit(rng, 2, pad=1)
        rotation = facing @ rotations(turn_about) @ rotations(np.array([0, 0, rng.uniform(-0.6, 0.6)]))
        seen = board_seen(board, lens, pose(rotation, place - rotation @ middle))
        if seen is not None:
            ids, pixels = seen
            views.append(
                Detection(
                    ids=ids,
                    pixels=pixels + rng.normal(0, noise_px, pixels.shape),
                    size_px=(lens.width_px, lens.height_px),
                    source=f"view {len(views)}",
                    blur_px=0.5,
                )
            )
    return views


def spoiled(rng: np.random.Generator, view: Detection, share: float) -> Detection:
    """Moves a share of the corners by 3 to 30 px, as a reflection or a wrong neighbour would."""
    bad = rng.random(len(view)) < share
    shift = rng.uniform(3, 30, (len(view), 1)) * np.array([_unit(rng, 2) for _ in range(len(view))]).reshape(-1, 2)
    return replace(view, pixels=view.pixels + np.where(bad[:, None], shift, 0.0))


def look_at(eye: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(4, 4) pose of a camera at ``eye`` that looks at ``target`` with the world's z axis upwards in the picture."""
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    return pose(np.stack([right, np.cross(forward, right), forward], axis=1), eye)


def solve_pose(kinematics: ForwardKinematics, wanted: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
    """Joint angles that put the tool at a pose, by damped least squares from random starts; None when out of reach."""
    low, high = kinematics.limits.T
    for _ in range(3):
        angles = np.array([0.0, 0.2, 1.2, 0.0, 1.2, 0.0]) + rng.normal(0, 0.3, len(low))
        for _ in range(40):
            error = log(inverse(kinematics.poses(angles)[0]) @ wanted)
            if np.linalg.norm(error) < 1e-6:
                return angles
            jacobian = kinematics.jacobians(angles)[0]
            step = jacobian.T @ np.linalg.solve(jacobian @ jacobian.T + 1e-5 * np.eye(6), error)
            angles = np.clip(angles + np.clip(step, -0.5, 0.5), low, high)
    return None


def _unit(rng: np.random.Generator, size: int, *, pad: int = 0) -> np.ndarray:
    vector = rng.normal(size=size)
    return np.concatenate([vector / np.linalg.norm(vector), np.zeros(pad)])


def _half_field(lens: LensSpec) -> float:
    """Tangent of the angle to the picture's corner, as if there were no distortion, with some room."""
    return 1.15 * float(np.hypot(lens.width_px / lens.focal_px[0], lens.height_px / lens.focal_px[1])) / 2


def _within(lens: LensSpec, points: np.ndarray) -> np.ndarray:
    """Points near the picture; far outside it a polynomial folds back and would show them twice."""
    if lens.model == FISHEYE:
        return points[:, 2] > 0
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.linalg.norm(points[:, :2] / points[:, 2:], axis=1) < _half_field(lens)


def _grows(lens: LensSpec) -> bool:
    """The distance from the centre grows with the angle, over the whole picture."""
    if lens.model == FISHEYE:
        angles = np.linspace(0, np.pi / 2 - 1e-3, 200)
        points = np.stack([np.sin(angles), 0 * angles, np.cos(angles)], axis=1)
    else:
        tangents = np.linspace(0, _half_field(lens), 200)
        points = np.stack([tangents, 0 * tangents, np.ones(200)], axis=1)
    steps = np.diff(project(lens, points)[:, 0])
    return bool((steps > 0.2 * steps[0]).all())
