"""Scores of a learned simulator: how close its pictures are, whether it listens to the actions, how it ranks chunks.

Intervals are bootstraps over starts, because plans from one start share a scene.

Shape legend: S starts, Q plans of one start, N chunks (horizons), K cameras.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.stats import rankdata

from wam.image_metrics import psnr, ssim

__all__ = ["ordered_pairs", "picture_scores", "rank_correlation", "told_apart"]

RESAMPLES = 1000
TIE = 1e-3  # of progress: what differs by less has no order
METRICS = {"psnr": psnr, "ssim": ssim}


def picture_scores(
    forecasts: Mapping[str, np.ndarray], happened: np.ndarray, latent_errors: Mapping[str, np.ndarray]
) -> dict[str, dict[str, list[float]]]:
    """Mean PSNR [dB], SSIM and latent error by horizon.

    Args:
        forecasts: Name → (S, Q, N, K, height, width, 3) uint8.
        happened: The same, real.
        latent_errors: Name → (S, Q, N) root mean square difference of latents.

    Returns:
        Metric → forecast → N means.
    """
    found = {
        metric: {
            name: measure(images, happened).mean(axis=(0, 1, 3)).round(4).tolist() for name, images in forecasts.items()
        }
        for metric, measure in METRICS.items()
    }
    found["latent"] = {name: errors.mean(axis=(0, 1)).round(4).tolist() for name, errors in latent_errors.items()}
    return found


def rank_correlation(judged: np.ndarray, real: np.ndarray, *, seed: int = 0) -> dict[str, float]:
    """Spearman's rank correlation with a 95 % interval.

    Args:
        judged: (S, Q) outcome by the pictures.
        real: (S, Q) outcome in MuJoCo.
        seed: Of the bootstrap over starts.

    Returns:
        ``rho``, ``low``, ``high``; 0 where one side never changes.
    """
    rng = np.random.default_rng(seed)
    draws = [rng.integers(len(real), size=len(real)) for _ in range(RESAMPLES)]
    low, high = np.percentile([_spearman(judged[rows], real[rows]) for rows in draws], [2.5, 97.5])
    return {"rho": round(_spearman(judged, real), 4), "low": round(float(low), 4), "high": round(float(high), 4)}


def ordered_pairs(judged: np.ndarray, real: np.ndarray) -> dict[str, Any]:
    """Share of the pairs of plans from one start whose order is told right; 0.5 is a coin.

    Args:
        judged: (S, Q) outcome by the pictures.
        real: (S, Q) outcome in MuJoCo; pairs without a difference do not count.
    """
    first, second = np.triu_indices(real.shape[1], 1)
    truth = real[:, first] - real[:, second]
    found = judged[:, first] - judged[:, second]
    count = np.abs(truth) > TIE
    right = (found * truth > 0) & count
    return {"share": round(float(right.sum() / max(1, count.sum())), 4), "pairs": int(count.sum())}


def told_apart(imagined: np.ndarray, happened: np.ndarray) -> float:
    """Share of the pairs of plans from one start where the imagined last picture is nearer to its own outcome.

    A model that does not listen to the actions imagines the same for both and is right half of the time.

    Args:
        imagined: (S, Q, D) latents of the last picture.
        happened: (S, Q, D) the same, real.
    """
    distance = np.square(imagined[:, :, None] - happened[:, None]).mean(-1)  # (S, imagined, real)
    plans = range(distance.shape[1])
    own = [distance[:, a, a] < distance[:, a, b] for a in plans for b in plans if a != b]
    return round(float(np.mean(own)), 4)


def _spearman(judged: np.ndarray, real: np.ndarray) -> float:
    if np.ptp(judged) == 0 or np.ptp(real) == 0:
        return 0.0
    return float(np.corrcoef(rankdata(judged), rankdata(real))[0, 1])  # ties share their mean rank
