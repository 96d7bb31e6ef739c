"""Reference rows: who else plays the same episodes in the same loop, so that a success rate means something.

The scripted expert knows the ground truth and is the ceiling; holding still is the floor; a random chunk shows what
moving about achieves by luck. The policy itself is one more planner here.
"""

from collections.abc import Callable

import numpy as np

from policy.rtc import Continuation
from policy.runner import Policy
from sim.arm_sim import ArmSim
from sim.experts import ScriptedExpert
from sim.rollout import Planner
from wam.errors import ConfigError, unknown_name
from wam.robot import RobotSpec
from wam.spec import ActionChunk, Observation

__all__ = ["REFERENCES", "PolicyPlanner", "make_reference"]

RANDOM_SPEED = 0.3  # share of each axis' top speed that one random step may take, one standard deviation


class PolicyPlanner:
    """The policy under test."""

    uses_images = True
    closed_loop = False

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self.chunk_length: int = policy.chunk_length
        self.window = policy.window

    def start(self, sim: ArmSim, seed: int) -> None:
        """Forgets the last episode."""
        self._policy.reset()

    def plan(self, observation: Observation, noise_seed: int, continuation: Continuation | None = None) -> ActionChunk:
        """Asks the policy."""
        known = {} if continuation is None else {"continuation": continuation}
        return self._policy.infer(observation, noise_seed=noise_seed, **known)


class ExpertPlanner:
    """The scripted expert: one action per control step, from the simulator's ground truth."""

    uses_images = False
    closed_loop = True
    chunk_length = 1

    def start(self, sim: ArmSim, seed: int) -> None:
        """Makes a fresh expert for this episode."""
        self._sim = sim
        self._expert = ScriptedExpert(sim, np.random.default_rng(seed))

    def plan(self, observation: Observation, noise_seed: int, continuation: Continuation | None = None) -> ActionChunk:
        """Returns the expert's next target."""
        return _chunk(self._expert.act()[None], observation, self._sim.control_dt)


class HoldStillPlanner:
    """Commands the pose the episode began in."""

    uses_images = False
    closed_loop = False

    def __init__(self, chunk_length: int) -> None:
        self.chunk_length = chunk_length

    def start(self, sim: ArmSim, seed: int) -> None:
        """Remembers the first pose."""
        self._pose, self._control_dt = sim.proprio(), sim.control_dt

    def plan(self, observation: Observation, noise_seed: int, continuation: Continuation | None = None) -> ActionChunk:
        """Returns that pose, H times."""
        return _chunk(np.tile(self._pose, (self.chunk_length, 1)), observation, self._control_dt)


class RandomPlanner:
    """Random walks from the present pose, within position limits and a share of the speed limits."""

    uses_images = False
    closed_loop = False

    def __init__(self, robot: RobotSpec, chunk_length: int) -> None:
        self._robot, self.chunk_length = robot, chunk_length
        self._speed = np.array([axis.max_velocity for axis in robot.axes], dtype=np.float32)

    def start(self, sim: ArmSim, seed: int) -> None:
        """Notes the control rate."""
        self._control_dt = sim.control_dt

    def plan(self, observation: Observation, noise_seed: int, continuation: Continuation | None = None) -> ActionChunk:
        """Returns a fresh random walk."""
        rng = np.random.default_rng(noise_seed)
        limit = self._speed * self._control_dt
        steps = RANDOM_SPEED * limit * rng.standard_normal((self.chunk_length, len(limit)))  # (H, A)
        walk = observation.proprio + np.clip(steps, -limit, limit).cumsum(axis=0)
        return _chunk(np.clip(walk, self._robot.lower, self._robot.upper), observation, self._control_dt)


_FACTORIES: dict[str, Callable[[RobotSpec, int], Planner]] = {
    "expert": lambda robot, chunk_length: ExpertPlanner(),
    "hold-still": lambda robot, chunk_length: HoldStillPlanner(chunk_length),
    "random": RandomPlanner,
}
REFERENCES = tuple(_FACTORIES)


def make_reference(name: str, robot: RobotSpec, chunk_length: int) -> Planner:
    """Returns a reference planner.

    Args:
        name: One of ``REFERENCES``.
        robot: Whose limits apply.
        chunk_length: H of the policy it stands beside.

    Raises:
        ConfigError: No such reference.
    """
    if name not in _FACTORIES:
        raise ConfigError(unknown_name("reference", name, REFERENCES))
    return _FACTORIES[name](robot, chunk_length)


def _chunk(actions: np.ndarray, observation: Observation, control_dt: float) -> ActionChunk:
    return ActionChunk(
        actions=actions.astype(np.float32),
        stamp=observation.stamp,
        control_dt=control_dt,
        anchor=observation.proprio,
    )
