"""``camera_info`` files: what is written reads back to the last digit, and others' files are read or refused."""

import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.camera_info import camera_info_text, read_camera_info, write_camera_info
from calibration.errors import CalibrationError
from wam.calibration_spec import DISTORTION_LENGTHS, LensSpec

INI = "ini format .*: ros2 run camera_calibration_parsers convert front.ini front.yaml"
K = "[600.5, 0.0, 319.0, 0.0, 601.5, 240.0, 0.0, 0.0, 1.0]"
R = "[1, 0, 0, 0, 1, 0, 0, 0, 1]"
P = "[600.5, 0, 319.0, 0, 0, 601.5, 240.0, 0, 0, 0, 1, 0]"
NUMBERS = st.floats(-10, 10, allow_nan=False)
ROS_FILE = """\
image_width: 640
image_height: 480
camera_name: front
camera_matrix:
  rows: 3
  cols: 3
  data: [600.5, 0.0, 319.0, 0.0, 601.5, 240.0, 0.0, 0.0, 1.0]
distortion_model: plumb_bob
distortion_coefficients:
  rows: 1
  cols: 5
  data: [0.1, -0.2, 1e-05, 0.002, 0.0]
rectification_matrix:
  rows: 3
  cols: 3
  data: [1, 0, 0, 0, 1, 0, 0, 0, 1]
projection_matrix:
  rows: 3
  cols: 4
  data: [600.5, 0, 319.0, 0, 0, 601.5, 240.0, 0, 0, 0, 1, 0]
"""


@given(data=st.data(), model=st.sampled_from(sorted(DISTORTION_LENGTHS)))
@settings(max_examples=60, deadline=None)
def test_what_is_written_reads_back(data: st.DataObject, model: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    lens = LensSpec(
        model=model,
        width_px=data.draw(st.integers(600, 700)),
        height_px=data.draw(st.integers(600, 700)),
        focal_px=(data.draw(st.floats(200, 400)), data.draw(st.floats(200, 400))),
        center_px=(data.draw(st.floats(300, 340)), data.draw(st.floats(300, 340))),
        distortion=tuple(
            data.draw(st.lists(NUMBERS, min_size=DISTORTION_LENGTHS[model], max_size=DISTORTION_LENGTHS[model]))
        ),
    )
    path = tmp_path_factory.mktemp("lens") / "front.yaml"
    write_camera_info(lens, "front: left #1", path)
    assert read_camera_info(path, camera="front: left #1", size_px=(lens.width_px, lens.height_px)) == lens
    assert [file.name for file in path.parent.iterdir()] == ["front.yaml"]


def test_every_field_that_ros_wants_is_there() -> None:
    lens = LensSpec(
        model="plumb_bob",
        width_px=640,
        height_px=480,
        focal_px=(600.0, 601.0),
        center_px=(319.0, 240.0),
        distortion=(1e-5,) * 5,
    )
    data = yaml.safe_load(camera_info_text(lens, "front"))
    assert set(data) == set(yaml.safe_load(ROS_FILE))
    for name, (rows, cols) in {
        "camera_matrix": (3, 3),
        "distortion_coefficients": (1, 5),
        "rectification_matrix": (3, 3),
        "projection_matrix": (3, 4),
    }.items():
        assert (data[name]["rows"], data[name]["cols"]) == (rows, cols)
        assert len(data[name]["data"]) == rows * cols
        assert all(isinstance(value, int | float) for value in data[name]["data"]), name  # none became a word
    projection = np.array(data["projection_matrix"]["data"]).reshape(3, 4)
    np.testing.assert_array_equal(projection[:, :3], lens.matrix)


def test_a_file_as_ros_writes_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "front.yaml"
    path.write_text(ROS_FILE)
    lens = read_camera_info(path, camera="front", size_px=(640, 480))
    assert lens.focal_px == (600.5, 601.5)
    assert lens.distortion == (0.1, -0.2, 1e-05, 0.002, 0.0)


def test_the_older_name_of_the_fisheye_model_is_read(tmp_path: Path) -> None:
    path = tmp_path / "front.yaml"
    old = ROS_FILE.replace("plumb_bob", "fisheye").replace("[0.1, -0.2, 1e-05, 0.002, 0.0]", "[0.1, -0.2, 0, 0]")
    path.write_text(old.replace("cols: 5", "cols: 4"))
    assert read_camera_info(path).model == "equidistant"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("camera_name: front", "camera_name: wrist", "is of camera 'wrist', not 'front': give that camera's own file"),
        ("image_width: 640", "image_width: 320", "is for pictures of 320 x 480 px but camera 'front' gives 640 x 480"),
        ("plumb_bob", "plum_bob", "did you mean 'plumb_bob'"),
        ("plumb_bob", "equidistant", "holds 5 distortion coefficients but equidistant has 4"),
        ("cols: 5\n  data: [0.1, -0.2, 1e-05,", "cols: 5\n  data: [0.1, -0.2,", "must hold a list 'data' of 5 numbers"),
        ("600.5, 0.0, 319.0,", "600.5, 319.0,", "camera_matrix must hold a list 'data' of 9 numbers"),
        ("[600.5, 0.0, 319.0", "['600.5', 0.0, 319.0", "camera_matrix must hold a list 'data' of 9 numbers"),
        (
            "[600.5, 0.0, 319.0",
            "[.nan, 0.0, 319.0",
            r"camera_matrix.data\[0\]' \(line 7\) is .nan but must be a finite",
        ),
        ("data: [600.5, 0.0, 319.0, 0.0, 601.5", "data: [0.0, 0.0, 0, 0.0, 0.0", "the camera is not calibrated"),
        ("data: [0.1, -0.2, 1e-05, 0.002, 0.0]", "data: [0.1 -0.2 1e-05 0.002 0.0]", "need commas between them"),
        ("image_width: 640", "image_width: [640", "cannot be read"),
        ("image_width: 640", "image_width: 640.0", "image_width is 640.0 but must be a whole number"),
        ("image_height: 480", "image_height: 480\nimage_height: 400", "'image_height' .line 3. stands twice"),
        (
            "rows: 3\n  cols: 3",
            "rows: 9\n  cols: 1",
            "camera_matrix has 9 rows and 1 cols but must have 3 rows and 3 cols",
        ),
        (
            "600.5, 0.0, 319.0, 0.0, 601.5",
            "600.5, 0.7, 319.0, 0.0, 601.5",
            "camera_matrix has skew: its second entry is 0.7",
        ),
        (K, "[600.5, 0, 0, 0, 601.5, 0, 319.0, 240.0, 1.0]", "camera_matrix is transposed.*write it row by row"),
        (K, "[1201, 0, 638, 0, 1203, 480, 0, 0, 2]", "camera_matrix is scaled: its last entry is 2.*divide all nine"),
        (
            K,
            "[600.5, 0, 319.0, 3, 601.5, 240.0, 0, 0, 1]",
            "camera_matrix is no camera matrix: entries 4, 7 and 8 are 3",
        ),
        (
            K,
            "[0.938, 0, 0.498, 0, 1.25, 0.5, 0, 0, 1]",
            "a focal length of 0.938, 1.25 px cannot belong to pictures of 640",
        ),
        (K, "[1201, 0, 638.5, 0, 1203, 480.5, 0, 0, 1]", "principal point .* outside pictures of 640 x 480"),
        (K, "[300, 0, 159.5, 0, 301, 119.5, 0, 0, 1]", "is that of pictures of about 320 x 240 px, not of 640 x 480"),
        (
            R,
            "[0.9998, 0, 0.02, 0, 1, 0, -0.02, 0, 0.9998]",
            "rectification_matrix turns the camera by 1.15 degrees.*stereo",
        ),
        (R, "[1, 0, 0, 0, 1, 0, 0, 0, 2]", "rectification_matrix is no rotation"),
        (
            P,
            "[600.5, 0, 319.0, -72, 0, 601.5, 240.0, 0, 0, 0, 1, 0]",
            "projection_matrix has -72.*second camera of a stereo",
        ),
        (
            P,
            "[300.2, 0, 159.5, 0, 0, 300.7, 120.0, 0, 0, 0, 1, 0]",
            "projection_matrix has fx = 300.2 where this camera",
        ),
        (P, "[600.5, 0, 0, 0, 0, 601.5, 0, 0, 319, 240, 1, 0]", "projection_matrix is no projection.*row by row"),
        (
            "rows: 3\n  cols: 4",
            "rows: 4\n  cols: 3",
            "projection_matrix has 4 rows and 3 cols but must have 3 rows and 4",
        ),
        ("distortion_model:", "distorsion_model:", "has 'distorsion_model': call it distortion_model"),
        (
            "distortion_model: plumb_bob",
            "camera_model: fisheye",
            "has camera_model: 'fisheye', which ROS does not look at",
        ),
        ("camera_matrix:", "camera_mtx:", "lacks camera_matrix.*It has 'camera_mtx': call it camera_matrix"),
        ("camera_name: front", "camera_name: front\nbinning_x: 2", "binning_x is 2"),
        (
            "image_height: 480",
            "image_height: 480\nroi: {x_offset: 10, y_offset: 0, height: 100, width: 100}",
            "roi is .*principal point is shifted",
        ),
    ],
)
def test_a_file_that_would_be_misread_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "front.yaml"
    assert old in ROS_FILE
    path.write_text(ROS_FILE.replace(old, new, 1))
    with pytest.raises(CalibrationError, match=message):
        read_camera_info(path, camera="front", size_px=(640, 480))


def read(path: Path, text: str, **wanted: object) -> LensSpec:
    path.write_text(text)
    return read_camera_info(path, **wanted)


def test_what_ros_reads_is_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "front.yaml"
    usual = read(path, ROS_FILE)
    caplog.set_level("INFO")
    assert read(path, ROS_FILE.replace("distortion_model: plumb_bob\n", "")) == usual
    assert "has no distortion_model: plumb_bob, as ROS assumes" in caplog.text
    assert read(path, ROS_FILE.replace("distortion_model", "camera_model")) == usual
    assert read(path, ROS_FILE.replace("camera_name: front\n", "")) == usual
    assert read(path, ROS_FILE.replace("camera_name: front", "camera_name: 15120237"), camera="15120237") == usual
    assert read(path, ROS_FILE.replace(P, "[580, 0, 318, 0, 0, 585, 241, 0, 0, 0, 1, 0]")) == usual  # drawn closer
    short = read(path, ROS_FILE.replace("plumb_bob", "rational_polynomial"))
    assert short.distortion == (*usual.distortion, 0.0, 0.0, 0.0)
    assert "has 5 of 8 coefficients: the others are 0, as in ROS" in caplog.text
    four = ROS_FILE.replace("distortion_model: plumb_bob\n", "").replace("cols: 5", "cols: 4")
    with pytest.raises(CalibrationError, match="has no distortion_model, which ROS takes for plumb_bob with 5"):
        read(path, four.replace("[0.1, -0.2, 1e-05, 0.002, 0.0]", "[0.1, -0.2, 0, 0]"))


MESSAGE = f"""\
header:
  stamp:
    sec: 17
    nanosec: 363
  frame_id: front_optical
height: 480
width: 640
distortion_model: plumb_bob
d:
- 0.1
- -0.2
- 1.0e-05
- 0.002
- 0.0
k: {K}
r: {R}
p: {P}
binning_x: 0
binning_y: 0
roi:
  x_offset: 0
  y_offset: 0
  height: 0
  width: 0
  do_rectify: false
---
"""


def test_a_pasted_message_is_read(tmp_path: Path) -> None:
    path = tmp_path / "front.yaml"
    assert read(path, MESSAGE, size_px=(640, 480)) == read(path, ROS_FILE)
    ros_1 = re.sub(r"^([dkrp]):", lambda found: found[0].upper(), MESSAGE, flags=re.MULTILINE)
    assert read(path, ros_1) == read(path, ROS_FILE)
    for old, new, message in (
        ("k: [600.5, 0.0,", "k: [600.5, 1.0,", ": k has skew"),
        ("binning_y: 0", "binning_y: 2", "binning_y is 2"),
        ("x_offset: 0", "x_offset: 8", "roi is"),
        ("plumb_bob", "rational_polynomial", "holds 5 distortion coefficients but rational_polynomial has 8"),
        ("width: 640", "width: 320", "is for pictures of 320 x 480 px but"),
        ("---", "---\n" + MESSAGE, "cannot be read: it is not valid YAML: expected a single document"),
    ):
        with pytest.raises(CalibrationError, match=message):
            read(path, MESSAGE.replace(old, new, 1), size_px=(640, 480))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "%YAML:1.0\n---\nCamera_Matrix: !!opencv-matrix\n   rows: 3\n",
            "written by OpenCV's FileStorage.*camera_matrix",
        ),
        ("<?xml version='1.0'?>\n<opencv_storage>\n", "written by OpenCV's FileStorage"),
        ("# oST version 5.0 parameters\n\n\n[image]\n\nwidth\n640\n\ncamera matrix\n1 0 0\n", INI),
        ("[image]\n\nwidth\n640\n\n[left]\n\ncamera matrix\n1 0 0\n", INI),
        (
            "D = [-0.01, 0.005, -0.0004, -0.001, 0.0]\nK = [1, 0]\n",
            "prints in the terminal. Press SAVE there and take ost.yaml",
        ),
        (
            "cam0:\n  intrinsics: [1, 2, 3, 4]\n  distortion_coeffs: [0, 0, 0, 0]\n",
            "written by Kalibr.*intrinsics .* of cam0",
        ),
    ],
)
def test_files_of_other_tools_are_named_with_the_way_out(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        read(tmp_path / "front.ini", text)


def test_a_missing_file_and_a_list_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="cannot be read"):
        read_camera_info(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(CalibrationError, match="must be a mapping of fields, but holds list"):
        read_camera_info(tmp_path / "list.yaml")
