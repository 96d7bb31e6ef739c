"""Position, velocity and acceleration limits per axis, in discrete time, with room left to brake.

The commanded position is a sequence: one tick of dt moves it by ``velocity * dt``, and the velocity may change by at
most ``acceleration * dt``. With distance d left to a limit the velocity v of this tick is safe if the tick and the
braking after it fit into d:

    v * dt + v**2 / (2 * a) <= d        <=>        v <= -a * dt + sqrt((a * dt)**2 + 2 * a * d)

Braking in ticks covers at most the continuous v**2 / (2 * a), whatever the lengths of the later ticks are, so the bound
holds for a jittering loop. The tighter -a*dt/2 + sqrt((a*dt/2)**2 + 2*a*d) assumes that all ticks are alike: when a
long one is followed by short ones it runs past the limit by up to v*dt/2, and even with equal ticks by a*dt**2/8. The
textbook sqrt(2*a*d) breaks the acceleration limit at the last tick. Tests show all three.

Shape legend: A axes; every function also takes leading dimensions.
"""

from dataclasses import dataclass

import numpy as np

from wam.robot import RobotSpec

__all__ = ["AxisLimits", "Limiter", "brake_step", "limit_step", "stopping_speed"]

# Limits are kept smaller by this share and distance, so that the finite differences of the commands, whose rounding
# grows with 1/dt**2, never show a violation. Far below what an arm can resolve.
SLACK = 1e-6
ROOM_SLACK = 1e-9  # [rad, opening]
REST_SPEED = 1e-5  # slower than this is at rest [rad/s]: one step of a 16-bit encoder in ten seconds


@dataclass(frozen=True, kw_only=True)
class AxisLimits:
    """Limits of all axes, float64."""

    lower: np.ndarray  # (A,) lowest commanded position [rad, opening]
    upper: np.ndarray  # (A,) highest
    velocity: np.ndarray  # (A,) [rad/s]
    acceleration: np.ndarray  # (A,) [rad/s^2]

    @classmethod
    def of(cls, robot: RobotSpec) -> "AxisLimits":
        """Limits of a robot file, less its position margin."""
        spans = np.array([axis.position for axis in robot.axes], dtype=np.float64)  # (A, 2)
        return cls(
            lower=spans[:, 0] + robot.safety.position_margin,
            upper=spans[:, 1] - robot.safety.position_margin,
            velocity=np.array([axis.max_velocity for axis in robot.axes], dtype=np.float64) * (1 - SLACK),
            acceleration=np.array([axis.max_acceleration for axis in robot.axes], dtype=np.float64) * (1 - SLACK),
        )


def stopping_speed(distance: np.ndarray, acceleration: np.ndarray, dt: float) -> np.ndarray:
    """Returns the largest speed of a tick after which braking still ends within a distance.

    Args:
        distance: (..., A) left [rad]; at or below 0 the speed is 0.
        acceleration: (A,) [rad/s^2].
        dt: Length of this tick [s], positive; later ticks may have any length.
    """
    half = acceleration * dt
    room = np.maximum(distance, 0.0)
    # The same as sqrt(half**2 + 2*a*room) - half, without cancellation at small distances.
    return 2 * acceleration * room / (half + np.sqrt(half**2 + 2 * acceleration * room))


def limit_step(
    limits: AxisLimits,
    position: np.ndarray,
    velocity: np.ndarray,
    target: np.ndarray,
    target_velocity: np.ndarray,
    dt: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Moves one tick towards a target that is itself moving.

    Args:
        limits: What to keep.
        position: (..., A) commanded so far [rad].
        velocity: (..., A) of the last tick [rad/s].
        target: (..., A) where to be after this tick; clipped to the limits.
        target_velocity: (..., A) how fast the target moves [rad/s]; the axis meets it there without overshoot.
        dt: Length of the tick [s]; nothing moves at 0.

    Returns:
        Position and velocity after the tick. Acceleration is kept before everything else, so that a start outside the
        limits brakes and comes back instead of jumping.
    """
    if dt <= 0:
        return position.copy(), velocity.copy()
    inside = (target >= limits.lower) & (target <= limits.upper)
    drift = np.where(inside, np.clip(target_velocity, -limits.velocity, limits.velocity), 0.0)
    error = np.clip(target, limits.lower, limits.upper) - position - drift * dt
    wanted = drift + np.sign(error) * stopping_speed(np.abs(error), limits.acceleration, dt)
    highest = stopping_speed(limits.upper - position - ROOM_SLACK, limits.acceleration, dt)
    lowest = -stopping_speed(position - limits.lower - ROOM_SLACK, limits.acceleration, dt)
    wanted = np.clip(wanted, np.maximum(lowest, -limits.velocity), np.minimum(highest, limits.velocity))
    return _accelerate(limits, position, velocity, wanted, dt)


def brake_step(
    limits: AxisLimits, position: np.ndarray, velocity: np.ndarray, dt: float
) -> tuple[np.ndarray, np.ndarray]:
    """One tick of braking at the acceleration limit; arguments as for ``limit_step``."""
    if dt <= 0:
        return position.copy(), velocity.copy()
    return _accelerate(limits, position, velocity, np.zeros_like(velocity), dt)


def _accelerate(
    limits: AxisLimits, position: np.ndarray, velocity: np.ndarray, wanted: np.ndarray, dt: float
) -> tuple[np.ndarray, np.ndarray]:
    change = limits.acceleration * dt
    reached = np.clip(wanted, velocity - change, velocity + change)
    return position + reached * dt, reached


class Limiter:
    """The commanded position and velocity of one robot, moved within its limits."""

    def __init__(self, limits: AxisLimits) -> None:
        self.limits = limits
        self.position = np.zeros_like(limits.lower)  # (A,) commanded [rad]
        self.velocity = np.zeros_like(limits.lower)  # (A,) of the commanded position [rad/s]

    @property
    def at_rest(self) -> bool:
        """No axis is moving."""
        return bool(np.abs(self.velocity).max() <= REST_SPEED)

    @property
    def braking_end(self) -> np.ndarray:
        """(A,) position at which braking from now on ends at the latest [rad]."""
        return self.position + self.velocity * np.abs(self.velocity) / (2 * self.limits.acceleration)

    def rebase(self, position: np.ndarray) -> None:
        """Starts anew, at rest, at a measured position."""
        self.position = np.array(position, dtype=np.float64)
        self.velocity = np.zeros_like(self.position)

    def towards(self, target: np.ndarray, target_velocity: np.ndarray, dt: float) -> None:
        """Moves one tick towards a target; see ``limit_step``."""
        self.position, self.velocity = limit_step(
            self.limits, self.position, self.velocity, target, target_velocity, dt
        )

    def brake(self, dt: float) -> None:
        """Brakes for one tick."""
        self.position, self.velocity = brake_step(self.limits, self.position, self.velocity, dt)
