"""Whether what a node said last has reached everybody who listens, so that it may leave.

A process that was not run for a moment does not receive later what it had not received when the publisher left: the
middleware forgets the publisher first. So an arm, or whoever watches, could miss the hold that ends a motion.
"""

import time

from rclpy.duration import Duration
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.publisher import Publisher

__all__ = ["PATIENCE_S", "LastWords"]

# Who does not answer for so long hangs, or was killed and is still listed. Within spinning.STOP_SECONDS, after braking
PATIENCE_S = 2.0


class LastWords:
    """Asked again and again, after the last message was published.

    A reliable publisher of depth 1 learns it in milliseconds, a deeper one may need seconds.

    Args:
        publisher: Of the messages.
    """

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self._asked: float | None = None  # steady time of the first question [s]

    def heard(self) -> bool:
        """Whether every listener has everything, or has not answered for ``PATIENCE_S``. Does not wait."""
        now = time.monotonic()
        self._asked = now if self._asked is None else self._asked
        if now - self._asked > PATIENCE_S:
            return True
        try:
            return bool(self._publisher.wait_for_all_acked(Duration()))
        except rclpy_implementation.RCLError:  # a middleware that cannot tell
            return True
