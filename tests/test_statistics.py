"""Statistics against published values and independent implementations; the seed splits."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sim.splits import SPLITS, episode_seeds, split_of
from sim.statistics import mcnemar_exact, percentiles_ms, success_rate
from wam.errors import ConfigError


@pytest.mark.parametrize(
    ("successes", "episodes", "low", "high"),
    [
        (160, 200, 0.7378, 0.8531),  # EVALUATION: n = 200 at 80 % means 74-85
        (0, 10, 0.0, 0.3085),  # 1 - 0.025 ** (1 / 10)
        (10, 10, 0.6915, 1.0),
        (1, 1, 0.025, 1.0),
    ],
)
def test_interval_known_values(successes: int, episodes: int, low: float, high: float) -> None:
    rate = success_rate(successes, episodes)
    assert (rate.low, rate.high) == pytest.approx((low, high), abs=6e-5)
    assert rate.rate == successes / episodes


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_interval_agrees_with_scipy_binomtest(counts: tuple[int, int]) -> None:
    successes, episodes = counts
    expected = stats.binomtest(successes, episodes).proportion_ci(0.95, method="exact")
    rate = success_rate(successes, episodes)
    assert (rate.low, rate.high) == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert 0.0 <= rate.low <= rate.rate <= rate.high <= 1.0


@pytest.mark.parametrize(("successes", "episodes"), [(3, 2), (-1, 5), (0, 0)])
def test_impossible_counts_are_refused(successes: int, episodes: int) -> None:
    with pytest.raises(ValueError, match=f"{successes} successes of {episodes} episodes is impossible"):
        success_rate(successes, episodes)


def test_impossible_confidence_is_refused() -> None:
    with pytest.raises(ValueError, match="confidence is 95 but must lie strictly between 0 and 1"):
        success_rate(1, 2, confidence=95)


def test_mcnemar_known_value() -> None:
    # 1 against 9 disagreements: p = 2 * (1 + 10) / 2**10
    first = [True] * 9 + [False] + [True] * 5 + [False] * 5
    second = [False] * 9 + [True] + [True] * 5 + [False] * 5
    paired = mcnemar_exact(first, second)
    assert (paired.only_first, paired.only_second, paired.episodes) == (9, 1, 20)
    assert paired.p_value == pytest.approx(22 / 1024)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=60))
def test_mcnemar_agrees_with_binomtest_and_is_symmetric(pairs: list[tuple[bool, bool]]) -> None:
    first, second = [a for a, _ in pairs], [b for _, b in pairs]
    forward, backward = mcnemar_exact(first, second), mcnemar_exact(second, first)
    assert forward.p_value == backward.p_value
    disagreements = forward.only_first + forward.only_second
    expected = stats.binomtest(forward.only_first, disagreements).pvalue if disagreements else 1.0
    assert forward.p_value == pytest.approx(expected)


def test_mcnemar_needs_pairs() -> None:
    with pytest.raises(ValueError, match="lengths 1 and 2: pair them by seed"):
        mcnemar_exact([True], [True, False])


def test_percentiles_name_the_tail() -> None:
    summary = percentiles_ms(np.arange(1, 102, dtype=float))
    assert summary == {"p50": 51.0, "p95": 96.0, "p99": 100.0, "max": 101.0, "count": 101}
    assert percentiles_ms([])["count"] == 0


def test_splits_are_disjoint_and_as_the_protocol_says() -> None:
    assert SPLITS["demos"] == range(0, 100_000)
    assert SPLITS["validation"] == range(100_000, 200_000)
    assert SPLITS["test"].start == 1_000_000
    spans = sorted((seeds.start, seeds.stop) for seeds in SPLITS.values())
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans))


@given(st.sampled_from(sorted(SPLITS)), st.integers(1, 500), st.integers(0, 1000))
def test_seeds_stay_in_their_split(split: str, count: int, first: int) -> None:
    seeds = episode_seeds(split, count, first=first)
    assert len(set(seeds)) == count
    assert {split_of(seed) for seed in seeds} == {split}


def test_split_errors_name_the_fix() -> None:
    with pytest.raises(ConfigError, match="unknown split 'tset'.*did you mean 'test'"):
        episode_seeds("tset", 1)
    with pytest.raises(ConfigError, match="episodes is 0 but must be at least 1"):
        episode_seeds("test", 0)
    with pytest.raises(ConfigError, match="would leak in"):
        episode_seeds("demos", 100_001)
    with pytest.raises(ConfigError, match="seed 500000 belongs to no split"):
        split_of(500_000)
