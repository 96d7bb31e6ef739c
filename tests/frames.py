"""Two processes that send and receive camera-sized images, to count what arrives.

``python tests/frames.py receive`` counts the frames of ``python tests/frames.py send 45 20`` and prints a JSON object.
With the receiver's process as one more argument, that is stopped while each frame is sent: a busy computer does so now
and then, and what decides about a frame sent in pieces is whether its receiver runs between two of them.
They greet each other first, so that neither has to learn of the other any more. A frame follows the one before when
that was heard of, at the camera's rate at the soonest, so that a machine which does not run one of the processes for a
while loses nothing; a frame that is not heard of in so many seconds is lost.
"""

import array
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

WIDTH, HEIGHT, RATE_HZ = 640, 480, 30.0
GREETING = -1  # number of a frame without pixels


def send(count: int, patience_s: float, receiver: int | None) -> None:
    """Publishes frames once somebody listens, then says how many there were."""
    import rclpy
    from rclpy.node import Node
    from sensor_msgs.msg import Image
    from std_msgs.msg import Int32

    from ros_nodes.qos import LATCHED, SENSOR, VOLATILE

    node = Node("sender")
    heard: set[int] = set()
    frames = node.create_publisher(Image, "frames", SENSOR)
    done = node.create_publisher(Int32, "done", LATCHED)
    node.create_subscription(Int32, "heard", lambda message: heard.add(message.data), VOLATILE)
    while not (frames.get_subscription_count() and done.get_subscription_count() and node.count_publishers("heard")):
        rclpy.spin_once(node, timeout_sec=0.05)
    pixels = array.array("B", bytes(WIDTH * HEIGHT * 3))
    greeting = Image()
    greeting.header.frame_id = str(GREETING)
    while GREETING not in heard:
        frames.publish(greeting)
        rclpy.spin_once(node, timeout_sec=0.1)
    due = time.monotonic()
    for number in range(count):
        message = Image(height=HEIGHT, width=WIDTH, encoding="rgb8", step=3 * WIDTH, data=pixels)
        message.header.frame_id = str(number)
        time.sleep(max(0.0, due - time.monotonic()))
        with stopped(receiver) if receiver else contextlib.nullcontext():
            frames.publish(message)
        sent = time.monotonic()
        while number not in heard and time.monotonic() < sent + patience_s:
            rclpy.spin_once(node, timeout_sec=0.02)
        due = max(due, sent) + 1.0 / RATE_HZ
    done.publish(Int32(data=count))
    while done.get_subscription_count():  # it has heard us when it leaves
        rclpy.spin_once(node, timeout_sec=0.05)


@contextlib.contextmanager
def stopped(process: int) -> Iterator[None]:
    """No thread of a process runs meanwhile."""
    os.kill(process, signal.SIGSTOP)
    try:
        while any(not path.read_text().rpartition(")")[2].startswith(" T") for path in states(process)):
            time.sleep(0.001)
        yield
    finally:
        os.kill(process, signal.SIGCONT)


def states(process: int) -> Iterator[Path]:
    """Where the kernel says what each thread of a process does."""
    return Path(f"/proc/{process}/task").glob("*/stat")


def receive() -> None:
    """Collects frames until the sender is done."""
    import rclpy
    from rclpy.node import Node
    from sensor_msgs.msg import Image
    from std_msgs.msg import Int32

    from ros_nodes.qos import LATCHED, SENSOR_RECORDED, VOLATILE

    node = Node("receiver")
    numbers: list[int] = []
    sent: list[int] = []
    heard = node.create_publisher(Int32, "heard", VOLATILE)

    def note(message: Image) -> None:
        number = int(message.header.frame_id)
        heard.publish(Int32(data=number))
        if number != GREETING:
            numbers.append(number)

    node.create_subscription(Image, "frames", note, SENSOR_RECORDED)
    node.create_subscription(Int32, "done", lambda message: sent.append(message.data), LATCHED)
    while not sent:
        rclpy.spin_once(node, timeout_sec=0.1)
    print(json.dumps({"sent": sent[0], "received": len(set(numbers))}))


if __name__ == "__main__":
    import rclpy

    rclpy.init()
    if sys.argv[1] == "send":
        send(int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]) if len(sys.argv) > 4 else None)
    else:
        receive()
    rclpy.shutdown()
