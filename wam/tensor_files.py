"""Named tensors on disk: safetensors files, folders of shards, and ``.pt`` archives, all read one tensor at a time."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from safetensors import SafetensorError, safe_open
from torch import Tensor

from wam.errors import CheckpointError
from wam.torch_archive import TorchArchive, type_name
from wam.weight_types import UNQUANTISED

__all__ = ["TensorMap", "TensorSource", "TypedSource", "open_weights", "types_of"]

INDEX_SUFFIX = ".safetensors.index.json"
ARCHIVES = (".pt", ".pth", ".bin")
OTHERS = (*ARCHIVES, ".ckpt", ".gguf")  # files that a folder may hold in place of safetensors
ZIP, GGUF = b"PK", b"GGUF"  # how files begin
TYPES = {  # of safetensors -> of torch; others keep their names
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}
SUBFOLDERS = ("transformer", "")  # of a diffusers folder, and the folder itself


@runtime_checkable  # so that the checks of tests can check it
class TensorSource(Protocol):
    """Named tensors on disk."""

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shape of every tensor, without reading any."""
        ...

    def read(self, name: str) -> Tensor:
        """One tensor."""
        ...


@runtime_checkable
class TypedSource(TensorSource, Protocol):
    """Named tensors whose types are known before any is read."""

    def types(self) -> Mapping[str, str]:
        """Type of every tensor, as torch calls it: "bfloat16", "float8_e4m3fn"."""
        ...


def types_of(source: TensorSource) -> Mapping[str, str]:
    """Types of the tensors, as far as the source knows them without reading any."""
    return source.types() if isinstance(source, TypedSource) else {}


class TensorMap:
    """Tensors that are in memory already."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = dict(tensors)

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shape of every tensor."""
        return {name: tuple(tensor.shape) for name, tensor in self._tensors.items()}

    def types(self) -> Mapping[str, str]:
        """Type of every tensor."""
        return {name: type_name(tensor.dtype) for name, tensor in self._tensors.items()}

    def read(self, name: str) -> Tensor:
        """One tensor."""
        return self._tensors[name]


def open_weights(path: Path) -> TensorSource:
    """Opens a safetensors file, a folder of shards with or without an index, or a ``.pt`` archive.

    Raises:
        CheckpointError: Nothing there, a shard is missing or given alone, a file is cut short or of another kind, or
            two files of a folder hold the same tensors.
    """
    if path.is_file():
        return _open_file(path)
    for folder in (path / name for name in SUBFOLDERS):
        indices = sorted(folder.glob(f"*{INDEX_SUFFIX}"))
        if indices:
            return _Safetensors(_shards(indices[0]))
        files = sorted(folder.glob("*.safetensors"))
        if files:
            return _Safetensors(files)
    others = [] if not path.is_dir() else sorted(file for file in path.iterdir() if file.suffix in OTHERS)
    there = f" It holds {', '.join(file.name for file in others[:3])}: name the file." if others else ""
    raise CheckpointError(
        f"no weights at {path}: give a .safetensors or .pt file, or a folder with *.safetensors in it or in its "
        f"transformer/ subfolder.{there}"
    )


def _open_file(path: Path) -> TensorSource:
    """By what is in it: people rename files, and a suffix as ``.ckpt`` says nothing."""
    with path.open("rb") as file:
        begin = file.read(len(GGUF))
    if begin == GGUF or path.suffix == ".gguf":
        raise CheckpointError(
            f"{path} is a GGUF file, whose matrices are packed into blocks with scales; {UNQUANTISED}."
        )
    if begin.startswith(ZIP) or path.suffix in ARCHIVES:
        return TorchArchive(path)
    part = re.search(r"-0*(\d+)-of-0*(\d+)$", path.stem)
    if part and int(part[2]) > 1:
        raise CheckpointError(f"{path} is part {part[1]} of {part[2]}: give the folder that holds all of them.")
    return _Safetensors([path])


class _Safetensors:
    def __init__(self, files: Sequence[Path]) -> None:
        self._homes: dict[str, Path] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._types: dict[str, str] = {}
        for path in files:
            try:
                with safe_open(path, framework="pt") as file:
                    for name in file.keys():  # noqa: SIM118 - not a dictionary
                        if name in self._homes:
                            raise CheckpointError(
                                f"{self._homes[name]} and {path} both hold '{name}': they are not parts of one model. "
                                "Name the file that is meant."
                            )
                        entry = file.get_slice(name)
                        self._homes[name] = path
                        self._shapes[name] = tuple(entry.get_shape())
                        self._types[name] = TYPES.get(entry.get_dtype(), entry.get_dtype())
            except (OSError, SafetensorError) as error:
                raise CheckpointError(
                    f"{path} cannot be read ({error}): the file is missing or cut short. Copy it again."
                ) from error

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return self._shapes

    def types(self) -> Mapping[str, str]:
        return self._types

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
