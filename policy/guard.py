"""The guard between a policy, a person and the motors; see ``Guard``."""

from collections.abc import Callable, Sequence

import numpy as np

from policy.guard_types import NOTHING_CONSUMED, ChunkMessage, GuardCommand, GuardConfig, GuardState
from wam.robot import RobotSpec

__all__ = ["NOTHING_CONSUMED", "ChunkMessage", "Guard", "GuardCommand", "GuardConfig", "GuardState"]


class Guard:
    """Turns chunks and teleoperation into commands that keep every limit, and holds when in doubt.

    Call ``tick`` at ``robot.safety.guard_rate_hz`` whatever happens, and send what it returns. Single-threaded.

    Args:
        robot: Axes, limits and ``safety``.
        config: How chunks are played; None takes the defaults.
        forward_kinematics: (A,) positions -> (3,) tool position in the base frame [m]; needed to check
            ``safety.workspace``.

    Raises:
        ConfigError: ``safety.workspace`` is set but there are no forward kinematics to check it with.
    """

    def __init__(
        self,
        robot: RobotSpec,
        config: GuardConfig | None = None,
        *,
        forward_kinematics: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> None:
        raise NotImplementedError

    @property
    def stopped(self) -> bool:
        """After ``begin_stop``: the arm's command rests and was repeated often enough to end the process."""
        raise NotImplementedError

    def on_state(self, stamp: float, proprio: np.ndarray, now: float) -> None:
        """Takes measured joint positions.

        Args:
            stamp: Robot time of the measurement [s]; one that is not newer than the last is counted, not used.
            proprio: (A,) positions in the robot's order; one that is not finite is counted, not used.
            now: Steady time of arrival [s].
        """
        raise NotImplementedError

    def on_chunk(self, message: ChunkMessage, now: float, robot_now: float) -> str:
        """Takes an action chunk.

        Returns:
            "" when it will be played, else why it was refused. Names in another order are put right; anything else
            that is wrong drops the whole chunk, and the third malformed one in a row latches a fault.
        """
        raise NotImplementedError

    def on_teleop(self, names: Sequence[str], positions: np.ndarray, stamp: float, now: float) -> str:
        """Takes one command of a person who holds the dead-man; "" or why it was refused."""
        raise NotImplementedError

    def on_e_stop(self, active: bool, now: float) -> None:
        """Takes the e-stop topic. True stops and latches; False only lets ``reset`` work again."""
        raise NotImplementedError

    def on_heartbeat(self, now: float) -> None:
        """Takes a heartbeat of the e-stop device; from the first one on, its silence latches a fault."""
        raise NotImplementedError

    def on_clock_jump(self, now: float) -> None:
        """Robot time jumped: what was stamped before it is forgotten and the arm holds until a fresh chunk."""
        raise NotImplementedError

    def engage(self, now: float) -> tuple[bool, str]:
        """Lets policy or person move the arm; (False, why) when inputs are stale or the first command is far away."""
        raise NotImplementedError

    def e_stop(self, now: float) -> None:
        """Stops and latches, as the e-stop topic does, but leaves ``reset`` possible."""
        raise NotImplementedError

    def reset(self, now: float) -> tuple[bool, str]:
        """Leaves FAULT for HOLD at the measured position, disengaged; (False, why) while the cause lasts."""
        raise NotImplementedError

    def begin_stop(self, now: float) -> None:
        """Brakes to a stop for the end of the process; tick on until ``stopped``."""
        raise NotImplementedError

    def tick(self, now: float, robot_now: float) -> GuardCommand:
        """Advances by one period and returns what to command."""
        raise NotImplementedError

    def status(self) -> dict[str, str]:
        """Returns state, reason, last refusal and counters, for diagnostics."""
        raise NotImplementedError
