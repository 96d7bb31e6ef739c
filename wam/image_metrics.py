"""How close an imagined image is to what happened: PSNR and SSIM.

Source: Wang et al., Image Quality Assessment: From Error Visibility to Structural Similarity (2004), with its Gaussian
window of 11 px and standard deviation 1.5 px, per colour channel.

Shape legend: ... any leading shape.
"""

import numpy as np

__all__ = ["psnr", "ssim"]

PEAK = 255.0
WINDOW_STD_PX = 1.5
WINDOW_RADIUS_PX = 5
STABLE_MEAN, STABLE_CONTRAST = (0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2
HIGHEST_DB = 100.0  # of identical images, whose PSNR has no bound


def psnr(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio.

    Args:
        first: (..., height, width, 3) rgb_hwc_u8.
        second: The same shape.

    Returns:
        (...,) float64 [dB], at most 100.
    """
    error = ((first.astype(np.float64) - second.astype(np.float64)) ** 2).mean(axis=(-3, -2, -1))
    with np.errstate(divide="ignore"):
        return np.minimum(HIGHEST_DB, 10.0 * np.log10(PEAK**2 / error))


def ssim(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Structural similarity, the mean over pixels and colours.

    Args:
        first: (..., height, width, 3) rgb_hwc_u8.
        second: The same shape.

    Returns:
        (...,) float64 in [−1, 1]; 1 for identical images.
    """
    x, y = first.astype(np.float64), second.astype(np.float64)
    mean_x, mean_y = _smooth(x), _smooth(y)
    var_x, var_y = _smooth(x * x) - mean_x**2, _smooth(y * y) - mean_y**2
    covariance = _smooth(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + STABLE_MEAN) / (mean_x**2 + mean_y**2 + STABLE_MEAN)
    structure = (2 * covariance + STABLE_CONTRAST) / (var_x + var_y + STABLE_CONTRAST)
    return (luminance * structure).mean(axis=(-3, -2, -1))


def _smooth(images: np.ndarray) -> np.ndarray:
    from scipy.ndimage import gaussian_filter1d

    options = {"sigma": WINDOW_STD_PX, "radius": WINDOW_RADIUS_PX, "mode": "reflect"}
    return gaussian_filter1d(gaussian_filter1d(images, axis=-3, **options), axis=-2, **options)
