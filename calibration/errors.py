"""The exception of the ``calibration`` package."""

from wam.errors import WamError

__all__ = ["CalibrationError"]


class CalibrationError(WamError):
    """Pictures, poses, boards or files from which nothing trustworthy can be calibrated."""
