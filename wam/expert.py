"""One expert of the mixture: how its tokens enter, its blocks, what noise levels do to them, and its output layer.

The video expert has Wan's structure whole: text projection and, for image-to-video weights, condition channels beside
the latents and a second cross-attention to the tokens of an image encoder. The action expert is a narrower copy of it;
in the register form (DreamZero) it has no blocks of its own and its tokens run through those of the video expert.

Shape legend: B batch, N tokens, S noise levels of a sample (1 or N), T text tokens, I image tokens, D residual width,
Z values of a token, h heads, d head size.
"""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from wam.blocks import (
    Block,
    ExpertConfig,
    Head,
    HeadModulation,
    KeysValues,
    LinearHead,
    Modulation,
    TimestepEmbedding,
    cast_linear,
)
from wam.config import ModelConfig

__all__ = ["Expert", "ExpertModulation", "LayersKV", "RegisterExpert"]

IMAGE_NORM_EPS = 1e-5  # Wan's image projection keeps torch's default, unlike all its other norms

LayersKV = tuple[KeysValues, ...]  # one per layer, each (B, h, N, d); never stacked, so that no graph has to split them


class ExpertModulation(NamedTuple):
    """What noise levels do to an expert."""

    blocks: tuple[Modulation, ...]  # one per layer
    head: HeadModulation | None  # None where the output layer is a bare linear one


class Expert(nn.Module):
    """Embedding, blocks, timestep and head.

    Args:
        config: Geometry.
        name: "video" or "action".
    """

    def __init__(self, config: ModelConfig, name: str) -> None:
        super().__init__()
        video = name == "video"
        width = config.video_width if video else config.action_width
        geometry = ExpertConfig(
            width=width,
            text_width=width if config.text_projection else config.text_width,
            num_heads=config.num_heads,
            head_dim=config.head_dim,
            ffn_width=config.ffn_width(name),
            qk_norm=config.qk_norm,
            gate_init=config.gate_init,
            image=video and config.image_width > 0,
        )
        self.embed = nn.Linear(config.token_dim + config.condition_dim if video else config.action_dim, width)
        self.time = TimestepEmbedding(config.frequency_dim, width)
        self.blocks = nn.ModuleList(Block(geometry) for _ in range(config.num_layers))
        self.head = Head(width, config.token_dim) if video else _action_head(config)
        if config.text_projection:
            self.text = nn.Sequential(
                nn.Linear(config.text_width, width), nn.GELU(approximate="tanh"), nn.Linear(width, width)
            )
        if geometry.image:
            inner = config.image_width
            self.image = nn.Sequential(
                nn.LayerNorm(inner, eps=IMAGE_NORM_EPS),
                nn.Linear(inner, inner),
                nn.GELU(),
                nn.Linear(inner, width),
                nn.LayerNorm(width, eps=IMAGE_NORM_EPS),
            )

    def modulate(self, sigma: Float[Tensor, "B S"]) -> ExpertModulation:
        """Noise levels → what they do to every block and to the head."""
        embedded, time = self.time(sigma)  # (B, S, D), (B, S, 6, D)
        return ExpertModulation(tuple(block.modulate(time) for block in self.blocks), self.head.modulate(embedded))

    def text_kv(self, text: Float[Tensor, "*B T W"]) -> LayersKV:
        """Cross-attention keys and values of every layer, each (B, h, T, d)."""
        projected = _through(self.text, text) if hasattr(self, "text") else text
        return tuple(block.text_kv(projected) for block in self.blocks)

    def image_kv(self, tokens: Float[Tensor, "*B I W"]) -> LayersKV:
        """Keys and values of an image encoder's tokens, each (B, h, I, d)."""
        projected = _through(self.image, tokens)
        return tuple(block.image_keys_values(projected) for block in self.blocks)


class RegisterExpert(nn.Module):
    """Embedding and head of actions that run through another expert's blocks.

    Args:
        config: Geometry.
        host: The video expert; it keeps its parameters, this module only refers to it.
    """

    def __init__(self, config: ModelConfig, host: Expert) -> None:
        super().__init__()
        object.__setattr__(self, "_host", host)  # not registered: every parameter has one name
        self.embed = nn.Linear(config.action_dim, config.action_width)
        self.head = _action_head(config)

    @property
    def blocks(self) -> nn.ModuleList:
        """The host's blocks."""
        return self._host.blocks

    def modulate(self, sigma: Float[Tensor, "B S"]) -> ExpertModulation:
        """As ``Expert.modulate``."""
        embedded, time = self._host.time(sigma)
        return ExpertModulation(tuple(block.modulate(time) for block in self.blocks), self.head.modulate(embedded))

    def text_kv(self, text: Float[Tensor, "*B T W"]) -> LayersKV:
        """As ``Expert.text_kv``."""
        return self._host.text_kv(text)


def _action_head(config: ModelConfig) -> nn.Module:
    kind = Head if config.action_head == "modulated" else LinearHead
    return kind(config.action_width, config.action_dim)


def _through(layers: nn.Sequential, x: Tensor) -> Tensor:
    for layer in layers:
        if isinstance(layer, nn.Linear):
            x = cast_linear(layer, x)
        else:
            x = layer(x.float()) if isinstance(layer, nn.LayerNorm) else layer(x)
    return x
