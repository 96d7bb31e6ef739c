"""Exceptions of the ``policy`` package."""

from wam.errors import WamError

__all__ = ["BackendError", "PlanError", "PolicyError", "ScheduleError"]


class PolicyError(WamError):
    """Base of every error of the run-time part that its caller can put right."""


class BackendError(PolicyError):
    """An inference backend that is unknown, not installed or cannot do what was asked."""


class ScheduleError(PolicyError):
    """A chunk schedule that was configured or driven in a way that cannot work."""


class PlanError(BackendError):
    """Built engines that are missing, damaged, or of another bundle, GPU or TensorRT."""
