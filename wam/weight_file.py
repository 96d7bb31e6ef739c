"""Safetensors files written and looked into one tensor at a time.

A bundle holds its weights once: ``model.safetensors`` is what torch loads and, by offset and length, the external data
of the ONNX graphs. Writing streams from tensor to tensor, so the largest single tensor is all that is ever in memory.

Format: eight bytes with the length of a JSON header (little-endian), the header, the tensors without gaps.
"""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

__all__ = ["Place", "WeightWriter", "planned_places", "raw_bytes", "weight_places", "write_weights"]

NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64", torch.uint8: "U8"}
DTYPES = {name: dtype for dtype, name in NAMES.items()}
HEADER_ALIGNMENT = 64  # bytes; tensors start aligned for every kernel that reads the mapped file


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a tensor lies in a file."""

    offset: int  # from the beginning of the file [bytes]
    length: int  # [bytes]
    dtype: torch.dtype
    shape: tuple[int, ...]


class WeightWriter:
    """Accepts the tensors that were announced, in their order."""

    def __init__(self, stream: BinaryIO, layout: Mapping[str, tuple[tuple[int, ...], torch.dtype]]) -> None:
        self.names = tuple(layout)  # in the order in which they must be written
        self._stream = stream
        self._left = dict(layout)
        stream.write(_header(layout))

    def write(self, name: str, tensor: Tensor) -> None:
        """Writes the next tensor, converted to its announced type."""
        expected = next(iter(self._left), None)
        if name != expected:
            raise AssertionError(f"tensor {name} was written where {expected} was due.")
        shape, dtype = self._left.pop(name)
        if tuple(tensor.shape) != shape:
            raise AssertionError(f"tensor {name} has shape {tuple(tensor.shape)} but {shape} was announced.")
        self._stream.write(raw_bytes(tensor.to(dtype)))

    def finish(self) -> None:
        """Checks that nothing is missing."""
        if self._left:
            raise AssertionError(f"{len(self._left)} tensors were announced and never written.")


@contextmanager
def write_weights(path: Path, layout: Mapping[str, tuple[tuple[int, ...], torch.dtype]]) -> Iterator[WeightWriter]:
    """Opens a new safetensors file.

    Args:
        path: The file.
        layout: (shape, dtype) of every tensor by name. The widest types come first, so that each tensor is aligned.
    """
    with path.open("wb") as stream:
        writer = WeightWriter(stream, _aligned(layout))
        yield writer
        writer.finish()


def weight_places(path: Path) -> dict[str, Place]:
    """Returns where every tensor of a safetensors file lies, in file order."""
    with path.open("rb") as stream:
        first = stream.read(8)
        return _places(first + stream.read(int.from_bytes(first, "little")))


def planned_places(layout: Mapping[str, tuple[tuple[int, ...], torch.dtype]]) -> dict[str, Place]:
    """Returns where every tensor would lie in a file of ``write_weights``."""
    return _places(_header(_aligned(layout)))


def _aligned(layout: Mapping[str, tuple[tuple[int, ...], torch.dtype]]) -> dict[str, Any]:
    return dict(sorted(layout.items(), key=lambda item: -item[1][1].itemsize))  # stable: names keep their order


def _header(layout: Mapping[str, tuple[tuple[int, ...], torch.dtype]]) -> bytes:
    header, position = {}, 0
    for name, (shape, dtype) in layout.items():
        size = math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": NAMES[dtype], "shape": list(shape), "data_offsets": [position, position + size]}
        position += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % HEADER_ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def _places(start: bytes) -> dict[str, Place]:
    length = len(start) - 8
    header = json.loads(start[8:])
    header.pop("__metadata__", None)
    places = {
        name: Place(
            offset=8 + length + entry["data_offsets"][0],
            length=entry["data_offsets"][1] - entry["data_offsets"][0],
            dtype=DTYPES[entry["dtype"]],
            shape=tuple(entry["shape"]),
        )
        for name, entry in header.items()
    }
    return dict(sorted(places.items(), key=lambda item: item[1].offset))


def raw_bytes(tensor: Tensor) -> memoryview:
    """Little-endian bytes of a tensor, without a copy where it is contiguous."""
    return memoryview(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
