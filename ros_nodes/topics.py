"""Topics of a robot file on a graph: relative names, so that a node's namespace tells two robots apart."""

from collections.abc import Iterator
from pathlib import Path

from rclpy.node import Node

from ros_nodes.errors import NodeError
from wam.robot import RobotSpec, load_robot, robot_file

__all__ = ["check_topics", "load_robot_of"]


def load_robot_of(node: Node, name_or_path: str) -> RobotSpec:
    """Reads the robot file of a node.

    Raises:
        RobotSpecError: No such robot, or the file is not a valid robot description.
        NodeError: The node runs in a namespace, and a topic of the file does not lie in it.
    """
    robot = load_robot(name_or_path)
    check_topics(node, robot, robot_file(name_or_path))
    return robot


def check_topics(node: Node, robot: RobotSpec, path: Path) -> None:
    """Refuses topics that are the same in every namespace: two robots would hear each other's guards.

    Args:
        node: Its namespace and remappings count.
        robot: The robot.
        path: Its file, for the error message.

    Raises:
        NodeError: There are such topics; the message has the lines to change.
    """
    namespace = node.get_namespace().rstrip("/")
    outside = [
        (line, topic)
        for line, topic in _lines(robot)
        if topic.startswith("/") and not node.resolve_topic_name(topic).startswith(f"{namespace}/")
    ]
    if outside:
        raise NodeError(
            f"node '{node.get_name()}' runs in namespace '{namespace}', but robot file {path} names topics outside of "
            f"it ({', '.join(topic for _, topic in outside)}), which the graph's other robots would share: write "
            f"{', '.join(line for line, _ in outside)} in that file, or start without a namespace."
        )


def _lines(robot: RobotSpec) -> Iterator[tuple[str, str]]:
    """The line that a robot file should hold for each topic, and the topic that it has now."""
    for name in ("state_topic", "command_topic"):
        topic = getattr(robot, name)
        yield f"`{name}: {topic.lstrip('/')}`", topic
    for camera in robot.cameras:
        yield f"`topic: {camera.topic.lstrip('/')}` (camera '{camera.name}')", camera.topic
