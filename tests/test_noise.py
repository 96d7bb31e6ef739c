"""Noise as data: distributions of the levels, shares of the questions, weights that stay positive."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wam.errors import ConfigError
from wam.losses import LossConfig
from wam.noise import ASKED, QuestionMix, draw_questions, noise_levels, sigma_weight, video_levels
from wam.visibility import Question

MANY = 20_000


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(mode: str, video_shift: float = 1.0, action_shift: float = 1.0):
    return noise_levels(mode, MANY, video_shift=video_shift, action_shift=action_shift, generator=generator())


def test_coupled_levels_are_one_number_behind_two_shifts():
    same = draw("coupled")
    assert torch.equal(same.video, same.actions)
    shifted = draw("coupled", video_shift=5.0)
    assert torch.allclose(shifted.video, 5.0 * shifted.actions / (1.0 + 4.0 * shifted.actions))


@pytest.mark.parametrize("mode", ["independent", "flash"])
def test_decoupled_levels_do_not_know_each_other(mode: str):
    levels = draw(mode)
    correlation = torch.corrcoef(torch.stack((levels.video, levels.actions)))[0, 1]
    assert abs(float(correlation)) < 4.0 / math.sqrt(MANY)


def test_flash_keeps_the_video_near_noise_and_the_actions_uniform():
    levels = draw("flash")
    assert float(levels.video.mean()) == pytest.approx(7.0 / 8.0, abs=0.01)  # Beta(7, 1)
    assert float((levels.video < 0.5).float().mean()) == pytest.approx(0.5**7, abs=0.003)
    assert float(levels.actions.mean()) == pytest.approx(0.5, abs=0.01)
    assert torch.equal(
        video_levels("flash", MANY, 1.0, generator(3)) > 0.5, video_levels("flash", MANY, 5.0, generator(3)) > 5 / 6
    )


@given(
    st.sampled_from(["bell", "flat"]),
    st.floats(0.0, 1.0),
    st.lists(st.floats(0.0, 1.0), min_size=1, max_size=5),
)
def test_weights_are_finite_and_never_below_the_floor(weighting: str, floor: float, sigma: list[float]):
    weight = sigma_weight(torch.tensor(sigma, dtype=torch.float64), weighting, floor)
    assert bool(weight.isfinite().all())
    assert bool((weight >= (1.0 if weighting == "flat" else floor) - 1e-9).all())


def test_weights_have_mean_one_and_the_floor_makes_pure_noise_count():
    sigma = torch.linspace(0.0, 1.0, MANY, dtype=torch.float64)
    for weighting, floor in (("bell", 0.0), ("bell", 0.1), ("flat", 0.0)):
        assert float(sigma_weight(sigma, weighting, floor).mean()) == pytest.approx(1.0, abs=1e-3)
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    assert sigma_weight(ends, "bell", 0.0).abs().max() < 1e-12
    assert torch.allclose(sigma_weight(ends, "bell", 0.1), torch.full((2,), 0.1, dtype=torch.float64))


def test_questions_come_in_their_shares_and_need_a_future():
    mix = QuestionMix(policy=2.0, joint=1.0, inverse=1.0, forward=0.0)
    future = torch.ones(MANY, dtype=torch.bool)
    future[: MANY // 2] = False
    drawn = draw_questions(mix, future, generator())
    assert bool((drawn[~future] == ASKED.index(Question.POLICY)).all())
    shares = torch.bincount(drawn[future], minlength=4) / int(future.sum())
    assert torch.allclose(shares, torch.tensor([0.5, 0.25, 0.25, 0.0]), atol=0.02)


def test_policy_alone_takes_nothing_from_the_generator():
    source = generator()
    drawn = draw_questions(QuestionMix(), torch.ones(5, dtype=torch.bool), source)
    assert drawn.tolist() == [ASKED.index(Question.POLICY)] * 5
    assert torch.equal(source.get_state(), generator().get_state())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: QuestionMix(policy=0.0), "at least one must be positive"),
        (lambda: QuestionMix(joint=-1.0), "none may be negative"),
        (lambda: LossConfig(noise="flash"), r"bell weight is 0, and weight_floor is 0.*0\.1"),
        (lambda: LossConfig(noise="flahs"), r"unknown noise mode 'flahs' \(did you mean 'flash'\?\)"),
        (lambda: LossConfig(video_weighting="bel"), r"unknown loss weighting 'bel' \(did you mean 'bell'\?\)"),
        (lambda: LossConfig(weight_floor=1.5), r"weight_floor is 1\.5 but must lie in \[0, 1\]"),
        (
            lambda: LossConfig(video_weight=0.0, questions=QuestionMix(joint=1.0)),
            "video_weight is 0 but",
        ),
        (lambda: sigma_weight(torch.ones(1), "round", 0.0), "unknown loss weighting 'round'"),
        (lambda: draw("flush"), r"unknown noise mode 'flush' \(did you mean 'flash'\?\)"),
    ],
)
def test_what_cannot_work_is_refused(make, message: str):
    with pytest.raises(ConfigError, match=message):
        make()
