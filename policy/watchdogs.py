"""What the guard watches: joint states, a person's commands, heartbeats, tracking, its own period. Reads no clock.

``now`` is a steady clock and ``robot_now`` robot time, both in seconds. Shape legend: A axes.
"""

import math
from collections import deque

import numpy as np

from wam.limits import ABSURD, foreign_bounds
from wam.robot import RobotSpec

__all__ = ["ClockWatch", "Heartbeat", "StateWatch", "TeleopInput", "TrackingWatch"]

BACKWARD_S = 1e-3  # robot time may step back this far without being called a jump: clocks of two processes
FORWARD_S = 0.5  # ... and run ahead of the steady clock this far: a machine that was busy


class StateWatch:
    """The newest measured joint positions, how old they are, and what is wrong with those that do not count."""

    def __init__(self, robot: RobotSpec) -> None:
        self._names, self._width = robot.action_names, robot.action_dim
        self._lowest, self._highest = foreign_bounds(robot)
        self.measured: np.ndarray | None = None  # (A,) float64 [rad, opening]
        self.dropped = 0  # states that were not finite, absurd, of another shape or without a newer stamp
        self.problem = ""  # what is wrong with the newest one; "" when it counts
        self.excused_s = 0.0  # time since the newest state in which the guard itself was not run
        self._stamp = -math.inf
        self._arrival = -math.inf

    def add(self, stamp: float, proprio: np.ndarray, now: float) -> None:
        """Takes a state; one that brings no news does not count as a sign of life."""
        proprio = np.asarray(proprio, dtype=np.float64)
        problem = self._wrong(stamp, proprio)
        if problem:
            self.refuse(problem)
            return
        self.measured, self._stamp, self._arrival = proprio, stamp, now
        self.problem, self.excused_s = "", 0.0

    def refuse(self, problem: str) -> None:
        """Counts a state that cannot be used, and remembers why."""
        self.dropped += 1
        self.problem = problem

    def excuse(self, seconds: float) -> None:
        """The guard itself was not run for some time: that is no silence of the arm [s]."""
        self.excused_s += seconds

    def forget_stamp(self) -> None:
        """After a clock jump any stamp is news."""
        self._stamp = -math.inf

    def age(self, now: float, robot_now: float) -> float:
        """Time since the newest state, by arrival or by stamp, whichever is longer [s]."""
        if self.measured is None:
            return math.inf
        by_stamp = robot_now - self._stamp if math.isfinite(self._stamp) else 0.0
        return max(now - self._arrival, by_stamp)

    def silence(self, now: float, robot_now: float) -> float:
        """The same, less the time in which nobody listened [s]."""
        return self.age(now, robot_now) - self.excused_s

    def _wrong(self, stamp: float, proprio: np.ndarray) -> str:
        if proprio.shape != (self._width,):
            return f"they hold {proprio.size} positions, the robot has {self._width}"
        usable = np.abs(proprio) <= ABSURD  # also False for NaN
        if not usable.all():
            worst = int(usable.argmin())
            return f"'{self._names[worst]}' is measured at {proprio[worst]}"
        beyond = (proprio < self._lowest) | (proprio > self._highest)
        if beyond.any():
            worst = int(beyond.argmax())
            return (
                f"'{self._names[worst]}' is measured at {proprio[worst]:.2f}, far outside its range: another unit "
                "(degrees, ticks, 0 to 100) in the driver, or another robot"
            )
        if stamp == 0:
            return "they are not stamped (header.stamp is 0): the driver must stamp its joint states"
        if not math.isfinite(stamp):
            return f"their stamp is {stamp}"
        return "" if stamp > self._stamp else "their stamp does not move on"


class TeleopInput:
    """A person's newest command, as a target that moves on for as long as one command lasts."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """The person let go."""
        self.position: np.ndarray | None = None  # (A,) [rad, opening]
        self._velocity: np.ndarray | None = None
        self._stamp, self._arrival, self._interval = -math.inf, -math.inf, 0.0

    def add(self, positions: np.ndarray, stamp: float, now: float) -> bool:
        """Takes a checked command; False if it is not newer than the last one."""
        if not stamp > self._stamp:
            return False
        interval = stamp - self._stamp
        steady = self.position is not None and interval < 0.2  # else it is the first after a pause
        self._velocity = (positions - self.position) / interval if steady else np.zeros_like(positions)
        self._interval = interval if steady else 0.0
        self.position, self._stamp, self._arrival = positions, stamp, now
        return True

    def age(self, now: float) -> float:
        """Time since the newest command arrived [s]."""
        return now - self._arrival

    def target(self, now: float) -> tuple[np.ndarray, np.ndarray]:
        """(A,) where the person points now [rad] and (A,) how fast that moves [rad/s]."""
        assert self.position is not None
        assert self._velocity is not None
        ahead = max(0.0, now - self._arrival)
        if ahead > self._interval:
            return self.position + self._velocity * self._interval, np.zeros_like(self._velocity)
        return self.position + self._velocity * ahead, self._velocity


class Heartbeat:
    """Silence of an e-stop device that was heard before."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._last: float | None = None

    @property
    def heard(self) -> bool:
        """A heartbeat arrived at some time."""
        return self._last is not None

    def beat(self, now: float) -> None:
        """Takes a heartbeat."""
        self._last = now

    def lost(self, now: float) -> bool:
        """Silent for longer than the limit, after it was heard once; never with a limit of 0."""
        return self._limit_s > 0 and self._last is not None and now - self._last > self._limit_s


class TrackingWatch:
    """Joints that do not go where they are told.

    A fault is an error that lasted for ``tracking_time_s`` and is as large towards everything commanded in that time:
    a servo that follows with a lag is no fault at any speed, nor is one bad reading, and one that is blocked is. A
    gripper that closes on an object never arrives, and is left out.
    """

    def __init__(self, robot: RobotSpec) -> None:
        self._names = tuple(joint.name for joint in robot.joints)
        self._safety = robot.safety
        self._told: deque[tuple[float, np.ndarray]] = deque()  # steady time and commanded joints
        self._since: float | None = None  # when the error became too large
        self.error = 0.0  # newest largest |command - measured| of a joint [rad]

    def check(self, command: np.ndarray, measured: np.ndarray, now: float) -> str:
        """Returns why to fault, or ""."""
        joints, limit = len(self._names), self._safety.tracking_error
        command, measured = command[:joints], measured[:joints]
        self._told.append((now, command.copy()))
        while self._told[0][0] < now - self._safety.tracking_time_s:
            self._told.popleft()
        self.error = float(np.abs(command - measured).max())
        if self.error <= limit:
            self._since = None
            return ""
        self._since = now if self._since is None else self._since
        told = np.array([position for _, position in self._told])  # (T, joints)
        errors = np.maximum(told.min(axis=0) - measured, measured - told.max(axis=0))
        worst = int(errors.argmax())
        if now - self._since < self._safety.tracking_time_s - 1e-6 or errors[worst] <= limit:
            return ""
        return (
            f"'{self._names[worst]}' is {errors[worst]:.3f} from all its commands of the last "
            f"{self._safety.tracking_time_s:g} s but safety.tracking_error allows {limit:.3f}: blocked, or the servo "
            "is off"
        )

    def forget(self) -> None:
        """Nothing is commanded, or nothing is measured."""
        self._told.clear()
        self._since, self.error = None, 0.0


class ClockWatch:
    """The guard's own period and jumps of robot time."""

    def __init__(self, period_s: float, late_periods: float, time_scale: float) -> None:
        self._period_s, self._longest_s, self._scale = period_s, period_s * late_periods, time_scale
        self._last: tuple[float, float] | None = None  # steady, robot
        self.late = False  # the newest tick came too late
        self.paused_s = 0.0  # by how much
        self.late_ticks = 0
        self.worst_s = 0.0  # longest time between two ticks [s]

    def tick(self, now: float, robot_now: float) -> tuple[float, bool]:
        """Returns how much robot time this tick may move the arm by [s], and whether robot time jumped."""
        if self._last is None:
            self._last = (now, robot_now)
            return self._period_s * self._scale, False
        passed, robot_passed = now - self._last[0], robot_now - self._last[1]
        self._last = (now, robot_now)
        self.late = passed > self._longest_s
        self.paused_s = passed - self._period_s if self.late else 0.0
        self.late_ticks += int(self.late)
        self.worst_s = max(self.worst_s, passed)
        jumped = not (-BACKWARD_S <= robot_passed <= max(passed, 0.0) * self._scale + FORWARD_S)  # also for NaN
        return min(max(passed, 0.0), self._longest_s) * self._scale, jumped
