"""Geometry of a world-action model; torch-free, because checkpoints, bundles and the robot all read it."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wam.errors import ConfigError, unknown_name

__all__ = ["ACTION_HEADS", "ACTION_PREDICTIONS", "OBS_ATTENTIONS", "TEXTS", "TOKENIZERS", "ModelConfig"]

ACTION_PREDICTIONS = ("x", "velocity")
ACTION_HEADS = ("modulated", "linear")
TOKENIZERS = ("patches", "pixels", "autoencoder", "vae")
TEXTS = ("words", "umt5")
OBS_ATTENTIONS = ("whole", "causal")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Geometry of a world-action model; both experts share layers, heads and head size."""

    preset: str = "tiny"  # the preset it came from, for reports
    action_dim: int  # A, joints + gripper of the robot
    proprio_dim: int = 0  # P, width of proprio; 0: that of an action, as with every robot file
    n_cameras: int  # K, images per observation
    n_obs_steps: int = 1  # k, instants of the observation that actions and imagined video see, the present included
    obs_stride: int = 4  # control steps between two of them: what is played of a chunk before the next is asked for
    obs_attention: str = "whole"  # instants see one another (whole), or themselves and earlier ones only (causal)
    obs_lead: int = 0  # causal: earlier instants still, which only those k see, as they would have in a stream
    chunk_length: int = 16  # H, actions per chunk: 1.6 s at 10 Hz, twice the execution horizon
    max_prefix: int = 0  # longest committed prefix of a chunk that training showed it clean; 0: never trained with one
    future_offset: int = 8  # control steps from the observation to the last imagined frame: one execution horizon
    future_frames: int = 1  # imagined frames, evenly spread over those steps
    image_size_px: tuple[int, int] = (64, 64)  # (height, width) of every camera as the model sees it
    tokenizer: str = "patches"  # images to latents (wam.tokenizer): patches, pixels, autoencoder, or Wan's frozen vae
    tokenizer_width: int = 32  # channels in the convolutions of "autoencoder"; the other tokenizers have none
    text: str = "words"  # the instruction: one learned row per word, or frozen UMT5 embeddings ("umt5")
    patch_px: int = 8  # side of one latent's image patch [px]; the tokenizer's stride in space
    latent_stride: int = 1  # frames per latent after the first; the tokenizer's stride in time
    latent_channels: int = 24  # principal components kept per patch: 97 % of the variance on our scenes
    token_patch: int = 2  # latents per token side: 2 x 2 latents make one video token
    num_layers: int = 4  # transformer blocks of each expert
    num_heads: int = 4  # attention heads of each expert
    head_dim: int = 32  # width of one head
    video_width: int = 128  # residual width of the video expert
    action_width: int = 64  # residual width of the action expert; the denoising loop runs only this one
    ffn_ratio: int = 2  # hidden width of a feed-forward layer, in multiples of the residual width
    video_ffn_width: int = 0  # hidden width of the video expert's; 0: by ffn_ratio
    action_ffn_width: int = 0  # hidden width of the action expert's; 0: by ffn_ratio
    prompt_length: int = 12  # words of the instruction that are read (umt5: tokens); longer ones are refused
    text_width: int = 64  # width of the text context; proprio is one more token of it
    text_projection: bool = False  # each expert first puts the text context through a two-layer MLP of its own, as Wan
    image_width: int = 0  # width of an image encoder's tokens that the video expert attends to (Wan2.1-I2V); 0: none
    image_tokens: int = 0  # their number
    condition_channels: int = 0  # channels beside each noisy latent: mask and clean latents (Wan2.1-I2V)
    frequency_dim: int = 64  # sinusoid features of the flow timestep
    qk_norm: bool = True  # RMSNorm of queries and keys over the full attention width, as Wan; steadier at this rate
    learned_positions: bool = True  # one learned embedding per token place: faster from scratch than RoPE alone
    gate_init: float = 0.5  # initial gate of every modulated branch; 0 starts as identity and learns later
    action_prediction: str = "x"  # what the action expert outputs: the clean chunk ("x") or the velocity
    video_prediction: str = "velocity"  # what the video expert outputs: the velocity, or clean future tokens ("x")
    action_head: str = "modulated"  # output layer of the action expert: modulated by sigma, or a bare linear one
    action_register: bool = False  # actions run through the video expert's own blocks: one expert, not two (DreamZero)
    inverse_head: int = 0  # width of the inverse-dynamics head; 0: there is none
    action_shift: float = 1.0  # flow shift S of the action sampler; near 1 suits few steps
    video_shift: float = 5.0  # flow shift S of the video sampler, as Wan

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            lowest = 0 if field.default == 0 else 1
            if field.type is int and (not isinstance(value, int) or value < lowest):
                raise ConfigError(
                    f"model option {field.name} is {value!r} but must be a whole number of at least {lowest}."
                )
        stride = self.patch_px * self.token_patch
        if any(side % stride for side in self.image_size_px):
            raise ConfigError(
                f"image_size_px {tuple(self.image_size_px)} must be a multiple of patch_px x token_patch = {stride}."
            )
        if self.head_dim % 2:
            raise ConfigError(f"head_dim is {self.head_dim} but rotary positions need an even number.")
        for name in ("action_shift", "video_shift"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"model option {name} is {getattr(self, name)} but a flow shift must be positive.")
        for what, value, valid in (
            ("action prediction", self.action_prediction, ACTION_PREDICTIONS),
            ("video prediction", self.video_prediction, ACTION_PREDICTIONS),
            ("action head", self.action_head, ACTION_HEADS),
            ("tokenizer", self.tokenizer, TOKENIZERS),
            ("text encoder", self.text, TEXTS),
            ("observation attention", self.obs_attention, OBS_ATTENTIONS),
        ):
            if value not in valid:
                raise ConfigError(unknown_name(what, value, valid))
        self._check_time()
        self._check_history()
        self._check_register()
        self._check_tokenizer()

    def _check_time(self) -> None:
        if self.future_offset > self.chunk_length:
            raise ConfigError(
                f"future_offset {self.future_offset} lies beyond chunk_length {self.chunk_length}: the imagined frame "
                "must be one the chunk can reach."
            )
        if self.future_offset % self.future_frames or self.future_frames % self.latent_stride:
            raise ConfigError(
                f"future_frames {self.future_frames} must divide future_offset {self.future_offset} and be a multiple "
                f"of latent_stride {self.latent_stride}: frames are evenly spaced and whole latents."
            )
        if self.max_prefix >= self.chunk_length:
            raise ConfigError(
                f"max_prefix {self.max_prefix} must be less than chunk_length {self.chunk_length}: some actions have "
                "to be left to predict."
            )

    def _check_history(self) -> None:
        if self.obs_attention == "whole" and self.obs_lead:
            raise ConfigError(
                f"obs_lead is {self.obs_lead} but obs_attention is 'whole': only a causal observation has instants "
                "that lead up to it."
            )
        if self.obs_attention == "causal" and self.n_obs_steps == 1:
            raise ConfigError(
                "obs_attention 'causal' orders the instants of an observation but n_obs_steps is 1: give it 2 or more."
            )
        if self.n_obs_steps > 1 and self.image_width:
            raise ConfigError(
                f"n_obs_steps is {self.n_obs_steps} but preset '{self.preset}' attends to the tokens of an image "
                "encoder, which are made for the present instant alone: give n_obs_steps 1."
            )

    def _check_register(self) -> None:
        if self.action_register and self.action_width != self.video_width:
            raise ConfigError(
                f"action_register needs action_width {self.action_width} to be video_width {self.video_width}: actions "
                "run through the video expert's blocks."
            )

    def _check_tokenizer(self) -> None:
        values = 3 * self.patch_px**2
        if self.tokenizer == "pixels" and self.latent_channels != values:
            raise ConfigError(
                f"tokenizer 'pixels' keeps every pixel: latent_channels is {self.latent_channels} but a patch of "
                f"{self.patch_px} x {self.patch_px} pixels has {values} values."
            )
        if self.tokenizer == "pixels" and self.latent_stride != 1:
            raise ConfigError(f"tokenizer 'pixels' sees each frame alone, but latent_stride is {self.latent_stride}.")
        if self.tokenizer == "autoencoder" and self.patch_px % 2:
            raise ConfigError(f"tokenizer 'autoencoder' works on half patches, but patch_px is {self.patch_px}.")

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of video tokens of one camera."""
        height, width = self.image_size_px
        stride = self.patch_px * self.token_patch
        return height // stride, width // stride

    @property
    def tokens_per_frame(self) -> int:
        """Video tokens of one instant, all cameras."""
        rows, columns = self.grid
        return rows * columns * self.n_cameras

    @property
    def n_instants(self) -> int:
        """Instants that the network is given: those that are acted on, and those that lead up to them."""
        return self.n_obs_steps + self.obs_lead

    @property
    def full_lead(self) -> int:
        """``obs_lead`` with which the k instants are, number for number, those of an endless causal stream."""
        return (self.num_layers - 1) * (self.n_obs_steps - 1)

    @property
    def instant_spacing(self) -> float:
        """Time between two instants of the observation, in latent frames of the imagined future."""
        return self.obs_stride * self.future_latents / self.future_offset

    @property
    def token_dim(self) -> int:
        """Latent values in one video token."""
        return self.latent_channels * self.token_patch**2

    @property
    def condition_dim(self) -> int:
        """Condition values that stand beside a video token's latent values."""
        return self.condition_channels * self.token_patch**2

    @property
    def state_dim(self) -> int:
        """Width of proprio."""
        return self.proprio_dim or self.action_dim

    @property
    def future_offsets(self) -> tuple[int, ...]:
        """Control steps from the observation to each imagined frame."""
        step = self.future_offset // self.future_frames
        return tuple(range(step, self.future_offset + 1, step))

    @property
    def future_latents(self) -> int:
        """Latent frames of the imagined future."""
        return self.future_frames // self.latent_stride

    @property
    def future_tokens(self) -> int:
        """Video tokens of the imagined future, all cameras."""
        return self.tokens_per_frame * self.future_latents

    def ffn_width(self, expert: str) -> int:
        """Hidden width of an expert's feed-forward layers; ``expert`` is "video" or "action"."""
        if expert == "video" or self.action_register:
            return self.video_ffn_width or self.ffn_ratio * self.video_width
        return self.action_ffn_width or self.ffn_ratio * self.action_width

    def to_dict(self) -> dict[str, Any]:
        """Returns JSON data, the inverse of ``from_dict``."""
        return {**dataclasses.asdict(self), "image_size_px": list(self.image_size_px)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "ModelConfig":
        """Builds a configuration from JSON data.

        Raises:
            ConfigError: An option is unknown, missing or impossible.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        for key in data:
            if key not in names:
                raise ConfigError(unknown_name("model option", key, names))
        try:
            return cls(**{**data, "image_size_px": tuple(data.get("image_size_px", (64, 64)))})
        except TypeError as error:
            raise ConfigError(f"model configuration is incomplete: {error}") from error
