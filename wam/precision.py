"""Half precision where it pays: weights of the large matrix products, and attention on what they give.

Norms, rotary positions, modulation, timesteps, the residual stream and the small layers at both ends stay in float32:
they are a few per cent of the weights, and rounding them costs accuracy everywhere behind them.
"""

import torch
from torch import nn

from wam.blocks import Block
from wam.errors import ConfigError, unknown_name

__all__ = ["DTYPES", "lower_matmuls"]

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def lower_matmuls(model: nn.Module, dtype: str) -> nn.Module:
    """Converts the weights of all blocks' linear layers in place.

    Args:
        model: The network, on any device.
        dtype: A name of ``DTYPES``.

    Returns:
        The same model.

    Raises:
        ConfigError: There is no such type.
    """
    if dtype not in DTYPES:
        raise ConfigError(unknown_name("dtype", dtype, DTYPES))
    for block in model.modules():
        if isinstance(block, Block):
            for layer in block.modules():
                if isinstance(layer, nn.Linear):
                    layer.to(DTYPES[dtype])
    return model
