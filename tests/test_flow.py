"""Flow matching against analytic answers."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wam.flow import (
    add_noise,
    bell_weight,
    euler_step,
    velocity_from_x,
    velocity_target,
)
from wam.sigmas import shift_sigma, sigma_schedule


def test_ends_of_the_path_are_data_and_noise():
    x, noise = torch.randn(2, 4, 3), torch.randn(2, 4, 3)
    assert torch.equal(add_noise(x, noise, torch.zeros(2)), x)
    assert torch.equal(add_noise(x, noise, torch.ones(2)), noise)


@given(n_steps=st.integers(1, 12), shift=st.floats(0.2, 8.0))
def test_euler_is_exact_on_the_constant_field_of_one_sample(n_steps: int, shift: float):
    x, noise = torch.randn(1, 5).double(), torch.randn(1, 5).double()
    sigmas = sigma_schedule(n_steps, shift)
    state = noise
    for now, later in itertools.pairwise(sigmas):
        levels = torch.tensor([[now], [later]]).double()
        state = euler_step(state, velocity_target(x, noise), levels[0], levels[1])
    assert torch.allclose(state, x, atol=1e-9)


def test_velocity_from_x_inverts_the_path():
    x, noise, sigma = torch.randn(3, 6), torch.randn(3, 6), torch.tensor([0.1, 0.5, 1.0])
    recovered = velocity_from_x(add_noise(x, noise, sigma), x, sigma)
    assert torch.allclose(recovered, velocity_target(x, noise), atol=1e-5)


@given(n_steps=st.integers(1, 50), shift=st.floats(0.2, 8.0))
def test_schedule_falls_from_one_to_zero(n_steps: int, shift: float):
    sigmas = sigma_schedule(n_steps, shift)
    assert sigmas[0] == pytest.approx(1.0)
    assert sigmas[-1] == 0.0
    assert all(now > later for now, later in itertools.pairwise(sigmas))


def test_last_of_four_steps_with_shift_five_starts_at_0_625():
    assert sigma_schedule(4, 5.0)[3] == pytest.approx(0.625)


@pytest.mark.parametrize(("n_steps", "shift"), [(0, 1.0), (4, 0.0)])
def test_impossible_schedule_is_refused(n_steps: int, shift: float):
    with pytest.raises(ValueError, match="n_steps >= 1 and shift > 0"):
        sigma_schedule(n_steps, shift)


def test_shift_works_on_tensors_as_on_numbers():
    u = torch.linspace(0, 1, 7)
    assert torch.allclose(shift_sigma(u, 3.0), torch.tensor([shift_sigma(float(v), 3.0) for v in u]))


def test_bell_weight_has_mean_one_and_vanishes_at_pure_noise():
    sigma = (torch.arange(100_000).double() + 0.5) / 100_000
    assert float(bell_weight(sigma).mean()) == pytest.approx(1.0, abs=1e-6)
    assert float(bell_weight(torch.ones(1).double())) == pytest.approx(0.0, abs=1e-12)
