"""The simulated arm: MuJoCo in real time behind the arm node's backend protocol.

Setpoints come at the guard's rate and are followed as ``sim.arm_sim`` follows them: in a straight line over one guard
period. A new episode puts the arm back to its start in an instant, which no real arm does; until commands come from
near there (the guard was reset), they are ignored, so that the arm does not fly back to where it was.

sim and MuJoCo are imported when the backend is made: a robot without them runs the other backends.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from rclpy.node import Node

from ros_nodes.arm_backend import ArmState, CameraFrame, EpisodeStatus
from ros_nodes.arm_parameters import ArmParameters
from ros_nodes.camera_info import known_lens, lens_from_fovy
from ros_nodes.diagnostics import ERROR, OK, WARN, Health
from wam.calibration_spec import LensSpec
from wam.robot import RobotSpec

if TYPE_CHECKING:
    from sim.fixtures import Fixture

__all__ = ["MujocoArm", "open_arm"]

SETPOINT_RATE_HZ = 50.0  # the guard's; physics steps of 4 ms divide it
JOIN_DISTANCE = 0.2  # [rad, opening] between a command and the setpoint at which a new episode takes commands again


def open_arm(node: Node, robot: RobotSpec, parameters: ArmParameters) -> "MujocoArm":
    """Makes the backend."""
    return MujocoArm(robot, parameters)


class MujocoArm:
    """See ``ArmBackend`` and ``SimulatedArm``."""

    def __init__(self, robot: RobotSpec, parameters: ArmParameters) -> None:
        from sim.arm_sim import ArmSim  # imports MuJoCo
        from sim.realtime import RealtimeArm, camera_fovy

        self._parameters = parameters
        sim = ArmSim(
            parameters.task,
            robot,
            control_rate_hz=SETPOINT_RATE_HZ,
            distractors=parameters.distractors,
            calibrated_cameras=parameters.calibrated_cameras,
            fixtures=_fixtures(parameters),
        )
        self.lenses: dict[str, LensSpec] = {  # of what is drawn, not of what is stored
            camera.name: (known_lens(robot, camera) if parameters.calibrated_cameras else None)
            or lens_from_fovy(camera, camera_fovy(sim, camera))
            for camera in robot.cameras
        }
        self.notify: Callable[[], None] = lambda: None
        self._arm: RealtimeArm = RealtimeArm(sim, lambda: self.notify())
        self._sim = sim
        self._episode = -1
        self._seed = parameters.first_seed - 1
        self._success = False
        self._joining = False
        self._ignored = 0
        self.next_episode()
        self._joining = False  # at the start nobody remembers another pose

    def connect(self) -> None:
        """See ``ArmBackend.connect``."""
        self._arm.start()

    def step(self, now: float) -> ArmState:
        """See ``ArmBackend.step``."""
        self._arm.advance_to(now)
        self._success = self._success or self._sim.finished
        return ArmState(positions=self._sim.proprio(), stamp=self._arm.stamp)

    def command(self, positions: np.ndarray, now: float) -> None:
        """See ``ArmBackend.command``."""
        if self._joining and float(np.max(np.abs(positions - self._sim.setpoint))) > JOIN_DISTANCE:
            self._ignored += 1
            return
        self._joining = False
        self._sim.command(positions)

    def frames(self) -> list[CameraFrame]:
        """See ``SimulatedArm.frames``."""
        return [CameraFrame(camera=f.camera.name, rgb=f.rgb, stamp=f.stamp) for f in self._arm.frames()]

    def next_episode(self) -> EpisodeStatus:
        """See ``SimulatedArm.next_episode``."""
        self._seed += 1
        self._episode += 1
        self._sim.reset(self._seed)
        self._success, self._joining = False, True
        return self.episode()

    def episode(self) -> EpisodeStatus:
        """See ``SimulatedArm.episode``."""
        return EpisodeStatus(
            episode=self._episode,
            seed=self._seed,
            instruction=self._sim.instruction,
            success=self._success,
            progress=1.0 if self._success else self._sim.progress(),
            elapsed_s=self._sim.time,
            failed=self._sim.failed,
            more={"task": self._parameters.task, "max_seconds": f"{self._sim.task.max_seconds:g}"},
        )

    def health(self) -> Health:
        """See ``ArmBackend.health``."""
        level, message = OK, "simulating"
        if self._joining and self._ignored:
            level, message = WARN, "commands from before this episode are ignored: call guard/reset"
        if self._sim.failed:
            level, message = ERROR, "the physics has failed: call arm/next_episode"
        values = {
            "episode": self._episode,
            "seed": self._seed,
            "commands_ignored": self._ignored,
            "frames_dropped": self._arm.frames_dropped,
            "skipped_s": f"{self._arm.skipped_s:.3f}",
        }
        return Health(level=level, message=message, values=values)

    def close(self) -> None:
        """See ``ArmBackend.close``."""
        self._arm.close()


def _fixtures(parameters: ArmParameters) -> "list[Fixture]":
    """The calibration board, where one is asked for."""
    if not parameters.board:
        return []
    from calibration.boards import parse_board
    from sim.board_scene import board_fixture

    return [board_fixture(parse_board(parameters.board), parameters.board_on)]
