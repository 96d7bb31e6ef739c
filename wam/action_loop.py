"""The denoising loop of an action chunk in the fast question, written out: what it does N times it does with least.

``WorldActionModel.denoise`` is one step for every question, backend and exporter. A chunk runs it N times on the same
observation, so here all that the steps share is laid ready once per chunk: keys and values of the observation stand in
buffers with room for those of the actions behind them, which each step overwrites; the learned scale of cross-attention
queries is multiplied into the keys they meet; weights are looked up once and tokens of a batch stand in one matrix.
What remains per layer is some twenty operators in place of sixty. The numbers are those of ``denoise`` up to rounding;
there are no gradients.

Shape legend: B batch, H chunk, A action width, D residual width, M tokens of the observation, T text tokens and one of
proprio, h heads, d head size, inner h·d, I and O inputs and outputs of a product, S noise levels of a sample (1 or H).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from wam import fused, rope
from wam.blocks import Block, KeysValues, Modulation, RMSNorm, attend
from wam.caches import ContextCache, StepTables
from wam.model import WorldActionModel

__all__ = ["ActionLoop"]


class _Product(NamedTuple):
    """A linear layer on a matrix of tokens."""

    weight: Tensor  # (I, O)
    bias: Tensor  # (O,)

    def __call__(self, x: Tensor) -> Tensor:
        """(tokens, I) → (tokens, O), in the type of the weights."""
        return torch.addmm(self.bias, x.to(self.weight.dtype), self.weight)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Layer:
    """What the steps of a chunk share of one layer."""

    qkv: _Product
    out: _Product
    cross_q: _Product
    cross_out: _Product
    ffn_in: _Product
    ffn_out: _Product
    norm_cross: nn.LayerNorm
    qk_scale: Tensor | None  # (2, inner)
    own_keys: Tensor  # (B, H, h, d), the actions' part of the buffer behind ``keys``
    own_values: Tensor
    keys: Tensor  # (B, h, M + H, d) of the observation and then the actions
    values: Tensor
    text: KeysValues  # each (B, h, T, d)


class ActionLoop:
    """Denoises chunks of one observation.

    Args:
        model: The network; actions have an expert of their own (``fits``).
        context: Cached observation of a batch.
        length: H.
    """

    def __init__(self, model: WorldActionModel, context: ContextCache, length: int) -> None:
        self._model = model
        self._expert = model.experts["action"]
        self._heads = model.config.num_heads
        turning = rope.Rope(*(model.get_buffer(f"chunk_{part}") for part in rope.Rope._fields))
        self._spin = fused.spin(turning)
        self._layers = [
            _layer(block, frame, cross, length)
            for block, frame, cross in zip(self._expert.blocks, context.frame, context.cross, strict=True)
        ]

    @staticmethod
    def fits(model: WorldActionModel) -> bool:
        """Whether the model is of the form that the loop is written for."""
        return not model.config.action_register

    @torch.inference_mode()
    def run(self, noise: Float[Tensor, "B H A"], steps: Sequence[StepTables]) -> Float[Tensor, "B H A"]:
        """Takes one Euler step per entry.

        Args:
            noise: Chunk at the first step's noise level.
            steps: Tables of each step, as ``wam.caches.split_steps`` returns them.
        """
        actions, clean = noise, self._model.config.action_prediction == "x"
        for tables in steps:
            raw = self._predict(actions, tables)
            actions = torch.addcmul(actions, actions - raw if clean else raw, tables.gain)
        return actions

    def _predict(self, actions: Tensor, tables: StepTables) -> Tensor:
        x = self._expert.embed(actions)  # (B, H, D)
        if self._model.config.learned_positions:
            x = x + self._model.action_positions
        shape = x.shape
        x = x.view(-1, shape[-1])  # (B·H, D)
        for layer, modulation in zip(self._layers, tables.modulation.blocks, strict=True):
            x = self._advance(x, layer, _per_row(modulation, shape))
        return self._expert.head(x.view(shape), tables.modulation.head)

    def _advance(self, x: Tensor, layer: _Layer, modulation: Modulation) -> Tensor:
        """(B·H, D) → the same, one layer on."""
        size, half = layer.own_keys.shape, layer.keys.dtype  # (B, H, h, d)
        entered = fused.modulated_norm(x, modulation.scale, modulation.shift)
        qkv = layer.qkv(entered).view(size[0], size[1], -1)
        q, k, v = fused.turned(qkv, self._heads, layer.qk_scale, self._spin)  # 3 x (B, H, h, d)
        layer.own_keys.copy_(k)
        layer.own_values.copy_(v)
        seen = attend(q.transpose(1, 2).to(half), layer.keys, layer.values)
        x = torch.addcmul(x, modulation.gate, layer.out(_rows(seen)).to(x.dtype))
        norm = layer.norm_cross
        q = layer.cross_q(F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps))  # (B·H, inner)
        if layer.qk_scale is not None:
            q = F.rms_norm(q.float(), q.shape[-1:], None, fused.NORM_EPS)
        crossed = attend(q.view(size).transpose(1, 2).to(half), *layer.text)
        x = x.add_(layer.cross_out(_rows(crossed)))
        hidden = layer.ffn_in(fused.modulated_norm(x, modulation.scale_ffn, modulation.shift_ffn))
        out = layer.ffn_out(F.gelu(hidden, approximate="tanh"))
        return torch.addcmul(x, modulation.gate_ffn, out.to(x.dtype))


def _layer(block: Block, frame: KeysValues, cross: KeysValues, length: int) -> _Layer:
    text, qk_scale = cross.keys, None
    if isinstance(block.norm_q, RMSNorm):
        qk_scale = torch.stack((block.norm_q.weight, block.norm_k.weight))
        # The scale of a channel of cross-attention's queries may as well be that of the keys they meet.
        text = (text * block.norm_cross_q.weight.view(block.heads, 1, -1)).to(text.dtype)
    keys, values = (_with_room(part, length) for part in frame)
    first, _, last = block.ffn
    return _Layer(
        **{name: _product(getattr(block, name)) for name in ("qkv", "out", "cross_q", "cross_out")},
        ffn_in=_product(first),
        ffn_out=_product(last),
        norm_cross=block.norm_cross,
        qk_scale=qk_scale,
        own_keys=keys[:, -length:],
        own_values=values[:, -length:],
        keys=keys.transpose(1, 2),
        values=values.transpose(1, 2),
        text=KeysValues(text, cross.values),
    )


def _product(layer: nn.Linear) -> _Product:
    return _Product(layer.weight.t(), layer.bias)


def _with_room(part: Tensor, length: int) -> Tensor:
    """(B, h, M, d) keys or values → (B, M + length, h, d), the last ones not yet set."""
    batch, heads, seen, size = part.shape
    room = part.new_empty(batch, seen + length, heads, size)
    room[:, :seen] = part.transpose(1, 2)
    return room


def _per_row(modulation: Modulation, shape: torch.Size) -> Modulation:
    """Tables as they apply to the rows of a (B·H, D) matrix."""
    if modulation.scale.numel() == shape[-1]:
        return Modulation(*(part.view(1, -1) for part in modulation))
    return Modulation(*(part.expand(shape).reshape(-1, shape[-1]) for part in modulation))


def _rows(x: Tensor) -> Tensor:
    """(B, h, H, d) → (B·H, inner)."""
    return x.transpose(1, 2).reshape(x.shape[0] * x.shape[2], -1)
