"""What a block does between its matrix products, with fewer operators: for inference mode alone.

A small model on a CPU spends most of its time between products: each operator costs microseconds before it computes
anything. Here a norm takes its modulation along, queries and keys are normed and turned together, and the quarter turn
of ``wam.rope`` is a product of complex numbers, which neither ONNX exporter takes. The numbers are those of
``wam.blocks`` up to rounding. Training, exported graphs and compiled code never come here: their numerics are fixed,
they have to be traced, or they are fused by a compiler.

Shape legend: B batch, N tokens, S noise levels of a sample (1 or N), D residual width, h heads, d head size, inner h·d,
inner3 three times that, half d/2.
"""

import torch
from jaxtyping import Complex, Float
from torch import Tensor
from torch.nn import functional as F

from wam.rope import Rope

__all__ = ["NORM_EPS", "active", "modulated_norm", "spin", "turned"]

NORM_EPS = 1e-6  # of all norms of a block


def active() -> bool:
    """Whether the caller only infers, and eagerly."""
    # In this order: a compiler follows the first question and not the second
    return not torch.compiler.is_compiling() and torch.is_inference_mode_enabled()


def modulated_norm(
    x: Float[Tensor, "*B N D"], scale: Float[Tensor, "*#B S D"], shift: Float[Tensor, "*#B S D"], eps: float = NORM_EPS
) -> Float[Tensor, "*B N D"]:
    """Layer norm without weights of its own, then times scale plus shift."""
    width = x.shape[-1:]
    if scale.numel() == width[0]:  # one level for all tokens: the norm takes it for its weights
        return F.layer_norm(x, width, scale.view(width), shift.view(width), eps)
    return torch.addcmul(shift, F.layer_norm(x, width, None, None, eps), scale)


def spin(rope: Rope) -> Complex[Tensor, "N 1 half"]:
    """Rotation of every token and pair of channels as a complex number, for all heads."""
    return torch.complex(rope.cos[:, ::2], rope.sin[:, ::2]).unsqueeze(1)


def turned(
    qkv: Float[Tensor, "*B N inner3"],
    heads: int,
    scale: Float[Tensor, "2 inner"] | None,
    spin: Complex[Tensor, "N 1 half"],
) -> tuple[Float[Tensor, "*B N h d"], Float[Tensor, "*B N h d"], Float[Tensor, "*B N h d"]]:
    """Splits a projection into queries, keys and values; norms and rotates the first two.

    Args:
        qkv: Queries, keys and values of all heads behind one another.
        heads: h.
        scale: Learned scales of the two norms over all heads; None: they are not normed.
        spin: As ``spin`` returned it.

    Returns:
        Queries and keys in float32, values as they came.
    """
    *batch, inner = *qkv.shape[:-1], qkv.shape[-1] // 3
    size = inner // heads
    qk = qkv.view(*batch, 3, inner)[..., :2, :].float()
    if scale is not None:
        qk = F.rms_norm(qk, (inner,), None, NORM_EPS) * scale
    pairs = torch.view_as_complex(qk.reshape(*batch, 2 * heads, size // 2, 2))
    q, k = torch.view_as_real(pairs * spin).view(*batch, 2, heads, size).unbind(-3)  # 2 x (B, N, h, d)
    v = qkv.view(*batch, 3, heads, size)[..., 2, :, :]
    return q, k, v
