"""Wan's causal video autoencoder on a single frame, with plain two-dimensional convolutions.

A policy encodes one frame at a time. A causal convolution pads the past with zeros, so on the first frame all but the
last slice of its kernel in time multiplies zeros: that slice alone, a Conv2d, gives the same numbers with about a third
of the arithmetic. Convolutions that mix frames in time are never reached by a first frame.

Shape legend: B batch, C channels, Z latent channels.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wam.latents import latents_to_tokens
from wam.vae import VaeTokenizer, _pixels

__all__ = ["FirstFrameVae", "frame_tokens"]


class FirstFrameVae(nn.Module):
    """Encoder of an ``AutoencoderKLWan`` for one frame; stands in for it where nothing is decoded.

    Args:
        vae: diffusers' autoencoder; it is left as it was.
        dtype: Type of the convolutions' weights; norms and attention stay in float32.
    """

    def __init__(self, vae: Any, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.config = vae.config
        self.encoder = _folded(copy.deepcopy(vae.encoder).float(), dtype)
        self.head = _folded(copy.deepcopy(vae.quant_conv).float(), dtype)
        for name in ("mean", "std"):
            values = torch.tensor(getattr(vae.config, f"latents_{name}"), dtype=torch.float32)
            self.register_buffer(name, values[:, None, None, None])  # (Z, 1, 1, 1)

    def standardised(self, pixels: Tensor) -> Tensor:
        """(B, 3, 1, height, width) pixels → (B, Z, 1, h, w) latents by the autoencoder's own statistics."""
        return (self(pixels) - self.mean) / self.std

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, 1, height, width) pixels in [−1, 1] → (B, Z, 1, h, w) mean of the latents."""
        from diffusers.models.autoencoders.autoencoder_kl_wan import patchify

        x = pixels.float()
        if self.config.patch_size is not None:
            x = patchify(x, patch_size=self.config.patch_size)
        moments = self.head(self.encoder(x))  # without a cache the encoder treats what it gets as a first frame
        return moments.chunk(2, dim=1)[0]


def frame_tokens(tokenizer: VaeTokenizer, encoder: FirstFrameVae, images: Tensor) -> Tensor:
    """As ``tokenizer.encode``: (B, K, height, width, 3) images of one instant → (B, N, Z) video tokens."""
    return latents_to_tokens(encoder.standardised(_pixels(images[:, None])), tokenizer.config)


class _FirstFrameConv(nn.Module):
    def __init__(self, conv: nn.Conv3d, dtype: torch.dtype) -> None:
        super().__init__()
        # Taken out at once, so that no graph slices it and no file holds the part that multiplies zeros.
        self.weight = nn.Parameter(conv.weight[:, :, -1].detach().to(dtype).contiguous(), requires_grad=False)
        self.bias = None if conv.bias is None else nn.Parameter(conv.bias.detach().to(dtype), requires_grad=False)
        self.stride, self.padding = conv.stride[1:], (conv._padding[2], conv._padding[0])

    def forward(self, x: Tensor, cache_x: None = None) -> Tensor:
        """(B, C, 1, height, width) → the same with other channels."""
        del cache_x  # a first frame has no past
        frame = x[:, :, 0].to(self.weight.dtype)
        return F.conv2d(frame, self.weight, self.bias, self.stride, self.padding).float().unsqueeze(2)


def _folded(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d

    if isinstance(module, WanCausalConv3d):
        return _FirstFrameConv(module, dtype)
    for name, child in module.named_children():
        if name == "time_conv":
            setattr(module, name, None)  # mixes frames; a first frame never reaches it
        else:
            setattr(module, name, _folded(child, dtype))
    return module
