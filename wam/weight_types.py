"""Types that a weight may have, and what to give in place of one that has another."""

__all__ = ["PLAIN_TYPES", "UNQUANTISED"]

PLAIN_TYPES = ("float16", "bfloat16", "float32", "float64")
UNQUANTISED = (
    "give the unquantised weights (bfloat16, float16 or float32) that they were made from: Fast-WAM's .pt release, or "
    "hf download Wan-AI/Wan2.2-TI2V-5B-Diffusers --local-dir models/wan"
)
