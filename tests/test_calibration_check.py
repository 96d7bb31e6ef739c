"""The daily check: finds a camera that moved, says by how much, and leaves one alone that did not."""

import json
import re
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from calibration.boards import parse_board
from calibration.daily_check import check_board, check_reference
from calibration.errors import CalibrationError
from calibration.main import main
from calibration.rigid import exp, inverse, pose
from calibration.robot_file import store_calibration
from calibration.synthetic import look_at
from tests.board_pictures import photograph, straight_lens, tabletop
from wam.calibration_spec import BoardPlacement, CameraCalibration, PoseSpec, RobotCalibration
from wam.robot import load_robot, robot_file

BOARD = parse_board("charuco-7x5-30mm-22mm-4X4_50")
LENS = straight_lens()
EYE = look_at(np.array([0.65, 0.12, 0.5]), np.array([0.2, 0.0, 0.0]))  # T_base_camera
# Face up on the table, where the camera looks.
ON_TABLE = pose(np.diag([1.0, -1.0, -1.0]), np.array([0.1, 0.08, 0.0]))


def camera(at: np.ndarray | None = EYE, **more: object) -> CameraCalibration:
    stored = None if at is None else PoseSpec.from_matrix(at)
    return CameraCalibration(name="front", lens=LENS, body=None if at is None else "", pose=stored, **more)


def placement(body: str = "", at: np.ndarray = ON_TABLE) -> BoardPlacement:
    return BoardPlacement(board=str(BOARD), body=body, pose=PoseSpec.from_matrix(at))


def seen_from(eye: np.ndarray) -> np.ndarray:
    """The board on the table."""
    return photograph(BOARD, LENS, inverse(eye) @ ON_TABLE)


def moved_by(right_mm: float = 0.0, down_mm: float = 0.0, pan_deg: float = 0.0) -> np.ndarray:
    return EYE @ exp(np.array([0, np.radians(pan_deg), 0, right_mm / 1e3, down_mm / 1e3, 0]))


# ------------------------------------------------------------------------------------------------ with a board


def test_an_unmoved_camera_is_left_alone() -> None:
    result = check_board(seen_from(EYE), camera(), placement())
    assert result.ok
    assert result.moved_mm is not None
    assert np.linalg.norm(result.moved_mm) < 2
    assert np.linalg.norm(result.turned_deg) < 0.3
    assert "is where it was calibrated" in result.text()


@pytest.mark.parametrize(("right_mm", "pan_deg"), [(20.0, 0.0), (0.0, 2.0), (-15.0, 1.0)])
def test_a_moved_camera_is_found_and_the_way_back_is_told(right_mm: float, pan_deg: float) -> None:
    result = check_board(seen_from(moved_by(right_mm, pan_deg=pan_deg)), camera(), placement())
    assert not result.ok
    assert result.moved_mm is not None
    assert result.moved_mm[0] == pytest.approx(right_mm, abs=2.5)
    assert result.turned_deg[1] == pytest.approx(pan_deg, abs=0.3)
    assert result.pose is not None
    back = re.search(r"To put it back: (.*?)\. Or", result.text())
    assert back
    assert ("move it" in back[1] and ("left" if right_mm > 0 else "right") in back[1]) == bool(right_mm)
    assert (f"pan it {abs(result.turned_deg[1]):.1f} degrees to the left" in back[1]) == bool(pan_deg)


def test_a_camera_on_the_arm_is_checked_with_the_arms_pose() -> None:
    tool = pose(np.diag([1.0, -1.0, -1.0]), np.array([0.2, 0.0, 0.4]))
    hand = inverse(tool) @ EYE
    stored = CameraCalibration(name="wrist", lens=LENS, body="hand", pose=PoseSpec.from_matrix(hand))
    assert check_board(seen_from(EYE), stored, placement(), tool=tool).ok
    shifted = tool @ exp(np.array([0, 0, 0, 0.02, 0, 0]))
    assert not check_board(seen_from(EYE), stored, placement(), tool=shifted).ok
    with pytest.raises(CalibrationError, match="moves with the arm, so the check needs the joint positions"):
        check_board(seen_from(EYE), stored, placement())


def test_another_zoom_is_not_taken_for_a_camera_that_is_fine() -> None:
    zoomed = replace(LENS, focal_px=(660.0, 661.0))
    image = photograph(BOARD, zoomed, inverse(EYE) @ ON_TABLE)
    assert not check_board(image, camera(), placement()).ok


def test_what_cannot_be_checked_with_a_board_is_said() -> None:
    with pytest.raises(CalibrationError, match="run `wam calibrate intrinsics` and `wam calibrate hand-eye` first"):
        check_board(seen_from(EYE), CameraCalibration(name="front"), placement())
    with pytest.raises(CalibrationError, match="camera 'front' does not see the board .*no marker"):
        check_board(np.full((480, 640, 3), 90, np.uint8), camera(), placement())
    half = cv2.resize(seen_from(EYE), (480, 360), interpolation=cv2.INTER_AREA)
    with pytest.raises(CalibrationError, match="480 x 360 px but the intrinsics of camera 'front' are for 640 x 480"):
        check_board(half, camera(), placement())


# ------------------------------------------------------------------------------------------------ without a board


def table_from(eye: np.ndarray, *, brightness: float = 1.0) -> np.ndarray:
    """The table's picture is painted on the plane z = 0; what the camera sees of it."""
    texture = tabletop(1200, 1200, seed=3)
    metres = 1.6 / 1200
    paint = np.array([[metres, 0, -0.6], [0, metres, -0.8], [0, 0, 1]])
    seen = LENS.matrix @ inverse(eye)[:3, [0, 1, 3]] @ paint
    image = cv2.warpPerspective(texture, seen, (640, 480), flags=cv2.INTER_LINEAR)
    noisy = brightness * image + np.random.default_rng(int(1e3 * brightness)).normal(0, 2, image.shape)
    return np.repeat(np.clip(noisy, 0, 255).astype(np.uint8)[..., None], 3, axis=2)


def test_an_unmoved_camera_is_left_alone_without_a_board() -> None:
    result = check_reference(table_from(EYE, brightness=0.9), table_from(EYE), camera())
    assert result.ok, result.text()
    assert result.shift_px < 0.5


@pytest.mark.parametrize(("right_mm", "pan_deg"), [(20.0, 0.0), (0.0, 2.0)])
def test_a_moved_camera_is_found_without_a_board(right_mm: float, pan_deg: float) -> None:
    result = check_reference(table_from(moved_by(right_mm, pan_deg=pan_deg)), table_from(EYE), camera())
    assert not result.ok
    assert result.method == "table"
    assert result.moved_mm is not None
    assert result.moved_mm[0] == pytest.approx(right_mm, abs=4)
    assert result.turned_deg[1] == pytest.approx(pan_deg, abs=0.5)


def test_without_a_pose_only_turn_and_shift_are_told() -> None:
    result = check_reference(table_from(moved_by(pan_deg=1.5)), table_from(EYE), camera(None))
    assert not result.ok
    assert result.method == "picture"
    assert result.moved_mm is None
    assert result.turned_deg[1] == pytest.approx(1.5, abs=0.4)
    assert "a board would tell them apart" in result.text()
    same = check_reference(table_from(EYE, brightness=1.1), table_from(EYE), CameraCalibration(name="front"))
    assert same.ok
    assert "Degrees assume a usual lens" in same.text()


def test_pictures_that_cannot_be_compared_are_refused() -> None:
    good = table_from(EYE)
    with pytest.raises(CalibrationError, match="320 x 240 px but the reference of camera 'front' is 640 x 480"):
        check_reference(good[::2, ::2], good, camera())
    with pytest.raises(CalibrationError, match="mean brightness 0 of 255: take off the lens cap"):
        check_reference(np.zeros_like(good), good, camera())
    # A wall, or a hand before the lens, is not a camera that turned.
    with pytest.raises(CalibrationError, match="the picture cannot be registered to the reference"):
        check_reference(np.full_like(good, 128), good, camera())


@pytest.mark.slow
def test_another_table_is_not_a_camera_that_turned() -> None:
    other = np.repeat(tabletop(seed=8)[..., None], 3, axis=2)
    with pytest.raises(CalibrationError, match="the picture cannot be registered to the reference"):
        check_reference(other, table_from(EYE), camera())


# ------------------------------------------------------------------------------------------------ the command


@pytest.fixture
def robot(tmp_path: Path) -> Path:
    path = tmp_path / "so101.yaml"
    path.write_text(robot_file("so101").read_text())
    store_calibration(path, RobotCalibration(cameras=(camera(),)))
    return path


def saved(folder: Path, name: str, image: np.ndarray) -> str:
    path = folder / f"{name}.png"
    cv2.imwrite(str(path), image[..., ::-1])
    return str(path)


@pytest.mark.parametrize("with_board", [True, False])
def test_the_command_stores_a_reference_and_compares(
    robot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], with_board: bool
) -> None:
    take = seen_from if with_board else table_from
    before, same, moved = (
        saved(tmp_path, name, take(eye))
        for name, eye in (("before", EYE), ("same", EYE), ("moved", moved_by(down_mm=25.0)))
    )
    base = ["check", "--robot", str(robot), "--camera", "front", "--source"]
    with pytest.raises(CalibrationError, match="cannot be checked: no reference picture is stored.*--set-reference"):
        main([*base, before])
    board = ["--board", str(BOARD)] if with_board else []
    assert main([*base, before, "--set-reference", *board]) == 0
    assert (tmp_path / "so101_front_reference.png").is_file()
    stored = load_robot(robot).calibration
    assert stored is not None
    assert (stored.camera("front").board is not None) == with_board
    assert main([*base, same]) == 0
    assert "is where it was calibrated" in capsys.readouterr().out
    assert main([*base, moved, "--json", str(tmp_path / "check.json")]) == 1
    assert "HAS MOVED" in capsys.readouterr().out
    result = json.loads((tmp_path / "check.json").read_text())
    assert result["ok"] is False
    assert result["moved_mm"][1] == pytest.approx(25, abs=4)


def test_a_camera_that_the_robot_does_not_have_is_refused(robot: Path, tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="did you mean 'front'"):
        main(["check", "--robot", str(robot), "--camera", "frnt", "--source", str(tmp_path / "x.png")])
    with pytest.raises(CalibrationError, match="picture .*x.png is missing or damaged"):
        main(["check", "--robot", str(robot), "--camera", "front", "--source", str(tmp_path / "x.png")])
