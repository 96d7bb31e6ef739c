"""A compact causal video autoencoder of our own: the closed form, and what a small network adds to it.

Each latent is the closed-form projection of its patch (``wam.closed_form``) plus a correction by a convolutional
network that sees neighbouring patches and the latent frame before; decoding likewise. Both corrections begin at zero,
so training starts from the closed form, whose colours are right, and can only be told apart from it by what it gains.

Causal in time: the first frame of a clip is a latent frame of its own and is encoded as if nothing had happened before
it; every following ``latent_stride`` frames become one more, which sees itself and the one before, never a later one.
So the observation's latent does not depend on the future, and an observation alone is a clip of one frame. Cameras
share the network and do not see each other.

Shape legend: B batch, K cameras, T frames of a clip, F frames after the first, L latent frames, r rows and c columns of
patches, C latent channels, N tokens of one instant, Z token values, S = B·K images.
"""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional

from wam.closed_form import ClosedForm
from wam.model_config import ModelConfig
from wam.patches import grid_to_tokens, pixels_to_images, to_patches, tokens_to_grid

__all__ = ["AutoencoderTokenizer"]

SMALLEST_STD = 1e-3  # of latents; a channel without variance is not blown up


class AutoencoderTokenizer(nn.Module):
    """Images ↔ latents of a causal video autoencoder; frozen wherever a model is trained on its latents."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.closed = ClosedForm(config)
        self.encoder = _Encoder(config)
        self.decoder = _Decoder(config)
        self.register_buffer("shift", torch.zeros(config.latent_channels))
        self.register_buffer("scale", torch.ones(()))

    @torch.no_grad()
    def fit(self, images: UInt8[Tensor, "M K height width 3"]) -> float:
        """Fits the closed form, which training starts from; returns the share of the variance that it keeps."""
        return self.closed.fit(images)

    @torch.no_grad()
    def standardise(self, images: UInt8[Tensor, "M K height width 3"]) -> None:
        """Brings latents of such images to mean 0, channel by channel, and to a spread of 1, all together.

        One scale for all keeps strong channels stronger, as in the closed form.
        """
        raw = self.latents(images[:, None]).flatten(0, -2)  # (M·K·r·c, C)
        self.shift.copy_(raw.mean(0))
        self.scale.copy_((raw - self.shift).pow(2).mean().sqrt().clamp_min(SMALLEST_STD))

    def latents(
        self, clip: UInt8[Tensor, "B T K height width 3"] | Float[Tensor, "B T K height width 3"]
    ) -> Float[Tensor, "B K L r c C"]:
        """Latents of a clip, 0 to 255, not standardised; with gradients."""
        batch, frames, cameras = clip.shape[:3]
        stride = self.config.latent_stride
        images = clip.float().transpose(1, 2).flatten(0, 1)  # (S, T, height, width, 3)
        pixels = images.flatten(0, 1).permute(0, 3, 1, 2) / 127.5 - 1.0  # (S·T, 3, height, width)
        features = self.encoder.features(pixels).unflatten(0, (batch * cameras, frames))  # (S, T, D, r, c)
        first = features[:, :1].repeat(1, stride, 1, 1, 1)  # stands for all frames of its latent
        every = first if frames == 1 else torch.cat((first, features[:, 1:]), dim=1)
        grouped = every.unflatten(1, (-1, stride)).flatten(2, 3)  # (S, L, s·D, r, c)
        correction = _over_time(self.encoder.now, self.encoder.before, grouped)  # (S, L, C, r, c)
        patches = to_patches(images[:, ::stride], self.config.patch_px)  # the last frame of each latent
        closed = self.closed.project(patches)  # (S, L, r, c, C)
        return (closed + correction.permute(0, 1, 3, 4, 2)).unflatten(0, (batch, cameras))

    def pixels(self, latents: Float[Tensor, "B K L r c C"]) -> Float[Tensor, "B T K height width 3"]:
        """Intensities of the clip that latents stand for, not yet bounded; with gradients."""
        batch, cameras = latents.shape[:2]
        stride = self.config.latent_stride
        flat = latents.flatten(0, 1)  # (S, L, r, c, C)
        closed = self.closed.pixels(flat)[:, :, None]  # (S, L, 1, height, width, 3)
        correction = self.decoder(flat.permute(0, 1, 4, 2, 3))  # (S, L, s·3, height, width)
        correction = correction.unflatten(2, (stride, 3)).permute(0, 1, 2, 4, 5, 3)  # (S, L, s, height, width, 3)
        frames = (closed + correction).flatten(1, 2)[:, stride - 1 :]  # the first latent frame is one frame
        return frames.unflatten(0, (batch, cameras)).transpose(1, 2)

    def encode(self, images: UInt8[Tensor, "B K height width 3"]) -> Float[Tensor, "B N Z"]:
        """Turns images of one instant into video tokens: row by row, cameras side by side within a row."""
        # Made float before anything else: TensorRT reads bytes in a cast only
        return self._tokens(images.float()[:, None])[:, 0]

    def encode_future(
        self, images: UInt8[Tensor, "B K height width 3"], future: UInt8[Tensor, "B F K height width 3"]
    ) -> Float[Tensor, "B LN Z"]:
        """Turns the frames that follow an observation into video tokens, latent frame by latent frame."""
        return self._tokens(torch.cat((images[:, None], future), dim=1))[:, 1:].flatten(1, 2)

    @torch.no_grad()
    def decode(self, tokens: Float[Tensor, "B N Z"]) -> UInt8[Tensor, "B K height width 3"]:
        """Turns the tokens of one instant back into images."""
        return self._images(tokens[:, None])[:, 0]

    @torch.no_grad()
    def decode_future(
        self, tokens: Float[Tensor, "B N Z"], future: Float[Tensor, "B LN Z"]
    ) -> UInt8[Tensor, "B F K height width 3"]:
        """Turns future tokens into frames; the observation's tokens come first, as the autoencoder is causal."""
        after = future.unflatten(1, (-1, tokens.shape[1]))  # (B, L, N, Z)
        return self._images(torch.cat((tokens[:, None], after), dim=1))[:, 1:]

    def future_condition(self, images: UInt8[Tensor, "B K height width 3"]) -> None:
        """Nothing stands beside imagined tokens."""
        del images

    def image_tokens(self, images: UInt8[Tensor, "B K height width 3"]) -> None:
        """There is no image encoder."""
        del images

    def _tokens(self, clip: Tensor) -> Tensor:
        """(B, T, K, height, width, 3) → (B, L, N, Z)."""
        latents = (self.latents(clip) - self.shift) / self.scale
        frames = latents.transpose(1, 2)  # (B, L, K, r, c, C)
        return grid_to_tokens(frames.flatten(0, 1), self.config).unflatten(0, frames.shape[:2])

    def _images(self, tokens: Tensor) -> Tensor:
        """(B, L, N, Z) → (B, T, K, height, width, 3)."""
        grid = tokens_to_grid(tokens.flatten(0, 1), self.config).unflatten(0, tokens.shape[:2])  # (B, L, K, r, c, C)
        return pixels_to_images(self.pixels(grid.transpose(1, 2) * self.scale + self.shift))


class _Encoder(nn.Module):
    """Pixels → features of half a patch → features of a patch → correction of its latent."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, half = config.tokenizer_width, config.patch_px // 2
        self.enter = nn.Conv2d(3, width, half, stride=half)
        self.mix = nn.Conv2d(width, width, 3, padding=1)
        self.join = nn.Conv2d(width, 2 * width, 2, stride=2)
        self.now = _zero(nn.Conv2d(2 * width * config.latent_stride, config.latent_channels, 1))
        self.before = _zero(nn.Conv2d(2 * width * config.latent_stride, config.latent_channels, 1, bias=False))

    def features(self, pixels: Tensor) -> Tensor:
        """(S, 3, height, width) in [−1, 1] → (S, D, r, c)."""
        x = _gelu(self.enter(pixels))
        return _gelu(self.join(x + _gelu(self.mix(x))))


class _Decoder(nn.Module):
    """Latents of now and before → correction of the pixels, the encoder's way back."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, half = config.tokenizer_width, config.patch_px // 2
        self.now = nn.Conv2d(config.latent_channels, 2 * width, 3, padding=1)
        self.before = nn.Conv2d(config.latent_channels, 2 * width, 3, padding=1, bias=False)
        self.part = nn.Conv2d(2 * width, 4 * width, 1)
        self.mix = nn.Conv2d(width, width, 3, padding=1)
        self.leave = _zero(nn.Conv2d(width, 3 * config.latent_stride * half**2, 1))
        self.half = half

    def forward(self, latents: Tensor) -> Tensor:
        """(S, L, C, r, c) → (S, L, s·3, height, width)."""
        x = _gelu(_over_time(self.now, self.before, latents)).flatten(0, 1)  # (S·L, D, r, c)
        x = _gelu(functional.pixel_shuffle(self.part(x), 2))
        pixels = functional.pixel_shuffle(self.leave(x + _gelu(self.mix(x))), self.half)
        return pixels.unflatten(0, latents.shape[:2])


def _over_time(now: nn.Module, before: nn.Module, frames: Tensor) -> Tensor:
    """Each of (S, L, ...) through ``now``, the one before it through ``before``; the first stands before itself."""
    # An exported graph sees one frame: nothing is cut to no frames there
    earlier = frames if frames.shape[1] == 1 else torch.cat((frames[:, :1], frames[:, :-1]), dim=1)
    both = now(frames.flatten(0, 1)) + before(earlier.flatten(0, 1))
    return both.unflatten(0, frames.shape[:2])


def _zero(layer: nn.Conv2d) -> nn.Conv2d:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def _gelu(x: Tensor) -> Tensor:
    return functional.gelu(x, approximate="tanh")
