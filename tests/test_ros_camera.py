"""Captures and the camera node: stamps, frozen and failing sources, lenses of another size."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

pytestmark = pytest.mark.ros
pytest.importorskip("rclpy")

from diagnostic_msgs.msg import DiagnosticArray  # noqa: E402
from sensor_msgs.msg import CameraInfo, Image  # noqa: E402

from policy.wire import rgb_from_image, stamp_seconds  # noqa: E402
from ros_nodes import qos  # noqa: E402
from ros_nodes.capture import Capture, CaptureState, Frame, open_source  # noqa: E402
from ros_nodes.diagnostics import OK, values_of  # noqa: E402
from ros_nodes.errors import NodeError  # noqa: E402
from ros_nodes.launch_plan import ParameterFile, plan  # noqa: E402
from tests.ros_graph import PATIENCE, REPOSITORY, Graph, Heard  # noqa: E402
from wam.robot import load_robot  # noqa: E402

CALIBRATION = """\
image_width: {width}
image_height: 96
camera_name: front
camera_matrix: {{rows: 3, cols: 3, data: [{focal}, 0, 47.0, 0, 111.0, 48.0, 0, 0, 1]}}
distortion_model: {model}
distortion_coefficients: {{rows: 1, cols: 5, data: [0.1, -0.2, 0.001, 0.002, 0.0]}}
"""


def calibration(folder: Path, *, width: object = 96, focal: object = 110.0, model: str = "plumb_bob") -> Path:
    path = folder / "lens.yaml"
    path.write_text(CALIBRATION.format(width=width, focal=focal, model=model))
    return path


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of pictures, red first, green second."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, bgr in (("0", (0, 0, 255)), ("1", (0, 255, 0))):
        cv2.imwrite(str(folder / f"{name}.png"), np.full((96, 96, 3), bgr, dtype=np.uint8))
    return folder


class Collector:
    """Frames of a capture, to be waited for."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.states: list[CaptureState] = []  # at each frame, once ``watch`` was called
        self._capture: Capture | None = None
        self._news = threading.Condition()

    def __call__(self, frame: Frame) -> None:
        with self._news:
            self.frames.append(frame)
            if self._capture is not None:
                self.states.append(self._capture.state)
            self._news.notify_all()

    def watch(self, capture: Capture) -> Capture:
        with self._news:
            self._capture = capture
        return capture

    def wait_for(self, done: Callable[[], bool]) -> None:
        with self._news:
            assert self._news.wait_for(done, timeout=PATIENCE)


def poll(done: Callable[[], bool]) -> None:
    """Waits for a thread that gives no sign."""
    end = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < end
        threading.Event().wait(0.001)


def source(device: object, *, loop: bool = False, rate_hz: float = 100.0) -> Callable[[], object]:
    return lambda: open_source(str(device), width_px=96, height_px=96, rate_hz=rate_hz, fourcc="", loop=loop)


def test_a_folder_is_played_in_order_as_rgb(pictures: Path) -> None:
    collector, begun = Collector(), time.monotonic()
    capture = Capture(source(pictures), collector, retry_s=3600)
    collector.wait_for(lambda: len(collector.frames) == 2)
    capture.close()
    assert [tuple(frame.rgb[0, 0]) for frame in collector.frames] == [(255, 0, 0), (0, 255, 0)]
    assert begun <= collector.frames[0].taken <= collector.frames[-1].taken <= time.monotonic()
    assert collector.frames[1].taken > collector.frames[0].taken


def test_a_video_is_played_again_and_again(tmp_path: Path) -> None:
    path = str(tmp_path / "film.avi")
    writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*"MJPG"), 30, (96, 96))
    for shade in (20, 120, 220):
        writer.write(np.full((96, 96, 3), shade, dtype=np.uint8))
    writer.release()
    collector = Collector()
    capture = Capture(source(path, loop=True), collector)
    collector.wait_for(lambda: len(collector.frames) >= 5)
    capture.close()
    shades = [int(frame.rgb.mean()) for frame in collector.frames[:5]]
    np.testing.assert_allclose(shades, [20, 120, 220, 20, 120], atol=4)


def test_a_source_that_ends_is_opened_again(pictures: Path) -> None:
    collector = Collector()
    capture = Capture(source(pictures), collector, retry_s=0.01)
    collector.wait_for(lambda: len(collector.frames) >= 6)
    capture.close()
    assert capture.state.reconnects >= 2


def test_a_source_that_fails_says_why_and_comes_back(tmp_path: Path) -> None:
    collector, late = Collector(), tmp_path / "late"
    capture = Capture(source(late), collector, retry_s=0.01)
    poll(lambda: "not plugged in" in capture.state.problem)
    late.with_suffix(".tmp").mkdir()
    cv2.imwrite(str(late.with_suffix(".tmp") / "0.png"), np.zeros((96, 96, 3), dtype=np.uint8))
    assert capture.state.frames == 0
    assert capture.state.newest == 0
    late.with_suffix(".tmp").rename(late)
    collector.watch(capture)
    collector.wait_for(lambda: bool(collector.states))
    capture.close()
    first = collector.states[0]
    assert (first.problem, first.same_pixels) == ("", 0)  # it is well again, and says so
    assert first.reconnects > 0
    assert collector.frames[0].rgb.max() == 0


def test_the_same_pixels_are_counted_and_a_reconnect_starts_over(pictures: Path) -> None:
    (pictures / "1.png").unlink()
    collector = Collector()
    capture = collector.watch(Capture(source(pictures, loop=True), collector, retry_s=0.01))
    collector.wait_for(lambda: any(state.same_pixels > 3 for state in collector.states))
    assert capture.state.reconnects == 0
    capture.reconnect()
    collector.wait_for(lambda: any(state.reconnects > 0 for state in collector.states))
    capture.close()
    before = [state.same_pixels for state in collector.states if state.reconnects == 0]
    np.testing.assert_array_equal(np.diff(before), 1)
    assert next(state for state in collector.states if state.reconnects > 0).same_pixels == 0


def test_a_picture_that_cannot_be_read_is_a_problem_not_the_end(pictures: Path) -> None:
    (pictures / "1.png").write_text("no picture")
    collector = Collector()
    capture = Capture(source(pictures), collector, retry_s=0.01)
    poll(lambda: "not a picture" in capture.state.problem)
    collector.wait_for(lambda: len(collector.frames) > 2)
    capture.close()
    assert all(tuple(frame.rgb[0, 0]) == (255, 0, 0) for frame in collector.frames)  # the good one, again and again
    assert capture.state.reconnects >= 2


@pytest.mark.parametrize(
    ("name", "message"), [("empty", "holds no pictures"), ("text.png", "not a picture|not a video")]
)
def test_what_is_no_source_is_refused(tmp_path: Path, name: str, message: str) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    if name != "empty":
        (folder / name).write_text("no picture")
    with pytest.raises(NodeError, match=message):
        next(iter([open_source(str(folder), width_px=1, height_px=1, rate_hz=1, fourcc="", loop=False).read()]))


def test_the_node_publishes_reports_a_frozen_picture_and_reconnects(tmp_path: Path, pictures: Path) -> None:
    (pictures / "1.png").unlink()
    lens, begun = calibration(tmp_path), time.time()
    with Graph(tmp_path) as graph:
        graph.start(
            "camera", "robot:=sim6", "camera:=front", f"device:={pictures}", f"calibration:={lens}", "frozen_s:=0.3"
        )
        images = graph.hear(Image, "/front/image_raw", qos.SENSOR_RECORDED)
        infos = graph.hear(CameraInfo, "/front/camera_info", qos.SENSOR_RECORDED)
        reports = graph.hear(DiagnosticArray, "/diagnostics", qos.DIAGNOSTICS)
        graph.until(lambda: len(images) > 10 and len(infos) > 10, "the camera publishes")
        assert (rgb_from_image(images.last) == (255, 0, 0)).all()
        stamps = np.array([stamp_seconds(image.header.stamp) for _, image in images.items])
        assert (np.diff(stamps) > 0).all()
        assert begun < stamps[0] < stamps[-1] < time.time()
        assert infos.last.k[0] == 110.0
        graph.until(
            lambda: (
                {stamp_seconds(m.header.stamp) for _, m in infos.items}
                & {stamp_seconds(m.header.stamp) for _, m in images.items}
            ),
            "pictures and their calibration carry the same stamps",
        )
        assert images.last.header.frame_id == "front_optical"
        graph.until(lambda: "the same pixels" in said(reports), "the frozen camera is reported")
        graph.until(lambda: int(values_of(reports.last.status[0])["reconnects"]) > 0, "it is opened again")


@pytest.mark.slow
def test_a_robot_with_one_camera_of_any_name_comes_up(tmp_path: Path, pictures: Path) -> None:
    data = {name: value for name, value in load_robot("sim6").to_dict().items() if value is not None}
    data["cameras"] = [data["cameras"][0] | {"name": "top", "topic": "/top/image_raw"}]
    robot = tmp_path / "sim6.yaml"
    robot.write_text(yaml.safe_dump(data))
    plans = plan(REPOSITORY / "launch/bringup.launch.xml", {"robot": str(robot), "policy": "false"}, {})
    cameras = [process for process in plans if process.label.startswith("camera")]
    with Graph(tmp_path) as graph:
        images = graph.hear(Image, "/top/image_raw", qos.SENSOR)
        reports = graph.hear(DiagnosticArray, "/diagnostics", qos.DIAGNOSTICS)
        for place, process in enumerate(cameras, start=1):  # with what the launch file gives them
            given: dict[str, object] = {}
            for argument in process.arguments:
                if isinstance(argument, ParameterFile):
                    given |= next(iter(yaml.safe_load(argument.text).values()))["ros__parameters"]
            given["device"] = pictures
            parameters = [f"{name}:={value}" for name, value in given.items() if value != ""]
            graph.run(f"camera_{place}", ["-m", "ros_nodes.camera_node", *ros_arguments(f"camera_{place}", parameters)])
        graph.until(lambda: len(images) > 5, "the one camera is seen")
        heard = lambda name: [s for _, array in reports.items for s in array.status if s.name == name]  # noqa: E731
        graph.until(lambda: len(heard("camera_2")) > 2, "the other one stays")  # fails if it ends
        assert heard("camera_2")[-1].message == "nothing to do: robot 'sim6' has no camera 2 (only top)"
        assert heard("camera_2")[-1].level == OK
        assert "camera_2:=none leaves this node out" in graph.processes["camera_2"].output()


def ros_arguments(name: str, parameters: list[str]) -> list[str]:
    return ["--ros-args", "-r", f"__node:={name}", *(word for value in parameters for word in ("-p", value))]


@pytest.mark.slow
def test_a_wrong_size_is_told_and_not_published(tmp_path: Path, pictures: Path) -> None:
    for path in pictures.iterdir():
        cv2.imwrite(str(path), np.zeros((48, 64, 3), dtype=np.uint8))
    with Graph(tmp_path) as graph:
        graph.start("camera", "robot:=sim6", "camera:=front", f"device:={pictures}")
        images = graph.hear(Image, "/front/image_raw", qos.SENSOR)
        reports = graph.hear(DiagnosticArray, "/diagnostics", qos.DIAGNOSTICS)
        graph.until(lambda: "gives 64x48 images but the robot file promises 96x96" in said(reports), "it is told")
        assert not images.items


@pytest.mark.slow
@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (("robot:=sim6", "camera:=frnt", "device:=x"), "did you mean 'front'?"),
        (("robot:=sim6", "camera:=front", "device:=x", "calibration:=LENS"), "is for pictures of 64 x 96 px"),
    ],
)
def test_a_wrong_start_is_one_clear_error(tmp_path: Path, parameters: tuple[str, ...], message: str) -> None:
    lens = calibration(tmp_path, width=64)
    with Graph(tmp_path) as graph:
        process = graph.start("camera", *(value.replace("LENS", str(lens)) for value in parameters))
        assert process.popen.wait(timeout=PATIENCE) == 2
        assert message in process.output()
        assert "Traceback" not in process.output()


def said(reports: Heard) -> str:
    return reports.last.status[0].message if reports.items else ""
