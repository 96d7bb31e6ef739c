"""Two processes that send and receive camera-sized images, to count what arrives.

``python tests/frames.py receive`` waits for the frames of ``python tests/frames.py send 45`` and prints a JSON object.
"""

import array
import json
import sys
import time

WIDTH, HEIGHT, RATE_HZ = 640, 480, 30.0
SETTLE_S = 0.5  # after the last frame: what is still on its way


def send(count: int) -> None:
    """Publishes frames at camera rate once somebody listens, then says how many there were."""
    import rclpy
    from rclpy.node import Node
    from sensor_msgs.msg import Image
    from std_msgs.msg import Int32

    from ros_nodes.qos import LATCHED, SENSOR

    node = Node("sender")
    frames = node.create_publisher(Image, "frames", SENSOR)
    done = node.create_publisher(Int32, "done", LATCHED)
    while not (frames.get_subscription_count() and done.get_subscription_count()):
        rclpy.spin_once(node, timeout_sec=0.05)
    pixels = array.array("B", bytes(WIDTH * HEIGHT * 3))
    due = time.monotonic() + SETTLE_S  # the other side may have to learn of us yet
    for number in range(count):
        message = Image(height=HEIGHT, width=WIDTH, encoding="rgb8", step=3 * WIDTH, data=pixels)
        message.header.frame_id = str(number)
        time.sleep(max(0.0, due - time.monotonic()))
        frames.publish(message)
        due += 1.0 / RATE_HZ
    done.publish(Int32(data=count))
    while done.get_subscription_count():  # it has heard us when it leaves
        rclpy.spin_once(node, timeout_sec=0.05)


def receive() -> None:
    """Collects frames until the sender is done."""
    import rclpy
    from rclpy.node import Node
    from sensor_msgs.msg import Image
    from std_msgs.msg import Int32

    from ros_nodes.qos import LATCHED, SENSOR_RECORDED

    node = Node("receiver")
    numbers: list[int] = []
    sent: list[int] = []
    node.create_subscription(
        Image, "frames", lambda message: numbers.append(int(message.header.frame_id)), SENSOR_RECORDED
    )
    node.create_subscription(Int32, "done", lambda message: sent.append(message.data), LATCHED)
    while not sent:
        rclpy.spin_once(node, timeout_sec=0.1)
    end = time.monotonic() + SETTLE_S
    while (left := end - time.monotonic()) > 0:
        rclpy.spin_once(node, timeout_sec=left)
    print(json.dumps({"sent": sent[0], "received": len(set(numbers))}))


if __name__ == "__main__":
    import rclpy

    rclpy.init()
    if sys.argv[1] == "send":
        send(int(sys.argv[2]))
    else:
        receive()
    rclpy.shutdown()
