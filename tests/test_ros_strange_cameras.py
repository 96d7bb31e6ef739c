"""Cameras that publish what nobody reads: named by recorder and policy with the way out, not only "no picture yet"."""

from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pytest

pytestmark = [pytest.mark.ros, pytest.mark.slow]
pytest.importorskip("rclpy")

from sensor_msgs.msg import CompressedImage, Image, JointState  # noqa: E402

from ros_nodes import messages, qos  # noqa: E402
from ros_nodes.policy_inputs import PolicyInputs  # noqa: E402
from tests.ros_graph import Graph  # noqa: E402
from wam.robot import load_robot  # noqa: E402

ROBOT = load_robot("sim6")
FRONT, WRIST = ROBOT.cameras


@pytest.mark.parametrize("suffix", ["", "/compressed"], ids=["on the camera's topic", "beside it"])
def test_compressed_pictures_and_unreadable_ones_are_named(tmp_path: Path, suffix: str) -> None:
    with Graph(tmp_path) as graph:
        node, topic = graph.node, f"/{FRONT.topic}{suffix}"
        packed = node.create_publisher(CompressedImage, topic, qos.SENSOR)
        depth = node.create_publisher(Image, WRIST.topic, qos.SENSOR)
        states = node.create_publisher(JointState, ROBOT.state_topic, qos.STATE_OFFERED)
        pixels = np.zeros((WRIST.height_px, WRIST.width_px, 3), np.uint8)

        def publish() -> None:
            stamp = node.get_clock().now().to_msg()
            packed.publish(CompressedImage(format="jpeg", data=b"\xff\xd8"))
            image = messages.rgb_image(pixels, stamp, "wrist")
            image.encoding = "mono16"
            depth.publish(image)
            states.publish(messages.joint_state(ROBOT.action_names, np.zeros(7), stamp))

        node.create_timer(0.02, publish)
        graph.start("recorder", "robot:=sim6", f"folder:={tmp_path / 'out'}")
        inputs = graph.start("tests/live_aligner.py", "robot:=sim6", f"out:={tmp_path / 'live.jsonl'}")
        said = ""

        def both_are_named(text: str) -> bool:
            nonlocal said
            said = text
            return f"publishes {topic} as sensor_msgs/msg/CompressedImage" in text and "'mono16' cannot be used" in text

        graph.until(lambda: both_are_named(inputs.output()), "the policy's inputs name both cameras")
        assert "ros2 run image_transport republish compressed raw" in said
        graph.until(
            lambda: both_are_named(graph.call("recorder/start").message), "the recorder refuses with both cameras"
        )
        assert f"-r in/compressed:={topic}" in said


def test_a_camera_without_colours_is_logged_once_and_stays_in_diagnostics() -> None:
    inputs = object.__new__(PolicyInputs)
    inputs._grey, inputs._node, logged = {}, MagicMock(), []
    inputs._node.get_logger().warning = logged.append
    for encoding in ("mono8", "mono8", "rgb8", "mono8"):
        inputs._note_grey(FRONT.topic, encoding)
    sentence = f"{FRONT.topic} is mono8: its pictures have no colours; was the policy trained on such?"
    assert logged == [sentence, sentence]
    assert list(inputs._grey.values()) == [sentence]
