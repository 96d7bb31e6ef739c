"""Scripted experts: what a good demonstrator does next, as a function of the present state only.

Each task has one waypoint function. It has no timers or memory: the branch is read off the state (is the cube between
the fingers, are they closed), so the same picture always asks for the same motion, a failed grasp starts over by
itself, and a perturbed arm is led back. That makes imitating it a well-posed problem.

A waypoint becomes an action by one bounded step along the straight line and inverse kinematics.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sim.arm_sim import ArmSim
from sim.errors import SimError
from sim.gl import mujoco
from sim.kinematics import solve_ik, tool_down
from sim.layout import BIN_HALF, CUBE_HALF
from sim.tasks import REACH_OFFSET, SceneState

__all__ = ["ScriptedExpert", "Waypoint"]

SPEED = 0.15  # tip speed [m/s]: an episode lasts a few seconds and the arm stays far below its limits
TURN_SHARE = 0.5  # part of each joint's top speed in use; only the wrist ever gets there, when it turns to the cube
SERVO_LAG = 0.05  # how far the servos trail their setpoint [s]; steps start at the measured pose, so it is added
NOISE_SECONDS = 0.4  # correlation time of the perturbation [s]: long enough to push the arm off, short against a task
BURST_SECONDS = 0.5  # mean length of a perturbed stretch [s]
QUIET_SECONDS = 1.2  # mean length of the stretch after it [s]: time to recover, so that episodes still succeed
HOVER = 0.085  # height over the grasp from which the gripper descends [m]: finger ends clear a cube
LIFT_Z = 0.125  # where a lifted cube is held [m]
CARRY_Z = 0.15  # tip height while carrying [m]: the cube's lower edge clears the bin
RELEASE_Z = 0.085  # tip height to let go over the bin [m]
PUSH_Z = 0.024  # tip height while pushing [m]: level with the cube's centre
PUSH_CONTACT = CUBE_HALF + 0.013  # tip to cube centre while pushing square on [m]: half a cube and half a finger
PUSH_LOOKAHEAD = 0.05  # how far ahead the pushing tip aims [m]: shorter steers harder
PUSH_CLEARANCE = 0.052  # least distance behind the cube at which fingers pass its corners [m]


@dataclass(frozen=True, kw_only=True)
class Waypoint:
    """Where the tip should go, in a straight line; the tool points down."""

    tip: np.ndarray  # (3,) [m]
    yaw: float  # heading of the gripper [rad]
    opening: float  # commanded gripper opening [0, 1]


class ScriptedExpert:
    """Drives one simulation; see the module docstring."""

    def __init__(self, sim: ArmSim, rng: np.random.Generator, *, noise: float = 0.0) -> None:
        """Attaches to a simulation.

        Args:
            sim: The simulation; ``sim.reset`` may be called at any time, ``reset`` after it.
            rng: Source of the perturbation.
            noise: Standard deviation of the perturbation of joint targets [rad]; 0 for none.
        """
        self._sim = sim
        self._rng = rng
        self._noise = noise
        self._waypoint = WAYPOINTS[sim.task.name]
        self._scratch = mujoco.MjData(sim.model)
        self._turn_rate = TURN_SHARE * np.array([joint.max_velocity for joint in sim.robot.joints])  # [rad/s]
        self.reset()

    def reset(self) -> None:
        """Forgets the perturbation, for a new episode."""
        self._offset = np.zeros(len(self._turn_rate))
        self._in_burst = False

    def act(self) -> np.ndarray:
        """Returns the clean next target, (A,) float32 [rad, opening]: the label to record."""
        sim, state = self._sim, self._sim.state()
        waypoint = self._waypoint(state)
        horizon = sim.control_dt + SERVO_LAG
        tip = state.tip + _shorten(waypoint.tip - state.tip, SPEED * horizon)
        measured = sim.data.qpos[sim.arm_dofs].copy()
        self._scratch.qpos[:] = sim.data.qpos
        joints, _ = solve_ik(sim.model, self._scratch, sim.tip_site, sim.arm_dofs, tip, tool_down(waypoint.yaw))
        step = np.clip(joints - measured, -self._turn_rate * horizon, self._turn_rate * horizon)
        action = np.append(measured + step, waypoint.opening)
        return np.clip(action, sim.robot.lower, sim.robot.upper).astype(np.float32)

    def perturb(self, action: np.ndarray) -> np.ndarray:
        """Returns the target to execute in place of ``action``: its joints plus bursts of time-correlated noise.

        Record what ``act`` returned and execute what this returns. A burst drives the arm where the clean expert would
        not go, and the labels there lead back (DART, Laskey et al. 2017; ours comes and goes). The gripper is left
        alone: a gripper that opens or closes against the label makes detours that no observation announces, and chunks
        trained on them were far worse.
        """
        if self._noise == 0:
            return action
        dt = self._sim.control_dt
        if self._rng.random() < dt / (BURST_SECONDS if self._in_burst else QUIET_SECONDS):
            self._in_burst = not self._in_burst
        keep = np.exp(-dt / NOISE_SECONDS)
        fresh = self._rng.normal(0.0, self._noise, self._offset.shape)
        self._offset = keep * self._offset + np.sqrt(1 - keep**2) * fresh  # stationary: its std is self._noise
        if not self._in_burst:
            return action
        executed = action.copy()
        executed[: len(self._offset)] += self._offset.astype(np.float32)
        return np.clip(executed, self._sim.robot.lower, self._sim.robot.upper)


def _shorten(vector: np.ndarray, length: float) -> np.ndarray:
    return vector * min(1.0, length / max(float(np.linalg.norm(vector)), 1e-9))


def _square_yaw(state: SceneState) -> float:
    """The cube's heading, of its four equal ones the nearest to straight ahead [rad]."""
    return _wrap(state.cube_yaw, np.pi / 2)


def _wrap(angle: float, period: float) -> float:
    """The equal angle nearest to zero, when turning by ``period`` [rad] changes nothing."""
    return (angle + period / 2) % period - period / 2


def _reach(state: SceneState) -> Waypoint:
    return Waypoint(tip=state.cube + (0, 0, REACH_OFFSET), yaw=0.0, opening=1.0)


def _grasp(state: SceneState) -> Waypoint:
    """Go over the cube, down around it, close. Used while the cube is not held."""
    yaw = _square_yaw(state)
    offset = state.tip - state.cube
    sideways = float(np.linalg.norm(offset[:2]))
    if state.opening > 0.85:
        at_cube = sideways < 0.012 and abs(offset[2]) < 0.012
    else:  # already closing: a small slip is no reason to start over
        at_cube = sideways < 0.025 and abs(offset[2]) < 0.025
    if at_cube:
        return Waypoint(tip=state.cube, yaw=yaw, opening=0.0)
    # Half-closed fingers would land on the cube: wait above it.
    least = HOVER if state.opening < 0.75 else 0.0
    return Waypoint(tip=_descend(state.tip, state.cube, least), yaw=yaw, opening=1.0)


def _descend(tip: np.ndarray, foot: np.ndarray, least: float = 0.0) -> np.ndarray:
    """Where to go next on the way down to ``foot``, (3,) each [m].

    A funnel: the nearer to the foot's vertical axis, the lower; ``least`` is its lowest height over the foot. A tip
    that is far away and low rises before it goes across, or the fingers would sweep the cube away.
    """
    away = float(np.linalg.norm(foot[:2] - tip[:2]))
    height = foot[2] + max(least, min(HOVER, 3.0 * (away - 0.012)))
    across = float(np.clip(1.0 - (height - tip[2] - 0.02) / 0.03, 0.0, 1.0))
    return np.array([*(tip[:2] + across * (foot[:2] - tip[:2])), height])


def _lift(state: SceneState) -> Waypoint:
    if not state.holding:
        return _grasp(state)
    return Waypoint(tip=np.array([state.tip[0], state.tip[1], LIFT_Z]), yaw=_square_yaw(state), opening=0.0)


def _place(state: SceneState) -> Waypoint:
    """Grasp, carry over the bin's wall, lower, let go, and back off upwards."""
    bin_xy = _known(state.bin_xy)
    if np.abs(state.cube[:2] - bin_xy).max() < BIN_HALF - CUBE_HALF and not state.holding:
        return Waypoint(tip=np.array([*bin_xy, CARRY_Z]), yaw=0.0, opening=1.0)
    if not state.holding:
        return _grasp(state)
    sideways = float(np.linalg.norm(bin_xy - state.cube[:2]))
    if sideways < 0.02 and state.tip[2] < RELEASE_Z + 0.015:
        return Waypoint(tip=np.array([*bin_xy, RELEASE_Z]), yaw=0.0, opening=1.0)
    # Rise first, then go across: the share of the way across grows with height, so the path bends without a stop.
    across = float(np.clip((state.tip[2] - 0.05) / 0.04, 0.0, 1.0))
    height = RELEASE_Z + float(np.clip(2.0 * (sideways - 0.02), 0.0, CARRY_Z - RELEASE_Z))
    aim = state.tip[:2] + across * (bin_xy - state.tip[:2])
    return Waypoint(tip=np.array([*aim, height]), yaw=0.0, opening=0.0)


def _push(state: SceneState) -> Waypoint:
    """Go behind the cube as seen from the goal, lower the closed fingers, and walk it to the goal."""
    goal_xy = _known(state.goal_xy)
    way = goal_xy - state.cube[:2]
    distance = float(np.linalg.norm(way))
    if distance < 0.012:
        return Waypoint(tip=np.array([*state.tip[:2], PUSH_Z + HOVER]), yaw=state.tip_yaw, opening=0.0)
    ahead = way / distance
    yaw = _wrap(float(np.arctan2(ahead[1], ahead[0])), np.pi)  # closed fingers are the same turned round
    offset = state.tip[:2] - state.cube[:2]
    along, sideways = float(offset @ ahead), float(abs(ahead[0] * offset[1] - ahead[1] * offset[0]))
    behind = along < -CUBE_HALF and sideways < (0.012 if along < -PUSH_CLEARANCE else 0.02)
    if behind and state.tip[2] < PUSH_Z + 0.015:
        # A near point on the cube's line to the goal: the tip gets back behind the middle while it pushes.
        aim = state.cube[:2] + (min(distance, PUSH_LOOKAHEAD) - PUSH_CONTACT) * ahead
        return Waypoint(tip=np.array([*aim, PUSH_Z]), yaw=yaw, opening=0.0)
    start = np.array([*(state.cube[:2] - (PUSH_CLEARANCE + 0.008) * ahead), PUSH_Z])
    return Waypoint(tip=_descend(state.tip, start), yaw=yaw, opening=0.0)


def _known(point_xy: np.ndarray | None) -> np.ndarray:
    if point_xy is None:
        raise SimError("this scene has no goal or bin: the task's layout does not match its expert.")
    return point_xy


WAYPOINTS: dict[str, Callable[[SceneState], Waypoint]] = {
    "reach": _reach,
    "lift": _lift,
    "push": _push,
    "place": _place,
}
