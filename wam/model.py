"""The world-action model: a video expert and an action expert that share attention layer by layer.

Tokens come in three groups (``wam.visibility``): F clean frames, V future video, A action chunk. F and V run through
the video expert, A through the action expert. Proprio is one more token of the text context. The network is only ever
called on groups, so no attention mask is needed; keys and values of groups computed earlier are passed in, which is why
cached inference and the uncached forward run the same code.

Source: Fast-WAM (arXiv 2603.16666), DreamZero (arXiv 2602.15922).

Shape legend: B batch, K cameras, H chunk, A action width, L layers, h heads, d head size, N tokens, T prompt words,
Z values of a video token.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from wam import rope
from wam.blocks import Block, ExpertConfig, Head, TimestepEmbedding, attend
from wam.config import ModelConfig
from wam.flow import euler_step, velocity_from_x
from wam.text import VOCABULARY_SIZE
from wam.tokenizer import PatchTokenizer
from wam.visibility import Group, Question, visible

__all__ = ["ContextCache", "Predictions", "PromptCache", "WorldActionModel"]

POSITION_STD = 0.02  # initial spread of learned embeddings

LayerKV = list[Tensor]  # one (2, B, h, N, d) tensor of keys and values per layer


class PromptCache(NamedTuple):
    """Keys and values of the instruction; computed once per task."""

    video_kv: Float[Tensor, "L 2 B h T d"]
    action_kv: Float[Tensor, "L 2 B h T d"]


class ContextCache(NamedTuple):
    """All the action expert needs of one observation; computed once per observation."""

    self_kv: Float[Tensor, "L 2 B h N d"]  # clean frame tokens, for self-attention
    cross_kv: Float[Tensor, "L 2 B h T1 d"]  # instruction and proprio, for the action expert's cross-attention


class Predictions(NamedTuple):
    """Velocities of whatever was denoised."""

    video: Float[Tensor, "B N Z"] | None
    actions: Float[Tensor, "B H A"] | None


class WorldActionModel(nn.Module):
    """One network; which groups are noise, clean or absent decides what is asked of it."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = PatchTokenizer(config)
        self.words = nn.Embedding(VOCABULARY_SIZE, config.text_width)
        self.word_positions = nn.Parameter(POSITION_STD * torch.randn(config.prompt_length, config.text_width))
        self.proprio_in = nn.Linear(config.action_dim, config.text_width)
        self.experts = nn.ModuleDict(
            {
                "video": _Expert(config, config.video_width, config.token_dim),
                "action": _Expert(config, config.action_width, config.action_dim),
            }
        )
        places = config.tokens_per_frame if config.learned_positions else 0
        steps = config.chunk_length if config.learned_positions else 0
        self.video_positions = nn.Parameter(POSITION_STD * torch.randn(places, config.video_width))
        self.action_positions = nn.Parameter(POSITION_STD * torch.randn(steps, config.action_width))
        rows, columns = config.grid
        for name, frame in (("now", 0.0), ("later", 1.0)):
            tables = rope.video_tables(torch.tensor([frame]), rows, columns * config.n_cameras, config.head_dim)
            self._register_tables(name, tables)
        self._register_tables("chunk", rope.action_tables(config.chunk_length, config.head_dim))

    # -- the three stages of inference, each one exported graph -------------------------------------------------------

    def encode_prompt(self, token_ids: Int64[Tensor, "B T"]) -> PromptCache:
        """Instruction → cross-attention keys and values of both experts."""
        text = self.words(token_ids) + self.word_positions  # (B, T, text_width)
        return PromptCache(*(torch.stack(self.experts[name].text_kv(text)) for name in ("video", "action")))

    def encode_context(
        self,
        images: UInt8[Tensor, "B K height width 3"],
        proprio: Float[Tensor, "B A"],
        prompt: PromptCache,
    ) -> ContextCache:
        """One observation → keys and values that every denoising step reads."""
        return self.encode_context_tokens(self.tokenizer.encode(images), self.cross_kv(proprio, prompt))

    def encode_context_tokens(self, tokens: Float[Tensor, "B N Z"], cross: Mapping[str, Tensor]) -> ContextCache:
        """As ``encode_context``, from encoded video tokens and from what ``cross_kv`` returned."""
        frame_kv = self._run({Group.FRAME: self._enter_frame(tokens)}, {}, cross, Question.POLICY).kv[Group.FRAME]
        return ContextCache(torch.stack(frame_kv), cross["action"])

    def denoise_step(
        self,
        actions: Float[Tensor, "B H A"],
        sigma: Float[Tensor, " B"],
        sigma_next: Float[Tensor, " B"],
        context: ContextCache,
    ) -> Float[Tensor, "B H A"]:
        """One Euler step of the action chunk from sigma to sigma_next."""
        return euler_step(actions, self.action_velocity(actions, sigma, context), sigma, sigma_next)

    # -- predictions --------------------------------------------------------------------------------------------------

    def predict_actions(
        self, actions: Float[Tensor, "B H A"], sigma: Float[Tensor, " B"], context: ContextCache
    ) -> Float[Tensor, "B H A"]:
        """Raw output of the action expert in the fast question: clean chunk or velocity, as configured."""
        groups = {Group.ACTION: self._enter_actions(actions, sigma)}
        cached = {Group.FRAME: list(context.self_kv)}
        return self._run(groups, cached, {"action": context.cross_kv}, Question.POLICY).out[Group.ACTION]

    def action_velocity(
        self, actions: Float[Tensor, "B H A"], sigma: Float[Tensor, " B"], context: ContextCache
    ) -> Float[Tensor, "B H A"]:
        """Velocity of the action chunk in the fast question."""
        return self._as_velocity(self.predict_actions(actions, sigma, context), actions, sigma)

    def video_velocity(
        self,
        video: Float[Tensor, "B N Z"],
        sigma: Float[Tensor, " B"],
        context: ContextCache,
        video_cross_kv: Float[Tensor, "L 2 B h T1 d"],
    ) -> Float[Tensor, "B N Z"]:
        """Velocity of the future video tokens, isolated from actions."""
        groups = {Group.VIDEO: self._enter_video(video, sigma)}
        cached = {Group.FRAME: list(context.self_kv)}
        return self._run(groups, cached, {"video": video_cross_kv}, Question.POLICY).out[Group.VIDEO]

    def cross_kv(self, proprio: Float[Tensor, "B A"], prompt: PromptCache) -> dict[str, Tensor]:
        """Appends the proprio token to the instruction's keys and values: (L, 2, B, h, T + 1, d) per expert."""
        token = self.proprio_in(proprio)[:, None]  # (B, 1, text_width)
        prompts = {"video": prompt.video_kv, "action": prompt.action_kv}
        return {
            name: torch.cat((prompts[name], torch.stack(expert.text_kv(token))), dim=-2)
            for name, expert in self.experts.items()
        }

    def forward(
        self,
        tokens: Float[Tensor, "B N Z"],
        proprio: Float[Tensor, "B A"],
        prompt: PromptCache,
        question: Question | str,
        *,
        video: tuple[Tensor, Tensor] | None = None,
        actions: tuple[Tensor, Tensor] | None = None,
    ) -> Predictions:
        """All groups in one pass, nothing cached.

        Args:
            tokens: Clean video tokens of the observation.
            proprio: Normalised proprio.
            prompt: Keys and values of the instruction.
            question: Who may see whom.
            video: ((B, N, Z) future video tokens at their noise level, (B,) sigma), or None where absent.
            actions: ((B, H, A) normalised chunk at its noise level, (B,) sigma), or None where absent.

        Returns:
            Velocities of the groups that were given.
        """
        cross = self.cross_kv(proprio, prompt)
        groups = {Group.FRAME: self._enter_frame(tokens)}
        if video is not None:
            groups[Group.VIDEO] = self._enter_video(*video)
        if actions is not None:
            groups[Group.ACTION] = self._enter_actions(*actions)
        out = self._run(groups, {}, cross, question).out
        action_out = None if actions is None else self._as_velocity(out[Group.ACTION], *actions)
        return Predictions(out.get(Group.VIDEO), action_out)

    # -- internals ----------------------------------------------------------------------------------------------------

    def _run(
        self,
        groups: "Mapping[Group, _Stream]",
        cached: Mapping[Group, LayerKV],
        cross: Mapping[str, Tensor],
        question: Question | str,
    ) -> "_Run":
        """Runs live groups through all layers; groups in ``cached`` only lend their keys and values."""
        hidden = {group: stream.x for group, stream in groups.items()}
        kept: dict[Group, LayerKV] = {group: [] for group in groups}
        last = self.config.num_layers - 1
        for layer in range(self.config.num_layers):
            blocks = {group: self.experts[_EXPERT[group]].blocks[layer] for group in groups}
            kv = {group: (stored[layer][0], stored[layer][1]) for group, stored in cached.items()}
            queries = {}
            for group, stream in groups.items():
                queries[group], keys, values = blocks[group].project(hidden[group], stream.modulation, stream.rope)
                kv[group] = (keys, values)
                kept[group].append(torch.stack((keys, values)))
            for group, stream in groups.items():
                if group is Group.FRAME and layer == last:
                    continue  # nobody reads a frame token's output: its last layer only gives keys and values
                keys, values = (_gather(kv, visible(question, group), part) for part in (0, 1))
                attended = attend(queries[group], keys, values)
                text = cross[_EXPERT[group]][layer]
                hidden[group] = blocks[group].merge(hidden[group], attended, stream.modulation, text)
        out = {
            group: self.experts[_EXPERT[group]].head(hidden[group], stream.embedded)
            for group, stream in groups.items()
            if group is not Group.FRAME
        }
        return _Run(out, kept)

    def _enter_frame(self, tokens: Tensor) -> "_Stream":
        clean = torch.zeros(tokens.shape[0], device=tokens.device, dtype=tokens.dtype)
        return self._enter("video", tokens, clean, self.video_positions, "now")

    def _enter_video(self, tokens: Tensor, sigma: Tensor) -> "_Stream":
        return self._enter("video", tokens, sigma, self.video_positions, "later")

    def _enter_actions(self, actions: Tensor, sigma: Tensor) -> "_Stream":
        return self._enter("action", actions, sigma, self.action_positions, "chunk")

    def _enter(self, name: str, tokens: Tensor, sigma: Tensor, positions: Tensor, table: str) -> "_Stream":
        expert = self.experts[name]
        x = expert.embed(tokens)
        if self.config.learned_positions:
            x = x + positions
        embedded, modulation = expert.time(sigma)
        turning = rope.Rope(*(self.get_buffer(f"{table}_{part}") for part in rope.Rope._fields))
        return _Stream(x, embedded, modulation, turning)

    def _as_velocity(self, raw: Tensor, actions: Tensor, sigma: Tensor) -> Tensor:
        return raw if self.config.action_prediction == "velocity" else velocity_from_x(actions, raw, sigma)

    def _register_tables(self, name: str, tables: rope.Rope) -> None:
        for part, value in tables._asdict().items():
            self.register_buffer(f"{name}_{part}", value, persistent=False)


class _Stream(NamedTuple):
    """One group on its way through the layers."""

    x: Tensor  # (B, N, D)
    embedded: Tensor  # (B, D) timestep embedding
    modulation: Tensor  # (B, 6, D)
    rope: rope.Rope


class _Run(NamedTuple):
    out: dict[Group, Tensor]
    kv: dict[Group, LayerKV]


class _Expert(nn.Module):
    """Embedding, blocks, timestep and head of one expert."""

    def __init__(self, config: ModelConfig, width: int, io_dim: int) -> None:
        super().__init__()
        geometry = ExpertConfig(
            width=width,
            text_width=config.text_width,
            num_heads=config.num_heads,
            head_dim=config.head_dim,
            ffn_width=config.ffn_ratio * width,
            qk_norm=config.qk_norm,
            gate_init=config.gate_init,
        )
        self.embed = nn.Linear(io_dim, width)
        self.time = TimestepEmbedding(config.frequency_dim, width)
        self.blocks = nn.ModuleList(Block(geometry) for _ in range(config.num_layers))
        self.head = Head(width, io_dim)

    def text_kv(self, text: Tensor) -> list[Tensor]:
        """Cross-attention keys and values of every layer, each (2, B, h, T, d)."""
        return [block.text_kv(text) for block in self.blocks]


_EXPERT = {Group.FRAME: "video", Group.VIDEO: "video", Group.ACTION: "action"}


def _gather(kv: Mapping[Group, tuple[Tensor, Tensor]], groups: tuple[Group, ...], part: int) -> Tensor:
    present = [kv[group][part] for group in groups if group in kv]
    return present[0] if len(present) == 1 else torch.cat(present, dim=-2)
