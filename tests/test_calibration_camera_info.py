"""``camera_info`` files: what is written reads back to the last digit, and others' files are read or refused."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.camera_info import camera_info_text, read_camera_info, write_camera_info
from calibration.errors import CalibrationError
from wam.calibration_spec import DISTORTION_LENGTHS, LensSpec

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
        width_px=data.draw(st.integers(1, 8000)),
        height_px=data.draw(st.integers(1, 8000)),
        focal_px=(data.draw(st.floats(1e-5, 1e5)), data.draw(st.floats(1e-5, 1e5))),
        center_px=(data.draw(st.floats(-1e4, 1e4)), data.draw(st.floats(-1e4, 1e4))),
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
    path.write_text(old)
    assert read_camera_info(path).model == "equidistant"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("camera_name: front", "camera_name: wrist", "is of camera 'wrist', not 'front': give that camera's own file"),
        ("image_width: 640", "image_width: 320", "is for pictures of 320 x 480 px but camera 'front' gives 640 x 480"),
        ("plumb_bob", "plum_bob", "did you mean 'plumb_bob'"),
        ("plumb_bob", "rational_polynomial", "holds 5 distortion coefficients but rational_polynomial has 8"),
        ("600.5, 0.0, 319.0,", "600.5, 319.0,", "camera_matrix must hold a list 'data' of 9 numbers"),
        ("[600.5, 0.0, 319.0", "[.nan, 0.0, 319.0", "camera_matrix must hold a list 'data' of 9 numbers"),
        ("data: [600.5", "data: [0.0", "the camera is not calibrated"),
        ("distortion_model: plumb_bob\n", "", "lacks distortion_model: it is no file of ROS's camera_info_manager"),
        ("image_width: 640", "image_width: [640", "cannot be read"),
    ],
)
def test_a_file_that_would_be_misread_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "front.yaml"
    assert old in ROS_FILE
    path.write_text(ROS_FILE.replace(old, new, 1))
    with pytest.raises(CalibrationError, match=message):
        read_camera_info(path, camera="front", size_px=(640, 480))


def test_a_missing_file_and_a_list_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="cannot be read"):
        read_camera_info(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(CalibrationError, match="must be a mapping of fields, but holds list"):
        read_camera_info(tmp_path / "list.yaml")
