"""Whom an arm follows and whom it refuses, and what a guard makes of another node that commands."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.commanders import LONGEST_TICK_S, RIVAL_MEMORY_S, GuardBinding
from policy.guard import GuardState
from policy.wire import new_source
from tests.guard_rig import FAR, HOME, ROBOT, Rig, brakes, moving

FIRST, SECOND, THIRD = (f"wam_guard/{number:016x}" for number in range(3))
SILENCE_S = 0.5


class Arm:
    """A binding, and the time that passes."""

    def __init__(self) -> None:
        self.binding = GuardBinding(ROBOT, SILENCE_S)
        self.now = 100.0
        self.binding.tick(self.now)

    def wait(self, seconds: float, step: float = 0.01) -> None:
        for _ in range(round(seconds / step)):
            self.now += step
            self.binding.tick(self.now)

    def takes(self, source: str, positions: np.ndarray | None = HOME, measured: np.ndarray | None = HOME) -> bool:
        return self.refusal(source, positions, measured) == ""

    def refusal(self, source: str, positions: np.ndarray | None = HOME, measured: np.ndarray | None = HOME) -> str:
        return self.binding.refusal(source, positions, measured)


def test_it_follows_the_first_guard_it_hears_and_nobody_else():
    arm = Arm()
    assert arm.refusal("") == "it is not of a guard"
    assert arm.refusal(new_source("arm")) == "it is not of a guard"
    assert arm.binding.bound == ""
    assert arm.takes(FIRST, FAR)  # the guard that the arm was started with decides where that is
    for _ in range(200):
        arm.wait(0.02)
        assert arm.takes(FIRST)
        assert f"it is of {SECOND}" in arm.refusal(SECOND)
        assert arm.refusal("") == "it is not of a guard"
    assert f"second guard beside {FIRST}, and refused until that one is restarted" in arm.refusal(SECOND)


def test_a_rival_stays_refused_when_the_guard_is_gone_and_a_new_guard_is_followed():
    arm = Arm()
    for source in (FIRST, SECOND, FIRST):
        arm.refusal(source)
    arm.wait(10.0)
    assert not arm.takes(SECOND)
    assert arm.takes(THIRD)
    assert arm.binding.bound == THIRD
    assert not arm.takes(FIRST), "one that was silent for so long has lost the arm"


def test_a_successor_that_spoke_too_early_is_no_rival():
    """It was refused while the guard before might still have lived, which then was not heard again."""
    arm = Arm()
    assert arm.takes(FIRST)
    arm.wait(0.2)
    assert arm.refusal(SECOND) == f"it is of {SECOND}, and the arm follows {FIRST}"
    arm.wait(SILENCE_S)
    assert arm.takes(SECOND)


def test_a_new_guard_must_begin_where_the_arm_is():
    arm = Arm()
    assert arm.takes(FIRST)
    arm.wait(1.0)
    assert "does not begin where the arm is ('yaw' differs by 0.500, 0.150 is allowed)" in arm.refusal(SECOND, FAR)
    assert "nothing tells whether" in arm.refusal(SECOND, None)
    assert "nothing tells whether" in arm.refusal(SECOND, HOME, None)
    holding = HOME.copy()
    holding[-1] += 0.9  # the gripper may press on an object
    assert arm.takes(SECOND, holding)


def test_while_this_process_is_not_run_nobody_is_silent():
    arm = Arm()
    assert arm.takes(FIRST)
    arm.wait(5.0, step=5.0)  # one tick after a pause: what the guard said meanwhile is still on its way
    assert not arm.takes(SECOND)
    assert arm.takes(FIRST)
    assert LONGEST_TICK_S < SILENCE_S


@given(st.lists(st.tuples(st.sampled_from(["", FIRST, SECOND, THIRD]), st.integers(0, 80), st.booleans()), max_size=60))
def test_whatever_comes_nobody_takes_a_living_guards_arm_and_nobody_jumps(events):
    arm, heard = Arm(), -np.inf
    for source, ticks, far in events:
        arm.wait(0.01 * ticks)
        before = arm.binding.bound
        taken = arm.takes(source, FAR if far else HOME)
        if taken and before and source != before:
            assert arm.now - heard > SILENCE_S - 1e-6
            assert not far
        assert taken == (source != "" and source == arm.binding.bound)
        heard = arm.now if taken else heard


def test_a_guard_that_hears_another_does_not_engage():
    rig = Rig()
    rig.tick(3)
    assert rig.send() == ""
    rig.guard.on_rival("'/rogue' on /command", rig.now)
    assert rig.guard.engage(rig.now) == (False, "another node commands the arm: '/rogue' on /command")
    assert rig.tick().state is GuardState.HOLD
    for _ in range(int(RIVAL_MEMORY_S / 0.1) + 1):
        rig.tick(5)
        rig.send()
    assert rig.guard.engage(rig.now) == (True, "engaged")


def test_an_engaged_guard_that_hears_another_brakes_and_latches():
    rig = moving()
    rig.guard.on_rival("'/rogue' on /command", rig.now)
    assert rig.tick().state is GuardState.FAULT
    assert rig.command.reason == "another node commands the arm: '/rogue' on /command"
    brakes(rig)
    assert rig.guard.reset(rig.now)[0]
    assert rig.tick().state is GuardState.HOLD


def test_a_rival_that_is_named_after_it_was_heard_is_named_in_the_fault():
    rig = moving()
    rig.guard.on_rival("'a node whose name is not known yet' on /command", rig.now)
    assert rig.tick().state is GuardState.FAULT
    rig.guard.on_rival("'/rogue' on /command", rig.now)
    assert rig.tick().reason == "another node commands the arm: '/rogue' on /command"
    assert rig.guard.status()["faults"] == "1"
    brakes(rig)
    assert rig.guard.reset(rig.now)[0]
    rig.guard.on_rival("'/rogue2' on /command", rig.now)
    assert rig.tick().state is GuardState.HOLD, "what was reset stays reset, whatever it is named later"


def test_a_rival_does_not_hide_another_fault():
    rig = moving()
    rig.guard.e_stop(rig.now)
    for name in ("'/rogue' on /command", "'/rogue2' on /command"):
        rig.guard.on_rival(name, rig.now)
        assert rig.tick().reason == "e-stop"


@pytest.mark.parametrize("node", ["guard", "arm"])
def test_every_process_has_a_source_of_its_own(node):
    sources = {new_source(node) for _ in range(100)}
    assert len(sources) == 100
    assert all(source.startswith(f"wam_{node}/") for source in sources)
