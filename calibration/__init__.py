"""Calibration: camera intrinsics, hand-eye, joint zeros and camera latency, with OpenCV and numpy and without ROS.

``wam calibrate`` is its command line (``calibration.main``), ``ros_nodes.calibration_node`` captures for it. scipy,
mujoco and matplotlib are imported where they are used: a robot that only runs the daily check needs none of them.
"""

__all__: list[str] = []
