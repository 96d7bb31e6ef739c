"""Time alignment: the newest message at or before an instant, or a refusal that names stream, age and limit."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.alignment import ObservationBuffer
from policy.streams import FROZEN_FRAMES, HISTORY_S, Stream, fingerprint_pixels
from wam.calibration_spec import CameraCalibration, RobotCalibration
from wam.errors import ValueContractError
from wam.robot import load_robot
from wam.spec import OBS_STATE

ROBOT = load_robot("sim6")
FRONT, WRIST = "observation.images.front", "observation.images.wrist"
SAFETY = ROBOT.safety


def image(value: int = 0) -> np.ndarray:
    return np.full((96, 96, 3), value, dtype=np.uint8)


def proprio(value: float = 0.0) -> np.ndarray:
    return np.full(7, value, dtype=np.float32)


def filled(front: float = 9.99, wrist: float = 9.98, state: float = 9.995) -> ObservationBuffer:
    """A buffer with one message per stream, at these stamps."""
    buffer = ObservationBuffer(ROBOT)
    buffer.add_image("front", front, image(1))
    buffer.add_image("wrist", wrist, image(2))
    buffer.add_state(state, proprio(0.5))
    return buffer


def test_an_observation_holds_the_newest_of_every_stream():
    buffer = filled()
    buffer.add_image("front", 10.01, image(99))  # after the instant
    aligned = buffer.align(10.0, "lift")
    assert aligned.refusal == ""
    observation = aligned.observation.validate(ROBOT)
    assert (observation.stamp, observation.task) == (10.0, "lift")
    assert [int(observation.images[name][0, 0, 0]) for name in ROBOT.camera_names] == [1, 2]
    np.testing.assert_array_equal(observation.proprio, proprio(0.5))
    assert aligned.stamps == {FRONT: 9.99, WRIST: 9.98, OBS_STATE: 9.995}
    assert aligned.ages_s == pytest.approx({FRONT: 0.01, WRIST: 0.02, OBS_STATE: 0.005})
    assert aligned.spread_s == pytest.approx(0.015)


@pytest.mark.parametrize(
    ("late", "refusal"),
    [
        ({"front": 9.84}, f"{FRONT} is 0.160 s old but safety.image_age_s allows 0.150 s"),
        ({"state": 9.89}, f"{OBS_STATE} is 0.110 s old but safety.state_age_s allows 0.100 s"),
        ({"front": 9.93}, f"{FRONT} is 0.065 s older than {OBS_STATE} but safety.stream_spread_s allows 0.050 s"),
        ({"wrist": 10.2}, f"{WRIST} is stamped 0.200 s in the future: its clock is not the robot's"),
        ({"state": 10.01}, f"{OBS_STATE} is stamped 0.010 s in the future and nothing came before"),
    ],
)
def test_what_is_too_old_or_too_far_apart_is_refused(late, refusal):
    aligned = filled(**late).align(10.0, "lift")
    assert aligned.observation is None
    assert aligned.refusal == refusal


def test_every_stream_that_is_wrong_is_named():
    refusal = filled(front=5.0, wrist=5.0, state=5.0).align(10.0, "").refusal
    assert [part.split(" is ")[0] for part in refusal.split("; ")] == [FRONT, WRIST, OBS_STATE]
    assert ObservationBuffer(ROBOT).align(10.0, "").refusal == "; ".join(
        f"{key} has not arrived yet" for key in (FRONT, WRIST, OBS_STATE)
    )


def test_limits_can_be_given_beside_the_robot():
    relaxed = dataclasses.replace(SAFETY, image_age_s=9.0, stream_spread_s=9.0)
    buffer = ObservationBuffer(ROBOT, relaxed)
    buffer.add_image("front", 5.0, image())
    buffer.add_image("wrist", 9.9, image())
    buffer.add_state(9.95, proprio())
    assert buffer.align(10.0, "").observation is not None


def with_latency(**latency_s: float):
    """sim6 with calibrated cameras."""
    cameras = tuple(CameraCalibration(name=name, latency_s=value) for name, value in latency_s.items())
    return dataclasses.replace(ROBOT, calibration=RobotCalibration(cameras=cameras))


def test_a_camera_with_a_known_latency_gets_the_joint_state_of_its_exposure():
    buffer = ObservationBuffer(with_latency(front=0.06, wrist=0.06))
    for tick in range(100):
        buffer.add_state(9.0 + tick / 100, proprio(tick))
    for tick in range(28):
        stamp = 9.0 + tick / 30  # the newest: 9.9
        buffer.add_image("front", stamp, image(tick))
        buffer.add_image("wrist", stamp, image(tick))
    aligned = buffer.align(9.99, "")
    assert aligned.refusal == ""
    assert int(aligned.observation.images["front"][0, 0, 0]) == 27  # the choice of pictures follows stamps alone
    assert aligned.stamps[OBS_STATE] == pytest.approx(9.84)  # taken at 9.9 - 0.06
    assert aligned.observation.stamp == 9.99


def test_a_dead_joint_state_stream_is_stale_behind_a_slow_camera_too():
    buffer = ObservationBuffer(with_latency(front=0.2, wrist=0.2))
    buffer.add_state(9.75, proprio())
    for name in ROBOT.camera_names:
        buffer.add_image(name, 9.98, image())
    assert f"{OBS_STATE} is 0.250 s old" in buffer.align(10.0, "").refusal
    buffer.add_state(9.99, proprio())
    assert buffer.align(10.0, "").refusal == ""
    fresh = ObservationBuffer(with_latency(front=0.2))
    fresh.add_state(9.99, proprio())
    for name in ROBOT.camera_names:
        fresh.add_image(name, 9.98, image())
    assert "has nothing from 0.220 s ago, when the oldest picture was taken" in fresh.align(10.0, "").refusal


def test_pictures_of_different_moments_are_apart_whatever_their_stamps():
    buffer = ObservationBuffer(with_latency(front=0.08))
    for tick in range(20):
        buffer.add_state(9.81 + tick / 100, proprio())
    for name in ROBOT.camera_names:
        buffer.add_image(name, 9.98, image())
    assert "is 0.080 s older than observation.images.wrist" in buffer.align(10.0, "").refusal


def test_a_camera_that_repeats_its_stamp_goes_stale_and_the_refusal_says_so():
    buffer = filled(front=9.5)
    for _ in range(12):
        buffer.add_image("front", 9.5, image(7))
    aligned = buffer.align(10.0, "")
    assert f"{FRONT} is 0.500 s old" in aligned.refusal
    assert "12 messages repeated a stamp" in aligned.refusal
    assert buffer.counts[FRONT].duplicates == 12


def frozen_front(motion: float, frames: int = FROZEN_FRAMES + 1) -> ObservationBuffer:
    """The front camera stamps one picture again and again while the arm moves by ``motion``."""
    buffer = ObservationBuffer(ROBOT)
    for number in range(frames):
        stamp = 10.0 + number / 30
        buffer.add_state(stamp, proprio(motion * number / (frames - 1)))
        buffer.add_image("front", stamp, image(1))
        buffer.add_image("wrist", stamp, image(number))
    return buffer


def test_a_camera_whose_pixels_stand_still_while_the_arm_moves_is_frozen():
    buffer = frozen_front(motion=0.3)
    now = 10.0 + FROZEN_FRAMES / 30
    refusal = buffer.align(now, "").refusal
    assert refusal == (
        f"{FRONT} is frozen: {FROZEN_FRAMES} frames brought new stamps and the same pixels while the arm moved"
    )
    assert (buffer.counts[FRONT].same_pixels, buffer.counts[WRIST].same_pixels) == (FROZEN_FRAMES, 0)
    changed = image(1)
    changed[50, 50] = 2
    buffer.add_image("front", now + 1 / 30, changed)
    buffer.add_image("wrist", now + 1 / 30, image(90))
    buffer.add_state(now + 1 / 30, proprio(0.3))
    assert buffer.align(now + 1 / 30, "").refusal == ""  # a camera that recovers is used again


@pytest.mark.parametrize(("motion", "frames"), [(0.02, 40), (0.3, FROZEN_FRAMES)])
def test_a_still_scene_and_a_short_repeat_are_not_frozen(motion, frames):
    buffer = frozen_front(motion, frames)
    assert buffer.align(10.0 + (frames - 1) / 30, "").refusal == ""


def late_states(picture_stands_still_from: float) -> ObservationBuffer:
    """An arm that comes to rest at 10.1 s and is held; its joint states arrive 60 ms after the pictures do.

    So each picture arrives while the newest state is from before it.
    """
    buffer = ObservationBuffer(ROBOT)
    for tick in range(100):
        now = 10.0 + tick / 100
        if tick % 3 == 0:
            for name in ROBOT.camera_names:
                buffer.add_image(name, now, image(min(tick, round(100 * (picture_stands_still_from - 10.0)))))
        buffer.add_state(now - 0.06, proprio(4 * min(now - 0.06, 10.1)))
    return buffer


def test_states_that_are_later_than_pictures_do_not_make_a_camera_of_a_resting_arm_frozen():
    assert late_states(picture_stands_still_from=10.12).align(10.96, "").refusal == ""


def test_states_that_are_later_than_pictures_still_tell_of_a_frozen_camera():
    refusal = late_states(picture_stands_still_from=10.03).align(10.96, "").refusal
    assert all(f"{key} is frozen: " in refusal for key in (FRONT, WRIST))


def test_a_camera_stays_frozen_until_it_shows_another_picture():
    buffer = frozen_front(motion=0.3)
    for number in range(30):  # the arm comes back to where it was
        stamp = 10.2 + number / 30
        buffer.add_state(stamp, proprio(0.0))
        buffer.add_image("front", stamp, image(1))
        buffer.add_image("wrist", stamp, image(number))
        assert "front is frozen: " in buffer.align(stamp, "").refusal


def test_out_of_order_messages_take_their_place():
    buffer = filled(front=9.99, state=9.98)
    buffer.add_image("front", 9.96, image(5))
    assert int(buffer.align(9.985, "").observation.images["front"][0, 0, 0]) == 5
    assert int(buffer.align(10.0, "").observation.images["front"][0, 0, 0]) == 1
    assert buffer.counts[FRONT].out_of_order == 1
    buffer.add_image("front", 9.99 - HISTORY_S - 0.1, image(6))
    assert buffer.counts[FRONT].late == 1


@pytest.mark.parametrize(
    ("spoilt", "stream", "reason"),
    [
        (
            lambda b: b.add_image("front", 10.0, image()[:50]),
            FRONT,
            "the image is (50, 96, 3) uint8 but the robot file",
        ),
        (lambda b: b.add_image("front", 10.0, image().astype(np.float32)), FRONT, "promises (96, 96, 3) uint8"),
        (lambda b: b.add_image("front", np.nan, image()), FRONT, "the stamp is nan"),
        (lambda b: b.add_state(10.0, np.zeros(6)), OBS_STATE, "the state is (6,) but the robot has 7 axes"),
        (lambda b: b.add_state(10.0, proprio(np.inf)), OBS_STATE, "a position or the stamp is not finite"),
        (lambda b: b.add_state(np.nan, proprio()), OBS_STATE, "a position or the stamp is not finite"),
    ],
)
def test_a_message_that_cannot_be_used_is_dropped_and_told(spoilt, stream, reason):
    buffer = filled(front=9.0, wrist=9.0, state=9.0)
    spoilt(buffer)
    assert buffer.counts[stream].malformed == 1
    refusal = buffer.align(10.0, "").refusal
    assert "1 refused, the last because" in refusal
    assert reason in refusal


def test_an_unknown_camera_is_an_error():
    with pytest.raises(ValueContractError, match=r"unknown camera 'frnt' \(did you mean 'front'\?\)"):
        filled().add_image("frnt", 10.0, image())


def test_clear_forgets_messages_and_keeps_counts():
    buffer = frozen_front(motion=0.3)
    buffer.clear()
    assert "has not arrived yet" in buffer.align(10.2, "").refusal
    assert buffer.counts[FRONT].received > 0


def test_values_do_not_follow_a_buffer_that_is_written_again():
    buffer = filled()
    state = proprio(0.1)
    buffer.add_state(9.999, state)
    state[:] = 9.0
    observation = buffer.align(10.0, "").observation
    np.testing.assert_array_equal(observation.proprio, proprio(0.1))
    observation.proprio[:] = 3.0
    np.testing.assert_array_equal(buffer.align(10.0, "").observation.proprio, proprio(0.1))


stamps = st.lists(st.integers(0, 900).map(lambda tick: tick / 1000), min_size=1, max_size=30)


@given(arrivals=stamps, t=st.floats(0, 1))
def test_the_choice_depends_on_stamps_alone(arrivals, t):
    """The newest stamp at or before t, in whatever order messages arrive."""
    stream = Stream()
    for stamp in arrivals:
        stream.add(stamp, np.array(stamp))
    expected = max((stamp for stamp in arrivals if stamp <= t), default=None)
    found = stream.at(t)
    assert (None if found is None else found.stamp) == expected
    assert stream.counts.received == len(arrivals)
    assert stream.counts.duplicates == len(arrivals) - len(set(arrivals))


@given(arrivals=st.permutations([k / 30 for k in range(20)]), t=st.floats(0, 0.7))
def test_live_and_replayed_in_another_order_agree(arrivals, t):
    live, replayed = ObservationBuffer(ROBOT), ObservationBuffer(ROBOT)
    for buffer, order in ((live, sorted(arrivals)), (replayed, arrivals)):
        for stamp in order:
            buffer.add_image("front", stamp, image(round(30 * stamp)))
            buffer.add_image("wrist", stamp, image(round(30 * stamp) + 100))
            buffer.add_state(stamp + 0.001, proprio(stamp))
    one, other = live.align(t, ""), replayed.align(t, "")
    assert (one.refusal, one.stamps) == (other.refusal, other.stamps)
    if one.observation is not None:
        for name in ROBOT.camera_names:
            np.testing.assert_array_equal(one.observation.images[name], other.observation.images[name])


def test_pixels_are_told_apart_by_their_values():
    big = np.random.default_rng(0).integers(0, 255, (480, 640, 3), dtype=np.uint8)
    assert fingerprint_pixels(big) == fingerprint_pixels(big.copy())
    assert fingerprint_pixels(big) != fingerprint_pixels(np.roll(big, 1, axis=1))
    assert fingerprint_pixels(big[::-1]) != fingerprint_pixels(big)
