"""The monitor that pairs pictures with commands: which windows it makes, and what it says of them; a fake policy."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.consistency import KEPT_CHUNKS, ConsistencyMonitor
from policy.errors import PolicyError
from policy.runner import Policy
from tests.test_policy_runner import ROBOT, FakeBackend, make_manifest, make_observation
from wam.manifest import GraphSpec, Manifest
from wam.spec import ActionChunk

DT = ROBOT.control_dt


class FakeHead(FakeBackend):
    """Names the same normalised action between any two pictures."""

    def __init__(self, named: float, steps: int) -> None:
        super().__init__()
        self.named = np.full((steps, ROBOT.action_dim), named, dtype=np.float32)

    def actions_between(self, now, later):
        self.compared = (int(now.max()), int(later.max()))
        return self.named


def head_manifest() -> Manifest:
    manifest = make_manifest()
    return dataclasses.replace(
        manifest,
        model=dataclasses.replace(manifest.model, inverse_head=8),
        graphs={**manifest.graphs, "inverse": GraphSpec(file="inverse.onnx", inputs=(), outputs=())},
    )


def make_monitor(named: float = 0.0, **options) -> ConsistencyMonitor:
    manifest = head_manifest()
    policy = Policy(manifest, FakeHead(named, manifest.model.future_offset))
    return ConsistencyMonitor(policy, **{"rate_hz": 1000.0, "longest_s": 1.0} | options)


def chunk_of(value: float, stamp: float = 0.0) -> ActionChunk:
    actions = np.full((16, ROBOT.action_dim), value, dtype=np.float32)
    return ActionChunk(actions=actions, stamp=stamp, control_dt=DT, anchor=np.zeros(ROBOT.action_dim, dtype=np.float32))


def play(monitor: ConsistencyMonitor, *, steps: int = 9, value: float = 0.1, start: float = 5.0) -> None:
    """Observations and reports of a steady arm, one chunk after the other."""
    for step in range(steps):
        t = start + step * DT
        monitor.on_observation(make_observation(stamp=t))
        monitor.on_chunk(7, step, chunk_of(value, t))
        for tick in range(5):  # the guard reports at 50 Hz
            monitor.on_consumed(7, step, 0, t + tick * DT / 5 + 1e-3)


def test_the_number_is_the_mean_difference_in_normalised_units():
    monitor = make_monitor(named=0.5)
    play(monitor, value=0.1)  # normalised with offset 0.1 and scale 0.5: 0.0
    assert monitor.judge() == pytest.approx(0.5)
    status = monitor.status()
    assert status["consistency"] == status["consistency_max"] == "0.500"
    assert status["consistency_axis"] in ROBOT.action_names


def test_pictures_of_the_right_two_instants_are_compared():
    manifest = head_manifest()
    backend = FakeHead(0.0, manifest.model.future_offset)
    monitor = ConsistencyMonitor(Policy(manifest, backend), rate_hz=1000.0, longest_s=1.0)
    for step in range(12):
        seen = make_observation(stamp=5.0 + step * DT)
        seen = dataclasses.replace(seen, images={n: np.full_like(image, step) for n, image in seen.images.items()})
        monitor.on_observation(seen)
        monitor.on_chunk(7, step, chunk_of(step))
        monitor.on_consumed(7, step, 0, seen.stamp + 1e-3)
    window = monitor.window()
    assert window is not None
    assert window.before.stamp == pytest.approx(5.0 + 3 * DT)
    np.testing.assert_array_equal(window.commanded[:, 0], np.arange(3, 11))  # in force from step 3 to step 11
    monitor.judge()
    assert backend.compared == (3, 11)


def test_no_number_before_enough_was_seen_and_none_across_a_gap():
    monitor = make_monitor()
    play(monitor, steps=8)
    assert monitor.judge() is None
    assert monitor.status() == {"consistency_count": "0"}
    play(monitor, steps=20, start=20.0)
    assert monitor.window() is not None
    monitor.on_consumed(7, -1, -1, 20.0 + 18.9 * DT)  # the guard held for a moment
    monitor.on_observation(make_observation(stamp=20.0 + 20 * DT))
    assert monitor.window() is None


def test_reports_that_stop_stop_the_numbers():
    monitor = make_monitor()
    play(monitor, steps=9)
    assert monitor.window() is not None
    for step in range(9, 12):
        monitor.on_observation(make_observation(stamp=5.0 + step * DT))
    assert monitor.window() is None


def test_chunks_of_another_epoch_are_not_taken_for_ours():
    monitor = make_monitor()
    play(monitor)
    monitor.on_consumed(8, 8, 0, 5.0 + 8.3 * DT)
    monitor.on_observation(make_observation(stamp=5.0 + 9 * DT))
    assert monitor.window() is None


def test_forgetting_starts_anew():
    monitor = make_monitor()
    play(monitor)
    monitor.forget()
    assert monitor.window() is None
    play(monitor, start=1.0)  # robot time went back
    assert monitor.window() is not None


@given(st.lists(st.floats(0.0, 30.0), min_size=1, max_size=60))
def test_memory_is_bounded_whatever_times_come(times: list[float]):
    monitor = make_monitor()
    for number, t in enumerate(sorted(times)):
        monitor.on_observation(make_observation(stamp=t))
        monitor.on_chunk(1, number, chunk_of(0.0, t))
        monitor.on_consumed(1, number, 0, t)
    assert len(monitor._chunks) <= KEPT_CHUNKS
    assert monitor._seen[-1].stamp - monitor._seen[0].stamp <= 10.01 * DT
    assert monitor._consumed[-1][0] - monitor._consumed[0][0] <= 12.01 * DT


def test_it_keeps_to_its_rate_and_gives_up_when_it_takes_too_long():
    now = [0.0]

    def clock() -> float:
        now[0] += 0.3  # every look at the clock takes that long
        return now[0]

    monitor = make_monitor(rate_hz=1.0, longest_s=0.25, clock=clock)
    play(monitor)
    assert monitor.judge() is not None
    assert "took 0.30 s and was switched off" in monitor.problem
    now[0] = 100.0
    assert monitor.judge() is None
    patient = make_monitor(rate_hz=1.0, longest_s=1.0, clock=clock)
    play(patient)
    assert patient.judge() is not None
    assert patient.judge() is None  # not due yet


def test_a_bundle_without_a_head_cannot_judge():
    policy = Policy(make_manifest(), FakeBackend())
    assert not policy.can_judge
    seen = make_observation()
    with pytest.raises(PolicyError, match="no inverse-dynamics head.*wam train --stage inverse"):
        policy.consistency(seen, seen, np.zeros((8, ROBOT.action_dim), dtype=np.float32))
    headed = Policy(head_manifest(), FakeHead(0.0, 8))
    with pytest.raises(PolicyError, match=r"commanded actions are \(3, 7\) but the head names \(8, 7\)"):
        headed.consistency(seen, seen, np.zeros((3, ROBOT.action_dim), dtype=np.float32))
