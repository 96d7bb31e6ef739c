"""Exceptions of the ``sim`` package."""

from wam.errors import WamError

__all__ = ["SimError"]


class SimError(WamError):
    """A task, rate, command or machine set-up that the simulation cannot work with."""
