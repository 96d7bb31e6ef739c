"""What a person agreed to by ``engage``: which policy may move the arm, and until when.

An engagement is for what was there when somebody looked: the policy that planned then, and any person, who holds a
dead-man besides. All of it ends with a fault, a reset and a stop. The policy's part lapses when nothing has moved the
arm for ``safety.resume_s``: who stands beside an arm that has been still for so long does not expect it to go on by
itself. Another start of the policy needs another ``engage``, however short the gap. Nothing here reads a clock: ``now``
is steady time [s].
"""

from collections.abc import Collection

from wam.robot import RobotSpec

__all__ = ["Engagement"]


class Engagement:
    """Whether somebody engaged the guard, for which policy, and when the arm was last moved under it."""

    def __init__(self, robot: RobotSpec) -> None:
        self._resume_s = robot.safety.resume_s
        self.active = False
        self.session: int | None = None  # start of the policy it is for; None: of none
        self.lapsed = ""  # why it is no longer for the policy, for people
        self._moved = 0.0

    def begin(self, session: int | None, now: float) -> None:
        """Somebody engages, beside a policy of this start or none."""
        self.active, self.session, self.lapsed, self._moved = True, session, "", now

    def end(self) -> None:
        """Nobody moves the arm until somebody engages again."""
        self.active, self.session, self.lapsed = False, None, ""

    def moved(self, now: float) -> None:
        """Policy or person moves the arm now."""
        self._moved = now

    def watch(self, now: float) -> None:
        """Takes the policy out of it when the arm has stood still for too long."""
        if self.session is not None and now - self._moved > self._resume_s:
            self.session = None
            self.lapsed = f"nothing moved the arm for {self._resume_s:g} s: engage again to let the policy move it"

    def refusal(self, session: int) -> str:
        """Why a policy of this start may not move the arm; ""."""
        if session == self.session:
            return ""
        return self.lapsed or "the policy was started after the guard was engaged: engage again to let it move the arm"

    def rival(self, session: int, planning: Collection[int]) -> str:
        """Why a chunk is not even kept, beside the starts of policies that plan now; ""."""
        if self.session is None or session == self.session or self.session not in planning:
            return ""
        return f"chunk of another policy ({session}) than the one that was engaged ({self.session}): stop one of them"
