"""What a policy that looks back saw before: instants of a simulated episode, drawn when they are asked for.

Physics cannot be run backwards, and drawing every control step would cost more than the episode. So every step leaves a
snapshot of where things are (microseconds), and the few instants that an observation needs are drawn from theirs.
"""

import bisect
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from policy.history import History
from sim.arm_sim import ArmSim
from sim.snapshots import Snapshot, showing, take_snapshot
from wam.history import Window, pick
from wam.spec import Observation

__all__ = ["PastInstants"]


@dataclass(kw_only=True)
class _Sample:
    """One control step."""

    stamp: float  # simulated time [s]
    proprio: np.ndarray
    snapshot: Snapshot
    images: Mapping[str, np.ndarray] | None = None  # drawn at the first need


class PastInstants:
    """The steps of one episode so far, as far back as a policy looks.

    Args:
        sim: The simulation, just reset.
        window: How far an observation looks back.
    """

    def __init__(self, sim: ArmSim, window: Window) -> None:
        self._sim = sim
        self._history = History(window)
        self._samples: list[_Sample] = []

    def sample(self) -> None:
        """Notes where everything is; to be called at the start, at every control step and whenever somebody looks."""
        sim, span = self._sim, self._history.window.span
        if span == 0 or (self._samples and self._samples[-1].stamp == sim.time):
            return
        if not self._samples:
            self._history.begin(sim.time)
        needed = bisect.bisect_right(self._samples, sim.time - span, key=lambda sample: sample.stamp) - 1
        del self._samples[: max(0, needed)]
        self._samples.append(_Sample(stamp=sim.time, proprio=sim.proprio(), snapshot=take_snapshot(sim)))

    def observation(self) -> Observation:
        """The simulation's observation of now, with its past."""
        return self._history.with_past(self._sim.observation(), self._at)

    def _at(self, time: float) -> Observation:
        picked = pick([sample.stamp for sample in self._samples], (time,))
        sample = self._samples[int(picked.places[0])]
        if sample.images is None:
            with showing(self._sim, sample.snapshot):
                sample.images = {name: self._sim.render(name) for name in self._sim.robot.camera_names}
        return Observation(images=sample.images, proprio=sample.proprio, task=self._sim.instruction, stamp=sample.stamp)
