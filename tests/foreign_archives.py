"""Files in the form that others publish: the one place where this repository makes a pickle, to test their readers."""

from pathlib import Path
from typing import Any

import torch

__all__ = ["save_archive"]


def save_archive(payload: Any, path: Path, *, old: bool = False) -> None:
    """Writes a ``.pt`` file as ``torch.save`` does; ``old`` as it did before torch 1.6."""
    torch.save(payload, path, _use_new_zipfile_serialization=not old)
