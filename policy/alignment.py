"""Time alignment: what the robot saw and where it was at one instant, or why nobody can say.

Per stream the newest message with stamp <= t; every one must be younger than its limit and all of them within the
allowed spread, and none may come from a clock that leads the robot's (``policy.clock_lead``). Live inference and the
conversion of recordings call the same ``align``, so that a policy meets at run time what it was trained on. Where a
camera's latency was calibrated, its picture is older than its stamp: the joint state is then the one at the moment of
the oldest picture, because the two belong together. Which picture is chosen stays a matter of stamps alone, or a
recording would know pictures that had not arrived yet. The past instants of an observation that looks back are aligned
by the same rules, each at its own time (``policy.history``). Nothing here reads a clock: t is robot time [s], and so
are the stamps.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from policy.clock_lead import ClockLead, lead_sentence
from policy.encodings import wrong_size
from policy.history import History
from policy.joint_states import JointStates
from policy.streams import HISTORY_S, Entry, ImageWatch, Stream, StreamCounts
from policy.wire import UNSTAMPED, unstamped
from wam.errors import ValueContractError, unknown_name
from wam.history import Window
from wam.robot import RobotSpec, SafetySpec
from wam.spec import OBS_STATE, Observation, image_key

__all__ = ["Alignment", "ObservationBuffer"]


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """The outcome at one instant."""

    observation: Observation | None  # stamped t, or None when it was refused
    refusal: str  # "" or why there is no observation, one sentence per stream
    ages_s: Mapping[str, float]  # stream key -> t - stamp of the message that was chosen [s]
    stamps: Mapping[str, float]  # stream key -> its stamp [s]

    @property
    def spread_s(self) -> float:
        """Largest time between two streams of this instant [s]."""
        return max(self.stamps.values()) - min(self.stamps.values()) if self.stamps else 0.0


class ObservationBuffer:
    """Keeps about a second of every stream of one robot. Not thread-safe: one thread adds and aligns.

    Args:
        robot: Its cameras and axes.
        safety: Age and spread limits; None takes the robot's own.
        window: How far back observations look; one instant unless a policy wants more (``Policy.window``).
    """

    def __init__(self, robot: RobotSpec, safety: SafetySpec | None = None, window: Window | None = None) -> None:
        self.robot = robot
        self.safety = robot.safety if safety is None else safety
        self._cameras = {camera.name: camera for camera in robot.cameras}
        self._history = History(window or Window())
        kept_s = HISTORY_S + self._history.window.span
        self._images = {name: Stream(kept_s) for name in self._cameras}
        self._watches = {name: ImageWatch() for name in self._cameras}
        calibration = robot.calibration
        self._latency = {  # stream key -> time from exposure to stamp [s]
            image_key(name): calibration.latency_s(name) if calibration else 0.0 for name in self._cameras
        }
        self._state = Stream(kept_s + max(0.0, *self._latency.values()))
        self._joints = JointStates(robot.action_names, self.safety.state_age_s, robot.state_topic)
        self._leads = {key: ClockLead(self.safety.stamp_lead_s) for key in self._streams()}

    @property
    def counts(self) -> Mapping[str, StreamCounts]:
        """Stream key -> what arrived on it."""
        return {key: stream.counts for key, stream in self._streams().items()}

    @property
    def refused(self) -> Mapping[str, str]:
        """Stream key -> why the last message that could not be used was dropped, of streams that had any."""
        return {key: stream.refusal for key, stream in self._streams().items() if stream.refusal}

    def add_image(self, camera: str, stamp: float, rgb_hwc_u8: np.ndarray, *, received: float | None = None) -> None:
        """Takes a frame; one that cannot be used is dropped and counted, and the stream goes stale.

        Args:
            camera: A camera of the robot.
            stamp: Capture time, robot time [s].
            rgb_hwc_u8: (height, width, 3) uint8, kept without copying: do not write to it afterwards.
            received: When it arrived, robot time [s]; without it a clock that leads is not noticed.

        Raises:
            ValueContractError: The robot has no such camera.
        """
        if camera not in self._cameras:
            raise ValueContractError(unknown_name("camera", camera, self._cameras))
        spec, stream = self._cameras[camera], self._images[camera]
        shape = (spec.height_px, spec.width_px, 3)
        if (why := wrong_size(rgb_hwc_u8.shape, rgb_hwc_u8.dtype, shape) or _wrong_stamp(stamp)) != "":
            stream.refuse(why)
        else:
            taken, watch = self._taken(image_key(camera), stamp, received), self._watches[camera]
            if stream.add(taken, rgb_hwc_u8) and stream.newest_is_last:
                watch.look(self._state)
                stream.count(same_pixels=int(watch.add(rgb_hwc_u8, taken)))

    def add_joint_state(
        self, names: Sequence[str], positions: Sequence[float], stamp: float, *, received: float | None = None
    ) -> None:
        """Takes a joint state as a driver sends it: any order, and some of the axes only (``policy.joint_states``).

        Raises:
            ValueContractError: It cannot be read, or an axis has not been heard of.
        """
        whole = self._joints.add(names, positions, stamp)
        if whole is not None:
            self.add_state(*whole, received=received)

    def add_state(self, stamp: float, proprio: np.ndarray, *, received: float | None = None) -> None:
        """Takes a measured state; one that cannot be used is dropped and counted.

        Args:
            stamp: Measurement time, robot time [s].
            proprio: (P,) float32 positions [rad] and gripper opening, in the robot's order.
            received: When it arrived, robot time [s]; without it a clock that leads is not noticed.
        """
        proprio = np.asarray(proprio, dtype=np.float32)
        if proprio.shape != (self.robot.action_dim,):
            self._state.refuse(f"the state is {proprio.shape} but the robot has {self.robot.action_dim} axes")
        elif not (np.isfinite(proprio).all() and np.isfinite(stamp)):
            self._state.refuse("a position or the stamp is not finite")
        elif (why := _wrong_stamp(stamp)) != "":
            self._state.refuse(why)
        else:
            self._state.add(self._taken(OBS_STATE, stamp, received), proprio.copy())

    def align(self, t: float, task: str) -> Alignment:
        """Returns the observation of instant t, or why there is none.

        Args:
            t: Robot time [s].
            task: The instruction in words.

        Returns:
            An observation stamped t, with the ages and stamps of what went into it either way. It has its past where
            the window holds several instants; ages and stamps are those of the present.
        """
        aligned = self._align(t, task)
        if aligned.observation is None:
            return aligned
        whole = self._history.with_past(
            aligned.observation, lambda time: self._align(time, task, now=False).observation
        )
        return dataclasses.replace(aligned, observation=whole)

    @property
    def holes(self) -> int:
        """Past instants so far that had no observation of their own, so that the next later one stood in."""
        return self._history.holes

    def _align(self, t: float, task: str, *, now: bool = True) -> Alignment:
        """``align`` for one instant by itself; whether a camera is frozen is known of the present alone."""
        streams = self._streams()
        entries = {key: stream.at(t) for key, stream in streams.items()}
        refusals = [self._refusal(key, streams[key], entries[key], t) for key in streams]
        moment = self._moment(entries, t)
        entries[OBS_STATE] = self._state.at(moment)
        found = {key: entry for key, entry in entries.items() if entry is not None}
        if not any(refusals) and OBS_STATE not in found:
            refusals.append(f"{OBS_STATE} has nothing from {t - moment:.3f} s ago, when the oldest picture was taken")
        if not any(refusals):
            refusals += [self._spread_refusal(found), self._frozen_refusal() if now else ""]
        refusal = "; ".join(text for text in refusals if text)
        return Alignment(
            observation=None if refusal else self._observation(found, t, task),
            refusal=refusal,
            ages_s={key: t - entry.stamp for key, entry in found.items()},
            stamps={key: entry.stamp for key, entry in found.items()},
        )

    def clear(self) -> None:
        """Forgets every message, for a clock jump or a new episode; counts go on."""
        self._history.clear()
        for name, stream in self._images.items():
            stream.clear()
            self._watches[name] = ImageWatch()
        self._state.clear()
        self._joints.clear()
        for lead in self._leads.values():
            lead.clear()

    def _streams(self) -> dict[str, Stream]:
        return {image_key(name): stream for name, stream in self._images.items()} | {OBS_STATE: self._state}

    def _taken(self, key: str, stamp: float, received: float | None) -> float:
        """When a message counts as taken [s]: at its stamp, at the latest when it arrived."""
        return float(stamp) if received is None else self._leads[key].add(float(stamp), received)

    def _moment(self, entries: Mapping[str, Entry | None], t: float) -> float:
        """Returns when the oldest picture was taken, if any latency is known, else t [s]."""
        if not any(self._latency.values()):
            return t
        taken = [self._exposed(key, entry) for key, entry in entries.items() if entry is not None and key != OBS_STATE]
        return min([t, *taken])

    def _exposed(self, key: str, entry: Entry) -> float:
        """Returns when a message's world was as it shows it [s]."""
        return entry.stamp - self._latency.get(key, 0.0)

    def _observation(self, entries: Mapping[str, Entry], t: float, task: str) -> Observation:
        images = {name: entries[image_key(name)].value for name in self._cameras}
        return Observation(images=images, proprio=entries[OBS_STATE].value.copy(), task=task, stamp=t)

    def _refusal(self, key: str, stream: Stream, entry: Entry | None, t: float) -> str:
        """Why one stream has nothing to offer at t; empty when it has."""
        if self._leads[key].refused:
            return lead_sentence(key, self._leads[key])
        limit, field = self.safety.image_age_s, "image_age_s"
        if key == OBS_STATE:
            limit, field = self.safety.state_age_s, "state_age_s"
        why = f" ({stream.counts.malformed} refused, the last because {stream.refusal})" if stream.refusal else ""
        if entry is None and stream.newest is not None:
            ahead = stream.newest.stamp - t
            blame = ": its clock is not the robot's" if ahead > limit else " and nothing came before"
            return f"{key} is stamped {ahead:.3f} s in the future{blame}{why}"
        if entry is None:
            return f"{key} has brought nothing that can be used{why}" if why else f"{key} has not arrived yet"
        if t - entry.stamp <= limit:
            return ""
        repeats = stream.counts.duplicates
        again = f", {repeats} messages repeated a stamp" if repeats else ""
        return f"{key} is {t - entry.stamp:.3f} s old but safety.{field} allows {limit:.3f} s{again}{why}"

    def _spread_refusal(self, entries: Mapping[str, Entry]) -> str:
        times = {key: self._exposed(key, entry) for key, entry in entries.items()}
        first, last = min(times, key=times.__getitem__), max(times, key=times.__getitem__)
        spread = times[last] - times[first]
        if spread <= self.safety.stream_spread_s:
            return ""
        return (
            f"{first} is {spread:.3f} s older than {last} but safety.stream_spread_s allows "
            f"{self.safety.stream_spread_s:.3f} s"
        )

    def _frozen_refusal(self) -> str:
        for watch in self._watches.values():
            watch.look(self._state)
        frozen = {name: watch for name, watch in self._watches.items() if watch.frozen}
        return "; ".join(
            f"{image_key(name)} is frozen: {watch.frames} frames brought new stamps and the same pixels while the arm "
            "moved"
            for name, watch in frozen.items()
        )


def _wrong_stamp(stamp: float) -> str:
    """Why a message of this stamp cannot be used; empty when it can."""
    if not np.isfinite(stamp):
        return f"the stamp is {stamp}"
    return UNSTAMPED if unstamped(stamp) else ""
