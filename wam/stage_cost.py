"""What a stage of inference must read and compute, counted on a model without values.

The stages run once on the meta device: no weight exists and nothing is multiplied, so a model of any size is counted in
seconds. Every parameter that takes part counts once, whatever reads it, and so do the keys and values of the inputs.
Frozen encoders of images (an autoencoder, an image encoder), which are no part of the model, are left out.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from wam.config import ModelConfig
from wam.graphs import example_inputs, stages
from wam.precision import lower_matmuls
from wam.skeleton import skeleton

__all__ = ["Count", "stage_counts"]


@dataclass(frozen=True, kw_only=True)
class Count:
    """One run of a stage."""

    bytes_read: int  # parameters that take part, and inputs
    flops: float  # of matrix products and convolutions


def stage_counts(config: ModelConfig, dtype: str) -> dict[str, Count]:
    """Counts every stage of a model.

    Args:
        config: Its geometry.
        dtype: Type of its large matrix products, a name of ``wam.precision.DTYPES``.

    Returns:
        Name of the stage -> count.
    """
    model = lower_matmuls(skeleton(config), dtype).to("meta")
    if config.tokenizer == "vae":
        _without_encoders(model.tokenizer, config)
    parts = stages(model, model.clean_modulation(torch.zeros(1, device="meta")))
    tensors = {name: tensor.to("meta") for name, tensor in example_inputs(config, 0).items()}
    counts = {}
    for part in parts:
        part.module.to("meta")
        reads = _Reads(dict(part.module.named_parameters()))
        flops = FlopCounterMode(display=False)
        with flops, reads:
            outputs = part(tensors)
        inputs = sum(_size(tensors[name]) for name in part.inputs)
        counts[part.name] = Count(bytes_read=reads.bytes_read + inputs, flops=float(flops.get_total_flops()))
        tensors |= outputs
    return counts


def _without_encoders(tokenizer: Any, config: ModelConfig) -> None:
    tokens = torch.empty(1, config.tokens_per_frame, config.token_dim, device="meta")
    seen = torch.empty(1, config.image_tokens, config.image_width, device="meta") if config.image_width else None
    tokenizer.encode = lambda images: tokens.expand(len(images), -1, -1)
    tokenizer.image_tokens = lambda images: seen


class _Reads(TorchDispatchMode):
    """Notes which parameters operators are given."""

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._sizes = {id(parameter): _size(parameter) for parameter in parameters.values()}
        self._read: set[int] = set()

    @property
    def bytes_read(self) -> int:
        return sum(self._sizes[key] for key in self._read)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._read.update(key for key in map(id, _tensors((*args, *(kwargs or {}).values()))) if key in self._sizes)
        return func(*args, **(kwargs or {}))


def _tensors(arguments: Iterable[Any]) -> Iterable[Any]:
    for argument in arguments:
        if isinstance(argument, list | tuple):
            yield from _tensors(argument)
        else:
            yield argument


def _size(tensor: Tensor) -> int:
    return tensor.element_size() * math.prod(tensor.shape)
