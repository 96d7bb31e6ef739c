"""Reads tensors out of a ``torch.save`` archive without unpickling it.

Fast-WAM publishes its weights in this form. The archive is a zip: one pickle that describes dictionaries of tensors,
and one uncompressed member per storage. The pickle is not executed: its opcodes are walked with a table that can build
numbers, strings, tuples, lists, dictionaries and tensor descriptions, and nothing else. Storages are mapped from disk,
so a tensor costs memory only while it is copied.
"""

import pickletools
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wam.errors import CheckpointError
from wam.weight_types import UNQUANTISED

__all__ = ["TorchArchive", "type_name"]

_DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "UntypedStorage": torch.uint8,  # of types that came later; the tensor says which
}
_QUANTISED = ("qtensor", "torchao", "quanto", "bitsandbytes", "QInt", "QUInt")  # in the names of what would be called
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_CONTAINERS: dict[str, type] = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
_LITERALS = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINSTRING"}
_MEMORISE, _RECALL = {"BINPUT", "LONG_BINPUT", "MEMOIZE"}, {"BINGET", "LONG_BINGET"}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_IGNORED = {"PROTO", "FRAME", "STOP"}
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, then lengths of the name and of the extra field


class _Refused(Exception):
    """The pickle would do more than build tensors and plain values."""


class _Mark:
    """Start of a group on the stack."""


@dataclass(frozen=True)
class _Global:
    """A name that the pickle would have imported."""

    name: str


@dataclass(frozen=True)
class _Storage:
    dtype: torch.dtype
    key: str


@dataclass(frozen=True)
class _Entry:
    storage: _Storage
    dtype: torch.dtype
    offset: int  # in elements
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class TorchArchive:
    """Tensors of one archive, by dotted name.

    Args:
        path: A file that ``torch.save`` wrote in its zip form, the default since torch 1.6.

    Raises:
        CheckpointError: Not such a file, cut short, or holding more than tensors and plain values.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with zipfile.ZipFile(path) as archive:
                members = {info.filename: info for info in archive.infolist()}
                pickle_name = next(name for name in members if name.endswith("data.pkl"))
                tree = _walk(archive.read(pickle_name))
        except (OSError, zipfile.BadZipFile, StopIteration) as error:
            if _is_old(path):
                raise CheckpointError(
                    f"{path} is of torch before 1.6, or a plain pickle: write it again where it is trusted, "
                    f"python -c \"import torch; torch.save(torch.load('{path}', weights_only=True), '{path}')\""
                ) from error
            raise CheckpointError(
                f"{path} is not a whole torch archive ({error or 'no data.pkl'}): copy it again, or convert it to "
                "safetensors on the machine that has it."
            ) from error
        except _Refused as refused:
            if any(word in str(refused) for word in _QUANTISED):
                raise CheckpointError(
                    f"{path} holds {refused}: its matrices are quantised, and mean nothing without their scales; "
                    f"{UNQUANTISED}."
                ) from refused
            raise CheckpointError(
                f"{path} holds {refused}, which is neither a tensor nor a plain value. It is not read, because that "
                "would run code: convert it to safetensors on the machine that made it."
            ) from refused
        root = pickle_name.removesuffix("data.pkl")
        self._members = {name.removeprefix(f"{root}data/"): info for name, info in members.items()}
        self._entries = dict(_flatten(tree, ""))

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor."""
        return {name: entry.shape for name, entry in self._entries.items()}

    def types(self) -> dict[str, str]:
        """Type of every tensor."""
        return {name: type_name(entry.dtype) for name, entry in self._entries.items()}

    def read(self, name: str) -> Tensor:
        """Maps one tensor from disk; it must be copied before it is changed."""
        entry = self._entries[name]
        info = self._members.get(entry.storage.key)
        if info is None or info.compress_type != zipfile.ZIP_STORED:
            raise CheckpointError(f"{self._path} does not hold the storage of {name} uncompressed: save it again.")
        with self._path.open("rb") as file:
            file.seek(info.header_offset)
            _, name_length, extra_length = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
        start = info.header_offset + _LOCAL_HEADER.size + name_length + extra_length
        raw = np.memmap(self._path, dtype=np.uint8, mode="c", offset=start, shape=(info.file_size,))
        flat = torch.from_numpy(raw).view(entry.dtype)
        return flat.as_strided(entry.shape, entry.stride, entry.offset)


def type_name(dtype: torch.dtype) -> str:
    """As torch calls it: "bfloat16", "float8_e4m3fn"."""
    return str(dtype).removeprefix("torch.")


def _is_old(path: Path) -> bool:
    """Whether a file begins as a pickle does, and not as a zip."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        begin = file.read(2)
    return len(begin) == 2 and begin[0] == 0x80 and 2 <= begin[1] <= 5


def _flatten(value: Any, prefix: str) -> Iterator[tuple[str, _Entry]]:
    if isinstance(value, _Entry):
        yield prefix, value
    elif isinstance(value, dict):
        for key, child in value.items():
            yield from _flatten(child, f"{prefix}.{key}" if prefix else str(key))


def _walk(data: bytes) -> Any:
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    for opcode, argument, _ in pickletools.genops(data):
        name = opcode.name
        if name in _LITERALS:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _CONTAINERS:
            stack.append(_CONTAINERS[name]())
        elif name in _MEMORISE:
            memo[len(memo) if argument is None else argument] = stack[-1]
        elif name in _RECALL:
            stack.append(memo[argument])
        elif name in _TUPLES:
            count = _TUPLES[name]
            stack[-count:] = [tuple(stack[-count:])]
        elif name in _ACTIONS:
            _ACTIONS[name](stack)
        elif name == "GLOBAL":
            stack.append(_Global(argument.replace(" ", ".")))
        elif name not in _IGNORED:
            raise _Refused(f"the opcode {name}")
    return stack[-1]


def _group(stack: list[Any]) -> list[Any]:
    start = max(i for i, item in enumerate(stack) if isinstance(item, _Mark))
    group = stack[start + 1 :]
    del stack[start:]
    return group


def _reduce(stack: list[Any]) -> None:
    arguments, function = stack.pop(), stack.pop()
    known: dict[str, Callable[..., Any]] = {
        "collections.OrderedDict": dict,
        "torch._utils._rebuild_tensor_v2": lambda storage, offset, shape, stride, *_: _Entry(
            storage, storage.dtype, offset, tuple(shape), tuple(stride)
        ),
        "torch._utils._rebuild_tensor_v3": lambda storage, offset, shape, stride, _grad, _hooks, dtype, *_: _Entry(
            storage, _dtype(dtype), offset, tuple(shape), tuple(stride)
        ),
        "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
        "torch.Size": tuple,
    }
    if not isinstance(function, _Global) or function.name not in known:
        raise _Refused(f"a call of {getattr(function, 'name', function)}")
    stack.append(known[function.name](*arguments))


def _dtype(value: Any) -> torch.dtype:
    found = getattr(torch, value.name.removeprefix("torch."), None) if isinstance(value, _Global) else None
    if not isinstance(found, torch.dtype):
        raise _Refused(f"a tensor of type {getattr(value, 'name', value)}")
    return found


def _persistent(stack: list[Any]) -> None:
    kind, storage, key, *_ = stack.pop()
    name = storage.name.rpartition(".")[2] if isinstance(storage, _Global) else str(storage)
    if kind != "storage" or name not in _DTYPES:
        raise _Refused(f"a storage of type {name}")
    stack.append(_Storage(_DTYPES[name], key))


def _set_items(stack: list[Any]) -> None:
    group = _group(stack)
    stack[-1].update(zip(group[::2], group[1::2], strict=True))


def _set_item(stack: list[Any]) -> None:
    value, key = stack.pop(), stack.pop()
    stack[-1][key] = value


def _append(stack: list[Any]) -> None:
    value = stack.pop()
    stack[-1].append(value)


def _extend(stack: list[Any]) -> None:
    group = _group(stack)
    stack[-1].extend(group)


_ACTIONS: dict[str, Callable[[list[Any]], Any]] = {
    "MARK": lambda stack: stack.append(_Mark()),
    "TUPLE": lambda stack: stack.append(tuple(_group(stack))),
    "BINPERSID": _persistent,
    "REDUCE": _reduce,
    "BUILD": lambda stack: stack.pop(),  # attributes of a state dictionary (its versions): not needed
    "SETITEM": _set_item,
    "SETITEMS": _set_items,
    "APPEND": _append,
    "APPENDS": _extend,
    "POP": lambda stack: stack.pop(),
}
