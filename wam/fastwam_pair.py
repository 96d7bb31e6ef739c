"""Our network beside LeRobot's FastWAM core: the same geometry, the same weights, the same inputs.

It is how our core is proven right (velocities, keys and values, whole chunks) and how its speed is compared. Both get
the autoencoder's latents and the text encoder's embeddings as they are, because those parts are the same frozen
networks on both sides. LeRobot is imported when a pair is built, not before.

Shape legend: B batch of 1, N tokens of the observation, Z values of a token, T text tokens, W text width, P proprio
width, H chunk, A action width.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from wam.config import ModelConfig, preset
from wam.latents import latents_to_tokens
from wam.model import PromptCache, WorldActionModel
from wam.robot import load_robot
from wam.sampling import sample_actions
from wam.tensor_files import TensorMap
from wam.wan_weights import fill_weights

__all__ = ["FastWamPair", "PairInputs", "build_pair", "pair_config", "their_core"]

BIAS_STD = 0.1  # spread of random biases, tables and norms
# Fast-WAM's interfaces as they are (128 text tokens of 4096, latents of 48 channels, 98 tokens, 32 actions) and its
# proportions of widths (action a third of attention, feed-forward 4 2/3 and 4 times the width), at 6.8 M parameters.
BENCH_SIZE = {
    "num_layers": 5,
    "num_heads": 4,
    "head_dim": 54,
    "video_width": 216,
    "video_ffn_width": 1040,
    "action_width": 72,
    "action_ffn_width": 288,
}


@dataclass(frozen=True, kw_only=True)
class PairInputs:
    """One observation, already encoded, and the noise of one chunk."""

    latents: Tensor  # (1, C, 1, h, w) of the observation, as the autoencoder gives them
    tokens: Tensor  # (1, N, Z) the same as tokens
    text: Tensor  # (1, T, W) embeddings of the instruction
    proprio: Tensor  # (1, P)
    noise: Tensor  # (1, H, A) that LeRobot draws from the seed
    seed: int


@dataclass(frozen=True, kw_only=True)
class FastWamPair:
    """Both networks and what they are shown."""

    ours: WorldActionModel
    theirs: Any  # lerobot.policies.fastwam.wan.FastWAM
    inputs: PairInputs

    @torch.inference_mode()
    def our_prompt(self) -> PromptCache:
        """What we compute once per task."""
        return self.ours.encode_prompt(self.inputs.text)

    @torch.inference_mode()
    def our_chunk(self, n_steps: int, prompt: PromptCache | None = None) -> Tensor:
        """Observation → (1, H, A) chunk, as on a robot: the instruction was encoded when the task began."""
        prompt = self.our_prompt() if prompt is None else prompt
        cross = self.ours.cross_kv(self.inputs.proprio, prompt)
        context = self.ours.encode_context_tokens(self.inputs.tokens, cross)
        return sample_actions(self.ours, context, self.inputs.noise, n_steps)

    @torch.inference_mode()
    def their_chunk(self, n_steps: int) -> Tensor:
        """The same by LeRobot's ``infer_action``."""
        height, width = self.ours.config.image_size_px
        blank = torch.zeros(1, 3, height, width * self.ours.config.n_cameras)  # the stub gives the latents
        out = self.theirs.infer_action(
            prompt=None,
            input_image=blank,
            action_horizon=self.ours.config.chunk_length,
            proprio=self.inputs.proprio,
            context=self.inputs.text,
            context_mask=torch.ones(self.inputs.text.shape[:2], dtype=torch.bool),
            num_inference_steps=n_steps,
            seed=self.inputs.seed,
        )
        return out["action"][None]


def pair_config(**changes: Any) -> ModelConfig:
    """Fast-WAM's shapes at 6.8 M parameters: 98 tokens of the observation, 32 actions, 128 text tokens."""
    return dataclasses.replace(preset("wan5b", load_robot("sim6")), preset="fastwam_pair", **{**BENCH_SIZE, **changes})


def build_pair(seed: int = 0, config: ModelConfig | None = None) -> FastWamPair:
    """Makes both networks with the same random weights.

    Args:
        seed: Of weights and inputs; torch's own generator is left as it was.
        config: Geometry; the attention width must be the video expert's own, as in Wan. Default: ``pair_config()``.

    Raises:
        ModuleNotFoundError: LeRobot, or one of the libraries its FastWAM needs, is not installed.
    """
    config = pair_config() if config is None else config
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inputs = _inputs(config, seed)
        theirs = their_core(config, inputs.latents)
        ours = WorldActionModel(config)
        _same_weights(ours, theirs)
    return FastWamPair(ours=ours.eval().requires_grad_(False), theirs=theirs.eval(), inputs=inputs)


def _inputs(config: ModelConfig, seed: int) -> PairInputs:
    (rows, columns), side = config.grid, config.token_patch
    latents = torch.randn(1, config.latent_channels, 1, rows * side, columns * side * config.n_cameras)
    shape = (1, config.chunk_length, config.action_dim)
    return PairInputs(
        latents=latents,
        tokens=latents_to_tokens(latents, config),
        text=torch.randn(1, config.prompt_length, config.text_width),
        proprio=torch.randn(1, config.state_dim),
        noise=torch.randn(shape, generator=torch.Generator().manual_seed(seed)),
        seed=seed,
    )


def their_core(config: ModelConfig, latents: Tensor, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Any:
    """Makes LeRobot's core of a geometry, with whatever weights its constructor draws.

    Args:
        config: Geometry of ours.
        latents: (1, C, 1, h, w) that its autoencoder is to give.
        device: Where it is made.
        dtype: Of its weights.
    """
    from lerobot.policies.fastwam.wan import ActionDiT, FastWAM, MoT, WanVideoDiT

    shared = {
        "num_heads": config.num_heads,
        "attn_head_dim": config.head_dim,
        "num_layers": config.num_layers,
        "text_dim": config.text_width,
        "freq_dim": config.frequency_dim,
        "eps": 1e-6,
    }
    video = WanVideoDiT(
        hidden_dim=config.video_width,
        ffn_dim=config.ffn_width("video"),
        in_dim=config.latent_channels,
        out_dim=config.latent_channels,
        patch_size=(1, config.token_patch, config.token_patch),
        seperated_timestep=True,
        video_attention_mask_mode="first_frame_causal",
        action_dim=config.action_dim,
        **shared,
    )
    action = ActionDiT(
        hidden_dim=config.action_width, ffn_dim=config.ffn_width("action"), action_dim=config.action_dim, **shared
    )
    mot = MoT({"video": video, "action": action}, mot_checkpoint_mixed_attn=False)
    return FastWAM(
        video_expert=video,
        action_expert=action,
        mot=mot,
        vae=_Latents(latents.to(device, dtype)),
        text_dim=config.text_width,
        proprio_dim=config.state_dim,
        video_infer_shift=config.video_shift,
        action_infer_shift=config.action_shift,
        device=device,
        torch_dtype=dtype,
    )


class _Latents(nn.Module):
    """Stands where LeRobot expects its autoencoder and gives latents that were computed before."""

    temporal_downsample_factor = 4

    def __init__(self, latents: Tensor) -> None:
        super().__init__()
        self.latents = latents

    def encode(self, videos: Any, **options: Any) -> Tensor:
        """Whatever is shown."""
        del videos, options
        return self.latents


@torch.no_grad()
def _same_weights(ours: WorldActionModel, theirs: nn.Module) -> None:
    for name, parameter in theirs.named_parameters():
        inputs = parameter[0].numel()  # of a product: its output keeps their spread, so every part matters
        parameter.normal_(std=inputs**-0.5 if parameter.ndim > 1 and "modulation" not in name else BIAS_STD)
        if "norm" in name and name.endswith("weight"):
            parameter.add_(1.0)
    fill_weights(ours, TensorMap(dict(theirs.named_parameters())), origin="LeRobot's core")
