"""ROS 2 nodes: thin rclpy shells around ``policy``, the only place that knows ROS.

``<name>_node`` modules are executables: ``arm``, ``camera``, ``guard``, ``policy``, ``recorder`` and ``teleop``. From
the repository they start as ``python -m ros_nodes.guard_node --ros-args -p robot:=sim6``. Every node shares
``parameters`` (one frozen dataclass), ``messages`` (values to messages), ``qos``, ``diagnostics`` and ``spinning``.
"""

__all__: list[str] = []
