"""Transformer blocks in Wan's structure, written so that two experts can share attention.

One block: LN·(1 + scale) + shift → self-attention → gate; affine LN → cross-attention to the text context, no gate;
LN·(1 + scale) + shift → tanh-GELU feed-forward → gate. Scale, shift and gate come from a learned [1, 6, D] table plus a
projection of the flow timestep. Self-attention is split into ``project`` and ``merge`` because queries, keys and values
of both experts meet between the two (mixture of transformers). Noise levels act only through ``Modulation``, which is
made before the blocks run, so a sampler whose levels are known makes it once and not in every step.

In inference mode blocks compute the same with fewer operators (``wam.fused``); training and exported graphs do not.

Weights of the matrix products may be in half precision: each product casts its input to its weights' type, and norms,
rotary positions, modulation and the residual stream stay in float32. With float32 weights no cast does anything.

Source: Wan 2.1 (arXiv 2503.20314); Liang et al., Mixture-of-Transformers (arXiv 2411.04996).

Shape legend: B batch (absent in exported graphs, whose products are then plain matrix products), N tokens, S noise
levels of a sample (1: the same for all of its tokens, or N), T text tokens, D residual width, h heads, d head size.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from wam import fused
from wam.flow import TIMESTEP_SCALE
from wam.rope import Rope, apply_rope

__all__ = [
    "Block",
    "ExpertConfig",
    "Head",
    "HeadModulation",
    "KeysValues",
    "LinearHead",
    "Modulation",
    "RMSNorm",
    "TimestepEmbedding",
    "attend",
    "attend_text",
    "cast_linear",
]


@dataclass(frozen=True, kw_only=True)
class ExpertConfig:
    """Geometry of one expert."""

    width: int  # residual width D
    text_width: int  # width of the text context it cross-attends to
    num_heads: int  # heads h
    head_dim: int  # head size d; h·d may differ from D
    ffn_width: int  # hidden width of the feed-forward layer
    qk_norm: bool  # RMSNorm of queries and keys over the full attention width
    gate_init: float  # initial value of the two gates in the modulation table
    image: bool = False  # a second cross-attention, to an image encoder's tokens of the same width D


class KeysValues(NamedTuple):
    """What one group of tokens lends to attention in one layer."""

    keys: Float[Tensor, "B h N d"]
    values: Float[Tensor, "B h N d"]


class Modulation(NamedTuple):
    """What noise levels do to one block; scales are ready to multiply, the 1 of (1 + scale) included."""

    shift: Float[Tensor, "B S D"]
    scale: Float[Tensor, "B S D"]
    gate: Float[Tensor, "B S D"]
    shift_ffn: Float[Tensor, "B S D"]
    scale_ffn: Float[Tensor, "B S D"]
    gate_ffn: Float[Tensor, "B S D"]


class HeadModulation(NamedTuple):
    """What noise levels do to the output layer."""

    shift: Float[Tensor, "B S D"]
    scale: Float[Tensor, "B S D"]


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last dimension, written out so that TensorRT can fuse attention behind it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Float[Tensor, "*S D"]) -> Float[Tensor, "*S D"]:
        """Scales every vector to unit root mean square, in float32."""
        x = x.float()
        if fused.active():
            return F.rms_norm(x, self.weight.shape, self.weight, fused.NORM_EPS)
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + fused.NORM_EPS) * self.weight


class TimestepEmbedding(nn.Module):
    """sigma → sinusoid(1000·sigma) → MLP; also gives the six modulation vectors of the blocks."""

    def __init__(self, frequency_dim: int, width: int) -> None:
        super().__init__()
        half = frequency_dim // 2
        frequencies = torch.exp(-math.log(10000.0) * torch.arange(half) / half)
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.mlp = nn.Sequential(nn.Linear(2 * half, width), nn.SiLU(), nn.Linear(width, width))
        self.modulation = nn.Linear(width, 6 * width)

    def forward(self, sigma: Float[Tensor, "B S"]) -> tuple[Float[Tensor, "B S D"], Float[Tensor, "B S 6 D"]]:
        """Embeds noise levels, one per sample or one per token."""
        angles = TIMESTEP_SCALE * sigma[..., None] * self.frequencies  # (B, S, half)
        embedded = self.mlp(torch.cat((angles.cos(), angles.sin()), dim=-1))  # (B, S, D)
        return embedded, self.modulation(F.silu(embedded)).unflatten(-1, (6, -1))


class Block(nn.Module):
    """One layer of one expert."""

    def __init__(self, config: ExpertConfig) -> None:
        super().__init__()
        width, inner = config.width, config.num_heads * config.head_dim
        self.heads = config.num_heads
        self.norm_self = nn.LayerNorm(width, eps=fused.NORM_EPS, elementwise_affine=False)
        self.norm_cross = nn.LayerNorm(width, eps=fused.NORM_EPS)
        self.norm_ffn = nn.LayerNorm(width, eps=fused.NORM_EPS, elementwise_affine=False)
        self.qkv = nn.Linear(width, 3 * inner)
        self.out = nn.Linear(inner, width)
        self.cross_q = nn.Linear(width, inner)
        self.cross_kv = nn.Linear(config.text_width, 2 * inner)
        self.cross_out = nn.Linear(inner, width)
        self.ffn = nn.Sequential(
            nn.Linear(width, config.ffn_width), nn.GELU(approximate="tanh"), nn.Linear(config.ffn_width, width)
        )
        self.norm_q, self.norm_k, self.norm_cross_q, self.norm_cross_k = (
            RMSNorm(inner) if config.qk_norm else nn.Identity() for _ in range(4)
        )
        table = torch.randn(1, 6, width) / math.sqrt(width)
        table[:, (2, 5)] += config.gate_init
        self.modulation = nn.Parameter(table)
        if config.image:
            self.image_kv = nn.Linear(width, 2 * inner)
            self.norm_image_k = RMSNorm(inner) if config.qk_norm else nn.Identity()

    def modulate(self, time: Float[Tensor, "B S 6 D"]) -> Modulation:
        """Adds this block's own table to the timestep's vectors."""
        shift, scale, gate, shift_ffn, scale_ffn, gate_ffn = (self.modulation[:, None] + time).unbind(2)
        return Modulation(shift, 1 + scale, gate, shift_ffn, 1 + scale_ffn, gate_ffn)

    def project(
        self, x: Float[Tensor, "*B N D"], modulation: Modulation, rope: Rope
    ) -> tuple[Float[Tensor, "*B h N d"], KeysValues]:
        """Makes this expert's rotated queries and keys, and its values."""
        qkv = cast_linear(self.qkv, self._entry(x, modulation))  # (B, N, 3·h·d)
        if fused.active():
            parts = fused.turned(qkv, self.heads, self._qk_scale(), fused.spin(rope))  # 3 x (B, N, h, d)
            q, k, v = (part.transpose(-3, -2).to(qkv.dtype) for part in parts)
            return q, KeysValues(k, v)
        q, k, v = qkv.chunk(3, dim=-1)  # 3 x (B, N, h·d)
        return self._rotated(self.norm_q(q), rope).to(v.dtype), self._rotated_kv(k, v, rope)

    def project_kv(self, x: Float[Tensor, "*B N D"], modulation: Modulation, rope: Rope) -> KeysValues:
        """As ``project`` without queries, for tokens whose output nobody reads; a third less to compute."""
        if torch.is_grad_enabled():  # a narrower product sums its gradients in another order: training stays bit-exact
            return self.project(x, modulation, rope)[1]
        inner = self.out.in_features
        h = self._entry(x, modulation).to(self.qkv.weight.dtype)
        k, v = F.linear(h, self.qkv.weight[inner:], self.qkv.bias[inner:]).chunk(2, dim=-1)  # 2 x (B, N, h·d)
        return self._rotated_kv(k, v, rope)

    def merge(
        self,
        x: Float[Tensor, "*B N D"],
        attended: Float[Tensor, "*B h N d"],
        modulation: Modulation,
        text: KeysValues,
        image: KeysValues | None = None,
        instants: int = 1,
    ) -> Float[Tensor, "*B N D"]:
        """Adds the attention result, then cross-attention to the text context, then the feed-forward layer.

        The tokens of an image encoder, where there are any, are attended to by the same queries, apart from the text.
        Of several ``instants`` each attends to a text context of its own.
        """
        x = _gated(x, modulation.gate, cast_linear(self.out, _join(attended)))
        q = self._split(self.norm_cross_q(cast_linear(self.cross_q, self.norm_cross(x)))).to(text.keys.dtype)
        crossed = attend_text(q, text, instants)
        if image is not None:
            crossed = crossed + attend(q, image.keys, image.values)
        x = x + cast_linear(self.cross_out, _join(crossed))
        hidden = _modulated(self.norm_ffn, x, modulation.scale_ffn, modulation.shift_ffn)
        return _gated(x, modulation.gate_ffn, self.ffn(hidden.to(self.ffn[0].weight.dtype)))

    def text_kv(self, text: Float[Tensor, "*B T W"]) -> KeysValues:
        """Keys and values of the text context: they change with the instruction, never with the noise level."""
        k, v = cast_linear(self.cross_kv, text).chunk(2, dim=-1)
        return KeysValues(self._split(self.norm_cross_k(k)).to(v.dtype), self._split(v))

    def image_keys_values(self, image: Float[Tensor, "*B I D"]) -> KeysValues:
        """Keys and values of an image encoder's tokens, projected to this expert's width."""
        k, v = cast_linear(self.image_kv, image).chunk(2, dim=-1)
        return KeysValues(self._split(self.norm_image_k(k)).to(v.dtype), self._split(v))

    def _entry(self, x: Tensor, modulation: Modulation) -> Tensor:
        return _modulated(self.norm_self, x, modulation.scale, modulation.shift)

    def _qk_scale(self) -> Float[Tensor, "2 inner"] | None:
        """Learned scales of the norms of queries and keys; None where neither is normed."""
        return torch.stack((self.norm_q.weight, self.norm_k.weight)) if isinstance(self.norm_q, RMSNorm) else None

    def _rotated(self, x: Tensor, rope: Rope) -> Tensor:
        return apply_rope(self._split(x), rope)

    def _rotated_kv(self, k: Tensor, v: Tensor, rope: Rope) -> KeysValues:
        return KeysValues(self._rotated(self.norm_k(k), rope).to(v.dtype), self._split(v))

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], self.heads, -1).transpose(-3, -2)  # (B, h, N, d)


class Head(nn.Module):
    """Modulated output layer of an expert."""

    def __init__(self, width: int, out_dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=fused.NORM_EPS, elementwise_affine=False)
        self.modulation = nn.Parameter(torch.randn(1, 2, width) / math.sqrt(width))
        self.linear = nn.Linear(width, out_dim)

    def modulate(self, embedded: Float[Tensor, "B S D"]) -> HeadModulation:
        """Adds the head's own table to the embedded timestep."""
        shift, scale = (self.modulation[:, None] + embedded[:, :, None]).unbind(2)
        return HeadModulation(shift, 1 + scale)

    def forward(self, x: Float[Tensor, "*B N D"], modulation: HeadModulation) -> Float[Tensor, "*B N O"]:
        """Projects tokens to their prediction."""
        return cast_linear(self.linear, _modulated(self.norm, x, modulation.scale, modulation.shift))


class LinearHead(nn.Module):
    """Output layer without norm or modulation: Fast-WAM's action head."""

    def __init__(self, width: int, out_dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, out_dim)

    def modulate(self, embedded: Float[Tensor, "B S D"]) -> None:
        """Noise levels do nothing here."""
        del embedded

    def forward(self, x: Float[Tensor, "*B N D"], modulation: None) -> Float[Tensor, "*B N O"]:
        """Projects tokens to their prediction."""
        del modulation
        return cast_linear(self.linear, x)


def cast_linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """A product in the type of its weights."""
    return layer(x.to(layer.weight.dtype))


def _modulated(norm: nn.LayerNorm, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return fused.modulated_norm(x, scale, shift, norm.eps) if fused.active() else norm(x) * scale + shift


def _gated(x: Tensor, gate: Tensor, out: Tensor) -> Tensor:
    return torch.addcmul(x, gate, out.to(x.dtype)) if fused.active() else x + gate * out


def attend(
    q: Float[Tensor, "*B h N d"], k: Float[Tensor, "*B h M d"], v: Float[Tensor, "*B h M d"]
) -> Float[Tensor, "*B h N d"]:
    """Attention over keys that are all visible: there is no mask anywhere in this model's hot path."""
    return F.scaled_dot_product_attention(q, k, v)


def attend_text(q: Float[Tensor, "*B h N d"], text: KeysValues, instants: int = 1) -> Float[Tensor, "*B h N d"]:
    """Cross-attention to one text context, or of each of I instants to its own: (B, I, h, T, d)."""
    if instants == 1:
        return attend(q, *text)
    apart = q.unflatten(-2, (instants, -1)).transpose(-4, -3)  # (B, I, h, N / I, d)
    return attend(apart, *text).transpose(-4, -3).flatten(-3, -2)


def _join(x: Tensor) -> Tensor:
    return x.transpose(-3, -2).flatten(-2)  # (B, N, h·d)
