"""The world-action model: a video expert and an action expert that share attention layer by layer.

Tokens come in three groups (``wam.visibility``): F clean frames, V future video, A action chunk. F and V run through
the video expert, A through the action expert. Proprio is one more token of the text context. The network is only ever
called on groups, so no attention mask is needed; keys and values of groups computed earlier are passed in, which is why
cached inference and the uncached forward run the same code. A noise level belongs to a sample or to every one of its
tokens; what the levels do (``StepTables``) depends on them alone, so a sampler may compute it once per schedule.

Source: Fast-WAM (arXiv 2603.16666), DreamZero (arXiv 2602.15922).

Shape legend: B batch, K cameras, H chunk, A action width, L layers, h heads, d head size, N tokens, T prompt words,
Z values of a video token, S noise levels of a sample (absent or 1: the same for all its tokens; else one per token).
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from wam import rope
from wam.blocks import Block, ExpertConfig, Head, HeadModulation, KeysValues, Modulation, TimestepEmbedding, attend
from wam.config import ModelConfig
from wam.flow import step_gain, velocity_from_x
from wam.text import VOCABULARY_SIZE
from wam.tokenizer import PatchTokenizer
from wam.visibility import Group, Question, visible

__all__ = [
    "ContextCache",
    "ExpertModulation",
    "LayersKV",
    "Predictions",
    "PromptCache",
    "StepTables",
    "WorldActionModel",
]

POSITION_STD = 0.02  # initial spread of learned embeddings

LayersKV = tuple[KeysValues, ...]  # one per layer, each (B, h, N, d); never stacked, so that no graph has to split them


class PromptCache(NamedTuple):
    """Keys and values of the instruction; computed once per task."""

    video: LayersKV
    action: LayersKV


class ContextCache(NamedTuple):
    """All the action expert needs of one observation; computed once per observation."""

    frame: LayersKV  # clean frame tokens, for self-attention
    cross: LayersKV  # instruction and proprio, for the action expert's cross-attention

    def map(self, function: Callable[[Tensor], Tensor]) -> "ContextCache":
        """Applies a function to every tensor."""
        return ContextCache(*(tuple(KeysValues(*map(function, kv)) for kv in layers) for layers in self))


class ExpertModulation(NamedTuple):
    """What noise levels do to an expert."""

    blocks: tuple[Modulation, ...]  # one per layer
    head: HeadModulation


class StepTables(NamedTuple):
    """All that one Euler step of the action chunk takes from its noise levels."""

    modulation: ExpertModulation
    gain: Float[Tensor, "B S 1"]  # factor of the network's output, see ``wam.flow.step_gain``


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
        return PromptCache(*(self.experts[name].text_kv(text) for name in ("video", "action")))

    def encode_context(
        self,
        images: UInt8[Tensor, "B K height width 3"],
        proprio: Float[Tensor, "B A"],
        prompt: PromptCache,
    ) -> ContextCache:
        """One observation → keys and values that every denoising step reads."""
        return self.encode_context_tokens(self.tokenizer.encode(images), self.cross_kv(proprio, prompt))

    def encode_context_tokens(
        self,
        tokens: Float[Tensor, "*B N Z"],
        cross: Mapping[str, LayersKV],
        modulation: ExpertModulation | None = None,
    ) -> ContextCache:
        """As ``encode_context``, from video tokens and what ``cross_kv`` and ``clean_modulation`` returned."""
        if modulation is None:
            modulation = self.clean_modulation(tokens.new_zeros(tokens.shape[:-2]))
        stream = self._enter("video", tokens, modulation, self.video_positions, "now")
        frame_kv = self._run({Group.FRAME: stream}, {}, cross, Question.POLICY).kv[Group.FRAME]
        return ContextCache(frame_kv, cross["action"])

    def clean_modulation(self, clean: Float[Tensor, " B"]) -> ExpertModulation:
        """What sigma 0 does to the video expert: a constant of the weights, which exported graphs hold as such."""
        return self.experts["video"].modulate(_per_token(clean))

    def step_tables(self, sigma: Float[Tensor, "B ..."], sigma_next: Float[Tensor, "B ..."]) -> StepTables:
        """Noise levels of one Euler step of the action chunk → what ``denoise`` needs of them."""
        modulation = self.experts["action"].modulate(_per_token(sigma))
        return StepTables(modulation, step_gain(_per_token(sigma), _per_token(sigma_next), self._prediction)[..., None])

    def denoise(
        self, actions: Float[Tensor, "*B H A"], tables: StepTables, context: ContextCache
    ) -> Float[Tensor, "*B H A"]:
        """One Euler step of the action chunk; a token whose two levels are equal stays as it is."""
        raw = self._predict_actions(actions, tables.modulation, context)
        away = actions - raw if self._prediction == "x" else raw
        return actions + away * tables.gain

    def denoise_step(
        self,
        actions: Float[Tensor, "B H A"],
        sigma: Float[Tensor, "B ..."],
        sigma_next: Float[Tensor, "B ..."],
        context: ContextCache,
    ) -> Float[Tensor, "B H A"]:
        """One Euler step of the action chunk from sigma to sigma_next."""
        return self.denoise(actions, self.step_tables(sigma, sigma_next), context)

    # -- predictions --------------------------------------------------------------------------------------------------

    def predict_actions(
        self, actions: Float[Tensor, "B H A"], sigma: Float[Tensor, "B ..."], context: ContextCache
    ) -> Float[Tensor, "B H A"]:
        """Raw output of the action expert in the fast question: clean chunk or velocity, as configured."""
        return self._predict_actions(actions, self.experts["action"].modulate(_per_token(sigma)), context)

    def action_velocity(
        self, actions: Float[Tensor, "B H A"], sigma: Float[Tensor, "B ..."], context: ContextCache
    ) -> Float[Tensor, "B H A"]:
        """Velocity of the action chunk in the fast question."""
        return self._as_velocity(self.predict_actions(actions, sigma, context), actions, sigma)

    def video_velocity(
        self,
        video: Float[Tensor, "B N Z"],
        sigma: Float[Tensor, "B ..."],
        context: ContextCache,
        video_cross: LayersKV,
    ) -> Float[Tensor, "B N Z"]:
        """Velocity of the future video tokens, isolated from actions."""
        groups = {Group.VIDEO: self._enter_video(video, sigma)}
        return self._run(groups, {Group.FRAME: context.frame}, {"video": video_cross}, Question.POLICY).out[Group.VIDEO]

    def cross_kv(self, proprio: Float[Tensor, "*B A"], prompt: PromptCache) -> dict[str, LayersKV]:
        """Appends the proprio token to the instruction's keys and values: (B, h, T + 1, d) per expert and layer."""
        token = self.proprio_in(proprio)[..., None, :]  # (B, 1, text_width)
        prompts = {"video": prompt.video, "action": prompt.action}
        return {
            name: tuple(
                KeysValues(*(torch.cat(parts, dim=-2) for parts in zip(words, own, strict=True)))
                for words, own in zip(prompts[name], expert.text_kv(token), strict=True)
            )
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
            video: ((B, N, Z) future video tokens at their noise level, (B,) or (B, S) sigma), or None where absent.
            actions: ((B, H, A) normalised chunk at its noise level, (B,) or (B, S) sigma), or None where absent.

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
        cached: Mapping[Group, LayersKV],
        cross: Mapping[str, LayersKV],
        question: Question | str,
    ) -> "_Run":
        """Runs live groups through all layers; groups in ``cached`` only lend their keys and values."""
        hidden = {group: stream.x for group, stream in groups.items()}
        kept: dict[Group, list[KeysValues]] = {group: [] for group in groups}
        last = self.config.num_layers - 1
        for layer in range(self.config.num_layers):
            blocks = {group: self.experts[_EXPERT[group]].blocks[layer] for group in groups}
            kv = {group: stored[layer] for group, stored in cached.items()}
            queries = {}
            for group, stream in groups.items():
                arguments = hidden[group], stream.modulation.blocks[layer], stream.rope
                if group is Group.FRAME and layer == last:  # nobody reads a frame token's output
                    kv[group] = blocks[group].project_kv(*arguments)
                else:
                    queries[group], kv[group] = blocks[group].project(*arguments)
                kept[group].append(kv[group])
            for group in queries:
                attended = attend(queries[group], *_gather(kv, visible(question, group)))
                text = cross[_EXPERT[group]][layer]
                modulation = groups[group].modulation.blocks[layer]
                hidden[group] = blocks[group].merge(hidden[group], attended, modulation, text)
        out = {
            group: self.experts[_EXPERT[group]].head(hidden[group], stream.modulation.head)
            for group, stream in groups.items()
            if group is not Group.FRAME
        }
        return _Run(out, {group: tuple(layers) for group, layers in kept.items()})

    def _predict_actions(self, actions: Tensor, modulation: ExpertModulation, context: ContextCache) -> Tensor:
        groups = {Group.ACTION: self._enter("action", actions, modulation, self.action_positions, "chunk")}
        cached, cross = {Group.FRAME: context.frame}, {"action": context.cross}
        return self._run(groups, cached, cross, Question.POLICY).out[Group.ACTION]

    def _enter_frame(self, tokens: Tensor) -> "_Stream":
        modulation = self.clean_modulation(tokens.new_zeros(len(tokens)))
        return self._enter("video", tokens, modulation, self.video_positions, "now")

    def _enter_video(self, tokens: Tensor, sigma: Tensor) -> "_Stream":
        modulation = self.experts["video"].modulate(_per_token(sigma))
        return self._enter("video", tokens, modulation, self.video_positions, "later")

    def _enter_actions(self, actions: Tensor, sigma: Tensor) -> "_Stream":
        modulation = self.experts["action"].modulate(_per_token(sigma))
        return self._enter("action", actions, modulation, self.action_positions, "chunk")

    def _enter(
        self, name: str, tokens: Tensor, modulation: ExpertModulation, positions: Tensor, table: str
    ) -> "_Stream":
        x = self.experts[name].embed(tokens)
        if self.config.learned_positions:
            x = x + positions
        turning = rope.Rope(*(self.get_buffer(f"{table}_{part}") for part in rope.Rope._fields))
        return _Stream(x, modulation, turning)

    @property
    def _prediction(self) -> str:
        return self.config.action_prediction

    def _as_velocity(self, raw: Tensor, actions: Tensor, sigma: Tensor) -> Tensor:
        return raw if self._prediction == "velocity" else velocity_from_x(actions, raw, sigma)

    def _register_tables(self, name: str, tables: rope.Rope) -> None:
        for part, value in tables._asdict().items():
            self.register_buffer(f"{name}_{part}", value, persistent=False)


class _Stream(NamedTuple):
    """One group on its way through the layers."""

    x: Tensor  # (B, N, D)
    modulation: ExpertModulation
    rope: rope.Rope


class _Run(NamedTuple):
    out: dict[Group, Tensor]
    kv: dict[Group, LayersKV]


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

    def modulate(self, sigma: Tensor) -> ExpertModulation:
        """(B, S) noise levels → what they do to every block and to the head."""
        embedded, time = self.time(sigma)  # (B, S, D), (B, S, 6, D)
        return ExpertModulation(tuple(block.modulate(time) for block in self.blocks), self.head.modulate(embedded))

    def text_kv(self, text: Tensor) -> LayersKV:
        """Cross-attention keys and values of every layer, each (B, h, T, d)."""
        return tuple(block.text_kv(text) for block in self.blocks)


_EXPERT = {Group.FRAME: "video", Group.VIDEO: "video", Group.ACTION: "action"}


def _gather(kv: Mapping[Group, KeysValues], groups: tuple[Group, ...]) -> KeysValues:
    present = [kv[group] for group in groups if group in kv]
    return (
        present[0]
        if len(present) == 1
        else KeysValues(*(torch.cat(parts, dim=-2) for parts in zip(*present, strict=True)))
    )


def _per_token(sigma: Tensor) -> Tensor:
    return sigma[:, None] if sigma.ndim == 1 else sigma  # (B, 1) or (B, S)
