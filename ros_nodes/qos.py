"""Quality of service, named once.

A subscription asks for the least it can live with and a publisher offers the most that is cheap, so that other
people's drivers and tools match. A profile that ends in ``_OFFERED`` is for publishers only.

Images stay best effort on both sides: a reliable image stream stops its camera when one reader hangs.
"""

from rclpy.qos import DurabilityPolicy, HistoryPolicy, LivelinessPolicy, QoSProfile, ReliabilityPolicy

__all__ = [
    "CHUNK",
    "COMMAND",
    "DIAGNOSTICS",
    "LATCHED",
    "SENSOR",
    "SENSOR_RECORDED",
    "STATE",
    "STATE_OFFERED",
    "VOLATILE",
]


def _profile(*, reliable: bool, depth: int, latched: bool = False) -> QoSProfile:
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=depth,
        liveliness=LivelinessPolicy.AUTOMATIC,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )


SENSOR = _profile(reliable=False, depth=1)  # images and camera_info: only the newest frame is worth anything
# A recorder wants every frame: on a busy computer its process may be two seconds behind, so four of them may wait
SENSOR_RECORDED = _profile(reliable=False, depth=120)
STATE = _profile(reliable=False, depth=10)  # joint states and guard state, as a subscriber asks for them
STATE_OFFERED = _profile(reliable=True, depth=10)  # the same, as a publisher offers them
CHUNK = _profile(reliable=True, depth=1)  # action chunks, and single teleoperation commands: newest only, none lost
COMMAND = _profile(reliable=True, depth=1)  # guard to arm; what ros2_control's controllers ask for
LATCHED = _profile(reliable=True, depth=1, latched=True)  # task, e-stop, episode: late joiners get the last value
# A latched topic published by hand (`ros2 topic pub`) is volatile and never reaches a LATCHED subscription. Where
# missing it would be dangerous, as with an e-stop, subscribe with both.
VOLATILE = _profile(reliable=True, depth=10)
DIAGNOSTICS = _profile(reliable=True, depth=10)
