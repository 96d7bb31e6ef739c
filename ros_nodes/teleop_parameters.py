"""Parameters of the teleoperation node."""

from dataclasses import dataclass, field

from ros_nodes.parameters import param

__all__ = ["TeleopParameters"]

SOURCES = ("leader", "joy", "keyboard", "replay")
DEAD_MEN = ("joy", "keyboard", "none")


@dataclass(frozen=True, kw_only=True)
class TeleopParameters:
    """Parameters of teleoperation."""

    robot: str = field(metadata=param("robot file, by name or path"))
    source: str = field(default="leader", metadata=param("what moves the arm", choices=SOURCES))
    dead_man: str = field(
        default="joy",
        metadata=param("what must be held while a leader or a replay moves the arm; none: nothing", choices=DEAD_MEN),
    )
    rate_hz: float = field(default=50.0, metadata=param("commands per second", unit="Hz", low=10.0, high=200.0))
    speed_scale: float = field(
        default=0.3, metadata=param("jogging speed as a share of each axis' limit", low=0.01, high=1.0)
    )
    joy_topic: str = field(default="joy", metadata=param("topic of sensor_msgs/Joy"))
    joy_map: str = field(
        default="", metadata=param("what moves what, 'yaw=axis0, gripper=button1-button0'; empty: the usual order")
    )
    joy_dead_man_button: int = field(default=4, metadata=param("joystick button to hold", low=0, high=63))
    joy_e_stop_button: int = field(default=6, metadata=param("joystick button that stops; -1: none", low=-1, high=63))
    leader_port: str = field(default="", metadata=param("serial device of the leader arm"))
    leader_calibration: str = field(default="", metadata=param("LeRobot's calibration file of the leader arm"))
    replay_file: str = field(default="", metadata=param("npz file with action (T, A), rate_hz and names"))
    heartbeat: bool = field(
        default=False, metadata=param("beat on e_stop/heartbeat, so that the arm stops when this node dies")
    )
