"""Samplers of imagined video: exact on straight flows, UniPC better than Euler on bent ones, what is skipped and what
guidance does; PSNR and SSIM."""

import dataclasses

import numpy as np
import pytest
import torch

from wam.config import preset
from wam.errors import ConfigError
from wam.image_metrics import psnr, ssim
from wam.model import WorldActionModel
from wam.robot import load_robot
from wam.sampling import imagine_frame
from wam.video_sampling import StepCache, VideoSampling, imagine_future, integrate


def test_straight_flows_are_exact_in_one_step():
    noise, goal = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    for n_steps in (1, 5):
        end = integrate(lambda x, sigma: noise - goal, noise, 5.0, VideoSampling(n_steps=n_steps))
        torch.testing.assert_close(end, goal, atol=1e-5, rtol=1e-5)


def bent(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Velocity of Gaussian data with standard deviation 0.3 and mean 1: its flow is known in closed form."""
    level = sigma[:, None, None]
    spread = (1 - level) ** 2 * 0.09 + level**2
    clean = 1.0 + (1 - level) * 0.09 / spread * (x - (1 - level))
    return (x - clean) / level


@pytest.mark.parametrize("n_steps", [10, 20])
def test_unipc_errs_less_than_euler_at_the_same_cost(n_steps: int):
    noise = torch.randn(1, 40, 5, generator=torch.Generator().manual_seed(0)).double()
    exact = 1.0 + 0.3 * noise
    errors = {
        solver: float((integrate(bent, noise, 1.0, VideoSampling(n_steps=n_steps, solver=solver)) - exact).abs().mean())
        for solver in ("euler", "unipc")
    }
    assert errors["unipc"] < 0.5 * errors["euler"]


def test_a_velocity_that_does_not_turn_is_reused():
    calls = []

    def steady(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        calls.append(float(sigma[0]))
        return torch.ones_like(x)

    cache = StepCache(steady)
    for index in range(12):
        cache(torch.zeros(1, 2, 2), torch.full((1,), float(index)))
    assert calls == [0.0, 1.0, 6.0, 11.0]  # two to compare, then four of every five are reused
    assert cache.computed == 4


def test_the_cosine_decides_how_many_steps_are_reused():
    for angle, skipped in ((0.1, 4), (0.35, 2), (0.6, 0)):
        directions = [torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[np.cos(angle), np.sin(angle)]]]).float()]
        left = iter(directions)
        cache = StepCache(lambda x, sigma, left=left: next(left))
        for _ in range(2 + skipped):
            cache(torch.zeros(1, 1, 2), torch.zeros(1))
        assert cache.computed == 2
        with pytest.raises(StopIteration):  # the next one is computed again
            cache(torch.zeros(1, 1, 2), torch.zeros(1))


@pytest.fixture(scope="module")
def model() -> WorldActionModel:
    torch.manual_seed(0)
    return WorldActionModel(dataclasses.replace(preset("micro", load_robot("sim6")), future_frames=2)).eval()


def observation(model: WorldActionModel) -> dict:
    config, generator = model.config, torch.Generator().manual_seed(1)
    shape = (2, config.n_cameras, *config.image_size_px, 3)
    ids = torch.randint(1, 4096, (2, config.prompt_length), generator=generator)
    with torch.no_grad():
        return {
            "images": torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8),
            "proprio": torch.randn(2, config.action_dim, generator=generator),
            "prompt": model.encode_prompt(ids),
        }


def test_default_imagination_ends_in_the_frame_that_others_show(model: WorldActionModel):
    x = observation(model)
    frames = imagine_future(model, **x, options=VideoSampling(n_steps=3), seed=5)
    assert frames.shape == (2, 2, *x["images"].shape[1:])
    assert torch.equal(frames[:, -1], imagine_frame(model, **x, n_steps=3, seed=5))


def test_given_actions_guidance_and_seed_change_what_is_imagined(model: WorldActionModel):
    x, options = observation(model), VideoSampling(n_steps=2)
    with torch.no_grad():
        empty = model.encode_prompt(torch.zeros(2, model.config.prompt_length, dtype=torch.int64))
    plain = imagine_future(model, **x, options=options)
    chunk = torch.randn(2, model.config.chunk_length, model.config.action_dim)
    guided = dataclasses.replace(options, guidance=3.0)
    assert not torch.equal(plain, imagine_future(model, **x, options=options, actions=chunk))
    assert not torch.equal(plain, imagine_future(model, **x, options=options, seed=1))
    assert not torch.equal(plain, imagine_future(model, **x, options=guided, empty_prompt=empty))
    same = imagine_future(model, **x, options=guided, empty_prompt=x["prompt"])  # away from itself: nowhere
    assert int((plain.int() - same.int()).abs().max()) <= 1
    with pytest.raises(ConfigError, match="guidance 3.0 needs the keys and values of an empty instruction"):
        imagine_future(model, **x, options=guided)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"solver": "uni"}, r"unknown solver 'uni'"), ({"n_steps": 0}, "n_steps is 0 but a sampler needs at least 1")],
)
def test_impossible_options(options: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        VideoSampling(**options)


def test_psnr_is_the_textbooks():
    first = np.full((2, 8, 8, 3), 100, dtype=np.uint8)
    second = first + np.uint8(10)
    assert np.allclose(psnr(first, second), 10 * np.log10(255**2 / 100))
    assert np.allclose(psnr(first, first), 100.0)


def test_ssim_knows_same_from_other():
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (2, 24, 24, 3), dtype=np.uint8)
    other = generator.integers(0, 256, (2, 24, 24, 3), dtype=np.uint8)
    assert np.allclose(ssim(image, image), 1.0)
    assert np.allclose(ssim(image, other), ssim(other, image))
    assert (abs(ssim(image, other)) < 0.1).all()
    flat = np.full((1, 24, 24, 3), 50, dtype=np.uint8)  # no structure: only the luminance term is left
    brighter = np.full((1, 24, 24, 3), 100, dtype=np.uint8)
    c1 = (0.01 * 255) ** 2
    assert np.allclose(ssim(flat, brighter), (2 * 50 * 100 + c1) / (50**2 + 100**2 + c1))
