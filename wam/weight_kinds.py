"""Files that hold no plain weights, told by their names and types: quantised ones, adapters, other networks.

A quantised matrix is numbers that mean something only together with scales that lie elsewhere. Copied as they are they
are another network, of the right shapes and without an error; so nothing that is not a plain floating-point number is
ever taken for a weight. One form is simple enough to be read: float8 matrices with one number, ``scale_weight``, beside
each, by which they are multiplied (ComfyUI's "scaled fp8", as Fast-WAM's are published too).
"""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from wam.errors import CheckpointError
from wam.tensor_files import open_weights, types_of
from wam.weight_types import PLAIN_TYPES, UNQUANTISED

__all__ = ["belongs_to_scales", "check_folder", "check_types", "find_scales", "foreign", "refuse_adapters"]

SCALE, MARKER = ".scale_weight", "scaled_fp8"
UNUSED = (".scale_input",)  # of activations, in products that are computed in float8
EXAMPLES = 3
# Last part of a name -> what wrote it. The first that matches any name of a file names its kind.
_KINDS = (
    (r"(qweight|qzeros|g_idx)", "GPTQ or AWQ: integers of a few bits, packed"),
    (r"(SCB|absmax|quant_map|nested_absmax|nested_quant_map|bitsandbytes__\w+|weight_format)", "bitsandbytes"),
    (r"(wscales|wtscale|wcscales|smooth_factor(_orig)?)", "SVDQuant: 4 bits, packed"),
    (r"(comfy_quant|scale_weight|scale_input|scaled_fp8)", "ComfyUI's scaled fp8"),
    (r"_(data|scale|shift|qdata|zero_point)", "quanto or torchao"),
    (
        r"(weight|input|output|[qkv])_(scale(_inv|_2)?|global_scale|zero_point|packed|shape)",
        "compressed-tensors or fp8",
    ),
    (r"(\w*_)?(scales?|zeros|zero_points?|qdata|scale_inv|amax)", "an unknown quantiser"),
)
_ADAPTER = r"(^|[._])(lora|dora|loha|hada|lokr|oft|boft|ia3|vera)([._]|$)|\.diff(_b)?$"
# What a file is whose tensors are named so -> what to give instead
_FOREIGN = (
    (r"^experts\.(video|action)\.", "a checkpoint of wam train: start from its run with --init"),
    (
        r"^(encoder\.block\.\d+\.layer|shared\.weight|blocks\.\d+\.attn\.q\.)",
        "a T5 text encoder, which belongs to --wan",
    ),
    (
        r"^((encoder|decoder)\.(conv|down|up|mid|head)|conv1\.weight|quant_conv)",
        "an autoencoder, which belongs to --wan",
    ),
    (r"(^|\.)(visual|vision_model|transformer\.resblocks)\.", "an image encoder, which belongs to --wan"),
    (r"^(double_blocks|single_blocks|transformer_blocks|joint_blocks|down_blocks)\.", "another network than Wan's"),
)


def find_scales(shapes: Mapping[str, tuple[int, ...]], types: Mapping[str, str], origin: str) -> dict[str, str]:
    """Finds the scales of float8 matrices, and refuses every other form of quantised weights.

    Args:
        shapes: Of every tensor of a file.
        types: Their types, as ``wam.tensor_files.types_of`` names them.
        origin: The file, for the error.

    Returns:
        Matrix → the tensor that holds its scale; empty for plain weights.

    Raises:
        CheckpointError: Names what made the file, and what to give instead.
    """
    found = sorted(name for name in shapes if belongs_to_scales(name))
    if not found:
        return {}
    narrow = {name for name, kind in types.items() if kind.startswith("float8") and name.rpartition(".")[2] != MARKER}
    scales = {name.removesuffix(SCALE) + ".weight": name for name in found if name.endswith(SCALE)}
    single = all(math.prod(shapes[name]) == 1 and types.get(name) in PLAIN_TYPES for name in scales.values())
    others = [name for name in found if not name.endswith((SCALE, *UNUSED)) and name.rpartition(".")[2] != MARKER]
    if scales and single and not others and narrow == set(scales):
        return scales
    label = next(label for pattern, label in _KINDS if any(_is(pattern, name) for name in found))
    lacking = sorted(narrow - set(scales))
    if all(name.rpartition(".")[2] == MARKER for name in found):
        what = f"{found[0]} says that the matrices want scales, and the file holds none"
    else:
        what = f"{len(found)} tensors belong to scales that are not applied here ({_some(found)})"
        what += f", and {len(lacking)} float8 tensors have none ({_some(lacking)})" if scales and lacking else ""
    raise CheckpointError(
        f"weights {origin} are quantised ({label}): {what}. Taken as they are they would be another network; "
        f"{UNQUANTISED}."
    )


def belongs_to_scales(name: str) -> bool:
    """Whether a tensor is part of a quantisation, and no weight."""
    return any(_is(pattern, name) for pattern, _ in _KINDS)


def check_types(names: Sequence[str], types: Mapping[str, str], scales: Mapping[str, str], origin: str) -> None:
    """Refuses weights that are no floating-point numbers of 16 bits or more, unless they have a scale.

    Raises:
        CheckpointError: Names the types, with examples.
    """
    odd = {name: types[name] for name in names if name in types and name not in scales}
    odd = {name: kind for name, kind in odd.items() if kind not in PLAIN_TYPES}
    if odd:
        kinds = ", ".join(sorted(set(odd.values())))
        raise CheckpointError(
            f"weights {origin}: {len(odd)} of {len(names)} tensors are {kinds} ({_some(sorted(odd))}), numbers that "
            f"want scales, and the file holds none: they may lie in another file, or were thrown away; {UNQUANTISED}."
        )


def refuse_adapters(names: Sequence[str], origin: str) -> None:
    """Refuses files of LoRA and its kin: changes to a network, not a network.

    Raises:
        CheckpointError: Says whether the network is there too, and how the two become one.
    """
    adapter = [name for name in names if re.search(_ADAPTER, name)]
    if not adapter:
        return
    rest = len(names) - len(adapter)
    base = [name for name in names if name not in set(adapter) and re.search(r"\bblocks\.\d+\.", name)]
    what = (
        f"hold an adapter (LoRA) that is not merged: {len(adapter)} tensors ({_some(adapter)}) beside {rest} others"
        if base
        else f"are an adapter (LoRA) and no model: {len(adapter)} tensors ({_some(adapter)}) that change a network in "
        "another file"
    )
    raise CheckpointError(
        f"weights {origin} {what}. Merge it where it was trained (peft: model.merge_and_unload().save_pretrained(...)) "
        "and give the merged weights, or give those of the network alone."
    )


def foreign(names: Sequence[str]) -> str:
    """What a file of an unknown layout is, if it can be told; else ""."""
    return next((what for pattern, what in _FOREIGN if any(re.search(pattern, name) for name in names)), "")


def check_folder(folder: Path) -> None:
    """Refuses quantised weights that another library is about to load.

    Raises:
        CheckpointError: As ``find_scales``; float8 with scales is refused too, because they would not be applied.
    """
    if not any(folder.glob("*.safetensors")):
        return
    source = open_weights(folder)
    shapes, types = source.shapes(), types_of(source)
    if find_scales(shapes, types, str(folder)):
        raise CheckpointError(f"weights {folder} are quantised (ComfyUI's scaled fp8): {UNQUANTISED}.")
    check_types([*shapes], types, {}, str(folder))


def _is(pattern: str, name: str) -> bool:
    return re.fullmatch(pattern, name.rpartition(".")[2]) is not None


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:EXAMPLES]) + (", ..." if len(names) > EXAMPLES else "")
