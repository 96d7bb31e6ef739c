"""Parameters of the arm node, those of its backends included."""

from dataclasses import dataclass, field

from ros_nodes.parameters import param

__all__ = ["ArmParameters"]

BACKENDS = ("mujoco", "so101", "external")
INTERFACES = ("", "forward", "trajectory")
BOARD_PLACES = ("table", "hand")  # sim.board_scene has the same; a robot runs without it


@dataclass(frozen=True, kw_only=True)
class ArmParameters:
    """What an arm node is started with."""

    robot: str = field(metadata=param("name or path of the robot file"))
    backend: str = field(default="mujoco", metadata=param("which arm it is", choices=BACKENDS))
    interface: str = field(
        default="", metadata=param("command interface; empty takes the robot file's", choices=INTERFACES)
    )
    state_rate_hz: float = field(
        default=100.0, metadata=param("joint states per second of robot time", unit="Hz", low=10, high=1000)
    )
    command_timeout_s: float = field(
        default=0.5,
        metadata=param(
            "silence of the guard that is reported, and after which a new guard may follow", unit="s", low=0.05, high=60
        ),
    )
    # mujoco
    task: str = field(default="reach", metadata=param("mujoco: simulated task, one of `wam evaluate`'s"))
    first_seed: int = field(default=0, metadata=param("mujoco: seed of the first scene; later ones count up", low=0))
    distractors: int = field(default=0, metadata=param("mujoco: cubes of other colours", low=0, high=4))
    speed: float = field(
        default=1.0, metadata=param("mujoco: robot time per wall-clock time; needs publish_clock", low=0.05, high=4.0)
    )
    publish_clock: bool = field(
        default=False, metadata=param("mujoco: publish /clock, for nodes started with use_sim_time")
    )
    calibrated_cameras: bool = field(
        default=False,
        metadata=param("mujoco: draw through the lenses and from the places in the robot file's calibration"),
    )
    board: str = field(
        default="", metadata=param("mujoco: calibration board to put into the scene, as `wam calibrate board` names it")
    )
    board_on: str = field(
        default="table",
        metadata=param("mujoco: where it is: on the table (camera on the arm) or in the hand", choices=BOARD_PLACES),
    )
    announce_task: bool = field(
        default=False, metadata=param("mujoco: publish each scene's instruction on policy/task")
    )
    # so101
    so101_port: str = field(default="", metadata=param("so101: serial device of the follower arm"))
    so101_calibration: str = field(
        default="", metadata=param("so101: LeRobot's calibration file; empty takes the robot file's servo calibration")
    )
    so101_setup: bool = field(
        default=False,
        metadata=param("so101: write calibration and gains into the servos; the arm goes limp for a moment"),
    )
    so101_limp_at_exit: bool = field(default=False, metadata=param("so101: switch torque off when the node ends"))
    # external
    external_state_topic: str = field(
        default="joint_states",
        metadata=param("external: where the driver publishes joint states; any name, /... does not follow a namespace"),
    )
    external_command_topic: str = field(
        default="", metadata=param("external: the controller's command topic; any name, as external_state_topic")
    )
    external_interface: str = field(
        default="trajectory",
        metadata=param("external: what the controller takes, joints by name or by order", choices=INTERFACES[1:]),
    )
    external_joint_names: str = field(
        default="",
        metadata=param("external: joints that the driver calls otherwise than the robot file, 'shoulder=joint_2, ...'"),
    )
    external_joint_order: str = field(
        default="",
        metadata=param("external: joint names as the forward controller's own list has them, separated by commas"),
    )
    external_gripper_joint: str = field(
        default="", metadata=param("external: the driver's name of the gripper joint; empty: as in the robot file")
    )
    external_gripper_closed: float = field(
        default=0.0, metadata=param("external: the driver's value of the closed gripper, in its own unit")
    )
    external_gripper_open: float = field(
        default=1.0, metadata=param("external: the driver's value of the open gripper, in its own unit")
    )
    external_gripper_topic: str = field(
        default="", metadata=param("external: command topic of a gripper with its own controller; empty: with the arm")
    )
