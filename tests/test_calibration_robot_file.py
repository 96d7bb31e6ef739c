"""Results in robot files: nothing else is touched, nothing is half written, the old file is kept."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from calibration import robot_file as writer
from calibration.errors import CalibrationError
from calibration.results import store_camera
from calibration.robot_file import store_calibration, with_note
from wam.calibration_spec import (
    BoardPlacement,
    CameraCalibration,
    JointCalibration,
    LensSpec,
    PoseSpec,
    RobotCalibration,
    ServoCalibration,
)
from wam.robot import load_robot, robot_file

LENS = LensSpec(
    model="plumb_bob",
    width_px=640,
    height_px=480,
    focal_px=(600.123456789, 601.0),
    center_px=(319.5, 239.5),
    distortion=(0.1, -1e-05, 0.0, 0.0, 0.0),
    rms_px=0.21,
)
POSE = PoseSpec(position_m=(0.1, -0.2, 0.3), quat_wxyz=(1.0, 0.0, 0.0, 0.0))
CALIBRATION = RobotCalibration(
    cameras=(
        CameraCalibration(
            name="front",
            lens=LENS,
            body="",
            pose=POSE,
            latency_s=0.031,
            board=BoardPlacement(board="chessboard-9x6-25mm", body="hand", pose=POSE),
            reference="so101_front_reference.png",
        ),
    ),
    joints=(
        JointCalibration(
            name="shoulder_pan",
            offset_rad=0.01,
            servo=ServoCalibration(id=1, drive_mode=0, homing_offset=-12, range_min=5, range_max=4000),
        ),
    ),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    target = tmp_path / "so101.yaml"
    target.write_text(robot_file("so101").read_text())
    return target


def without_section(text: str) -> str:
    """The text of everything but the section."""
    return text[: text.index("# Measured on this specimen")].rstrip()


def test_everything_else_stays_as_people_wrote_it(path: Path) -> None:
    old = path.read_text()
    backup = store_calibration(path, CALIBRATION)
    new = path.read_text()
    assert without_section(new) == old.rstrip()
    assert backup.read_text() == old
    assert backup.name == "so101.yaml.bak"
    assert load_robot(path).calibration == CALIBRATION
    assert sorted(file.name for file in path.parent.iterdir()) == ["so101.yaml", "so101.yaml.bak"]


def test_the_section_is_replaced_where_it_stands(path: Path) -> None:
    store_calibration(path, CALIBRATION)
    path.write_text(path.read_text() + "\n# what safety means here\nsafety: {image_age_s: 0.2}  # slow camera\n")
    second = path.read_text()
    other = replace(CALIBRATION, joints=())
    backup = store_calibration(path, other)
    text = path.read_text()
    assert load_robot(path).calibration == other
    assert load_robot(path).safety.image_age_s == 0.2
    assert text.endswith("\n# what safety means here\nsafety: {image_age_s: 0.2}  # slow camera\n")
    assert text.count("calibration:") == 1
    assert text.count("# Measured on this specimen") == 1
    assert backup.read_text() == second
    store_calibration(path, other)
    assert path.read_text() == text  # once more changes nothing


def test_it_is_no_part_of_the_fingerprint_but_of_its_own_hash(path: Path) -> None:
    before = load_robot(path).fingerprint()
    store_calibration(path, CALIBRATION)
    assert load_robot(path).fingerprint() == before
    moved = replace(CALIBRATION, cameras=(replace(CALIBRATION.cameras[0], latency_s=0.04),))
    assert moved.hash() != CALIBRATION.hash()
    assert replace(CALIBRATION, date="2026-01-01", notes=("x",)).hash() == CALIBRATION.hash()
    assert with_note(CALIBRATION, "looked at it").hash() == CALIBRATION.hash()


def test_a_write_that_fails_leaves_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = path.read_text()

    def full(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writer.os, "replace", full)
    with pytest.raises(CalibrationError, match="cannot be written .*No space left.*copy it into a folder of yours"):
        store_calibration(path, CALIBRATION)
    assert path.read_text() == old
    assert not [file for file in path.parent.iterdir() if "tmp" in file.name]


def test_the_file_is_replaced_and_not_written_in_place(path: Path) -> None:
    """A reader that has the old file open, or a crash halfway, never sees half a file."""
    with path.open() as reader:
        old = os.fstat(reader.fileno()).st_ino
        first = reader.read(100)
        store_calibration(path, CALIBRATION)
        rest = reader.read()
    assert path.stat().st_ino != old
    assert "calibration:" not in first + rest


@pytest.mark.parametrize("key", ["? calibration\n: ", '"calibration": '])
def test_a_layout_that_cannot_be_kept_is_refused(path: Path, key: str) -> None:
    path.write_text(path.read_text() + key + "{joints: [{name: gripper, offset_rad: 0.2}]}\n")
    before = path.read_text()
    with pytest.raises(CalibrationError, match="cannot be replaced safely: put the following into it by hand"):
        store_calibration(path, CALIBRATION)
    assert path.read_text() == before


def test_a_lens_for_another_picture_size_is_refused(path: Path) -> None:
    robot = load_robot(path)
    other = CameraCalibration(name="front", lens=replace(LENS, width_px=320, height_px=240))
    with pytest.raises(
        CalibrationError, match="the pictures are 320 x 240 px but camera 'front' of robot 'so101' gives"
    ):
        store_camera(robot, path, other, "test")


def test_notes_say_what_was_done_and_the_oldest_go() -> None:
    calibration = CALIBRATION
    for number in range(15):
        calibration = with_note(calibration, f"step {number}")
    assert len(calibration.notes) == 12
    assert calibration.notes[-1].endswith("step 14")
    assert calibration.date
