"""Time between a camera's stamps and the joint states' stamps, from one motion that both of them saw.

The camera's latency L is such that the picture stamped s shows the robot as it was at s - L on the joint states' clock.
First the speed of turning, which is the same for camera and tool wherever the camera is mounted, is correlated over
candidate latencies and the peak interpolated between them. With a hand-eye calibration the board's pose then says where
the tool was in every picture, and the latency that makes it agree with the joints is refined to a fraction of a
millisecond. Without a board, the amount of change between pictures takes the place of the speed, less exactly.

Shape legend: K pictures, M joint states, J joints.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from calibration.errors import CalibrationError
from calibration.kinematics import ForwardKinematics
from calibration.rigid import inverse, rotation_vector

__all__ = ["JointTrack", "LatencyResult", "image_latency", "latency_from_poses", "turning_speed"]

MAX_LATENCY_S = 0.5  # searched both ways
_GRID_S = 0.002
_MIN_SECONDS = 3.0
_MIN_SPEED = 0.05  # typical speed of turning below which noise decides [rad/s]
_MIN_CORRELATION = 0.6
_MIN_FRAMES = 30
# Pictures between two poses whose turn is compared: 130 ms at 30 Hz; and twice that where a board far away or a wide
# lens makes single poses so noisy that the speeds hardly agree.
_STRIDES = (4, 8)
_RIVAL = 0.93  # a second peak this high makes the first one a guess
_PARTS = 4  # of the recording; their scatter is the uncertainty


class _UnlikeError(CalibrationError):
    """Two signals that hardly agree."""


@dataclass(frozen=True, kw_only=True)
class JointTrack:
    """Joint states over time."""

    stamps: np.ndarray  # (M,) strictly increasing [s]
    positions: np.ndarray  # (M, J) [rad]

    def at(self, times: np.ndarray) -> np.ndarray:
        """(…, J) positions at (…,) times, linear between states."""
        columns = [np.interp(times, self.stamps, column) for column in self.positions.T]
        return np.stack(columns, axis=-1)

    def check(self) -> None:
        """Refuses stamps that do not increase, and gaps in which the arm could have done anything.

        Raises:
            CalibrationError: As it says.
        """
        steps = np.diff(self.stamps)
        if len(self.stamps) < _MIN_FRAMES or (steps <= 0).any() or not np.isfinite(self.positions).all():
            raise CalibrationError(
                f"the recording holds {len(self.stamps)} joint states whose stamps "
                f"{'increase' if (steps > 0).all() else 'do not increase'}: record at least {_MIN_SECONDS:g} s with "
                "stamps taken when the joints were read."
            )
        if steps.max() > 0.1:
            raise CalibrationError(
                f"joint states are missing for {steps.max():.2f} s in the recording: latency needs at least 20 states "
                "a second, 100 are good; check the driver's rate and the network."
            )


@dataclass(frozen=True, kw_only=True)
class LatencyResult:
    """A latency and what speaks for it."""

    latency_s: float
    std_s: float  # scatter between parts of the recording, for their mean
    correlation: float  # of the two signals at the best latency, at most 1
    curve: tuple[np.ndarray, np.ndarray]  # candidate latencies [s] and their correlation
    method: str  # "poses" or "speed" or "pictures"


def turning_speed(poses: np.ndarray, stamps: np.ndarray, stride: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Speed of turning between poses.

    Args:
        poses: (K, 4, 4) of one thing in any fixed frame, or of a fixed thing in its frame.
        stamps: (K,) [s].
        stride: Poses this far apart are compared; a longer way drowns the noise of a single pose.

    Returns:
        (K - stride,) times midway between two poses [s] and (K - stride,) mean speeds between them [rad/s].
    """
    between = inverse(poses[:-stride]) @ poses[stride:]
    steps = stamps[stride:] - stamps[:-stride]
    return (stamps[:-stride] + stamps[stride:]) / 2, np.linalg.norm(rotation_vector(between[:, :3, :3]), axis=1) / steps


def latency_from_poses(
    stamps: np.ndarray,
    boards: np.ndarray,
    track: JointTrack,
    kinematics: ForwardKinematics,
    *,
    camera: np.ndarray | None = None,
    eye_in_hand: bool = True,
) -> LatencyResult:
    """Finds a camera's latency from a board in view while the arm moves.

    Args:
        stamps: (K,) header stamps of the pictures in which the board was found [s].
        boards: (K, 4, 4) ``T_camera_board``.
        track: Joint states of the same time.
        kinematics: The arm's.
        camera: (4, 4) ``T_tool_camera`` or ``T_base_camera`` from a hand-eye calibration; refines the result.
        eye_in_hand: Which of the two it is.

    Raises:
        CalibrationError: Too short, too little or repeating motion, or signals that have nothing to do with each other.
    """
    track.check()
    _check_pictures(stamps)
    try:
        result = _from_speed(stamps, boards, track, kinematics, _STRIDES[0])
    except _UnlikeError:
        result = _from_speed(stamps, boards, track, kinematics, _STRIDES[1])
    if camera is None:
        return result
    refined = _refine(stamps, boards, track, kinematics, camera, eye_in_hand, result.latency_s)
    return LatencyResult(
        latency_s=refined[0], std_s=refined[1], correlation=result.correlation, curve=result.curve, method="poses"
    )


def _from_speed(
    stamps: np.ndarray, boards: np.ndarray, track: JointTrack, kinematics: ForwardKinematics, stride: int
) -> LatencyResult:
    times, speeds = turning_speed(boards, stamps, stride)
    steps = stamps[stride:] - stamps[:-stride]
    usable = steps < 2 * np.median(steps)  # not across pictures in which the board was not found

    def expected(latency: float) -> np.ndarray:
        tools = kinematics.poses(track.at(stamps - latency))
        return turning_speed(tools, stamps, stride)[1][usable]

    return _correlate(times[usable], speeds[usable], expected, "speed")


def image_latency(stamps: np.ndarray, changes: np.ndarray, track: JointTrack) -> LatencyResult:
    """Finds a camera's latency without a board, from how much each picture differs from the one before.

    Args:
        stamps: (K,) header stamps [s].
        changes: (K - 1,) amount of change between consecutive pictures, for example the median optical flow [px].
        track: Joint states of the same time.

    Raises:
        CalibrationError: As for ``latency_from_poses``.
    """
    from scipy.optimize import nnls  # a robot that only runs the daily check does without

    track.check()
    _check_pictures(stamps)
    times, steps = (stamps[:-1] + stamps[1:]) / 2, np.diff(stamps)
    seen = changes / steps

    def expected(latency: float) -> np.ndarray:
        moved = np.abs(np.diff(track.at(stamps - latency), axis=0)) / steps[:, None]
        # How much a joint moves the picture depends on the camera; whatever suits best, but never less than nothing.
        return moved @ nnls(moved, seen)[0]

    return _correlate(times, seen, expected, "pictures", minimum=0.5)


def _correlate(
    times: np.ndarray, seen: np.ndarray, expected: Callable[[float], np.ndarray], method: str, minimum: float = 0.0
) -> LatencyResult:
    """Best latency by correlation, its neighbourhood interpolated by a parabola."""
    if method == "speed" and float(np.percentile(seen, 75)) < _MIN_SPEED:
        raise CalibrationError(
            f"the camera sees turning of only {np.percentile(seen, 75):.3f} rad/s: swing the arm back and forth by "
            "10 to 20 degrees, irregularly, about once a second, while the board stays in view."
        )
    candidates = np.arange(-MAX_LATENCY_S, MAX_LATENCY_S + _GRID_S / 2, _GRID_S * 5)
    coarse = np.array([_correlation(seen, expected(latency)) for latency in candidates.tolist()])
    around = float(candidates[int(np.argmax(coarse))])
    fine = np.arange(around - 0.03, around + 0.03 + _GRID_S / 2, _GRID_S)
    signals = [expected(latency) for latency in fine.tolist()]
    values = np.array([_correlation(seen, signal) for signal in signals])
    best = _peak(fine, values)
    height = float(values.max())
    if height < max(_MIN_CORRELATION, minimum):
        raise _UnlikeError(
            f"camera and joints hardly agree (correlation {height:.2f}, at least {_MIN_CORRELATION:g} is needed): "
            "check that both were recorded at the same time and that only the arm moves in the picture."
        )
    rivals = np.abs(candidates - best) > 0.12
    if rivals.any() and coarse[rivals].max() > _RIVAL * height:
        other = candidates[rivals][int(np.argmax(coarse[rivals]))]
        raise CalibrationError(
            f"latencies of {1e3 * best:.0f} ms and {1e3 * other:.0f} ms explain the recording equally well, because "
            "the motion repeats itself: move irregularly, with pauses of different length."
        )
    parts = [
        _peak(fine, np.array([_correlation(seen[part], signal[part]) for signal in signals]))
        for part in np.array_split(np.arange(len(times)), _PARTS)
    ]
    std = float(np.std(parts, ddof=1) / np.sqrt(_PARTS))
    return LatencyResult(latency_s=best, std_s=std, correlation=height, curve=(candidates, coarse), method=method)


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    a, b = first - first.mean(), second - second.mean()
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / norm if norm > 1e-12 else 0.0


def _peak(places: np.ndarray, values: np.ndarray) -> float:
    """Place of the maximum: the vertex of a parabola through the values around the largest one."""
    index = int(np.clip(np.argmax(values), 5, len(values) - 6))
    window = slice(index - 5, index + 6)
    curve = np.polyfit(places[window] - places[index], values[window], 2)
    if curve[0] >= 0:
        return float(places[int(np.argmax(values))])
    shift = np.clip(-curve[1] / (2 * curve[0]), places[0] - places[index], places[-1] - places[index])
    return float(places[index] + shift)


def _refine(
    stamps: np.ndarray,
    boards: np.ndarray,
    track: JointTrack,
    kinematics: ForwardKinematics,
    camera: np.ndarray,
    eye_in_hand: bool,
    start: float,
) -> tuple[float, float]:
    """Latency that makes the board stand still in the frame where it is fixed; and its scatter over parts.

    For a latency off by e, the board seems to move by e times the tool's velocity, so the latency is a regression of
    the apparent motion on that velocity; three rounds make it exact.
    """
    latency, scatter = start, 0.0
    for _ in range(4):
        errors, rates = _apparent_motion(stamps, boards, track, kinematics, camera, eye_in_hand, latency)
        scale = 1.4826 * np.median(np.abs(errors), axis=0) + 1e-9  # (6,) rotation and translation have other units
        errors, rates = errors / scale, rates / scale
        size = np.linalg.norm(errors, axis=1) / np.sqrt(6)
        weight = 1 / (1 + (size / 2.5) ** 2)
        step = float((weight[:, None] * errors * rates).sum() / max((weight[:, None] * rates**2).sum(), 1e-12))
        latency += float(np.clip(step, -0.05, 0.05))
        parts = [
            (weight[p, None] * errors[p] * rates[p]).sum() / max((weight[p, None] * rates[p] ** 2).sum(), 1e-12)
            for p in np.array_split(np.arange(len(stamps)), _PARTS)
        ]
        scatter = float(np.std(parts, ddof=1) / np.sqrt(_PARTS))
    return latency, scatter


def _apparent_motion(
    stamps: np.ndarray,
    boards: np.ndarray,
    track: JointTrack,
    kinematics: ForwardKinematics,
    camera: np.ndarray,
    eye_in_hand: bool,
    latency: float,
) -> tuple[np.ndarray, np.ndarray]:
    """(K, 6) deviation of the fixed board from its typical pose, and (K, 6) how it changes per second of latency."""

    def fixed(at: float) -> np.ndarray:
        tools = kinematics.poses(track.at(stamps - at))
        return (tools if eye_in_hand else inverse(tools)) @ camera @ boards

    half = 0.01
    now, before, after = fixed(latency), fixed(latency - half), fixed(latency + half)
    typical = now[int(np.argmin(np.linalg.norm(now[:, :3, 3] - np.median(now[:, :3, 3], axis=0), axis=1)))]

    def twist(poses: np.ndarray) -> np.ndarray:
        moved = inverse(typical) @ poses
        return np.concatenate([rotation_vector(moved[:, :3, :3]), moved[:, :3, 3]], axis=1)

    rates = (twist(after) - twist(before)) / (2 * half)
    errors = twist(now)
    # The board's true pose is unknown: what does not change with the motion is taken off both.
    return -(errors - np.median(errors, axis=0)), rates - rates.mean(axis=0)


def _check_pictures(stamps: np.ndarray) -> None:
    seconds = float(stamps[-1] - stamps[0]) if len(stamps) else 0.0
    if len(stamps) < _MIN_FRAMES or seconds < _MIN_SECONDS:
        raise CalibrationError(
            f"{len(stamps)} usable pictures over {seconds:.1f} s are too few for a latency: record at least "
            f"{_MIN_SECONDS:g} s, better 10, with the board in view all the time."
        )
    if (np.diff(stamps) <= 0).any():
        raise CalibrationError("the pictures' stamps do not increase: give them in order, each picture once.")
