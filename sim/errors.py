"""Exceptions of the ``sim`` package."""

import errno
import os

from wam.errors import WamError

__all__ = ["DiskFullError", "SimError", "is_disk_full"]


class SimError(WamError):
    """A task, rate, command or machine set-up that the simulation cannot work with."""


class DiskFullError(SimError):
    """The disk ran full while an episode or the dataset was written."""


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an error, or one that caused it, says that the disk is full; libraries wrap it in many ways."""
    while error is not None:
        full = isinstance(error, DiskFullError) or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        if full or os.strerror(errno.ENOSPC) in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
