"""Transformer blocks in Wan's structure, written so that two experts can share attention.

One block: LN·(1 + scale) + shift → self-attention → gate; affine LN → cross-attention to the text context, no gate;
LN·(1 + scale) + shift → tanh-GELU feed-forward → gate. Scale, shift and gate come from a learned [1, 6, D] table plus a
projection of the flow timestep. Self-attention is split into ``project`` and ``merge`` because queries, keys and values
of both experts meet between the two (mixture of transformers).

Source: Wan 2.1 (arXiv 2503.20314); Liang et al., Mixture-of-Transformers (arXiv 2411.04996).

Shape legend: B batch, N tokens, T text tokens, D residual width, h heads, d head size.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from wam.flow import TIMESTEP_SCALE
from wam.rope import Rope, apply_rope

__all__ = ["Block", "ExpertConfig", "Head", "RMSNorm", "TimestepEmbedding", "attend"]

NORM_EPS = 1e-6


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


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last dimension, written out so that TensorRT can fuse attention behind it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Float[Tensor, "*S D"]) -> Float[Tensor, "*S D"]:
        """Scales every vector to unit root mean square."""
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + NORM_EPS) * self.weight


class TimestepEmbedding(nn.Module):
    """sigma → sinusoid(1000·sigma) → MLP; also gives the six modulation vectors of the blocks."""

    def __init__(self, frequency_dim: int, width: int) -> None:
        super().__init__()
        half = frequency_dim // 2
        frequencies = torch.exp(-math.log(10000.0) * torch.arange(half) / half)
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.mlp = nn.Sequential(nn.Linear(2 * half, width), nn.SiLU(), nn.Linear(width, width))
        self.modulation = nn.Linear(width, 6 * width)

    def forward(self, sigma: Float[Tensor, " B"]) -> tuple[Float[Tensor, "B D"], Float[Tensor, "B 6 D"]]:
        """Embeds one noise level per sample."""
        angles = TIMESTEP_SCALE * sigma[:, None] * self.frequencies  # (B, half)
        embedded = self.mlp(torch.cat((angles.cos(), angles.sin()), dim=-1))  # (B, D)
        return embedded, self.modulation(F.silu(embedded)).unflatten(-1, (6, -1))


class Block(nn.Module):
    """One layer of one expert."""

    def __init__(self, config: ExpertConfig) -> None:
        super().__init__()
        width, inner = config.width, config.num_heads * config.head_dim
        self.heads = config.num_heads
        self.norm_self = nn.LayerNorm(width, eps=NORM_EPS, elementwise_affine=False)
        self.norm_cross = nn.LayerNorm(width, eps=NORM_EPS)
        self.norm_ffn = nn.LayerNorm(width, eps=NORM_EPS, elementwise_affine=False)
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

    def project(
        self, x: Float[Tensor, "B N D"], time: Float[Tensor, "B 6 D"], rope: Rope
    ) -> tuple[Float[Tensor, "B h N d"], Float[Tensor, "B h N d"], Float[Tensor, "B h N d"]]:
        """Makes this expert's rotated queries and keys, and its values."""
        shift, scale = (self.modulation + time)[:, :2].split(1, dim=1)  # 2 x (B, 1, D)
        q, k, v = self.qkv(self.norm_self(x) * (1 + scale) + shift).chunk(3, dim=-1)  # 3 x (B, N, h·d)
        q, k, v = (self._split(part) for part in (self.norm_q(q), self.norm_k(k), v))
        return apply_rope(q, rope), apply_rope(k, rope), v

    def merge(
        self,
        x: Float[Tensor, "B N D"],
        attended: Float[Tensor, "B h N d"],
        time: Float[Tensor, "B 6 D"],
        text_kv: Float[Tensor, "2 B h T d"],
    ) -> Float[Tensor, "B N D"]:
        """Adds the attention result, then cross-attention to the text context, then the feed-forward layer."""
        _, _, gate, shift, scale, gate_ffn = (self.modulation + time).split(1, dim=1)  # 6 x (B, 1, D)
        x = x + gate * self.out(_join(attended))
        q = self._split(self.norm_cross_q(self.cross_q(self.norm_cross(x))))
        x = x + self.cross_out(_join(attend(q, text_kv[0], text_kv[1])))
        return x + gate_ffn * self.ffn(self.norm_ffn(x) * (1 + scale) + shift)

    def text_kv(self, text: Float[Tensor, "B T W"]) -> Float[Tensor, "2 B h T d"]:
        """Keys and values of the text context: they change with the instruction, never with the noise level."""
        k, v = self.cross_kv(text).chunk(2, dim=-1)
        return torch.stack((self._split(self.norm_cross_k(k)), self._split(v)))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, h, N, d)


class Head(nn.Module):
    """Modulated output layer of an expert."""

    def __init__(self, width: int, out_dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=NORM_EPS, elementwise_affine=False)
        self.modulation = nn.Parameter(torch.randn(1, 2, width) / math.sqrt(width))
        self.linear = nn.Linear(width, out_dim)

    def forward(self, x: Float[Tensor, "B N D"], embedded: Float[Tensor, "B D"]) -> Float[Tensor, "B N O"]:
        """Projects tokens to their prediction."""
        shift, scale = (self.modulation + embedded[:, None]).split(1, dim=1)  # 2 x (B, 1, D)
        return self.linear(self.norm(x) * (1 + scale) + shift)


def attend(
    q: Float[Tensor, "B h N d"], k: Float[Tensor, "B h M d"], v: Float[Tensor, "B h M d"]
) -> Float[Tensor, "B h N d"]:
    """Attention over keys that are all visible: there is no mask anywhere in this model's hot path."""
    return F.scaled_dot_product_attention(q, k, v)


def _join(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)  # (B, N, h·d)
