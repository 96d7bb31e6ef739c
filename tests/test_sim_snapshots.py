"""Drawing from another thread: the same pixels, while physics goes on."""

import threading
from collections.abc import Iterator

import numpy as np
import pytest

from sim.arm_sim import ArmSim
from sim.snapshots import SnapshotRenderer, take_snapshot
from wam.robot import load_robot

ROBOT = load_robot("sim6")


@pytest.fixture
def sim() -> Iterator[ArmSim]:
    sim = ArmSim("place", ROBOT, distractors=1)
    yield sim
    sim.close()


def test_a_snapshot_is_drawn_pixel_for_pixel_in_another_thread(sim: ArmSim) -> None:
    expected, snapshots = [], []
    for seed in range(3):
        sim.reset(seed)
        sim.step(sim.proprio() + 0.2)
        expected.append([sim.render(name) for name in ROBOT.camera_names])
        snapshots.append(take_snapshot(sim))
    sim.reset(9)  # what was taken does not change any more

    drawn: list[list[np.ndarray]] = []

    def work() -> None:
        renderer = SnapshotRenderer(sim.model)
        drawn.extend([renderer.draw(snapshot, camera) for camera in ROBOT.cameras] for snapshot in snapshots)
        renderer.close()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(timeout=120)
    np.testing.assert_array_equal(drawn, expected)
    assert not np.array_equal(drawn[0], drawn[1])
