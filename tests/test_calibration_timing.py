"""Camera latency from a motion that camera and joints both saw."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from calibration.errors import CalibrationError
from calibration.rigid import exp, inverse
from calibration.synthetic import Rig, random_rig
from calibration.timing import JointTrack, LatencyResult, image_latency, latency_from_poses

LATENCY_S = 0.0637  # between two frames at 30 Hz
SECONDS = 8.0


@dataclass(frozen=True, kw_only=True)
class Recording:
    """What camera and joints saw of one motion."""

    rig: Rig
    stamps: np.ndarray  # (K,)
    boards: np.ndarray  # (K, 4, 4)
    track: JointTrack

    def latency(self, *, with_hand_eye: bool = True) -> LatencyResult:
        camera = self.rig.camera if with_hand_eye else None
        return latency_from_poses(
            self.stamps, self.boards, self.track, self.rig.kinematics, camera=camera, eye_in_hand=self.rig.eye_in_hand
        )


def recorded(
    seed: int,
    *,
    eye_in_hand: bool = True,
    repeats: bool = False,
    size: float = 1.0,
    moving: Sequence[int] = range(6),
    noise_rad: float = 6e-4,
) -> Recording:
    rig = random_rig(seed, eye_in_hand=eye_in_hand)
    rng = np.random.default_rng(seed)
    middle = rig.poses(rng, 1)[0][0] + rig.offsets
    # Periods that have no common multiple in the recording; or a motion that is the same every half second.
    waves = np.full((6, 3), 2.0) if repeats else rng.uniform(0.3, 1.3, (6, 3))
    phases = rng.uniform(0, 2 * np.pi, (6, 3))
    sizes = size * np.radians([1.5, 1.5, 1.5, 3.0, 4.0, 5.0])[:, None] * rng.uniform(0.3, 1.0, (6, 3))

    sizes[[joint for joint in range(6) if joint not in moving]] = 0.0

    def angles(times: np.ndarray) -> np.ndarray:
        return middle + (sizes * np.sin(2 * np.pi * waves * times[:, None, None] + phases)).sum(axis=2)

    states = np.arange(0, SECONDS, 0.01) + rng.uniform(-5e-4, 5e-4, int(SECONDS * 100))
    stamps = np.arange(0.5, SECONDS - 0.5, 1 / 30)
    seen = np.array([rig.camera_to_board(tool) for tool in rig.kinematics.poses(angles(stamps - LATENCY_S))])
    noise = exp(np.concatenate([rng.normal(0, noise_rad, (len(seen), 3)), rng.normal(0, 2e-4, (len(seen), 3))], axis=1))
    positions = angles(states) + rng.normal(0, 2e-4, (len(states), 6))
    return Recording(rig=rig, stamps=stamps, boards=seen @ noise, track=JointTrack(stamps=states, positions=positions))


@pytest.mark.parametrize("eye_in_hand", [True, False], ids=["hand", "base"])
def test_latency_is_found_to_a_fraction_of_a_frame(eye_in_hand: bool) -> None:
    for seed in (0,):
        recording = recorded(seed, eye_in_hand=eye_in_hand)
        exact, rough = recording.latency(), recording.latency(with_hand_eye=False)
        assert exact.method == "poses"
        assert exact.latency_s == pytest.approx(LATENCY_S, abs=3e-3)
        assert rough.method == "speed"
        assert rough.latency_s == pytest.approx(LATENCY_S, abs=1e-2)
        assert exact.correlation > 0.8


def test_single_poses_may_be_noisier_than_the_swing() -> None:
    recording = recorded(0, noise_rad=0.025)  # a small board far away, or before a fisheye
    assert recording.latency().latency_s == pytest.approx(LATENCY_S, abs=3e-3)


def test_a_board_that_was_missed_now_and_then_does_no_harm() -> None:
    recording = recorded(1)
    keep = np.random.default_rng(0).random(len(recording.stamps)) > 0.15
    thinned = Recording(
        rig=recording.rig, stamps=recording.stamps[keep], boards=recording.boards[keep], track=recording.track
    )
    assert thinned.latency().latency_s == pytest.approx(LATENCY_S, abs=3e-3)


def test_without_a_board_the_change_of_the_pictures_will_do() -> None:
    recording = recorded(2, moving=[4])  # the picture's change is one number: one joint at a time is best
    before, after = recording.boards[:-1], recording.boards[1:]
    # What a picture changes by: how far the board's corners move in it.
    corners = recording.rig.board.points[[0, 7, -1]]
    moved = after[:, None, :3, :3] @ corners[..., None] - before[:, None, :3, :3] @ corners[..., None]
    moved = moved[..., 0] + (after - before)[:, None, :3, 3]
    changes = 600 * np.linalg.norm(moved, axis=2).mean(axis=1) / after[:, 2, 3]
    found = image_latency(recording.stamps, changes, recording.track)
    assert found.method == "pictures"
    assert found.latency_s == pytest.approx(LATENCY_S, abs=0.02)


# ------------------------------------------------------------------------------------------------ refusals


def test_a_motion_that_repeats_is_refused() -> None:
    with pytest.raises(CalibrationError, match="explain the recording equally well, because the motion repeats itself"):
        recorded(0, repeats=True).latency()


def test_hardly_any_motion_is_refused() -> None:
    with pytest.raises(CalibrationError, match="turning of only .* swing the arm back and forth"):
        recorded(0, size=0.02).latency()


def test_two_recordings_that_do_not_belong_together_are_refused() -> None:
    first, second = recorded(0), recorded(3)
    mixed = Recording(rig=first.rig, stamps=first.stamps, boards=second.boards, track=first.track)
    with pytest.raises(CalibrationError, match="camera and joints hardly agree|equally well"):
        mixed.latency()


def test_a_recording_that_is_too_short_is_refused() -> None:
    recording = recorded(0)
    short = Recording(
        rig=recording.rig, stamps=recording.stamps[:40], boards=recording.boards[:40], track=recording.track
    )
    with pytest.raises(CalibrationError, match="40 usable pictures over 1.3 s are too few"):
        short.latency()


def test_stamps_that_do_not_increase_and_gaps_are_refused() -> None:
    recording = recorded(0)
    stamps, positions = recording.track.stamps, recording.track.positions
    with pytest.raises(CalibrationError, match="stamps do not increase"):
        JointTrack(stamps=stamps[::-1], positions=positions).check()
    with pytest.raises(CalibrationError, match=r"joint states are missing for 1\.0\d s"):
        JointTrack(
            stamps=np.delete(stamps, slice(300, 400)), positions=np.delete(positions, slice(300, 400), 0)
        ).check()
    with pytest.raises(CalibrationError, match="the pictures' stamps do not increase"):
        Recording(
            rig=recording.rig,
            stamps=np.r_[recording.stamps[:50], recording.stamps[:50][::-1], recording.stamps[100:]],
            boards=recording.boards,
            track=recording.track,
        ).latency()


def test_the_board_s_frame_does_not_matter() -> None:
    """Speed of turning is the same for camera and tool wherever the board's origin is."""
    recording = recorded(1)
    elsewhere = exp(np.array([0.3, -0.2, 0.9, 0.05, 0.02, -0.1]))
    moved = Recording(
        rig=recording.rig, stamps=recording.stamps, boards=recording.boards @ inverse(elsewhere), track=recording.track
    )
    np.testing.assert_allclose(
        moved.latency(with_hand_eye=False).latency_s, recording.latency(with_hand_eye=False).latency_s, atol=1e-9
    )
