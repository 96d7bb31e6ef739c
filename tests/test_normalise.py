"""Normaliser: round trips, bounds, constant dimensions, refusals."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from wam.errors import ConfigError
from wam.normalise import MODES, Normaliser

values = arrays(np.float64, (20, 3), elements=st.floats(-100, 100))


@given(data=values, mode=st.sampled_from(MODES))
def test_invert_undoes_apply_inside_the_bound(data: np.ndarray, mode: str):
    normaliser = Normaliser.fit(data, mode, bound=1e6)
    assert np.allclose(normaliser.invert(normaliser.apply(data)), data, atol=1e-3)


@given(data=values, mode=st.sampled_from(MODES))
def test_normalised_values_stay_within_the_bound_and_finite(data: np.ndarray, mode: str):
    normaliser = Normaliser.fit(data, mode, bound=2.0)
    far = normaliser.apply(data * 1000.0)
    assert np.isfinite(far).all()
    assert np.abs(far).max() <= 2.0


def test_constant_dimension_passes_through():
    normaliser = Normaliser.fit(np.full((10, 1), 0.7))
    assert normaliser.scale == (1.0,)
    assert normaliser.apply(np.array([0.9]))[0] == pytest.approx(0.2, abs=1e-6)


def test_mean_std_and_quantile_fit_what_they_say():
    data = np.random.default_rng(0).normal(3.0, 2.0, (20_000, 1))
    by_std, by_quantile = Normaliser.fit(data, "mean_std"), Normaliser.fit(data, "quantile")
    assert by_std.offset[0] == pytest.approx(3.0, abs=0.05)
    assert by_std.scale[0] == pytest.approx(2.0, abs=0.05)
    assert by_quantile.scale[0] == pytest.approx(2.0 * 2.326, rel=0.05)  # the normal's 99th percentile


@given(data=values)
def test_json_round_trip(data: np.ndarray):
    normaliser = Normaliser.fit(data)
    assert Normaliser.from_dict(normaliser.to_dict()) == normaliser


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Normaliser.fit(np.ones((3, 2)), "minmax"), "unknown normalisation 'minmax'.*mean_std, quantile"),
        (lambda: Normaliser.fit(np.array([[np.nan]])), "only finite ones"),
        (lambda: Normaliser.fit(np.ones((0, 2))), "at least one value"),
        (lambda: Normaliser(offset=(0.0,), scale=(1.0, 1.0)), "1 offsets and 2 scales"),
        (lambda: Normaliser(offset=(0.0,), scale=(0.0,)), "scales finite and positive"),
        (lambda: Normaliser(offset=(0.0,), scale=(1.0,), bound=0.0), "bound is 0.0"),
        (lambda: Normaliser.from_dict({"offset": [0.0]}), "needs exactly bound, offset, scale"),
        (lambda: Normaliser.from_dict({"offset": ["x"], "scale": [1], "bound": 5}), "not a number"),
    ],
)
def test_bad_input_is_refused(call, message: str):
    with pytest.raises(ConfigError, match=message):
        call()
