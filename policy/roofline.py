"""The time below which no chunk can fall on a device: each weight is read once per run, each product computed.

A floor is arithmetic on data sheets, not a measurement, and is labelled so wherever it is shown. Kernels reach 60 to
90 % of it where they stream weights; launches, attention and small operators come on top.

Source: Williams, Waterman and Patterson, Roofline (CACM 52, 2009); numbers from NVIDIA's data sheets: memory bandwidth,
and matrix products in bfloat16 with float32 accumulation, dense.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from policy.errors import PolicyError
from wam.errors import unknown_name

__all__ = ["DEVICES", "DeviceLimits", "StageCost", "chunk_floor_ms", "device_limits", "match_device"]


@dataclass(frozen=True, kw_only=True)
class DeviceLimits:
    """What a device can do at best."""

    name: str  # in words
    bandwidth_gb_s: float  # of its memory
    bf16_tflops: float  # dense
    matches: str  # part of the name by which the driver calls it


@dataclass(frozen=True, kw_only=True)
class StageCost:
    """What one run of a stage must at least read and compute."""

    bytes_read: float  # weights, keys and values
    flops: float  # a multiplication and an addition are two


DEVICES: Mapping[str, DeviceLimits] = {
    "h100": DeviceLimits(name="H100 SXM", bandwidth_gb_s=3350, bf16_tflops=989, matches="H100"),
    "h200": DeviceLimits(name="H200 SXM", bandwidth_gb_s=4800, bf16_tflops=989, matches="H200"),
    "rtx5090": DeviceLimits(name="RTX 5090", bandwidth_gb_s=1792, bf16_tflops=209.5, matches="RTX 5090"),
    "rtx4090": DeviceLimits(name="RTX 4090", bandwidth_gb_s=1008, bf16_tflops=165.2, matches="RTX 4090"),
    "thor": DeviceLimits(name="Jetson AGX Thor", bandwidth_gb_s=273, bf16_tflops=258, matches="Thor"),
    "orin": DeviceLimits(name="Jetson AGX Orin 64 GB", bandwidth_gb_s=204.8, bf16_tflops=42.5, matches="Orin"),
}


def device_limits(name: str) -> DeviceLimits:
    """Returns a device of the table.

    Raises:
        PolicyError: There is none of that name.
    """
    if name not in DEVICES:
        raise PolicyError(unknown_name("device", name, DEVICES))
    return DEVICES[name]


def match_device(driver_name: str) -> str:
    """Returns the key of the device that the driver calls so; empty when the table lacks it."""
    return next((key for key, device in DEVICES.items() if device.matches in driver_name), "")


def chunk_floor_ms(context: StageCost, step: StageCost, n_steps: int, device: DeviceLimits) -> float:
    """Returns the floor of one chunk [ms]: one context and n_steps denoising steps."""
    return _stage_ms(context, device) + n_steps * _stage_ms(step, device)


def _stage_ms(cost: StageCost, device: DeviceLimits) -> float:
    return max(cost.bytes_read / (device.bandwidth_gb_s * 1e6), cost.flops / (device.bf16_tflops * 1e9))
