"""Captures: what is stored with which joints, what is refused, and the node that does it on a graph."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from calibration.capture import load_picture, read_capture
from calibration.capture_session import CaptureLimits, CaptureSession
from calibration.errors import CalibrationError
from calibration.live_capture import LiveCapture, capture_live
from calibration.sources import Camera, fresh_picture
from tests.board_pictures import photograph, straight_lens
from wam.robot import load_robot

ROBOT = load_robot("sim6")
NAMES = [joint.name for joint in ROBOT.joints]
LIMITS = CaptureLimits(motion_s=2.0)


def picture(level: int) -> np.ndarray:
    image = np.full((96, 96, 3), level, np.uint8)
    image[:, :48, 0] = 255 - level
    return image


def stand(session: CaptureSession, until: float, angles: dict[str, float], *, seconds: float = 0.6) -> None:
    """Joint states at 100 Hz from an arm that stands still."""
    for step in range(int(seconds * 100), -1, -1):
        session.add_state(until - step / 100, angles)


def at(value: float) -> dict[str, float]:
    return {**dict.fromkeys(NAMES, value), "gripper": 1.0}


def session_in(folder: Path, kind: str = "poses", camera: str = "front") -> CaptureSession:
    return CaptureSession(ROBOT, camera, folder, kind, LIMITS)


def test_samples_hold_the_picture_and_the_joints_of_its_time(tmp_path: Path) -> None:
    session = session_in(tmp_path / "poses")
    for index, now in enumerate((10.0, 20.0)):
        stand(session, now, at(0.1 * index))
        session.add_image(now - 0.05, picture(40 + index))
        assert f"{index + 1} samples" in session.capture(now)
    capture = read_capture(tmp_path / "poses", kind="poses", robot="sim6", camera="front")
    assert [sample.stamp for sample in capture.samples] == [9.95, 19.95]
    np.testing.assert_allclose(capture.positions(ROBOT), [[0.0] * 6, [0.1] * 6])
    np.testing.assert_array_equal(load_picture(tmp_path / "poses" / capture.samples[1].image), picture(41))


def test_a_session_that_was_started_again_goes_on(tmp_path: Path) -> None:
    for index, now in enumerate((10.0, 20.0)):
        session = session_in(tmp_path)
        stand(session, now, at(0.0))
        session.add_image(now, picture(40 + index))
        session.capture(now)
    assert [sample.image for sample in read_capture(tmp_path, kind="poses").samples] == ["0000.png", "0001.png"]
    with pytest.raises(CalibrationError, match="was captured with camera 'front', not 'wrist'"):
        session_in(tmp_path, camera="wrist")
    with pytest.raises(CalibrationError, match="was captured as 'poses' but 'motion' is needed"):
        session_in(tmp_path, "motion")


def test_plain_pictures_need_no_joints(tmp_path: Path) -> None:
    session = session_in(tmp_path, "pictures")
    session.add_image(5.0, picture(90))
    session.capture(5.1)
    assert len(read_capture(tmp_path, kind="pictures").samples) == 1


def test_a_motion_is_stored_as_a_whole(tmp_path: Path) -> None:
    session = session_in(tmp_path, "motion")
    done = ""
    for step in range(400):
        now = 10 + step / 100
        session.add_state(now, at(0.1 * np.sin(now)))
        if step % 5 == 0:
            done = done or session.add_image(now, picture(step % 200))
        if step == 100:
            assert "recording for 2 s" in session.capture(now)
            assert session.recording
            with pytest.raises(CalibrationError, match="a motion is being recorded"):
                session.capture(now)
    assert not session.recording
    assert "stored" in done
    track = read_capture(tmp_path, kind="motion").track(ROBOT)
    assert track.stamps[-1] - track.stamps[0] == pytest.approx(2.0, abs=0.1)
    np.testing.assert_allclose(track.positions[:, 2], 0.1 * np.sin(track.stamps))
    assert len(read_capture(tmp_path, kind="motion").samples) == pytest.approx(40, abs=1)
    session.add_image(14.0, picture(1))
    with pytest.raises(CalibrationError, match="holds a motion already"):
        session.capture(14.0)


def test_what_is_not_good_enough_is_refused_and_not_stored(tmp_path: Path) -> None:
    session = session_in(tmp_path)
    with pytest.raises(CalibrationError, match="camera 'front' has given no picture yet"):
        session.capture(1.0)
    session.add_image(10.0, picture(50))
    with pytest.raises(CalibrationError, match="is 3.0 s old, at most 0.5 s are accepted"):
        session.capture(13.0)
    session.add_state(9.9, {"yaw": 0.0})  # another arm's
    session.add_state(9.95, {**at(0.0), "elbow": float("nan")})
    with pytest.raises(CalibrationError, match="0 joint states came in 0.5 s but 3 are needed: start the arm's node"):
        session.capture(10.1)
    for step in range(60):
        session.add_state(9.4 + step / 100, {**at(0.0), "elbow": step * 1e-3})
    with pytest.raises(CalibrationError, match="joint 'elbow' moved 2.*let the arm stand still"):
        session.capture(10.1)
    assert not tmp_path.joinpath("capture.json").exists()
    stand(session, 12.0, at(0.0))
    session.add_image(12.0, picture(50))
    session.capture(12.0)
    with pytest.raises(CalibrationError, match="no new picture since the last capture"):
        session.capture(12.1)
    session.add_image(12.2, np.zeros((48, 64, 3), np.uint8))
    with pytest.raises(CalibrationError, match="gives 64 x 48 px but the robot file promises 96 x 96"):
        session.capture(12.2)


def test_an_unknown_camera_or_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="did you mean 'wrist'"):
        session_in(tmp_path, camera="wirst")
    with pytest.raises(CalibrationError, match="did you mean 'poses'"):
        session_in(tmp_path, "pose")


# ------------------------------------------------------------------------------------------------ live camera


class Device:
    """Stands in for ``cv2.VideoCapture``."""

    def __init__(self, image: np.ndarray | None, *, opens: bool = True) -> None:
        self.image, self.opens, self.released = image, opens, False

    def isOpened(self) -> bool:
        return self.opens

    def set(self, what: int, value: float) -> bool:
        return True

    def read(self) -> tuple[bool, np.ndarray | None]:
        return self.image is not None, self.image

    def release(self) -> None:
        self.released = True


def test_a_live_camera_gives_rgb_and_says_what_is_wrong() -> None:
    blue = np.zeros((48, 64, 3), np.uint8)
    blue[..., 0] = 255
    device = Device(blue)
    assert tuple(fresh_picture("0", device=device)[0, 0]) == (0, 0, 255)
    assert device.released
    with pytest.raises(CalibrationError, match="camera '0' does not open"):
        Camera("0", device=Device(blue, opens=False))
    with pytest.raises(CalibrationError, match="gives 64 x 48 px but 640 x 480 were asked for"):
        Camera("0", size_px=(640, 480), device=Device(blue))
    with pytest.raises(CalibrationError, match="stopped giving pictures: check its cable"):
        fresh_picture("0", device=Device(None))


def test_a_film_ends_and_has_its_own_time(tmp_path: Path) -> None:
    path = tmp_path / "board.avi"
    film = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (64, 48))
    for level in (40, 120, 200):
        film.write(np.full((48, 64, 3), level, np.uint8))
    film.release()
    with Camera(str(path)) as camera:
        frames = list(camera.frames())
    assert [round(stamp, 6) for stamp, _ in frames] == [0.0, 0.1, 0.2]
    assert [float(image.mean()) for _, image in frames] == pytest.approx([40, 120, 200], abs=6)
    with pytest.raises(CalibrationError, match=r"film .*none.mp4 does not open: check its path"):
        Camera(str(tmp_path / "none.mp4"))


def test_live_capture_keeps_still_sharp_and_different_pictures(tmp_path: Path) -> None:
    from calibration.boards import parse_board
    from calibration.rigid import exp

    board, lens = parse_board("charuco-7x5-30mm-22mm-4X4_50"), straight_lens()

    def shown(x: float, blur: float = 0.6) -> np.ndarray:
        turned = exp(np.array([0.2, 0.3, 0.0, x - 0.1, -0.07, 0.5]))
        return photograph(board, lens, turned, blur_px=blur)

    frames = [shown(-0.05), shown(-0.05), shown(0.05), shown(0.05), shown(0.05)]
    kept: list[int] = []

    def note(capture: LiveCapture) -> None:
        kept.append(len(capture.views))

    timed = ((float(index), image) for index, image in enumerate(frames))
    capture = capture_live(board, timed, tmp_path, seconds=3.5, on_kept=note)
    assert kept == [1, 2]  # the first of each place moved, the third of the second place is like the one before
    assert len(capture.views) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0000.png", "0001.png"]


def test_a_film_of_few_pictures_a_second_gives_its_views(tmp_path: Path) -> None:
    from calibration.boards import parse_board
    from calibration.rigid import exp

    board, lens = parse_board("charuco-7x5-30mm-22mm-4X4_50"), straight_lens()
    places = [exp(np.array([0.2, 0.3, 0.0, 0.06 * index - 0.25, -0.07, 0.5])) for index in range(5)]
    frames = [(index / 6, photograph(board, lens, place)) for index, place in enumerate(places)]
    assert len(capture_live(board, frames, tmp_path / "film", seconds=9.0, film=True).views) == 4  # all but the first
    with pytest.raises(CalibrationError, match="no picture of the board .* was kept: 5 x hold the board still"):
        capture_live(board, frames, tmp_path / "live", seconds=9.0)
    empty = [(index / 6, np.full((480, 640, 3), 90, np.uint8)) for index in range(3)]
    with pytest.raises(CalibrationError, match="was kept: 3 x no marker of the board is visible"):
        capture_live(board, empty, tmp_path / "empty", seconds=9.0, film=True)


# ------------------------------------------------------------------------------------------------ the node


@pytest.mark.ros
@pytest.mark.slow
def test_the_node_stores_what_is_on_the_graph(tmp_path: Path) -> None:
    pytest.importorskip("rclpy")
    from diagnostic_msgs.msg import DiagnosticArray
    from sensor_msgs.msg import Image, JointState

    from ros_nodes import messages, qos
    from tests.ros_graph import Graph

    folder = tmp_path / "poses"
    with Graph(tmp_path) as graph:
        graph.start("calibration", "robot:=sim6", "camera:=front", f"folder:={folder}")
        images = graph.node.create_publisher(Image, "/front/image_raw", qos.SENSOR)
        states = graph.node.create_publisher(JointState, "/joint_states", qos.STATE_OFFERED)
        reports = graph.hear(DiagnosticArray, "/diagnostics", qos.DIAGNOSTICS)
        refused = graph.call("calibration/capture")
        assert not refused.success
        assert "has given no picture yet" in refused.message

        published, stamps = 0, False

        def publish() -> None:
            nonlocal published
            published += 1
            stamp = graph.node.get_clock().now().to_msg() if stamps else messages.to_time(0.0)
            images.publish(messages.rgb_image(picture(77), stamp, "front_optical"))
            states.publish(messages.joint_state([*NAMES, "gripper"], np.arange(7) / 10, stamp))

        graph.node.create_timer(0.02, publish)
        told: list[str] = []

        def both_drivers_are_told() -> bool:
            told.append(graph.call("calibration/capture").message)
            return told[-1].count("the driver publishes header.stamp 0") == 2

        graph.until(both_drivers_are_told, "a capture says that neither driver stamps")
        assert "front/image_raw: the driver" in told[-1]
        stamps = True

        def received(count: int) -> bool:
            if not reports.items:
                return False
            values = {value.key: value.value for value in reports.last.status[0].values}
            return int(values["images"]) > count and int(values["states"]) > count

        for count in (1, 2):
            # The node has had no more than was published: beyond that number a picture is newer than the last capture
            before = max(10, published)
            graph.until(lambda before=before: received(before), "the node receives pictures and joint states")
            *refusals, stored = graph.insist("calibration/capture")
            # A machine that does not run one of the two processes for a moment makes pictures and joints old
            assert all("old" in refusal or "joint states came" in refusal for refusal in refusals)
            assert f"{count} samples" in stored
    capture = read_capture(folder, kind="poses", robot="sim6", camera="front")
    np.testing.assert_allclose(capture.positions(ROBOT), [np.arange(6) / 10] * 2)
    assert (cv2.imread(str(folder / "0000.png"))[..., ::-1] == picture(77)).all()
    assert capture.samples[0].stamp < capture.samples[1].stamp


@pytest.mark.ros
@pytest.mark.slow
def test_a_wrong_camera_is_one_clear_error(tmp_path: Path) -> None:
    pytest.importorskip("rclpy")
    from tests.ros_graph import PATIENCE, Graph

    with Graph(tmp_path) as graph:
        process = graph.start("calibration", "robot:=sim6", "camera:=frnt", f"folder:={tmp_path / 'x'}")
        assert process.popen.wait(timeout=PATIENCE) == 2
        assert "did you mean 'front'" in process.output()
        assert "Traceback" not in process.output()
