"""Values that go into and come out of the guard.

Two clocks: ``stamp`` and ``robot_now`` are robot time, ``now`` is a steady clock; both in seconds.
Shape legend: H points of a chunk, A action width.
"""

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wam.errors import ConfigError

__all__ = ["NOTHING_CONSUMED", "ChunkMessage", "GuardCommand", "GuardConfig", "GuardState"]

NOTHING_CONSUMED = (-1, -1, -1)  # epoch, sequence, index before the first action


class GuardState(enum.Enum):
    """Who moves the arm."""

    WAIT = "WAIT"  # nobody, and nothing is commanded: no joint state yet, or it was lost before engaging
    HOLD = "HOLD"  # nobody: the commanded position is held
    RUN_POLICY = "RUN_POLICY"  # the policy's chunks
    RUN_TELEOP = "RUN_TELEOP"  # a person
    FAULT = "FAULT"  # nobody until ``reset``: latched


@dataclass(frozen=True, kw_only=True)
class GuardConfig:
    """How the guard plays chunks; limits and ages stand in the robot file (``RobotSpec.safety``)."""

    fade_steps: float = 2.5  # control steps over which a seam fades out; the field's two to three
    # Control steps after its own time at which an action is reached: 1, a straight move over the step that follows, is
    # how the simulator and a servo driven at the control rate behave; 0 is reached on time, for targets of a leader arm
    reach_steps: float = 1.0
    faults_after: int = 3  # malformed chunks in a row that latch a fault
    late_periods: float = 3.0  # a tick this many periods after the last one is an error, and moves no further than that
    stamp_age_s: float = 0.5  # a chunk from an older observation is refused [s]
    future_s: float = 0.05  # a stamp may be this far ahead [s]: one period of a simulated /clock
    require_heartbeat: bool = False  # refuse to engage before an e-stop heartbeat was heard
    stop_holds: int = 4  # times the hold position is commanded after a stop before ``stopped``
    time_scale: float = 1.0  # robot seconds per steady second; other than 1 only in simulation

    def __post_init__(self) -> None:
        low = {"fade_steps": 0.5, "reach_steps": 0.0, "faults_after": 1, "late_periods": 1.0, "stamp_age_s": 0.0}
        for name, least in (low | {"future_s": 0.0, "stop_holds": 1, "time_scale": 1e-3}).items():
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= least):
                raise ConfigError(f"guard: {name} is {value} but must be a finite number of at least {least:g}.")
        if self.reach_steps > 1:
            raise ConfigError(
                f"guard: reach_steps is {self.reach_steps} but an action is reached within its step, 0 to 1."
            )


@dataclass(frozen=True, kw_only=True)
class ChunkMessage:
    """An action chunk as it came over the wire, not checked yet."""

    names: Sequence[str]  # joint names, in the order of the columns
    times_s: np.ndarray  # (H,) time from ``stamp`` of every point [s]
    positions: np.ndarray  # (H, A) targets [rad, gripper opening]
    stamp: float  # robot time of the observation it came from [s]
    epoch: int  # which life of the policy; grows with every restart or reset
    sequence: int  # which chunk of that life; grows
    session: int | None = None  # which start of the policy, resets included; None: every epoch is one of its own


@dataclass(frozen=True, kw_only=True)
class GuardCommand:
    """What to send to the arm after a tick."""

    positions: np.ndarray | None  # (A,) float64 [rad, gripper opening]; None: send nothing (WAIT)
    velocities: np.ndarray  # (A,) float64, of the commanded positions [rad/s]
    state: GuardState
    reason: str  # why this state, for people
    consumed: tuple[int, int, int]  # (epoch, sequence, index) of the action in effect, or NOTHING_CONSUMED
