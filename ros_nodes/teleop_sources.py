"""What a person wants, from whichever device: absolute joint targets while the dead-man is held, else nothing.

No ROS and no clock: measured positions and times are passed in, devices are behind small classes that tests replace. A
jogged target starts where the arm is whenever the dead-man is taken, never runs far ahead of the arm, and moves at a
share of each joint's limit. Nothing here is a safety limit: the guard is.

Shape legend: A axes.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ros_nodes.errors import NodeError
from ros_nodes.so101_link import Pose
from wam.robot import RobotSpec

__all__ = ["DeadMan", "Jog", "LeaderSource", "Replay", "ReplaySource", "TeleopSource"]

LEAD = 0.1  # how far a jogged target may be ahead of the arm [rad]; the gripper may press on what it holds
ARRIVED = 0.01  # how near the beginning of a replay must be commanded before it plays [rad, opening]
LEADER_AGE_S = 0.1  # an older pose of the leader arm is not what the person does now [s]


class TeleopSource(Protocol):
    """A device, or what stands for one."""

    def command(self, measured: np.ndarray, now: float) -> np.ndarray | None:
        """Returns where the arm shall be.

        Args:
            measured: (A,) measured positions [rad, opening].
            now: Monotonic time [s].

        Returns:
            (A,) targets within the robot's limits, or None while nobody holds the dead-man.
        """

    def close(self) -> None:
        """Lets go of the device."""


class DeadMan:
    """Whether somebody is holding on: the last sign of it must be fresh.

    Args:
        patience_s: How long a sign lasts [s].
    """

    def __init__(self, patience_s: float) -> None:
        self._patience = patience_s
        self._last = -1e9

    def sign(self, now: float) -> None:
        """The button is down."""
        self._last = now

    def release(self) -> None:
        """The button is up."""
        self._last = -1e9

    def held(self, now: float) -> bool:
        """Whether the last sign is fresh."""
        return now - self._last <= self._patience


class Jog:
    """Joint targets from joint velocities.

    Args:
        robot: Limits.
        speed_scale: Share of each axis' velocity limit at full deflection, (0, 1].
    """

    def __init__(self, robot: RobotSpec, speed_scale: float) -> None:
        self._robot = robot
        self._speed = speed_scale * np.array([axis.max_velocity for axis in robot.axes])
        self._lead = np.array([LEAD] * len(robot.joints) + [1.0] * (robot.gripper is not None))
        self._target: np.ndarray | None = None
        self._when = 0.0

    def release(self) -> None:
        """Forgets the target: the next one starts where the arm is then."""
        self._target = None

    def move(self, deflection: np.ndarray, measured: np.ndarray, now: float) -> np.ndarray:
        """Moves the target by (A,) deflections in [-1, 1] for the time since the last call."""
        dt = 0.0 if self._target is None else min(now - self._when, 0.1)  # a pause must not become a jump
        step = np.clip(deflection, -1.0, 1.0) * self._speed * dt
        return self._advance(step, measured, now)

    def step(self, step: np.ndarray, measured: np.ndarray, now: float) -> np.ndarray:
        """Moves the target by (A,) [rad, opening]."""
        return self._advance(step, measured, now)

    def _advance(self, step: np.ndarray, measured: np.ndarray, now: float) -> np.ndarray:
        start = np.array(measured, dtype=np.float64) if self._target is None else self._target
        near = np.clip(start + step, measured - self._lead, measured + self._lead)
        self._target = np.clip(near, self._robot.lower, self._robot.upper)
        self._when = now
        return self._target.astype(np.float32)


class Leader(Protocol):
    """A leader arm that is read elsewhere."""

    @property
    def pose(self) -> Pose | None:
        """The newest pose, or None while the arm does not answer."""

    def close(self) -> None:
        """Lets go of the device."""


class LeaderSource:
    """The follower goes where the leader arm is, as long as somebody holds on and the leader answers.

    Args:
        robot: Limits of the follower.
        leader: The leader arm.
        dead_man: Given its signs elsewhere; None when the leader moves the follower whenever it answers.
    """

    def __init__(self, robot: RobotSpec, leader: Leader, dead_man: DeadMan | None) -> None:
        self._robot, self._leader, self._dead_man = robot, leader, dead_man

    def command(self, measured: np.ndarray, now: float) -> np.ndarray | None:
        """See ``TeleopSource``."""
        pose = self._leader.pose
        if pose is None or now - pose.when > LEADER_AGE_S:
            return None
        if self._dead_man is not None and not self._dead_man.held(now):
            return None
        return np.clip(pose.positions, self._robot.lower, self._robot.upper).astype(np.float32)

    def close(self) -> None:
        """See ``TeleopSource``."""
        self._leader.close()


@dataclass(frozen=True, kw_only=True)
class Replay:
    """Recorded targets to play again."""

    positions: np.ndarray  # (T, A) float32 [rad, opening]
    rate_hz: float  # rows per second

    @classmethod
    def load(cls, path: str, robot: RobotSpec) -> "Replay":
        """Reads an ``.npz`` file with ``action`` (T, A), ``rate_hz`` and, better, ``names`` (A,).

        Raises:
            NodeError: There is no such file, or it does not fit the robot.
        """
        try:
            with np.load(path) as stored:
                names = [str(name) for name in stored["names"]] if "names" in stored else list(robot.action_names)
                actions, rate = np.asarray(stored["action"], dtype=np.float32), float(stored["rate_hz"])
        except (OSError, KeyError, ValueError) as error:
            raise NodeError(
                f"replay file '{path}' cannot be read ({error}): it must be an .npz file with 'action' (T, A) and "
                "'rate_hz'."
            ) from error
        good = actions.ndim == 2 and len(actions) > 0 and actions.shape[1] == len(names) and np.isfinite(actions).all()
        if not good or sorted(names) != sorted(robot.action_names) or not (np.isfinite(rate) and rate > 0):
            raise NodeError(
                f"replay file '{path}' holds actions {actions.shape} at {rate:g} Hz for {', '.join(names)}, but robot "
                f"'{robot.name}' needs finite rows of {', '.join(robot.action_names)}: record or export it again."
            )
        order = [names.index(name) for name in robot.action_names]
        return cls(positions=actions[:, order], rate_hz=rate)

    def at(self, seconds: float) -> np.ndarray:
        """(A,) float32 targets at a time from the beginning, between rows; the last row from the end on."""
        place = min(max(seconds, 0.0) * self.rate_hz, len(self.positions) - 1)
        row = int(place)
        following = self.positions[min(row + 1, len(self.positions) - 1)]
        return (self.positions[row] + (place - row) * (following - self.positions[row])).astype(np.float32)

    @property
    def seconds(self) -> float:
        """How long it lasts [s]."""
        return (len(self.positions) - 1) / self.rate_hz


class ReplaySource:
    """Plays recorded targets once: first slowly to their beginning, then at their own speed, waiting for the arm.

    Args:
        robot: Limits.
        replay: What to play.
        jog: How to get to the beginning.
        dead_man: As for ``LeaderSource``; letting go stops the arm, and holding again goes on from there.
    """

    def __init__(self, robot: RobotSpec, replay: Replay, jog: Jog, dead_man: DeadMan | None) -> None:
        self._robot, self._replay, self._jog, self._dead_man = robot, replay, jog, dead_man
        self._played = 0.0  # seconds of the replay
        self._when: float | None = None  # of the last command while playing
        self._approach: np.ndarray | None = None  # last command on the way to where it goes on
        self.finished = False

    def command(self, measured: np.ndarray, now: float) -> np.ndarray | None:
        """See ``TeleopSource``."""
        if self.finished or (self._dead_man is not None and not self._dead_man.held(now)):
            self._when = self._approach = None
            self._jog.release()
            return None
        if self._when is not None:
            passed = min(now - self._when, 0.1)  # a pause of this process must not become a jump
            self._played += passed * self._pace(self._target(), measured)
        target = self._target()
        if self._when is None and (self._approach is None or np.abs(target - self._approach).max() > ARRIVED):
            start = measured if self._approach is None else self._approach
            self._approach = self._jog.move((target - start) / LEAD, measured, now)
            return self._approach
        self._when = now
        self.finished = self._played >= self._replay.seconds
        return target

    def _target(self) -> np.ndarray:
        return np.clip(self._replay.at(self._played), self._robot.lower, self._robot.upper)

    def _pace(self, target: np.ndarray, measured: np.ndarray) -> float:
        """Share of its own speed at which to play: less for an arm that lags, none before the guard would refuse."""
        joints = len(self._robot.joints)  # a gripper may be kept open by what it holds
        lag = float(np.abs(target - measured)[:joints].max()) / self._robot.safety.engage_error
        return float(np.clip((0.8 - lag) / 0.4, 0.0, 1.0))

    def close(self) -> None:
        """Nothing to let go of."""
