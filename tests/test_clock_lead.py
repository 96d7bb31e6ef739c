"""A camera whose clock leads is named and refused; a few stamps ahead cost freshness, and nobody else is blamed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policy.alignment import Alignment, ObservationBuffer
from policy.clock_lead import FEWEST, ClockLead
from wam.robot import load_robot
from wam.spec import OBS_STATE

ROBOT = load_robot("sim6")
FRONT, WRIST = "observation.images.front", "observation.images.wrist"
LIMIT = ROBOT.safety.stamp_lead_s
DELAY = 0.02  # of images, from exposure to arrival [s]


def image(number: int) -> np.ndarray:
    return np.full((96, 96, 3), number % 256, dtype=np.uint8)


def ticks(leads: dict[str, np.ndarray], *, received: bool = True) -> list[tuple[float, Alignment]]:
    """Four seconds with states at 100 Hz and cameras at 30 Hz, aligned at 25 Hz.

    Args:
        leads: Camera → how far ahead each of its 120 stamps is of its exposure [s].
        received: Whether arrivals are told.
    """
    buffer = ObservationBuffer(ROBOT)
    events = [(100.0 + k / 100, "state", 100.0 + k / 100, k) for k in range(400)]
    for camera in ROBOT.camera_names:
        ahead = leads.get(camera, np.zeros(120))
        events += [(100 + k / 30 + DELAY, camera, 100 + k / 30 + float(ahead[k]), k) for k in range(120)]
    events += [(100.5 + k / 25 + 1e-4, "tick", 0.0, 0) for k in range(80)]
    found = []
    for arrival, what, stamp, number in sorted(events):
        told = arrival if received else None
        if what == "tick":
            found.append((arrival, buffer.align(arrival, "lift")))
        elif what == "state":
            buffer.add_state(stamp, np.full(7, arrival, dtype=np.float32), received=told)
        else:
            buffer.add_image(what, stamp, image(number), received=told)
    return found


def oldest_picture(found: list[tuple[float, Alignment]], camera: str) -> float:
    """Largest true age of a picture that was used [s]."""
    used = [(t, aligned.observation) for t, aligned in found if aligned.observation is not None]
    return max(t - (100 + int(seen.images[camera][0, 0, 0]) / 30) for t, seen in used)


def test_a_camera_that_leads_is_named_with_its_lead_and_what_to_do():
    found = ticks({"front": np.full(120, 0.2)})
    assert all(aligned.observation is None for _, aligned in found)
    for _, aligned in found:
        assert aligned.refusal.startswith(f"{FRONT} is stamped by a clock that is 0.180 s ahead of the robot's")
        assert f"safety.stamp_lead_s allows {LIMIT:.3f} s" in aligned.refusal
        assert "chronyc makestep" in aligned.refusal
        assert WRIST not in aligned.refusal


def test_it_would_be_used_in_silence_if_arrivals_were_not_looked_at():
    found = ticks({"front": np.full(120, 0.2)}, received=False)
    assert oldest_picture(found, "front") > 0.2  # what this guards against


@settings(max_examples=15)
@given(lead=st.floats(-0.08, 3.0))
def test_whatever_the_lead_a_picture_is_the_newest_that_arrived_or_none(lead):
    found = ticks({"front": np.full(120, lead)})
    used = [aligned for _, aligned in found if aligned.observation is not None]
    if lead > LIMIT + DELAY + 1e-6:
        assert not used
        assert all(FRONT in aligned.refusal and WRIST not in aligned.refusal for _, aligned in found)
    elif used:
        assert oldest_picture(found, "front") < DELAY + 1 / 30 + 1e-3


@settings(max_examples=10)  # each aligns four seconds twice
@given(seed=st.integers(0, 1000), most=st.floats(0.0, 5.0))
def test_a_few_stamps_ahead_cost_no_tick_and_never_bring_an_old_picture(seed, most):
    noise = np.random.default_rng(seed)
    ahead = np.where(np.arange(120) % 3 == 0, noise.uniform(0, most, 120), 0.0)  # a third of them
    found, without = ticks({"front": ahead}), ticks({})
    for (_, aligned), (_, clean) in zip(found, without, strict=True):
        assert aligned.observation is not None or clean.observation is None
    assert oldest_picture(found, "front") < DELAY + 1 / 30 + 1e-3


def test_the_joint_states_clock_is_judged_as_well():
    buffer = ObservationBuffer(ROBOT)
    for k in range(20):
        buffer.add_state(10.3 + k / 100, np.zeros(7), received=10.0 + k / 100)
    refusal = buffer.align(10.2, "").refusal
    assert f"{OBS_STATE} is stamped by a clock that is 0.300 s ahead" in refusal


def test_a_clock_that_was_set_right_is_used_again_and_a_cleared_buffer_forgets():
    ahead = np.concatenate([np.full(60, 0.3), np.zeros(60)])
    found = ticks({"front": ahead})
    assert found[0][1].observation is None
    assert all(aligned.observation is not None for t, aligned in found if t > 103.2)
    lead = ClockLead(LIMIT)
    for k in range(FEWEST):
        lead.add(10.3 + k / 30, 10.0 + k / 30)
    assert lead.refused
    lead.clear()
    assert not lead.refused


def test_before_there_are_enough_to_judge_a_message_counts_as_taken_when_it_arrived():
    buffer = ObservationBuffer(ROBOT)
    for k in range(FEWEST - 1):
        for camera in ROBOT.camera_names:
            buffer.add_image(camera, 10.2 + k / 30, image(k), received=10.0 + k / 30)
        buffer.add_state(10.0 + k / 30, np.zeros(7), received=10.0 + k / 30)
    aligned = buffer.align(10.11, "")
    assert aligned.stamps[FRONT] == 10.1
    assert int(aligned.observation.images["front"][0, 0, 0]) == 3


@pytest.mark.parametrize("stream", [FRONT, OBS_STATE])
def test_a_driver_that_does_not_stamp_is_told_so(stream):
    buffer = ObservationBuffer(ROBOT)
    for k in range(10):
        buffer.add_image("front", 0.0 if stream == FRONT else 10 + k / 30, image(k), received=10 + k / 30)
        buffer.add_state(0.0 if stream == OBS_STATE else 10 + k / 30, np.zeros(7), received=10 + k / 30)
        buffer.add_image("wrist", 10 + k / 30, image(k), received=10 + k / 30)
    refusal = buffer.align(10.31, "").refusal
    assert refusal.startswith(f"{stream} has brought nothing that can be used (10 refused, the last because the driver")
    assert "header.stamp 0, which means that it does not stamp" in refusal
    assert refusal.count(";") == 0


def test_a_simulated_clock_near_zero_is_a_stamp():
    buffer = ObservationBuffer(ROBOT)
    for camera in ROBOT.camera_names:
        buffer.add_image(camera, 0.01, image(1), received=0.01)
    buffer.add_state(0.01, np.zeros(7), received=0.01)
    assert buffer.align(0.02, "").refusal == ""
