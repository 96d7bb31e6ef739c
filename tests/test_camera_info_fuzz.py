"""Random damage to camera_info, as a file and as a message: one message, or exactly the numbers that stand there."""

import random
from pathlib import Path
from typing import Any

import pytest

from calibration.camera_info import camera_info_text, read_camera_info
from tests.text_damage import Tally, damaged, differences, plain
from wam.calibration_spec import LensSpec

MUTATIONS = 500
LENS = LensSpec(
    model="plumb_bob",
    width_px=640,
    height_px=480,
    focal_px=(601.25, 602.5),
    center_px=(318.5, 241.75),
    distortion=(0.1, -0.2, 0.001, -0.002, 1e-5),
)
MESSAGE = """\
header:
  stamp: {sec: 1734051505, nanosec: 363371767}
  frame_id: front_optical
height: 480
width: 640
distortion_model: equidistant
d: [0.02, -0.004, 0.001, 0.0]
k: [301.25, 0.0, 318.5, 0.0, 302.5, 241.75, 0.0, 0.0, 1.0]
r: [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
p: [301.25, 0.0, 318.5, 0.0, 0.0, 302.5, 241.75, 0.0, 0.0, 0.0, 1.0, 0.0]
binning_x: 0
binning_y: 0
roi: {x_offset: 0, y_offset: 0, height: 0, width: 0, do_rectify: false}
---
"""
NO_TURN = (1, 0, 0, 0, 1, 0, 0, 0, 1)
EMPTY_IN_K, EMPTY_IN_P = (1, 3, 6, 7), (1, 3, 4, 7, 8, 9, 11)  # entries that our lens has no number for


def told(said: dict[str, Any], file_name: str, message_name: str) -> list[str]:
    entry = said.get(file_name, said.get(message_name))
    return entry["data"] if isinstance(entry, dict) else entry


def wrong_in(lens: LensSpec, said: dict[str, Any]) -> list[str]:
    matrix = told(said, "camera_matrix", "k")
    found = differences(lens.width_px, said.get("image_width", said.get("width")), "width")
    found += differences(lens.height_px, said.get("image_height", said.get("height")), "height")
    found += differences((*lens.focal_px, *lens.center_px), [matrix[i] for i in (0, 4, 2, 5)], "matrix")
    coefficients = told(said, "distortion_coefficients", "d")
    found += differences(lens.distortion[: len(coefficients)], coefficients, "distortion")
    found += ["coefficients out of nowhere"] if any(lens.distortion[len(coefficients) :]) else []
    model = said.get("distortion_model", "plumb_bob")
    found += [] if {"fisheye": "equidistant"}.get(model, model) == lens.model else [f"{lens.model}, said {model}"]
    if any(abs(float(matrix[i])) > 1e-5 for i in EMPTY_IN_K) or abs(float(matrix[8]) - 1) > 1e-5:
        found.append("K has other entries")
    turn = told(said, "rectification_matrix", "r")
    if turn is not None and any(abs(float(a) - b) > 1e-4 for a, b in zip(turn, NO_TURN, strict=True)):
        found.append("R turns the camera")
    drawn = told(said, "projection_matrix", "p")
    if drawn is not None and any(abs(float(drawn[i])) > 1e-5 for i in EMPTY_IN_P):
        found.append("P has other entries")
    return found


@pytest.mark.parametrize("text", [camera_info_text(LENS, "front"), MESSAGE], ids=["file", "message"])
def test_damaged_camera_info(tmp_path: Path, text: str) -> None:
    path, tally = tmp_path / "front.yaml", Tally()

    def load() -> list[str]:
        lens = read_camera_info(path)
        return wrong_in(lens, plain(path.read_text(encoding="utf-8").rstrip().removesuffix("\n---")))

    path.write_text(text)
    assert load() == []
    for seed in range(MUTATIONS):
        path.write_bytes(damaged(text, random.Random(seed)).encode("utf-8", "surrogatepass"))
        tally.take(f"seed {seed}", str(path), load)
    tally.check()
