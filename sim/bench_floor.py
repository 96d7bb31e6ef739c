"""Floors for ``wam bench``: what a device's data sheet and a model's size allow at best; computed, never measured."""

from collections.abc import Sequence

from policy.cuda import Cuda
from policy.errors import BackendError
from policy.roofline import StageCost, chunk_floor_ms, device_limits, match_device
from wam.config import ModelConfig

__all__ = ["detected_device", "floors_ms"]


def floors_ms(config: ModelConfig, dtype: str, step_counts: Sequence[int], device: str) -> dict[str, dict[int, float]]:
    """Returns the floor of a chunk per device and number of steps [ms].

    Args:
        config: Geometry of the model.
        dtype: Type of its large matrix products.
        step_counts: Denoising steps per chunk.
        device: A name of ``policy.roofline.DEVICES``; "" takes the GPU at hand, if there is one that is known.

    Returns:
        Name of the device -> steps -> floor; empty when no device is known.
    """
    name = device or detected_device()
    if not name:
        return {}
    from wam.stage_cost import stage_counts  # with torch; a bench without floors needs none

    limits = device_limits(name)
    counts = stage_counts(config, dtype)
    context, step = (StageCost(**vars(counts[stage])) for stage in ("context", "denoise"))
    return {name: {n_steps: chunk_floor_ms(context, step, n_steps, limits) for n_steps in step_counts}}


def detected_device() -> str:
    """Returns the name of this machine's GPU in the table of devices; empty without a GPU or when it is not listed."""
    try:
        return match_device(Cuda().device.name)
    except BackendError:
        return ""
