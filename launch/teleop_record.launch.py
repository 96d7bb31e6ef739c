"""``ros2 launch world_action_model teleop_record.launch.py``: for habit; see teleop_record.launch.xml."""

from pathlib import Path

from launch import LaunchDescription
from launch.actions import IncludeLaunchDescription


def generate_launch_description() -> LaunchDescription:
    """Returns what the XML file describes; arguments are passed on."""
    return LaunchDescription([IncludeLaunchDescription(str(Path(__file__).with_suffix(".xml")))])
