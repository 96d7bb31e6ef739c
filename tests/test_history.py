"""Which frames an observation is made of: training, a robot's buffer and a simulation pick the same ones."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policy.alignment import ObservationBuffer
from policy.errors import PolicyError
from policy.history import History, ObservationHistory
from policy.runner import Policy
from wam.batches import instants_of, make_batch
from wam.config import preset
from wam.dataset import Episodes
from wam.errors import ValueContractError
from wam.history import Window, pick
from wam.manifest import FORMAT_VERSION, GRAPH_NAMES, GraphSpec, Manifest, ParityReport
from wam.normalise import Normaliser
from wam.robot import load_robot
from wam.spec import Observation
from wam.transforms import Transforms

ROBOT = load_robot("sim6")
IDENTITY = Normaliser(offset=(0.0,) * 7, scale=(1.0,) * 7, bound=1e9)
TRANSFORMS = Transforms(image_size_px=(32, 32), proprio=IDENTITY, action=IDENTITY)
CAMERA_MS, TICK_MS, STATE_MS = 33, 100, 10
PICTURES = [np.full((96, 96, 3), number, dtype=np.uint8) for number in range(256)]


def looking_back(n: int, stride: int, **changes):
    return dataclasses.replace(preset("micro", ROBOT), n_obs_steps=n, obs_stride=stride, **changes)


def window_of(config) -> Window:
    return Window(n_instants=config.n_instants, spacing=config.obs_stride * ROBOT.control_dt)


# -- the sampling function ---------------------------------------------------------------------------------------------


def test_the_present_comes_last_and_nothing_lies_before_the_beginning():
    window = Window(n_instants=4, spacing=0.4)
    assert window.times(10.0).tolist() == pytest.approx([8.8, 9.2, 9.6, 10.0], abs=2e-6)
    assert window.times(10.0)[-1] == 10.0
    assert window.times(10.0, begin=9.5).tolist() == pytest.approx([9.5, 9.5, 9.6, 10.0], abs=2e-6)
    assert window.times(10.0, begin=10.0).tolist() == [10.0] * 4  # the first observation stands in for its past
    assert window.span == pytest.approx(1.2)
    assert Window().times(3.0).tolist() == [3.0]


@given(
    stamps=st.lists(st.integers(0, 500), min_size=1, max_size=40, unique=True).map(sorted),
    times=st.lists(st.integers(-50, 600), min_size=1, max_size=6),
    longest=st.integers(0, 100),
)
def test_the_newest_frame_at_or_before_a_time_serves_it(stamps, times, longest):
    picked = pick([float(s) for s in stamps], [float(t) for t in times], float(longest))
    for time, place, age, old in zip(times, picked.places, picked.ages, picked.too_old, strict=True):
        before = [stamp for stamp in stamps if stamp <= time]
        assert stamps[place] == (before[-1] if before else stamps[0])
        assert age == time - stamps[place]
        assert old == (age > longest)


def test_nothing_can_be_picked_from_nothing():
    with pytest.raises(ValueError, match="no frame can be picked where there is none"):
        pick([], [1.0])


# -- training and a robot's buffer pick the same frames ----------------------------------------------------------------


@st.composite
def streams(draw):
    """A camera at 30 Hz with jitter and lost frames, ticks at the control rate, and how far back is looked."""
    frames = draw(st.integers(20, 90))
    return {
        "jitter_ms": draw(st.lists(st.integers(-12, 12), min_size=frames, max_size=frames)),
        "lost": draw(st.sets(st.integers(1, frames - 1), max_size=frames // 2)),
        "first_ms": draw(st.integers(0, 150)),
        "base_s": draw(st.sampled_from([0.0, 1_790_000_000.0])),  # simulated time, and time since 1970
        "n": draw(st.integers(1, 4)),
        "stride": draw(st.integers(1, 5)),
    }


def streamed(case, config) -> list[Observation]:
    """What a robot with these streams saw at every tick, up to the first that was refused."""
    base, jitter = case["base_s"], case["jitter_ms"]
    messages = []
    for number, shift in enumerate(jitter):
        if number not in case["lost"]:
            messages.append((20 + CAMERA_MS * number + shift, 1, number))
    messages += [(ms, 0, ms) for ms in range(0, CAMERA_MS * len(jitter), STATE_MS)]
    buffer, seen, tick = ObservationBuffer(ROBOT, window=window_of(config)), [], case["first_ms"]
    for ms, kind, value in sorted(messages):
        while tick < ms:
            observation = buffer.align(base + tick / 1000, "reach").observation
            if observation is not None:
                seen.append(observation)
            elif seen:
                return seen  # here a recording is cut in two
            tick += TICK_MS
        if kind == 0:
            buffer.add_state(base + ms / 1000, np.full(7, value, dtype=np.float32))
        else:
            for name in ROBOT.camera_names:
                buffer.add_image(name, base + ms / 1000, PICTURES[value])
    return seen


def recorded(seen: list[Observation]) -> Episodes:
    """The dataset of these ticks, between two other episodes; a frame is one pixel of what was seen."""
    images = np.stack([np.stack([seen_.images[name][:1, :1] for name in ROBOT.camera_names]) for seen_ in seen])
    proprio = np.stack([observation.proprio for observation in seen])
    other_images, other = np.full((7, *images.shape[1:]), 200, np.uint8), np.full((7, 7), -1.0, np.float32)
    lengths = np.array([7, len(seen), 7])
    return Episodes(
        frames=np.concatenate((other_images, images, other_images)),
        proprio=np.concatenate((other, proprio, other)),
        action=np.concatenate((other, proprio, other)),
        task_index=np.zeros(int(lengths.sum()), dtype=np.int64),
        tasks=("reach",),
        start=np.concatenate(([0], np.cumsum(lengths)[:-1])),
        length=lengths,
    )


@settings(deadline=None, max_examples=40)
@given(case=streams())
def test_training_picks_the_frames_that_a_robot_picked(case):
    """At every index of an episode, whatever the jitter, the lost frames, the window and the origin of time."""
    config = looking_back(case["n"], case["stride"])
    seen = streamed(case, config)
    if not seen:
        return
    batch = make_batch(recorded(seen), 7 + np.arange(len(seen)), config, TRANSFORMS)
    for index, observation in enumerate(seen):
        assert len(observation.history) == case["n"] - 1
        instants = (*observation.history, observation)
        images = batch.seen_images[index] if case["n"] > 1 else batch.seen_images[index][None]
        proprio = batch.seen_proprio[index] if case["n"] > 1 else batch.seen_proprio[index][None]
        for instant, trained, state in zip(instants, images, proprio, strict=True):
            robot = [int(instant.images[name][0, 0, 0]) for name in ROBOT.camera_names]
            assert robot == trained[:, 0, 0, 0].tolist()
            assert np.array_equal(instant.proprio, state.numpy())


def test_indices_slide_with_the_present_and_stop_at_the_start_of_the_episode():
    episodes = recorded([observation(0.1 * step) for step in range(12)])
    config = looking_back(3, 4)
    found = instants_of(episodes, np.array([7, 8, 11, 12, 18]), config)
    assert found.tolist() == [[7, 7, 7], [7, 7, 8], [7, 7, 11], [7, 8, 12], [10, 14, 18]]


# -- the buffer --------------------------------------------------------------------------------------------------------


def observation(stamp: float, value: int = 0, **changes) -> Observation:
    images = dict.fromkeys(ROBOT.camera_names, PICTURES[value])
    return Observation(
        **{"images": images, "proprio": np.full(7, stamp, np.float32), "task": "reach", "stamp": stamp, **changes}
    )


def feed(buffer: ObservationBuffer, first: int, last: int) -> None:
    """Messages every 50 ms, numbered by their time in hundredths."""
    for step in range(first, last + 1, 5):
        for name in ROBOT.camera_names:
            buffer.add_image(name, step / 100, PICTURES[step % 256])
        buffer.add_state(step / 100, np.full(7, step, dtype=np.float32))


def values(seen: Observation | None) -> list[int]:
    assert seen is not None
    return [int(instant.images["front"][0, 0, 0]) for instant in (*seen.history, seen)]


def test_an_episode_begins_with_its_first_observation_and_slides_from_there():
    buffer = ObservationBuffer(ROBOT, window=Window(n_instants=3, spacing=0.4))
    feed(buffer, 0, 50)
    assert values(buffer.align(0.5, "reach").observation) == [50, 50, 50]  # what came before is of no episode
    feed(buffer, 55, 200)
    assert values(buffer.align(0.7, "reach").observation) == [50, 50, 70]
    assert values(buffer.align(1.0, "reach").observation) == [50, 60, 100]
    feed(buffer, 205, 250)
    assert values(buffer.align(2.5, "reach").observation) == [170, 210, 250]
    assert buffer.holes == 0


def test_clearing_begins_a_new_episode():
    buffer = ObservationBuffer(ROBOT, window=Window(n_instants=2, spacing=0.4))
    feed(buffer, 0, 200)
    assert values(buffer.align(1.0, "reach").observation) == [100, 100]
    assert values(buffer.align(2.0, "reach").observation) == [160, 200]
    buffer.clear()
    feed(buffer, 205, 215)
    assert values(buffer.align(2.1, "reach").observation) == [210, 210]


def test_a_hole_in_the_past_is_filled_by_what_came_after_it():
    """The streams were silent between 1.2 and 2.0 s: instants in there have nothing that is fresh enough."""
    buffer = ObservationBuffer(ROBOT, window=Window(n_instants=4, spacing=0.4))
    feed(buffer, 0, 120)
    buffer.align(0.1, "reach")
    feed(buffer, 200, 240)
    assert buffer.align(1.9, "reach").observation is None
    aligned = buffer.align(2.4, "reach")
    assert values(aligned.observation) == [120, 200, 200, 240]  # 1.2 s is known, 1.6 is not
    assert buffer.holes == 1
    assert [instant.stamp for instant in aligned.observation.history] == pytest.approx([1.2, 2.0, 2.0], abs=1e-5)
    aligned.observation.validate(ROBOT)


def test_a_buffer_keeps_as_much_as_its_window_needs():
    buffer = ObservationBuffer(ROBOT, window=Window(n_instants=3, spacing=2.0))
    feed(buffer, 0, 100)
    buffer.align(1.0, "reach")
    feed(buffer, 105, 1000)
    assert values(buffer.align(10.0, "reach").observation)[:2] == [600 % 256, 800 % 256]


def test_a_camera_that_is_fresh_now_was_not_frozen_before():
    """The picture stood still while the arm came to rest: a state of the past is no evidence against the camera."""
    buffer = ObservationBuffer(ROBOT, window=Window(n_instants=2, spacing=0.4))
    for step in range(101):
        for name in ROBOT.camera_names:
            buffer.add_image(name, step / 100, PICTURES[min(step, 60)])
        buffer.add_state(step / 100, np.full(7, min(step, 60) / 50, dtype=np.float32))
        if step == 10:
            buffer.align(0.1, "reach")
    assert values(buffer.align(0.9, "reach").observation) == [50, 60]
    assert buffer.holes == 0


def test_one_instant_is_what_it_always_was():
    buffer = ObservationBuffer(ROBOT)
    feed(buffer, 0, 50)
    assert buffer.align(0.5, "reach").observation.history == ()
    single = observation(1.0)
    assert History(Window()).with_past(single, lambda time: pytest.fail("nothing is asked")) is single


# -- observations without a buffer -------------------------------------------------------------------------------------


def test_a_ring_of_observations_gives_each_its_past():
    ring = ObservationHistory(Window(n_instants=3, spacing=0.4))
    got = [values(ring.add(observation(0.1 * step, step))) for step in range(12)]
    assert got[:5] == [[0, 0, 0], [0, 0, 1], [0, 0, 2], [0, 0, 3], [0, 0, 4]]
    assert got[-1] == [3, 7, 11]
    assert len(ring._ring) <= 10  # what is older than the window is gone
    ring.clear()
    assert values(ring.add(observation(0.0, 50))) == [50, 50, 50]


def test_a_ring_does_not_serve_what_is_too_old():
    ring = ObservationHistory(Window(n_instants=2, spacing=0.4), longest_s=0.15)
    ring.add(observation(0.0, 1))
    ring.add(observation(0.1, 2))
    assert values(ring.add(observation(0.9, 9))) == [9, 9]


def test_a_history_goes_from_the_oldest_to_the_newest():
    wrong = observation(1.0, history=(observation(1.2),))
    with pytest.raises(ValueContractError, match="holds stamp 1.2 before 1.0: it must go from the oldest"):
        wrong.validate(ROBOT)
    broken = observation(1.0, history=(observation(0.6, proprio=np.full(7, np.nan, np.float32)),))
    with pytest.raises(ValueContractError, match="proprio is not finite"):
        broken.validate(ROBOT)


# -- the policy --------------------------------------------------------------------------------------------------------


class NotingBackend:
    """Notes what it is given."""

    name, device, threads = "fake", "cpu", 1

    def encode_prompt(self, token_ids):
        return tuple(token_ids)

    def encode_context(self, images, proprio, prompt):
        self.images, self.proprio = images, proprio

    def denoise(self, noise, sigmas):
        return 0.0 * noise


class NotingStream(NotingBackend):
    """The same with a memory."""

    forgotten = 0

    def encode_stream(self, images, proprio, prompt, stamps):
        self.encode_context(images, proprio, prompt)
        self.stamps = list(stamps)

    def forget(self):
        self.forgotten += 1


def policy(backend, **changes) -> Policy:
    config = looking_back(3, 4, **changes)
    graphs = {name: GraphSpec(file=f"{name}.onnx", inputs=(), outputs=()) for name in GRAPH_NAMES}
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        robot=ROBOT,
        robot_fingerprint=ROBOT.fingerprint(),
        model=config,
        transforms=TRANSFORMS,
        cameras=ROBOT.camera_names,
        chunk_length=config.chunk_length,
        control_dt=ROBOT.control_dt,
        n_steps=1,
        dtype="float32",
        threads=None,
        graphs=graphs,
        weights=None,
        files={},
        checkpoint={},
        versions={},
        parity=ParityReport(
            reference="", runtime="", graph_dtype="", layers="", samples=0, tolerance=0.0, graphs={}, chunk={}
        ),
        quantisation={},
    )
    return Policy(manifest, backend)


def test_a_policy_stacks_all_instants_the_present_last():
    backend = NotingBackend()
    acting = policy(backend)
    assert (acting.window.n_instants, acting.window.spacing) == (3, pytest.approx(0.4))
    acting.warm_up()
    assert backend.images.shape == (3, 2, 32, 32, 3)
    past = (observation(0.2, 2), observation(0.6, 6))
    acting.infer(observation(1.0, 10, history=past))
    assert backend.images[:, 0, 0, 0, 0].tolist() == [2, 6, 10]
    assert backend.proprio[:, 0].tolist() == pytest.approx([0.2, 0.6, 1.0])


def test_an_observation_without_a_past_is_the_first_of_its_episode():
    backend = NotingBackend()
    policy(backend).infer(observation(1.0, 10))
    assert backend.images[:, 0, 0, 0, 0].tolist() == [10, 10, 10]
    with pytest.raises(PolicyError, match="has 3 earlier instants but this policy looks back on 2: make them with"):
        policy(backend).infer(observation(1.0, history=tuple(observation(t) for t in (0.1, 0.2, 0.3))))


def test_a_backend_with_a_memory_is_told_times_and_episodes():
    backend = NotingStream()
    acting = policy(backend, obs_attention="causal", obs_lead=1)
    acting.infer(observation(1.0, 10, history=(observation(0.2, 2), observation(0.6, 6))))
    assert backend.stamps == [0.2, 0.2, 0.6, 1.0]  # one instant leads up to the three
    acting.reset()
    assert backend.forgotten == 1


def test_times_are_finite_whatever_the_beginning():
    assert all(math.isfinite(t) for t in Window(n_instants=3, spacing=0.1).times(5.0, begin=-math.inf))
