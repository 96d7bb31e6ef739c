"""Real-time chunking, ensembling and the delay forecast, on models with known answers."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.delay import DelayForecast
from policy.ensemble import Ensemble
from policy.errors import PolicyError
from policy.rtc import Continuation, guided_denoise, prefix_denoise, soft_weights
from wam.sigmas import sigma_schedule
from wam.spec import ActionChunk

H, A = 16, 3


class Gaussian:
    """The exact flow of actions ~ N(mean, spread^2) that share one offset per chunk, so that a prefix tells the rest.

    The clean chunk given x at levels s is the Gaussian posterior mean; actions at level 0 are observed exactly.
    """

    def __init__(self, mean: np.ndarray, *, own: float = 0.05, shared: float = 1.0) -> None:
        self.mean = mean  # (H, A)
        self.covariance = shared**2 * np.ones((H, H)) + own**2 * np.eye(H)
        self.calls = 0

    def denoise_step(self, actions, sigma, sigma_next):
        assert actions.dtype == sigma.dtype == sigma_next.dtype == np.float32
        self.calls += 1
        gain = np.diag(1.0 - sigma.astype(float))
        noise = np.diag(sigma.astype(float) ** 2 + 1e-9)
        k = self.covariance @ gain @ np.linalg.inv(gain @ self.covariance @ gain + noise)
        clean = self.mean + k @ (actions - gain @ self.mean)  # (H, A)
        velocity = (actions - clean) / np.maximum(sigma, 1e-6)[:, None]
        return (actions + velocity * (sigma_next - sigma)[:, None]).astype(np.float32)


def noise(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((H, A), dtype=np.float32)


def continuation(actions: int = H, *, delay: int = 2, horizon: int = 6, **changes) -> Continuation:
    values = np.full((actions, A), 0.7, dtype=np.float32)
    return Continuation(actions=values, delay=delay, horizon=horizon, **changes)


@pytest.mark.parametrize("n_steps", [2, 4, 10])
def test_without_weights_guidance_changes_nothing(n_steps):
    model = Gaussian(np.zeros((H, A)))
    sigmas = sigma_schedule(n_steps, 1.0)
    free = noise()
    for one, two in itertools.pairwise(sigmas):
        free = model.denoise_step(free, *(np.full(H, level, dtype=np.float32) for level in (one, two)))
    guided = guided_denoise(model, noise(), sigmas, np.ones((H, A), np.float32), np.zeros((H, 1), np.float32))
    np.testing.assert_allclose(guided, free, atol=1e-5)


@pytest.mark.parametrize("n_steps", [1, 2, 4, 10])
def test_guidance_reaches_the_committed_actions(n_steps):
    known = continuation(delay=3, horizon=8)
    weights, sigmas = soft_weights(H, known), sigma_schedule(n_steps, 1.0)
    model = Gaussian(np.zeros((H, A)))

    def error(share: float) -> float:
        chunks = [guided_denoise(model, noise(seed), sigmas, known.actions, share * weights) for seed in range(20)]
        return float(np.abs(np.array(chunks) - known.actions)[:, :3].mean())

    assert error(1.0) <= 0.05 * error(0.0)


def test_few_steps_do_not_shoot_past_the_target():
    """Why the factor has a second limit: the free actions follow the committed ones instead of overshooting."""
    known = continuation(delay=3, horizon=8)
    weights, rest = soft_weights(H, known), []
    for n_steps in (2, 4, 10):
        model = Gaussian(np.zeros((H, A)))
        guided = [
            guided_denoise(model, noise(seed), sigma_schedule(n_steps, 1.0), known.actions, weights)
            for seed in range(10)
        ]
        rest.append(np.abs(np.array(guided) - known.actions)[:, 8:].mean())
    assert max(rest) < 0.35  # without it 1.6 and 0.5 at two and four steps


@pytest.mark.parametrize("n_steps", [1, 4, 10])
def test_a_hard_prefix_is_kept_to_the_bit_and_informs_the_rest(n_steps):
    model = Gaussian(np.zeros((H, A)))
    prefix = np.full((4, A), 0.7, dtype=np.float32)
    chunk = prefix_denoise(model, noise(), sigma_schedule(n_steps, 1.0), prefix)
    np.testing.assert_array_equal(chunk[:4], prefix)
    np.testing.assert_allclose(chunk[4:].mean(axis=0), 0.7, atol=0.1)  # the shared offset was read off the prefix
    assert model.calls == n_steps


def test_an_empty_prefix_is_plain_denoising():
    model, sigmas = Gaussian(np.ones((H, A))), sigma_schedule(4, 1.0)
    free = guided_denoise(model, noise(), sigmas, np.zeros((H, A), np.float32), np.zeros((H, 1), np.float32))
    np.testing.assert_allclose(prefix_denoise(model, noise(), sigmas, np.zeros((0, A))), free, atol=1e-5)


def test_inputs_are_not_written_to():
    given_noise = noise()
    before = given_noise.copy()
    prefix_denoise(Gaussian(np.zeros((H, A))), given_noise, sigma_schedule(2, 1.0), np.ones((2, A), np.float32))
    np.testing.assert_array_equal(given_noise, before)


@given(delay=st.integers(0, 20), ahead=st.integers(1, 20), extra=st.integers(0, 10))
def test_weights_fall_from_what_is_committed_to_the_horizon(delay, ahead, extra):
    known = continuation(ahead, delay=delay, horizon=delay + extra)
    weights = soft_weights(H, known)[:, 0]
    assert weights.shape == (H,)
    assert ((weights >= 0) & (weights <= 1)).all()
    assert (np.diff(weights) <= 1e-6).all()
    assert (weights[: min(delay, ahead)] == 1).all()
    assert (weights[min(delay + extra, ahead) :] == 0).all() or delay >= min(delay + extra, ahead)
    assert (weights[ahead:] == 0).all()


@pytest.mark.parametrize(
    "changes", [{"delay": -1}, {"delay": 3, "horizon": 2}, {"actions": np.zeros((0, A))}, {"actions": np.zeros(A)}]
)
def test_impossible_continuations_are_refused(changes):
    with pytest.raises(PolicyError, match="there must be actions left, a delay of 0 or more and a horizon"):
        dataclasses.replace(continuation(), **changes)


# Delay.
def test_one_warm_up_spike_does_not_poison_the_forecast():
    forecast = DelayForecast()
    assert forecast.steps(default=3) == 3
    forecast.add(40)  # the first inference compiles, allocates and loads
    forecast.add(2)
    assert forecast.steps() == 2
    for _ in range(10):
        forecast.add(2)
        assert forecast.steps() == 2


def test_the_forecast_follows_a_change_and_covers_jitter():
    forecast = DelayForecast()
    for _ in range(30):
        forecast.add(2)
    for _ in range(30):
        forecast.add(5)
    assert forecast.steps() == 5
    for number in range(40):
        forecast.add(4 if number % 4 == 0 else 2)
    assert forecast.steps() == 4  # a quarter of the chunks take longer: expect it
    forecast.clear()
    assert forecast.steps() == 0


@given(delays=st.lists(st.integers(0, 100), min_size=1, max_size=60))
def test_the_forecast_is_a_delay_that_was_measured_lately(delays):
    forecast = DelayForecast()
    for delay in delays:
        forecast.add(delay)
    assert forecast.steps() in delays[-20:]
    higher = sum(delay > forecast.steps() for delay in delays[-20:])
    assert higher <= 1 + 0.1 * len(delays[-20:])


# Ensembling.
def chunk(stamp: float, value: float, *, length: int = 6) -> ActionChunk:
    actions = np.full((length, 2), value, dtype=np.float32)
    return ActionChunk(actions=actions, stamp=stamp, control_dt=0.1, anchor=np.full(2, stamp, dtype=np.float32))


def test_an_ensemble_weights_every_plan_for_an_instant():
    ensemble = Ensemble(decay=0.5)
    np.testing.assert_array_equal(ensemble.add(chunk(0.0, 1.0)).actions, 1.0)
    both = ensemble.add(chunk(0.2, 4.0))
    share = np.exp(-0.5)  # of the newer one
    expected = (1.0 + share * 4.0) / (1 + share)
    np.testing.assert_allclose(both.actions[:4, 0], expected, rtol=1e-6)
    np.testing.assert_allclose(both.actions[4:, 0], 4.0)  # nobody else planned for these
    assert (both.stamp, both.anchor[0]) == (0.2, np.float32(0.2))
    np.testing.assert_array_equal(ensemble.add(chunk(5.0, 9.0)).actions, 9.0)  # the others are long over


@given(offset=st.floats(0.0, 0.5), slope=st.floats(-1, 1))
def test_plans_that_agree_are_unchanged_at_any_offset(offset, slope):
    ensemble = Ensemble()
    for stamp in (0.0, offset):
        times = stamp + 0.1 * np.arange(6)
        actions = np.repeat(slope * times[:, None], 2, axis=1).astype(np.float32)
        made = ActionChunk(actions=actions, stamp=stamp, control_dt=0.1, anchor=np.zeros(2, dtype=np.float32))
        np.testing.assert_allclose(ensemble.add(made).actions, actions, atol=2e-4)
