"""What else is on the graph: publishers whose quality of service does not match ours, and nodes that must be alone."""

from collections.abc import Mapping

from rclpy.context import Context
from rclpy.exceptions import InvalidNamespaceException
from rclpy.node import Node
from rclpy.qos import QoSCompatibility, QoSProfile, qos_check_compatible

from ros_nodes.errors import GraphError

__all__ = ["UNNAMED", "open_node", "other_publishers", "other_types", "qos_mismatches"]

# A publisher is discovered before the name of its node is; until that comes, the middleware fills a word of its own in
NOT_YET = "_NODE_NAME_UNKNOWN_"
UNNAMED = "a node whose name is not known yet"

IMAGE_TYPE, COMPRESSED_TYPE = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"


def open_node(name: str, context: Context, namespace: str) -> Node:
    """Makes a node that only listens and asks, and takes nothing of this process's own arguments.

    Raises:
        GraphError: There can be no such namespace.
    """
    try:
        return Node(name, context=context, namespace=namespace or None, use_global_arguments=False)
    except InvalidNamespaceException as error:
        reason = str(error).splitlines()[0].removeprefix("Invalid namespace: ")
        raise GraphError(f"namespace '{namespace}' cannot be: {reason}. Write one like '/left'.") from error


def qos_mismatches(node: Node, asked: Mapping[str, QoSProfile]) -> list[str]:
    """Says which publishers can never reach us.

    ROS drops such a pair without a word in the data: the topic looks silent. A publisher that also reaches us by a
    second subscription with other settings is fine.

    Args:
        node: The node that subscribes.
        asked: Topic → the most lenient profile we subscribe with.

    Returns:
        One sentence per publisher.
    """
    found = []
    for name, profile in asked.items():
        topic = node.resolve_topic_name(name)
        for publisher in node.get_publishers_info_by_topic(topic):
            compatibility, reason = qos_check_compatible(publisher.qos_profile, profile)
            if compatibility == QoSCompatibility.ERROR:
                reasons = reason.replace("ERROR: ", "").strip("; ")
                found.append(
                    f"'{_full_name(publisher)}' publishes {topic} with a quality of service that never reaches "
                    f"'{node.get_name()}' ({reasons}): start it with {_wanted(profile)}"
                )
    return found


def other_types(node: Node, wanted: Mapping[str, str]) -> list[str]:
    """Says which topics somebody publishes as another type than we read, so that nothing will ever arrive.

    Args:
        node: The node that subscribes.
        wanted: Topic → type name we read, such as "sensor_msgs/msg/Image".

    Returns:
        One sentence per topic.
    """
    found = []
    for asked, kind in wanted.items():
        topic = node.resolve_topic_name(asked)
        publishers = node.get_publishers_info_by_topic(topic)
        if any(publisher.topic_type == kind for publisher in publishers):
            continue
        names = [topic] * bool(publishers) or [f"{topic}/compressed"] * (kind == IMAGE_TYPE)
        for name in names:
            for publisher in node.get_publishers_info_by_topic(name)[:1]:
                found.append(
                    f"'{_full_name(publisher)}' publishes {name} as {publisher.topic_type} and nobody publishes "
                    f"{topic} as {kind}, which is what is read: {_raw(name, publisher.topic_type)}"
                )
    return found


def _raw(topic: str, kind: str) -> str:
    """How to get the type that is read."""
    if kind != COMPRESSED_TYPE:
        return "let its driver publish that type, or name its topic in the robot file"
    return (
        "let the driver publish its raw pictures, or run 'ros2 run image_transport republish compressed raw --ros-args "
        f"-r in/compressed:={topic} -r out:={topic.removesuffix('/compressed')}/raw' and name the topic "
        f"{topic.removesuffix('/compressed')}/raw in the robot file"
    )


def other_publishers(node: Node, topic: str) -> list[str]:
    """Full names of other nodes that publish a topic; two of one name count as two.

    A process that was killed stays listed for many seconds. One that was just found may be ``UNNAMED``.
    """
    own = node.get_fully_qualified_name()
    names = [_full_name(publisher) for publisher in node.get_publishers_info_by_topic(node.resolve_topic_name(topic))]
    if own in names:
        names.remove(own)
    return names


def _full_name(publisher: object) -> str:
    namespace, name = publisher.node_namespace, publisher.node_name  # type: ignore[attr-defined]
    return UNNAMED if name == NOT_YET else f"{namespace.rstrip('/')}/{name}"


def _wanted(profile: QoSProfile) -> str:
    return f"reliability {profile.reliability.name.lower()} and durability {profile.durability.name.lower()}"
