"""One episode of a converted dataset while it grows: videos are encoded frame by frame, only numbers are kept.

Two cameras of 640 x 480 at 30 Hz are three gigabytes of pixels a minute, so an episode never lies in memory.
"""

import numpy as np

from sim.encoding import PixelStatistics, VideoCodec, VideoEncoder
from sim.spool import EpisodeArrays
from sim.ticks import Tick
from wam.robot import RobotSpec

__all__ = ["Piece"]


class Piece:
    """An uninterrupted run of usable ticks, encoded as it grows.

    Args:
        robot: Whose cameras there are.
        fps: Frames per second.
        codec: How to encode them.
    """

    def __init__(self, robot: RobotSpec, fps: int, codec: VideoCodec) -> None:
        self._longest_ns = round(1.5e9 / fps)  # between two ticks
        self._last_ns = 0
        self._encoders = {name: VideoEncoder(fps, codec) for name in robot.camera_names}
        self._statistics = {name: PixelStatistics() for name in robot.camera_names}
        self._proprio: list[np.ndarray] = []
        self._stamps: list[float] = []
        self.actions: list[np.ndarray] = []
        self.task = self._scene = ""
        self.success: bool | None = None

    def continued_by(self, tick: Tick) -> bool:
        """Whether a tick goes on with this piece: usable, the next, of the same scene, with the same instruction."""
        observation = tick.observation
        if observation is None or not 0 < tick.time_ns - self._last_ns <= self._longest_ns:
            return False
        return (observation.task, tick.scene) == (self.task, self._scene)

    def add(self, tick: Tick) -> None:
        """Appends a usable tick."""
        observation = tick.observation
        assert observation is not None
        assert tick.action is not None
        for name, image in observation.images.items():
            self._encoders[name].add(image)
            self._statistics[name].add(image)
        self._proprio.append(observation.proprio)
        self._stamps.append(observation.stamp)
        self.actions.append(tick.action)
        self._last_ns = tick.time_ns
        self.task, self._scene, self.success = observation.task, tick.scene, tick.success

    def encoded(self) -> tuple[dict[str, bytes], dict[str, dict[str, list[float]]]]:
        """Videos and image statistics per camera."""
        videos = {name: encoder.finish() for name, encoder in self._encoders.items()}
        return videos, {name: statistics.result() for name, statistics in self._statistics.items()}

    def arrays(self) -> EpisodeArrays:
        """The numbers."""
        return EpisodeArrays(
            proprio=np.stack(self._proprio),
            action=np.stack(self.actions),
            stamp=np.array(self._stamps, dtype=np.float64),
        )

    def close(self) -> None:
        """Frees the encoders, whether the piece was kept or not."""
        for encoder in self._encoders.values():
            encoder.close()
