"""A lens model that does not suit the lens is refused, however small the error of the corners it keeps."""

import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from calibration.boards import DEFAULT_BOARD, Board, parse_board
from calibration.detection import Detection
from calibration.errors import CalibrationError
from calibration.intrinsics import calibrate_intrinsics
from calibration.lens_comparison import LENS_MODELS, compare_lens_models
from calibration.main import main
from calibration.rigid import pose, rotations
from calibration.robust_fit import rms, robust_fit
from calibration.synthetic import board_seen, random_lens, spoiled, views_around
from calibration.trials import MODELS
from wam.calibration_spec import LensSpec
from wam.lens import pixel_directions

BOARD = parse_board(DEFAULT_BOARD)
NOISE_PX = 0.2
SLOW_SEED = pytest.param(2, marks=pytest.mark.slow)


def full_circle(size: int = 800) -> LensSpec:
    """A fisheye lens whose half-turn fits into the picture as a circle."""
    focal = size / np.pi
    return LensSpec(
        model="equidistant",
        width_px=size,
        height_px=size,
        focal_px=(focal, 1.001 * focal),
        center_px=(size / 2 + 3, size / 2 - 4),
        distortion=(0.02, -0.004, 0.001, 0.0),
    )


def poses_within(rng: np.random.Generator, board: Board, reach: float) -> np.ndarray:
    """(4, 4) ``T_camera_board`` of a tilted board whose middle lies up to ``reach`` [rad] from the axis."""
    angle, about, slant = rng.uniform(0, reach), rng.uniform(0, 2 * np.pi), rng.uniform(0, 2 * np.pi)
    facing = rotations(np.array([-np.sin(about) * angle, np.cos(about) * angle, 0]))
    tilt = np.radians(rng.uniform(5, 45)) * np.array([np.cos(slant), np.sin(slant), 0])
    turn = facing @ rotations(tilt) @ rotations(np.array([0, 0, rng.uniform(-0.6, 0.6)]))
    place = facing @ np.array([0, 0, rng.uniform(0.12, 0.3)])
    return pose(turn, place - turn @ (np.array([*board.size_m, 0.0]) / 2))


def circle_views(seed: int, reach: float, count: int = 22) -> list[Detection]:
    rng, lens, views = np.random.default_rng(seed), full_circle(), []
    while len(views) < count:
        seen = board_seen(BOARD, lens, poses_within(rng, BOARD, reach))
        if seen is not None:
            ids, pixels = seen
            noisy = pixels + rng.normal(0, NOISE_PX, pixels.shape)
            size = (lens.width_px, lens.height_px)
            views.append(Detection(ids=ids, pixels=noisy, size_px=size, source=str(len(views)), blur_px=0.5))
    return views


def test_a_pinhole_model_of_a_fisheye_lens_looks_good_and_is_refused() -> None:
    views = circle_views(1, 0.6)
    found = robust_fit(BOARD, views, "plumb_bob")
    assert rms(found.residuals) < 0.35  # the usual error, of the corners that it kept
    with pytest.raises(CalibrationError, match="'pinhole' does not suit this lens.*--model fisheye") as error:
        calibrate_intrinsics(BOARD, views, "pinhole")
    text = str(error.value)
    assert re.search(r"leaves out \d+ corners that 'fisheye' explains", text)
    told = re.search(
        r"It left out (\d+) of (\d+), (\d+) of them among the outermost quarter; the error of the others", text
    )
    assert told is not None
    dropped, corners, outside = map(int, told.groups())
    assert 0.8 * sum(map(len, views)) < corners <= sum(map(len, views))  # some views are alike
    assert dropped >= outside > 8
    right = calibrate_intrinsics(BOARD, views, "fisheye")
    assert np.linalg.norm(np.array(right.lens.center_px) - full_circle().center_px) < 1.0
    assert right.comparison.where == f"none of {corners}"
    assert not right.comparison.better


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 4])
def test_boards_all_over_a_full_circle(seed: int) -> None:
    views = circle_views(seed, 1.0)
    with pytest.raises(CalibrationError, match="--model fisheye"):
        calibrate_intrinsics(BOARD, views, "pinhole")
    assert not calibrate_intrinsics(BOARD, views, "fisheye").comparison.note


@pytest.mark.parametrize("seed", [0, 1, SLOW_SEED])
@pytest.mark.parametrize("bad", [0.0, pytest.param(0.1, marks=pytest.mark.slow)])
def test_the_right_model_is_not_accused(seed: int, bad: float) -> None:
    for ros, name in MODELS.items() if seed > 1 else [("plumb_bob", "pinhole")]:
        rng = np.random.default_rng(40 + seed)
        views = views_around(rng, BOARD, random_lens(rng, ros), 20, noise_px=NOISE_PX)
        views = [spoiled(rng, view, bad) for view in views] if bad else views
        comparison = compare_lens_models(BOARD, views, robust_fit(BOARD, views, ros))
        assert not comparison.misfit, name
        assert not comparison.better, name
        assert (comparison.dropped > 0.05 * comparison.corners) == bool(bad)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 2])
def test_advice_does_not_go_in_circles(seed: int) -> None:
    """Whatever a model is refused for, the one that is named then is not refused."""
    rng = np.random.default_rng(70 + seed)
    views = views_around(rng, BOARD, random_lens(rng, list(MODELS)[seed % 3]), 24, noise_px=NOISE_PX)
    for ros in LENS_MODELS.values():
        better = compare_lens_models(BOARD, views, robust_fit(BOARD, views, ros)).better
        if better:
            assert not compare_lens_models(BOARD, views, robust_fit(BOARD, views, LENS_MODELS[better])).misfit


# ------------------------------------------------------------------------------------------------ pictures


def photograph_through(lens: LensSpec, board: Board, at: np.ndarray, seed: int) -> np.ndarray:
    """What a lens of any kind shows of a board: each pixel's ray meets the board's plane. (height, width) uint8."""
    per_m = 60 / board.square_m
    drawn = cv2.GaussianBlur(board.picture(60, margin_squares=1.0), (0, 0), 1.5)
    columns, rows = np.meshgrid(np.arange(lens.width_px), np.arange(lens.height_px))
    rays = pixel_directions(lens, np.stack([columns, rows], axis=-1).reshape(-1, 2)) @ at[:3, :3]
    origin = -at[:3, :3].T @ at[:3, 3]
    with np.errstate(divide="ignore", invalid="ignore"):
        far = -origin[2] / rays[:, 2]
        places = origin + far[:, None] * rays
    places[~(far > 0)] = 1e3
    pixels = ((places[:, :2] + board.square_m) * per_m - 0.5).astype(np.float32)
    shape = (lens.height_px, lens.width_px, 2)
    image = cv2.remap(drawn, pixels.reshape(shape), None, cv2.INTER_LINEAR, borderValue=(115.0,)).astype(float)
    image = 20 + 0.84 * image + np.random.default_rng(seed).normal(0, 1.5, image.shape)
    return np.clip(image, 0, 255).astype(np.uint8)


@pytest.mark.slow
def test_pictures_of_a_fisheye_lens_through_the_command(tmp_path: Path) -> None:
    lens, board = full_circle(560), parse_board("charuco-7x5-30mm-22mm-4X4_50")
    rng, pictures = np.random.default_rng(3), tmp_path / "pictures"
    pictures.mkdir()
    for index in range(11):
        image = photograph_through(lens, board, poses_within(rng, board, 0.9), index)
        cv2.imwrite(str(pictures / f"{index:02d}.png"), image)
    common = ["intrinsics", "--source", str(pictures), "--board", str(board), "--out", str(tmp_path / "out")]
    with pytest.raises(CalibrationError, match="Calibrate with --model fisheye"):
        main(common)
    assert not (tmp_path / "out").exists()
    assert main([*common, "--model", "fisheye"]) == 0
    assert "among the outermost quarter" in (tmp_path / "out/intrinsics.html").read_text()
