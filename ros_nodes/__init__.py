"""ROS 2 nodes: thin rclpy shells around ``policy``, the only place that knows ROS.

No node exists yet: this package reserves the name and the place in the import order. The policy that the nodes will
run can be used from Python today, see ``policy.load.load_policy``.
"""

__all__: list[str] = []
