"""The checks before anything may move the arm: it must be where it is held, and what begins must begin there.

One place for every way into a run, and for every chunk that takes over during one; ``policy.intent`` has the distances.

Shape legend: A axes.
"""

import numpy as np

from policy.chunk_checks import CheckedChunk
from policy.guard_inputs import GuardInputs
from policy.intent import far_joint, one_step
from policy.motion import ArmMotion
from wam.robot import RobotSpec

__all__ = ["NOTHING_FRESH", "Entry"]

NOTHING_FRESH = "there is no fresh chunk and no fresh teleoperation command"


class Entry:
    """What the guard compares before it lets somebody move.

    Args:
        robot: Axes and ``safety.engage_error``.
        inputs: What was heard.
        motion: What is commanded.
    """

    def __init__(self, robot: RobotSpec, inputs: GuardInputs, motion: ArmMotion) -> None:
        self._robot, self._inputs, self._motion = robot, inputs, motion
        self._error = robot.safety.engage_error
        self._reach = one_step(robot)  # (A,) how far an action may lie from where the arm is [rad]

    def engage(self, now: float, chunk: CheckedChunk | None) -> str:
        """Why nobody may be let move the arm now, beside a fresh chunk or none; ""."""
        refusal = self._inputs.rival.commanding(now) or self._displaced()
        if refusal:
            return refusal
        planning = self._inputs.order.planning(now)
        if len(planning) > 1:
            return f"{len(planning)} policies plan at once ({', '.join(map(str, planning))}): stop all but one"
        person = self._inputs.person(now)
        if person is not None:
            far = far_joint(self._robot, person, self._measured, self._error)
            return f"teleoperation is not where the arm is ({far})" if far else ""
        return NOTHING_FRESH if chunk is None else self.begin(chunk)

    def take_over(self, person: np.ndarray) -> str:
        """Why a person, who points to (A,) a position, may not begin to move the arm; ""."""
        far = far_joint(self._robot, person, self._motion.position, self._error)
        return f"teleoperation is not where the arm is ({far}): bring it there to take over" if far else ""

    def begin(self, chunk: CheckedChunk) -> str:
        """Why a chunk may not begin to move the arm; "". Its first action must be where the arm is told and found."""
        displaced = self._displaced()
        if displaced:
            return displaced
        for place in (self._motion.position, self._measured):
            far = far_joint(self._robot, chunk.positions[0], place, self._reach)
            if far:
                return f"the policy's first action is not where the arm is ({far})"
        return ""

    def go_on(self, chunk: CheckedChunk) -> str:
        """Why a chunk may not take over from the one that plays; "". The lag of the arm is the tracking watch's."""
        far = far_joint(self._robot, self._motion.player.due(chunk), self._motion.position, self._reach)
        return f"chunk {chunk.epoch}/{chunk.sequence} does not go on from where the arm is ({far})" if far else ""

    @property
    def _measured(self) -> np.ndarray:
        assert self._inputs.states.measured is not None
        return self._inputs.states.measured

    def _displaced(self) -> str:
        far = far_joint(self._robot, self._motion.position, self._measured, self._error)
        return f"the arm is not where it is held ({far}): reset to hold it where it is" if far else ""
