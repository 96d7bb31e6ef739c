"""Calibration: camera intrinsics, hand-eye, joint offsets and camera latency, with OpenCV and numpy and without ROS.

Nothing of it exists yet: this package reserves the name and the place in the import order (it may import only wam's
torch-free part). Until then, use a calibrated camera's own tools.
"""

__all__: list[str] = []
