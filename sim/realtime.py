"""A simulation that keeps pace with a clock it is told, and a thread that draws its cameras meanwhile.

``RealtimeArm.advance_to(now)`` runs as many physics steps as have become due. Cameras are due at exact steps of physics
and their frames carry the time of the pose they show, whenever the drawing is finished. A pause longer than
``MAX_CATCH_UP`` is skipped instead of being made up for: a process that was stopped must not sprint afterwards.
"""

import contextlib
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sim.arm_sim import ArmSim
from sim.errors import SimError
from sim.snapshots import Snapshot, SnapshotRenderer, take_snapshot
from wam.robot import CameraSpec

__all__ = ["Frame", "RealtimeArm", "camera_fovy"]

MAX_CATCH_UP = 0.25  # [s]
START_SECONDS = 60.0  # opening a software renderer on a loaded machine takes seconds


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One drawn frame."""

    camera: CameraSpec
    rgb: np.ndarray  # (height, width, 3) rgb_hwc_u8
    stamp: float  # time of the pose it shows, on the clock of ``advance_to`` [s]


class RealtimeArm:
    """An arm simulation driven by a clock.

    Args:
        sim: The simulation; stepped here and nowhere else.
        on_frame: Called in the drawing thread after each frame; must be quick and thread-safe.
    """

    def __init__(self, sim: ArmSim, on_frame: Callable[[], None] = lambda: None) -> None:
        self.sim = sim
        self.stamp = 0.0  # time of the newest physics step, on the clock of ``advance_to`` [s]
        self.skipped_s = 0.0  # time that was not simulated because the process was held up [s]
        self._now: float | None = None
        self._due: dict[str, float] = {}
        self._painter = _Painter(sim, on_frame)

    @property
    def frames_dropped(self) -> int:
        """Frames that were due while the ones before were still being drawn."""
        return self._painter.dropped

    def start(self) -> None:
        """Opens the renderers.

        Raises:
            SimError: This machine cannot render.
        """
        self._painter.start()

    def advance_to(self, now: float) -> None:
        """Runs the physics that is due; the first call only notes the time.

        Raises:
            SimError: Drawing has failed.
        """
        if self._now is None or not 0 <= now - self.stamp <= MAX_CATCH_UP:
            self.skipped_s += 0.0 if self._now is None else max(0.0, now - self.stamp)
            self.stamp = now  # a backward jump of the clock ends here too
            self._due = {camera.name: now for camera in self.sim.robot.cameras}
        self._now = now
        self._shoot()
        while (ticks := self._ticks_to_next_event(now)) > 0:
            self.sim.advance(ticks * self.sim.physics_dt)
            self.stamp += ticks * self.sim.physics_dt
            self._shoot()

    def frames(self) -> list[Frame]:
        """Frames drawn since the last call, oldest first.

        Raises:
            SimError: Drawing has failed.
        """
        return self._painter.take()

    def close(self) -> None:
        """Ends the drawing; may be called twice."""
        self._painter.close()
        self.sim.close()

    def _ticks_to_next_event(self, now: float) -> int:
        """Physics steps until ``now`` or until a camera is due, whichever is first; 0 when there is nothing to do."""
        dt = self.sim.physics_dt
        behind = int((now - self.stamp) / dt + 1e-6)
        until_shot = int(max(0.0, min(self._due.values()) - self.stamp) / dt + 1 - 1e-6)
        return min(behind, max(1, until_shot))

    def _shoot(self) -> None:
        """Hands the cameras that are due to the painter, all with one snapshot."""
        tolerance = self.sim.physics_dt * 1e-3
        due = [camera for camera in self.sim.robot.cameras if self._due[camera.name] <= self.stamp + tolerance]
        for camera in due:
            self._due[camera.name] += 1.0 / camera.rate_hz
        if due:
            self._painter.paint(take_snapshot(self.sim), due, self.stamp)


class _Painter:
    """Draws in its own thread; a newer snapshot replaces one that still waits."""

    def __init__(self, sim: ArmSim, on_frame: Callable[[], None]) -> None:
        self.dropped = 0
        self._sim, self._on_frame = sim, on_frame
        self._waiting: queue.Queue[tuple[Snapshot, list[CameraSpec], float] | None] = queue.Queue(maxsize=1)
        self._done: queue.SimpleQueue[Frame] = queue.SimpleQueue()
        self._ready = threading.Event()
        self._error: SimError | None = None
        self._thread = threading.Thread(target=self._work, name="painter", daemon=True)

    def start(self) -> None:
        self._thread.start()
        if not self._ready.wait(START_SECONDS):
            raise SimError(f"the renderer did not start within {START_SECONDS:g} s: is the machine overloaded?")
        self._check()

    def paint(self, snapshot: Snapshot, cameras: list[CameraSpec], stamp: float) -> None:
        while True:
            try:
                self._waiting.put_nowait((snapshot, cameras, stamp))
                return
            except queue.Full:
                with contextlib.suppress(queue.Empty):
                    stale = self._waiting.get_nowait()
                    self.dropped += 0 if stale is None else len(stale[1])

    def take(self) -> list[Frame]:
        self._check()
        frames = []
        with contextlib.suppress(queue.Empty):
            while True:
                frames.append(self._done.get_nowait())
        return frames

    def close(self) -> None:
        while self._thread.is_alive():
            with contextlib.suppress(queue.Full):
                self._waiting.put_nowait(None)
            self._thread.join(timeout=0.1)

    def _check(self) -> None:
        if self._error is not None:
            raise self._error
        if not self._thread.is_alive():
            raise SimError("the thread that draws the cameras has ended: its traceback is on stderr.")

    def _work(self) -> None:
        renderer = SnapshotRenderer(self._sim.model, self._sim.bent)
        try:
            opening = take_snapshot(self._sim)
            for camera in self._sim.robot.cameras:
                renderer.draw(opening, camera)
            self._ready.set()
            while (job := self._waiting.get()) is not None:
                snapshot, cameras, stamp = job
                for camera in cameras:
                    self._done.put(Frame(camera=camera, rgb=renderer.draw(snapshot, camera), stamp=stamp))
                    self._on_frame()
        except SimError as error:
            self._error = error
            self._ready.set()
        finally:
            renderer.close()


def camera_fovy(sim: ArmSim, camera: CameraSpec) -> float:
    """Vertical field of view of a simulated camera [rad]."""
    return float(np.deg2rad(sim.model.camera(camera.name).fovy[0]))
