"""For habit: ``ros2 launch world_action_model calibration.launch.py``; see calibration.launch.xml."""

from pathlib import Path

from launch import LaunchDescription
from launch.launch_description_sources import get_launch_description_from_any_launch_file


def generate_launch_description() -> LaunchDescription:
    """Returns what the XML file describes, so that its arguments are this file's arguments."""
    return get_launch_description_from_any_launch_file(str(Path(__file__).with_suffix(".xml")))
