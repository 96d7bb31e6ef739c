"""Statistics of an evaluation: exact intervals, exact paired tests, latency percentiles.

Success counts are small and often near all or nothing, where the normal approximation lies, so everything here is
exact: Clopper-Pearson intervals and the binomial form of McNemar's test on paired seeds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from scipy import special

from policy.timing import percentiles_ms

__all__ = ["PairedTest", "SuccessRate", "mcnemar_exact", "percentiles_ms", "success_rate"]


@dataclass(frozen=True, kw_only=True)
class SuccessRate:
    """Successes of n independent episodes with a two-sided interval."""

    successes: int  # episodes that succeeded
    episodes: int  # episodes that ran
    rate: float  # successes / episodes, in [0, 1]
    low: float  # lower end of the interval, in [0, 1]
    high: float  # upper end of the interval, in [0, 1]


@dataclass(frozen=True, kw_only=True)
class PairedTest:
    """Two policies on the same seeds: where they disagree, and how surprising that is."""

    only_first: int  # seeds where the first succeeded and the second did not
    only_second: int  # seeds where the second succeeded and the first did not
    p_value: float  # two-sided exact McNemar p, 1 when they never disagree
    episodes: int  # paired seeds


def success_rate(successes: int, episodes: int, *, confidence: float = 0.95) -> SuccessRate:
    """Returns the success rate with its Clopper-Pearson interval.

    The ends are the quantiles of Beta(k, n - k + 1) and Beta(k + 1, n - k) at (1 -+ confidence) / 2.
    Source: Clopper and Pearson, Biometrika 26 (1934).

    Args:
        successes: k, in [0, episodes].
        episodes: n, at least 1.
        confidence: Coverage of the interval, in (0, 1).

    Raises:
        ValueError: The counts or the confidence are impossible.
    """
    if episodes < 1 or not 0 <= successes <= episodes:
        raise ValueError(f"{successes} successes of {episodes} episodes is impossible: 0 <= successes <= episodes.")
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence is {confidence} but must lie strictly between 0 and 1.")
    tail = (1.0 - confidence) / 2.0
    failures = episodes - successes
    low = float(special.betaincinv(successes, failures + 1, tail)) if successes else 0.0
    high = float(special.betaincinv(successes + 1, failures, 1.0 - tail)) if failures else 1.0
    return SuccessRate(successes=successes, episodes=episodes, rate=successes / episodes, low=low, high=high)


def mcnemar_exact(first: Sequence[bool], second: Sequence[bool]) -> PairedTest:
    """Compares two policies on the same seeds.

    Under "equally good" each disagreement is a fair coin, so p = min(1, 2 P(Binomial(b + c, 1/2) <= min(b, c))).
    Source: McNemar, Psychometrika 12 (1947), exact form.

    Args:
        first: Success per seed of the first policy.
        second: Success per seed of the second policy, in the same order of seeds.

    Raises:
        ValueError: The two have different lengths.
    """
    if len(first) != len(second):
        raise ValueError(f"paired outcomes have lengths {len(first)} and {len(second)}: pair them by seed first.")
    only_first = sum(a and not b for a, b in zip(first, second, strict=True))
    only_second = sum(b and not a for a, b in zip(first, second, strict=True))
    disagreements = only_first + only_second
    p_value = min(1.0, 2.0 * float(special.bdtr(min(only_first, only_second), disagreements, 0.5)))
    return PairedTest(only_first=only_first, only_second=only_second, p_value=p_value, episodes=len(first))
