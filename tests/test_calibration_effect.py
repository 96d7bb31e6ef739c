"""A board in a simulated scene, a camera that is knocked and put back, and what that does to a policy."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from calibration.boards import parse_board
from calibration.check_robot import check_camera
from calibration.detection import detect
from calibration.rigid import exp, inverse, separation
from sim.arm_sim import ArmSim
from sim.board_scene import BOARD_BODY, board_fixture
from sim.calibration_effect import EffectConfig, main, put_back
from sim.calibration_room import CalibrationRoom
from sim.cameras import camera_lens, camera_pose
from sim.errors import SimError
from sim.fixtures import Fixture
from sim.gl import mujoco
from wam.errors import ConfigError
from wam.lens import project
from wam.robot import load_robot

ROBOT = load_robot("sim6")
BOARD = parse_board("charuco-7x5-24mm-18mm-4X4_50")


def with_pictures(size_px: int):
    cameras = tuple(dataclasses.replace(spec, width_px=size_px, height_px=size_px) for spec in ROBOT.cameras)
    return dataclasses.replace(ROBOT, cameras=cameras)


@pytest.mark.parametrize(
    ("camera", "place", "angles"),
    [
        ("wrist", "table", [-0.27, 0.41, 1.76, 0.19, 0.89, -1.65]),
        ("front", "hand", [-0.01, 0.6, 1.29, 0.29, -0.46, 1.62]),
    ],
)
def test_a_board_is_drawn_where_it_is(camera: str, place: str, angles: list[float]) -> None:
    robot = with_pictures(768)
    sim = ArmSim("reach", robot, fixtures=[board_fixture(BOARD, place)])
    sim.data.qpos[sim.arm_dofs] = angles
    mujoco.mj_forward(sim.model, sim.data)
    view = detect(BOARD, sim.render(camera))
    assert not view.problem, view.problem
    body, on_board = sim.data.body(BOARD_BODY), BOARD.points[view.ids]
    points = on_board @ body.xmat.reshape(3, 3).T + body.xpos
    eye = inverse(camera_pose(sim.model, sim.data, camera))
    lens = camera_lens(sim.model, next(spec for spec in robot.cameras if spec.name == camera))
    expected = project(lens, points @ eye[:3, :3].T + eye[:3, 3])
    sim.close()
    error = np.linalg.norm(view.pixels - expected, axis=1)
    assert np.median(error) < 0.5
    assert error.max() < 1.5


def test_a_board_neither_weighs_nor_touches() -> None:
    moved = []
    for fixtures in ([], [board_fixture(BOARD, "hand")], [board_fixture(BOARD, "table")]):
        sim = ArmSim("lift", ROBOT, fixtures=fixtures)
        sim.reset(3)
        for _ in range(5):
            sim.step(sim.proprio() + 0.1)
        moved.append(np.concatenate([sim.data.qpos, sim.data.qvel]))
        sim.close()
    np.testing.assert_allclose(moved[1], moved[0], atol=1e-9)
    np.testing.assert_allclose(moved[2], moved[0], atol=1e-9)


def test_places_and_bodies_that_there_are_not_are_refused() -> None:
    with pytest.raises(SimError, match="unknown place of a board 'desk'.*hand, table"):
        board_fixture(BOARD, "desk")
    nowhere = Fixture(name="sign", body="hnad", pose=np.eye(4), boxes=())
    with pytest.raises(SimError, match="did you mean 'hand'"):
        ArmSim("reach", ROBOT, fixtures=[nowhere])


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigError, match="knocks is 0 and episodes 200: both must be at least 1"):
        EffectConfig(bundle=Path("b"), knocks=0)
    with pytest.raises(ConfigError, match="are sizes: 0 or more"):
        EffectConfig(bundle=Path("b"), turn_deg=-1.0)


# ------------------------------------------------------------------------------------------------ slow


@pytest.mark.slow
@pytest.mark.parametrize("camera", ["front", "wrist"])
def test_a_knocked_camera_is_found_and_put_back(camera: str, tmp_path: Path) -> None:
    room = CalibrationRoom(ROBOT, camera, seed=1)
    try:
        path = room.calibrate(tmp_path)
        robot = load_robot(path)
        assert robot.calibration is not None
        millimetres, degrees = separation(robot.calibration.camera(camera).pose.matrix, room.nominal)
        assert millimetres < 1.5
        assert degrees < 0.3
        image, joints = room.look()
        assert check_camera(robot, path, camera, image, joints).ok
        knocked = room.nominal @ exp(np.array([0.02, -0.03, 0.0, 0.012, 0.0, 0.016]))
        room.set_camera(knocked)
        image, joints = room.look()
        assert not check_camera(robot, path, camera, image, joints).ok
        back, said = put_back(room, path, knocked, (1e-3, 2e-3), np.random.default_rng(0))
    finally:
        room.close()
    assert "HAS MOVED" in said[0]
    assert "is where it was calibrated" in said[-1]
    millimetres, degrees = separation(back, room.nominal)
    assert millimetres < 6.5  # the check's tolerance, and its own error
    assert degrees < 0.7


@pytest.mark.slow
def test_the_command_counts_what_a_policy_solves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from wam.export import export_bundle
    from wam.untrained import save_untrained_checkpoint

    checkpoint = save_untrained_checkpoint(tmp_path / "run", ROBOT, preset_name="micro")
    export_bundle(checkpoint, tmp_path / "bundle")
    arguments = ["--bundle", str(tmp_path / "bundle"), "--task", "reach", "--out", str(tmp_path / "out")]
    few = ["--knocks", "1", "--episodes", "2", "--workers", "1", "--latency-ms", "20"]
    with pytest.raises(SimError, match="did you mean 'front'"):
        main([*arguments, "--camera", "fornt"])
    assert main([*arguments, *few]) == 0
    assert "as calibrated" in capsys.readouterr().out
    results = json.loads((tmp_path / "out/results.json").read_text())
    first, knocked, back = results["rows"]
    assert (first["off_mm"], first["name"]) == (0.0, "as calibrated")
    assert knocked["off_mm"] == pytest.approx(20.0)
    assert knocked["off_deg"] == pytest.approx(2.0)
    assert back["off_mm"] < 6.5
    assert back["against_knocked"]["episodes"] == knocked["against_first"]["episodes"] == 2
    assert results["command"].startswith("wam calibrate effect --bundle")
    # The evaluation saw the knocked camera, not the one of the model.
    played = load_robot(str(tmp_path / "out/row_1/sim6.yaml")).calibration
    assert played is not None
    np.testing.assert_allclose(played.camera("front").pose.matrix, knocked["T_body_camera"], atol=1e-6)
    page = (tmp_path / "out/report.html").read_text()
    assert page.count("data:image/png") == 3
    assert "HAS MOVED" in page
    with pytest.raises(SimError, match="exists already: give another --out, or --overwrite"):
        main([*arguments, *few])
