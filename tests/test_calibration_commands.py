"""From pictures in folders to the robot file: lens, hand-eye, time, and captures that do not belong."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from calibration.board_views import measure_boards
from calibration.boards import parse_board
from calibration.camera_info import read_camera_info
from calibration.capture import Capture, Sample, read_capture, write_capture
from calibration.errors import CalibrationError
from calibration.kinematics import open_kinematics
from calibration.main import main
from calibration.rigid import exp, inverse, pose, separation
from calibration.synthetic import Rig, views_around
from tests.board_pictures import photograph, straight_lens
from wam.robot import load_robot, robot_file

BOARD = parse_board("charuco-7x5-24mm-18mm-4X4_50")
LENS = straight_lens(focal=560.0)
LATENCY_S = 0.047


@pytest.fixture
def robot(tmp_path: Path) -> Path:
    """The simulated arm with cameras of a usual size."""
    path = tmp_path / "sim6.yaml"
    text = robot_file("sim6").read_text().replace("width_px: 96, height_px: 96", "width_px: 640, height_px: 480")
    path.write_text(text)
    return path


def rig_of(robot: Path) -> Rig:
    middle = pose(np.eye(3), np.array([*BOARD.size_m, 0.0]) / 2)
    down = pose(np.diag([1.0, -1.0, -1.0]), np.zeros(3))
    return Rig(
        seed=0,
        board=BOARD,
        lens=LENS,
        kinematics=open_kinematics(load_robot(robot), robot),
        eye_in_hand=True,
        camera=exp(np.array([0.1, -0.05, 0.2, 0.03, -0.02, 0.01])),
        board_pose=pose(np.eye(3), np.array([0.32, 0.03, 0.0])) @ down @ inverse(middle),
        offsets=np.zeros(6),
    )


def save(folder: Path, name: str, image: np.ndarray) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(folder / name), image[..., ::-1])
    return name


def captured_poses(robot: Path, folder: Path, count: int) -> Rig:
    rig, rng = rig_of(robot), np.random.default_rng(0)
    reported, tools = rig.poses(rng, count)
    names = [joint.name for joint in load_robot(robot).joints]
    samples = tuple(
        Sample(
            image=save(folder, f"{index:04d}.png", photograph(BOARD, LENS, rig.camera_to_board(tool), seed=index)),
            stamp=float(index),
            joints=dict(zip(names, map(float, row), strict=True)),
        )
        for index, (row, tool) in enumerate(zip(reported, tools, strict=True))
    )
    write_capture(Capture(folder=folder, robot="sim6", camera="wrist", kind="poses", samples=samples))
    return rig


def captured_motion(rig: Rig, robot: Path, folder: Path) -> None:
    rng = np.random.default_rng(1)
    middle = rig.poses(rng, 1)[0][0]
    waves, phases = rng.uniform(0.3, 1.3, (6, 3)), rng.uniform(0, 2 * np.pi, (6, 3))

    def angles(times: np.ndarray) -> np.ndarray:
        return middle + (0.025 * np.sin(2 * np.pi * waves * times[:, None, None] + phases)).sum(axis=2)

    states, stamps = np.arange(0, 5, 0.01), np.arange(0.3, 4.7, 1 / 20)
    tools = rig.kinematics.poses(angles(stamps - LATENCY_S))
    samples = tuple(
        Sample(
            image=save(folder, f"{index:04d}.png", photograph(BOARD, LENS, rig.camera_to_board(tool), seed=index)),
            stamp=float(stamp),
        )
        for index, (stamp, tool) in enumerate(zip(stamps, tools, strict=True))
    )
    write_capture(
        Capture(
            folder=folder,
            robot="sim6",
            camera="wrist",
            kind="motion",
            samples=samples,
            joint_names=tuple(joint.name for joint in load_robot(robot).joints),
            joint_stamps=tuple(states.tolist()),
            joint_positions=tuple(tuple(row) for row in angles(states).tolist()),
        )
    )


@pytest.mark.slow
def test_from_pictures_to_a_robot_file_that_holds_everything(robot: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    views = views_around(rng, BOARD, LENS, 16, noise_px=0.0)
    lens_folder, out = tmp_path / "lens", tmp_path / "out"
    for index, at in enumerate(measure_boards(BOARD, views, LENS).poses):
        save(lens_folder, f"{index:02d}.png", photograph(BOARD, LENS, at, seed=index))
    common = ["--robot", str(robot), "--camera", "wrist", "--board", str(BOARD), "--out", str(out)]
    assert main(["intrinsics", "--source", str(lens_folder), *common]) == 0
    lens = load_robot(robot).calibration.camera("wrist").lens
    assert np.abs(np.array(lens.focal_px) / LENS.focal_px - 1).max() < 0.004
    assert np.linalg.norm(np.array(lens.center_px) - LENS.center_px) < 2.0
    written = read_camera_info(out / "wrist.yaml", camera="wrist", size_px=(640, 480))
    np.testing.assert_allclose(written.focal_px, lens.focal_px)
    page = (out / "intrinsics.html").read_text()
    assert page.count("data:image/") >= 3
    assert "http://" not in page.replace("http://www.w3.org", "")

    rig = captured_poses(robot, tmp_path / "poses", 14)
    assert main(["hand-eye", "--capture", str(tmp_path / "poses"), "--mount", "hand", *common]) == 0
    camera = load_robot(robot).calibration.camera("wrist")
    distance, angle = separation(camera.pose.matrix, rig.camera)
    assert distance < 1.5
    assert angle < 0.3
    assert camera.body == "hand"
    assert camera.board is not None
    assert json.loads((out / "hand_eye.json").read_text())

    captured_motion(rig, robot, tmp_path / "motion")
    assert main(["time", "--capture", str(tmp_path / "motion"), *common]) == 0
    assert load_robot(robot).calibration.camera("wrist").latency_s == pytest.approx(LATENCY_S, abs=3e-3)

    reported, tools = rig.poses(np.random.default_rng(9), 1)
    joints = ",".join(
        f"{joint.name}={value:.6f}" for joint, value in zip(load_robot(robot).joints, reported[0], strict=True)
    )
    today = photograph(BOARD, LENS, rig.camera_to_board(tools[0]), seed=99)
    knocked = photograph(BOARD, LENS, exp(np.array([0.03, 0, 0, 0, 0, 0])) @ rig.camera_to_board(tools[0]), seed=98)
    base = ["check", "--robot", str(robot), "--camera", "wrist", "--joints", joints, "--source"]
    assert main([*base, str(tmp_path / save(tmp_path, "today.png", today))]) == 0
    assert main([*base, str(tmp_path / save(tmp_path, "knocked.png", knocked))]) == 1


# ------------------------------------------------------------------------------------------------ captures


def a_capture(folder: Path, **changes: object) -> Capture:
    image = save(folder, "0.png", np.full((48, 64, 3), 90, np.uint8))
    sample = Sample(image=image, stamp=1.25, joints={"yaw": 0.1, "shoulder": -0.2})
    base = Capture(folder=folder, robot="sim6", camera="front", kind="poses", samples=(sample,))
    return replace(base, **changes)


def test_a_capture_reads_back(tmp_path: Path) -> None:
    capture = a_capture(tmp_path)
    write_capture(capture)
    assert read_capture(tmp_path, kind="poses", robot="sim6", camera="front") == capture


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"kind": "motion"}, "was captured as 'poses' but 'motion' is needed here"),
        ({"kind": "poses", "camera": "wrist"}, "was captured with camera 'front', not 'wrist': give that camera's own"),
        ({"kind": "poses", "robot": "so101"}, "was captured with robot 'sim6', not 'so101'"),
    ],
)
def test_another_cameras_or_robots_capture_is_refused(tmp_path: Path, wanted: dict[str, str], message: str) -> None:
    write_capture(a_capture(tmp_path))
    with pytest.raises(CalibrationError, match=message):
        read_capture(tmp_path, **wanted)


def test_captures_that_are_missing_or_broken_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="holds no capture.json: record it with the capture node"):
        read_capture(tmp_path, kind="poses")
    with pytest.raises(CalibrationError, match="holds no pictures"):
        read_capture(tmp_path, kind="pictures")
    write_capture(a_capture(tmp_path))
    text = (tmp_path / "capture.json").read_text()
    for old, new in (("0.png", "../0.png"), ("1.25", "NaN"), ('"format": 1', '"format": 9')):
        (tmp_path / "capture.json").write_text(text.replace(old, new))
        with pytest.raises(CalibrationError, match="is no capture file of this version"):
            read_capture(tmp_path, kind="poses")


def test_a_joint_that_was_not_captured_is_named(robot: Path, tmp_path: Path) -> None:
    capture = a_capture(tmp_path / "poses")
    with pytest.raises(CalibrationError, match="picture 0.png has no angle of joint 'elbow'"):
        capture.positions(load_robot(robot))


def test_hand_eye_and_time_want_the_lens_first(robot: Path, tmp_path: Path) -> None:
    for command in (["hand-eye", "--mount", "hand"], ["time"]):
        kind = "poses" if command[0] == "hand-eye" else "motion"
        names = tuple(joint.name for joint in load_robot(robot).joints)
        write_capture(a_capture(tmp_path / kind, kind=kind, joint_names=names))
        with pytest.raises(
            CalibrationError, match="camera 'front' has no intrinsics yet: run `wam calibrate intrinsics`"
        ):
            main([*command, "--robot", str(robot), "--camera", "front", "--capture", str(tmp_path / kind)])


def test_pictures_of_another_size_than_the_robots_camera_are_not_stored(robot: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    small = straight_lens(320, 240, 280.0)
    views = views_around(rng, BOARD, small, 8, noise_px=0.0)
    for index, at in enumerate(measure_boards(BOARD, views, small).poses):
        save(tmp_path / "lens", f"{index:02d}.png", photograph(BOARD, small, at, noise=1.0, seed=index))
    before = robot.read_text()
    arguments = ["--robot", str(robot), "--camera", "front", "--board", str(BOARD), "--out", str(tmp_path / "out")]
    with pytest.raises(
        CalibrationError, match="the pictures are 320 x 240 px but camera 'front' of robot 'sim6' gives"
    ):
        main(["intrinsics", "--source", str(tmp_path / "lens"), *arguments])
    assert robot.read_text() == before


def test_usage_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "intrinsics" in capsys.readouterr().out
    assert main(["intrinsic"]) == 2
    assert "did you mean 'intrinsics'" in capsys.readouterr().err
