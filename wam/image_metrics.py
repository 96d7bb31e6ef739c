"""How close an image is to what it should be: PSNR, SSIM and the error of its colours.

Colours are compared as CIE dE 1976, the distance in L*a*b* (white point D65): about 2 is just visible, and a red cube
turned grey is 60 and more. Small vivid things, such as cubes, are judged apart from everything else (``vivid``),
because an average over all pixels hardly notices them.

Source: Wang et al., Image Quality Assessment: From Error Visibility to Structural Similarity (2004), with its Gaussian
window of 11 px and standard deviation 1.5 px, per colour channel.

Shape legend: ... any leading shape.
"""

import numpy as np

__all__ = ["colour_error", "psnr", "ssim", "vivid"]

PEAK = 255.0
WINDOW_STD_PX = 1.5
WINDOW_RADIUS_PX = 5
STABLE_MEAN, STABLE_CONTRAST = (0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2
VIVID_RANGE = 90  # of 255: brightest minus darkest channel of a pixel whose colour stands out
SRGB_TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
WHITE_D65 = SRGB_TO_XYZ.sum(axis=1)
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


def colour_error(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Distance of two colours, pixel by pixel.

    Args:
        first: (..., 3) rgb_hwc_u8, sRGB.
        second: The same shape.

    Returns:
        (...,) float64 [CIE dE 1976].
    """
    return np.linalg.norm(_lab(first) - _lab(second), axis=-1)


def vivid(images: np.ndarray) -> np.ndarray:
    """Marks pixels whose colour stands out: (..., 3) rgb_hwc_u8 → (...,) bool."""
    return images.max(axis=-1).astype(np.int16) - images.min(axis=-1) >= VIVID_RANGE


def _lab(rgb: np.ndarray) -> np.ndarray:
    share = rgb.astype(np.float64) / PEAK
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    ratio = linear @ SRGB_TO_XYZ.T / WHITE_D65
    edge = 6 / 29
    x, y, z = np.moveaxis(np.where(ratio > edge**3, np.cbrt(ratio), ratio / (3 * edge**2) + 4 / 29), -1, 0)
    return np.stack((116 * y - 16, 500 * (x - y), 200 * (y - z)), axis=-1)


def _smooth(images: np.ndarray) -> np.ndarray:
    from scipy.ndimage import gaussian_filter1d

    options = {"sigma": WINDOW_STD_PX, "radius": WINDOW_RADIUS_PX, "mode": "reflect"}
    return gaussian_filter1d(gaussian_filter1d(images, axis=-3, **options), axis=-2, **options)
