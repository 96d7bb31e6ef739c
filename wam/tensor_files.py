"""Named tensors on disk: safetensors files, folders of shards, and ``.pt`` archives, all read one tensor at a time."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from safetensors import SafetensorError, safe_open
from torch import Tensor

from wam.errors import CheckpointError
from wam.torch_archive import TorchArchive

__all__ = ["TensorMap", "TensorSource", "open_weights"]

INDEX_SUFFIX = ".safetensors.index.json"
ARCHIVES = (".pt", ".pth", ".bin")
SUBFOLDERS = ("transformer", "")  # of a diffusers folder, and the folder itself


@runtime_checkable
@runtime_checkable  # so that the checks of tests can check it
class TensorSource(Protocol):
    """Named tensors on disk."""

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shape of every tensor, without reading any."""
        ...

    def read(self, name: str) -> Tensor:
        """One tensor."""
        ...


class TensorMap:
    """Tensors that are in memory already."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = dict(tensors)

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shape of every tensor."""
        return {name: tuple(tensor.shape) for name, tensor in self._tensors.items()}

    def read(self, name: str) -> Tensor:
        """One tensor."""
        return self._tensors[name]


def open_weights(path: Path) -> TensorSource:
    """Opens a safetensors file, a folder of shards with or without an index, or a ``.pt`` archive.

    Raises:
        CheckpointError: Nothing there, a shard that the index names is missing, or a file is cut short.
    """
    if path.is_file() and path.suffix in ARCHIVES:
        return TorchArchive(path)
    if path.is_file():
        return _Safetensors([path])
    for folder in (path / name for name in SUBFOLDERS):
        indices = sorted(folder.glob(f"*{INDEX_SUFFIX}"))
        if indices:
            return _Safetensors(_shards(indices[0]))
        files = sorted(folder.glob("*.safetensors"))
        if files:
            return _Safetensors(files)
    raise CheckpointError(
        f"no weights at {path}: give a .safetensors or .pt file, or a folder with *.safetensors in it or in its "
        "transformer/ subfolder."
    )


class _Safetensors:
    def __init__(self, files: Sequence[Path]) -> None:
        self._homes: dict[str, Path] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        for path in files:
            try:
                with safe_open(path, framework="pt") as file:
                    for name in file.keys():  # noqa: SIM118 - not a dictionary
                        self._homes[name] = path
                        self._shapes[name] = tuple(file.get_slice(name).get_shape())
            except (OSError, SafetensorError) as error:
                raise CheckpointError(
                    f"{path} cannot be read ({error}): the file is missing or cut short. Copy it again."
                ) from error

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return self._shapes

    def read(self, name: str) -> Tensor:
        with safe_open(self._homes[name], framework="pt") as file:
            return file.get_tensor(name)


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(f"index {index} cannot be read ({error!r}): copy it again.") from error
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise CheckpointError(f"{index} names {len(names)} files, of which these are missing: {', '.join(missing)}.")
    return [index.parent / name for name in names]
